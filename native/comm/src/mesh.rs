//! One worker's end of a fabric: its mailbox, and a link to each peer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::{Error, Result};

use crate::fabric::{Fabric, Key, Meter, Options};
use crate::mailbox::{Gone, Mailbox, Move, Pending, Tag};
use crate::tcp::Connection;

/// What carries parts to one peer.
pub(crate) enum Link {
    /// A mailbox in the same process, this worker's own among them: the bytes are handed over, not copied.
    Local(Arc<Mailbox>),
    /// A socket.
    Tcp(Connection),
}

impl Link {
    fn send(&self, me: usize, tag: Tag, part: Bytes) -> Result<()> {
        match self {
            Link::Local(mailbox) => mailbox.put(me, tag, part),
            Link::Tcp(connection) => connection.send(tag, part),
        }
    }

    fn leave(&self, me: usize, gone: Gone) {
        match self {
            Link::Local(mailbox) => mailbox.leave(me, gone),
            Link::Tcp(connection) => connection.leave(gone),
        }
    }
}

/// A fabric whose peers are threads of this process, other processes, or both.
///
/// Dropping it says goodbye; dropping it while panicking says that this worker is lost.
pub struct Mesh {
    rank: usize,
    mailbox: Arc<Mailbox>,
    links: Vec<Link>,
    options: Options,
    meter: Meter,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("rank", &self.rank)
            .field("world", &self.links.len())
            .finish_non_exhaustive()
    }
}

impl Mesh {
    pub(crate) fn new(rank: usize, mailbox: Arc<Mailbox>, links: Vec<Link>, options: Options) -> Mesh {
        Mesh { rank, mailbox, links, options, meter: Meter::default() }
    }

    /// Refuses parts that no peer would take, before any of them is on its way.
    fn check_len(&self, to: usize, tag: Tag, part: &Bytes) -> Result<()> {
        if to == self.rank || part.len() <= self.options.max_part {
            return Ok(());
        }
        let (me, found, most) = (self.rank, part.len(), self.options.max_part);
        Err(Error::argument(format!(
            "rank {me} sends rank {to} a part of {found} bytes, at most {most} are allowed ({tag})"
        )))
    }

    fn send(&self, to: usize, tag: Tag, part: Bytes) -> Result<()> {
        if to != self.rank {
            self.meter.add(part.len());
        }
        self.links[to].send(self.rank, tag, part)
    }

    fn pending(&self, tag: Tag, sources: Vec<usize>) -> Pending {
        Pending {
            mailbox: self.mailbox.clone(),
            tag,
            sources,
            deadline: self.options.deadline,
            cancel: self.options.cancel.clone(),
        }
    }

    fn check_rank(&self, rank: usize) -> Result<()> {
        if rank < self.links.len() {
            return Ok(());
        }
        Err(Error::argument(format!("rank {rank} named in an exchange, the world has {}", self.links.len())))
    }

    fn leave(&self, gone: &Gone) {
        for (peer, link) in self.links.iter().enumerate() {
            if peer != self.rank {
                link.leave(self.rank, gone.clone());
            }
        }
    }
}

impl Fabric for Mesh {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.links.len()
    }

    fn shuffle(&self, key: Key, parts: Vec<Bytes>) -> Result<Pending> {
        if parts.len() != self.world() {
            let (found, world) = (parts.len(), self.world());
            return Err(Error::argument(format!("a shuffle of {found} parts among {world} workers")));
        }
        let tag = Tag { of: Move::Shuffle, key };
        for (peer, part) in parts.iter().enumerate() {
            self.check_len(peer, tag, part)?;
        }
        for (peer, part) in parts.into_iter().enumerate() {
            self.send(peer, tag, part)?;
        }
        Ok(self.pending(tag, (0..self.world()).collect()))
    }

    fn broadcast(&self, key: Key, part: Bytes) -> Result<Pending> {
        let tag = Tag { of: Move::Broadcast, key };
        for peer in 0..self.world() {
            self.check_len(peer, tag, &part)?;
        }
        for peer in 0..self.world() {
            self.send(peer, tag, part.clone())?;
        }
        Ok(self.pending(tag, (0..self.world()).collect()))
    }

    fn exchange(&self, key: Key, to: Vec<(usize, Bytes)>, from: &[usize]) -> Result<Pending> {
        let tag = Tag { of: Move::Exchange, key };
        for rank in to.iter().map(|(peer, _)| peer).chain(from) {
            self.check_rank(*rank)?;
        }
        for (peer, part) in &to {
            self.check_len(*peer, tag, part)?;
        }
        for (peer, part) in to {
            self.send(peer, tag, part)?;
        }
        Ok(self.pending(tag, from.to_vec()))
    }

    fn abort(&self, reason: &str) {
        self.leave(&Gone::Lost(reason.to_owned()));
    }

    fn check(&self) -> Result<()> {
        match self.mailbox.lost() {
            Some(lost) => Err(lost),
            None => self.options.cancel.check(),
        }
    }

    fn deadline(&self) -> Duration {
        self.options.deadline
    }

    fn sent(&self) -> u64 {
        self.meter.total()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let gone = if std::thread::panicking() { Gone::Lost("it panicked".into()) } else { Gone::Finished };
        self.leave(&gone);
    }
}
