//! What one peer reads in this worker's arena.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::SHORTEST;
use super::arena::Arena;

/// Lends parts to a peer that said that it can read them.
#[derive(Debug)]
pub(crate) struct Lender {
    arena: Arc<Arena>,
    accepted: AtomicBool,
    next: AtomicU64,
    /// Held until the peer gives them back.
    lent: Mutex<HashMap<u64, Bytes>>,
}

/// The place of a part, and a number by which it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    pub(super) number: u64,
    pub(super) at: u64,
}

impl Lender {
    pub(crate) fn new(arena: Arc<Arena>) -> Lender {
        Lender { arena, accepted: AtomicBool::new(false), next: AtomicU64::new(0), lent: Mutex::default() }
    }

    /// The peer reads the arena.
    pub(crate) fn accept(&self) {
        self.accepted.store(true, Ordering::Release);
    }

    /// Lends a part, in the arena already or copied into it; none where that is not possible or not worth it.
    pub(crate) fn lend(&self, part: &Bytes) -> Option<Loan> {
        if part.len() < SHORTEST || !self.accepted.load(Ordering::Acquire) {
            return None;
        }
        let part = match self.arena.place_of(part) {
            Some(_) => part.clone(),
            None => self.arena.copy(part)?,
        };
        let at = self.arena.place_of(&part)? as u64;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lent.lock().unwrap_or_else(PoisonError::into_inner).insert(number, part);
        Some(Loan { number, at })
    }

    /// Takes back what the peer no longer reads.
    ///
    /// # Errors
    /// `Corrupt` for what it does not have.
    pub(crate) fn take_back(&self, number: u64) -> Result<()> {
        let part = self.lent.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let none = || Error::corrupt(format!("loan {number} came back, which is not out"));
        part.map(drop).ok_or_else(none)
    }

    /// How many parts were lent so far.
    pub(crate) fn lent(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

impl Loan {
    /// Bytes of one.
    pub(crate) const LEN: usize = 8 + 8;

    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(Loan::LEN);
        out.put_u64_le(self.number);
        out.put_u64_le(self.at);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Loan {
        Loan { number: bytes.get_u64_le(), at: bytes.get_u64_le() }
    }
}
