//! Sums in the memory of the workers themselves, where all are threads of one process.
//!
//! Each lends its vector to all for the time of one sum. Of each chunk a worker owns a slice, which nobody else touches meanwhile: it
//! reads that slice of all vectors and writes the sum to all of them. A worker whose wait fails takes its vector back, for which it
//! waits only while somebody computes in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use firesteel_error::{Error, Kind, Result};

use crate::collective::own_slices;
use crate::fabric::Key;

/// Values that are summed at a time: they fit a first cache.
const BLOCK: usize = 1 << 11;

/// Where workers of one process find what the others lend.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<HashMap<(usize, Key), Arc<Lent>>>);

/// A vector, until its worker takes it back.
#[derive(Debug)]
struct Lent(RwLock<Option<Place>>);

#[derive(Clone, Copy, Debug)]
struct Place {
    start: *mut f32,
    len: usize,
}

// SAFETY: it says where values are; whoever reads or writes there has to know that it may.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

/// A worker's vector with all others, until this is dropped, which waits for who computes in it.
pub(crate) struct Loan<'a> {
    board: &'a Board,
    rank: usize,
    key: Key,
    lent: Arc<Lent>,
    /// Nobody else has it.
    values: PhantomData<&'a mut [f32]>,
}

impl Board {
    /// A poisoned lock only says that another thread panicked between two complete changes of the map.
    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, Key), Arc<Lent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a worker's vector to all who sum by this key.
    ///
    /// # Errors
    /// `Internal` where this worker lends one by this key already.
    pub(crate) fn lend<'a>(&'a self, rank: usize, key: Key, values: &'a mut [f32]) -> Result<Loan<'a>> {
        let place = Place { start: values.as_mut_ptr(), len: values.len() };
        let lent = Arc::new(Lent(RwLock::new(Some(place))));
        match self.lock().entry((rank, key)) {
            Entry::Vacant(entry) => entry.insert(lent.clone()),
            Entry::Occupied(_) => {
                return Err(Error::internal(format!("rank {rank} sums twice at once by {key:?}")));
            }
        };
        Ok(Loan { board: self, rank, key, lent, values: PhantomData })
    }
}

impl Loan<'_> {
    /// Sums this worker's slices of what all of `world` have lent into all of it, in rank order.
    ///
    /// # Errors
    /// `PeerLost` naming a rank that took its vector back, `Corrupt` naming one whose vector has another length.
    pub(crate) fn sum(&mut self, world: usize) -> Result<()> {
        let rank = self.rank;
        let gone = |other| {
            Error::new(Kind::PeerLost, format!("rank {rank} lost rank {other}: it left an all-reduce"))
        };
        let all = self.board.lock();
        let lent = |other| all.get(&(other, self.key)).cloned().ok_or_else(|| gone(other));
        let lent = (0..world).map(lent).collect::<Result<Vec<_>>>()?;
        drop(all);
        // Held to the end of the sum, so that nobody takes a vector back meanwhile.
        let held: Vec<_> =
            lent.iter().map(|lent| lent.0.read().unwrap_or_else(PoisonError::into_inner)).collect();
        let place =
            |(other, held): (usize, &RwLockReadGuard<'_, Option<Place>>)| held.ok_or_else(|| gone(other));
        let places = held.iter().enumerate().map(place).collect::<Result<Vec<Place>>>()?;
        let expected = places[rank].len;
        if let Some((other, place)) = places.iter().enumerate().find(|(_, place)| place.len != expected) {
            let found = place.len;
            return Err(Error::corrupt(format!("rank {other} sums {found} values, expected {expected}")));
        }
        for slice in own_slices(expected, rank, world) {
            for start in slice.clone().step_by(BLOCK) {
                sum_block(&places, start..slice.end.min(start + BLOCK));
            }
        }
        Ok(())
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.board.lock().remove(&(self.rank, self.key));
        *self.lent.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Sums the same values of all vectors into all of them. The caller owns them, and holds the locks of the vectors.
fn sum_block(places: &[Place], block: Range<usize>) {
    let mut sum = [0.0; BLOCK];
    let sum = &mut sum[..block.len()];
    for (rank, place) in places.iter().enumerate() {
        // SAFETY: the block lies within the vector, which its worker does not take back, as its lock is held, nor touches, as it is lent.
        // Of all others this one alone owns the block.
        let values = unsafe { std::slice::from_raw_parts(place.start.add(block.start), block.len()) };
        match rank {
            0 => sum.copy_from_slice(values),
            _ => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
        }
    }
    for place in places {
        // SAFETY: as above; what was read is not borrowed any more.
        let values = unsafe { std::slice::from_raw_parts_mut(place.start.add(block.start), block.len()) };
        values.copy_from_slice(sum);
    }
}
