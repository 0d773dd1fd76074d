//! One worker's end of a fabric: its mailbox, and a link to each peer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

use crate::collective::{all_reduce_bytes, barrier};
use crate::fabric::{Fabric, Key, Meter, Options};
use crate::in_place::Board;
use crate::mailbox::{Gone, Mailbox, Move, Pending, Tag};
use crate::shared::Arena;
use crate::tcp::Connection;
use crate::wire;

/// Bytes of the memory in which parts are made where no other process reads it. The system gives them where they are used.
const PRIVATE: usize = 1 << 26;

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

    fn lent(&self) -> u64 {
        match self {
            Link::Local(_) => 0,
            Link::Tcp(connection) => connection.lent(),
        }
    }

    fn leave(&self, me: usize, gone: Gone) {
        match self {
            Link::Local(mailbox) => mailbox.leave(me, gone),
            Link::Tcp(connection) => connection.leave(gone),
        }
    }
}

/// Refuses parts that no peer would take, before any of them is on its way.
pub(crate) fn check_len([me, to]: [usize; 2], tag: Tag, part: &Bytes, options: &Options) -> Result<()> {
    if to == me || part.len() <= options.max_part {
        return Ok(());
    }
    let (found, most) = (part.len(), options.max_part);
    Err(Error::argument(format!(
        "rank {me} sends rank {to} a part of {found} bytes, at most {most} are allowed ({tag})"
    )))
}

/// Refuses a shuffle that does not have a part for each worker.
pub(crate) fn check_shuffle(found: usize, world: usize) -> Result<()> {
    match found == world {
        true => Ok(()),
        false => Err(Error::argument(format!("a shuffle of {found} parts among {world} workers"))),
    }
}

/// Refuses an exchange with nobody.
pub(crate) fn check_rank(rank: usize, world: usize) -> Result<()> {
    match rank < world {
        true => Ok(()),
        false => Err(Error::argument(format!("rank {rank} named in an exchange, the world has {world}"))),
    }
}

/// A fabric whose peers are threads of this process, other processes, or both.
///
/// Dropping it says goodbye; dropping it while panicking says that this worker is lost.
pub struct Mesh {
    rank: usize,
    mailbox: Arc<Mailbox>,
    links: Vec<Link>,
    /// Where parts are made; workers of other processes on this host may read it. None where there is no memory for it.
    arena: OnceLock<Option<Arc<Arena>>>,
    /// Where all workers are threads of this process.
    board: Option<Arc<Board>>,
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
    pub(crate) fn new(
        rank: usize,
        mailbox: Arc<Mailbox>,
        links: Vec<Link>,
        arena: Option<Arc<Arena>>,
        board: Option<Arc<Board>>,
        options: Options,
    ) -> Mesh {
        let arena = arena.map_or_else(OnceLock::new, |arena| OnceLock::from(Some(arena)));
        Mesh { rank, mailbox, links, arena, board, options, meter: Meter::default() }
    }

    /// How many parts workers of other processes have read, or will, in this worker's memory instead of getting them by a socket.
    pub fn lent(&self) -> u64 {
        self.links.iter().map(Link::lent).sum()
    }

    fn check_len(&self, to: usize, tag: Tag, part: &Bytes) -> Result<()> {
        check_len([self.rank, to], tag, part, &self.options)
    }

    fn send(&self, to: usize, tag: Tag, part: Bytes) -> Result<()> {
        if to != self.rank {
            self.meter.add(part.len() as u64);
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
            clock: None,
        }
    }

    /// All-reduces in two rounds of empty parts: who has lent its vector, and who has summed its slices.
    fn sum_on(&self, board: &Board, key: Key, values: &mut [f32]) -> Result<()> {
        let (summed, bytes) = (key.later(1)?, all_reduce_bytes(values.len(), self.rank, self.world()));
        let mut loan = board.lend(self.rank, key, values)?;
        barrier(self, key)?;
        let outcome = loan.sum();
        match &outcome {
            Ok(()) => self.meter.add(bytes),
            Err(e) if e.kind() == Kind::PeerLost => {
                // It may have said why.
                self.check()?;
                return outcome;
            }
            Err(_) => {}
        }
        // A vector of another length is not taken back before all have seen it.
        let told = barrier(self, summed);
        outcome.and(told)
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
        check_shuffle(parts.len(), self.world())?;
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
            check_rank(*rank, self.world())?;
        }
        for (peer, part) in &to {
            self.check_len(*peer, tag, part)?;
        }
        for (peer, part) in to {
            self.send(peer, tag, part)?;
        }
        Ok(self.pending(tag, from.to_vec()))
    }

    fn abort(&self, error: &Error) {
        self.leave(&Gone::gave_up(error));
    }

    fn close(&self) {
        self.mailbox.close();
    }

    fn arrivals(&self) -> u64 {
        self.mailbox.arrivals()
    }

    fn wait_beyond(&self, arrivals: u64, at_most: Duration) {
        self.mailbox.wait_beyond(arrivals, at_most);
    }

    fn check(&self) -> Result<()> {
        match self.mailbox.lost() {
            Some(lost) => Err(lost),
            None => self.options.cancel.check(),
        }
    }

    fn part(&self, values: &[f32]) -> Bytes {
        let arena = self.arena.get_or_init(|| Arena::private(PRIVATE).ok());
        let copy = |arena: &Arc<Arena>| arena.copy(wire::view(values)?);
        arena.as_ref().and_then(copy).unwrap_or_else(|| wire::f32s(values))
    }

    fn sums_in_place(&self) -> bool {
        self.board.is_some()
    }

    fn sum_in_place(&self, key: Key, values: &mut [f32]) -> Result<()> {
        match &self.board {
            Some(board) => self.sum_on(board, key, values),
            None => Err(Error::internal("a sum in the memory of workers of several processes")),
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
        let gone = if std::thread::panicking() { Gone::died("it panicked") } else { Gone::Finished };
        self.leave(&gone);
    }
}
