//! What reads the bytes of a peer, by itself: for the fuzzers of `native/comm/fuzz` and the tests that stand in for them. No part of
//! the interface.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use firesteel_error::{Error, Result};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Builder;

use crate::fabric::Options;
use crate::frame::{self, Head};
use crate::mailbox::Mailbox;
use crate::shared::Arena;
use crate::tcp::Reader;

/// Bytes of the head of a frame.
pub const HEADER: usize = frame::HEADER;

/// Bytes of memory in which parts come in before there is more from the heap.
const INBOX: usize = 1 << 14;

/// Reads the head of a frame, and writes what was read; its last eight bytes are the length that it announces.
///
/// # Errors
/// `Corrupt` for an unknown kind and for a length beyond the limits.
pub fn head(bytes: &[u8; HEADER], options: &Options) -> Result<Vec<u8>> {
    Head::decode(bytes, options).map(|head| head.encode().to_vec())
}

/// How many parts rank 0 takes from a connection on which rank 1 sends `bytes`, at most `most` of them at once, and hangs up; the error
/// of who waits for it then, none after a goodbye.
///
/// # Errors
/// `Io` without a runtime.
pub fn connection(bytes: &[u8], most: usize, options: &Options) -> Result<(u64, Option<Error>)> {
    let mailbox = Arc::new(Mailbox::new(0));
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let socket = Dripping { bytes, most: most.max(1) };
    let inbox = Arena::private(INBOX)?;
    runtime.block_on(Reader::new(socket, 1, mailbox.clone(), Some(inbox), options).run());
    Ok((mailbox.arrivals(), mailbox.lost()))
}

/// Bytes that come a few at once.
struct Dripping<'a> {
    bytes: &'a [u8],
    most: usize,
}

impl AsyncRead for Dripping<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let now = self.most.min(into.remaining()).min(self.bytes.len());
        let (now, rest) = self.bytes.split_at(now);
        into.put_slice(now);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}
