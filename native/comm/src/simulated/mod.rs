//! A fabric over a network that is only computed.
//!
//! Workers are threads that run ordinary code and hand parts over in memory; how long all of it would take is on clocks of their own.
//! Nothing sleeps: a world of thousands of workers takes what its code takes. Where time passes:
//!
//! - A message costs its sender [`Network::per_message`]. Then its bytes go out by the sender's link, one message after the other;
//!   those of the move before may still be on it. Their first comes to the receiver's link a latency later, and takes that link as
//!   long; so a message alone takes latency + bytes/bandwidth, not twice that.
//! - A wait goes on to when the last of its parts has come, and is over at once where all have. The receiver's link takes the parts
//!   of a wait in the order in which they come to it, then by rank.
//! - A move to many begins with the next rank and goes around, so that not all send to rank 0 first: about what connections that
//!   share a link do.
//! - [`Simulated::compute`] takes what it is told, times the factor of a straggler. Nothing else does: not what the code takes.
//!
//! Times follow from the network and from what each worker does in its order, not from how threads are scheduled, as long as a worker
//! uses its fabric from one thread. The buckets of [`crate::strategy`] are reduced without threads here, beside each other on the
//! clock (`strategy/pipeline.rs`). What polls, `ssp` and `asp`, sees what really has come to it, of that what has come on its clock,
//! and so neither its results nor its times are the same twice.
//!
//! | module | |
//! | --- | --- |
//! | `network` | [`Network`]: what a network costs, also as text |
//! | `clock` | a worker's clock, and when its link is free |

mod clock;
mod network;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::{Error, Result};

pub(crate) use clock::Clock;
pub use network::Network;

use crate::fabric::{Fabric, Key, Meter, Options};
use crate::mailbox::{Departed, Gone, Mailbox, Move, Pending, Tag};
use crate::mesh::{check_len, check_rank, check_shuffle};

/// How long a wait sleeps before it looks around again; for each worker of a large world, all of which do.
const POLL: Duration = Duration::from_millis(20);
const POLL_EACH: Duration = Duration::from_micros(100);

/// All workers as threads of this process, over a network that is computed. `options` are of real time; cancelling ends waits within
/// 50 ms, or among more than 500 workers within a tenth of a millisecond for each.
///
/// # Errors
/// `InvalidArgument` for a world of 0 and for what no network is.
pub fn simulated_world(world: usize, network: &Network, options: &Options) -> Result<Vec<Simulated>> {
    if world == 0 {
        return Err(Error::argument("a world of 0 workers"));
    }
    network.check()?;
    let poll = POLL.max(POLL_EACH * u32::try_from(world).unwrap_or(u32::MAX));
    let departed = Arc::<Departed>::default();
    let mailbox = |rank| Arc::new(Mailbox::among(rank, departed.clone(), poll));
    let all = Arc::new(World {
        network: network.clone(),
        options: options.clone(),
        mailboxes: (0..world).map(mailbox).collect(),
        clocks: (0..world).map(|_| Arc::default()).collect(),
        departed,
    });
    Ok((0..world).map(|rank| Simulated { rank, world: all.clone(), meter: Meter::default() }).collect())
}

#[derive(Debug)]
struct World {
    network: Network,
    options: Options,
    mailboxes: Vec<Arc<Mailbox>>,
    clocks: Vec<Arc<Clock>>,
    departed: Arc<Departed>,
}

/// One worker's end of a network that is computed. Dropping it says goodbye; dropping it while panicking says that this worker is
/// lost.
#[derive(Debug)]
pub struct Simulated {
    rank: usize,
    world: Arc<World>,
    meter: Meter,
}

impl Simulated {
    /// Seconds on this worker's clock.
    pub fn now(&self) -> f64 {
        self.clock().now()
    }

    /// Lets so many seconds pass, times the worker's factor.
    pub fn compute(&self, seconds: f64) {
        self.clock().pass(seconds * self.world.network.factor(self.rank));
    }

    fn clock(&self) -> &Arc<Clock> {
        &self.world.clocks[self.rank]
    }

    /// How far a rank is behind this one, around all.
    fn turn(&self, rank: usize) -> usize {
        let world = self.world();
        (rank + world - self.rank - 1) % world
    }

    fn leave(&self, gone: Gone) {
        self.world.departed.add(self.rank, gone);
        self.world.mailboxes.iter().for_each(|mailbox| mailbox.wake());
    }

    fn send(&self, to: usize, tag: Tag, part: Bytes) -> Result<()> {
        let World { network, mailboxes, clocks, .. } = self.world.as_ref();
        if to != self.rank {
            self.meter.add(part.len() as u64);
            let link = network.link(self.rank, to);
            let flight = self.clock().send(link.per_message, part.len() as f64 / link.bandwidth);
            let late = link.latency + network.late(self.rank, to, tag);
            clocks[to].expect(self.rank, tag, flight.after(late));
        }
        mailboxes[to].put(self.rank, tag, part)
    }

    fn post(&self, tag: Tag, mut to: Vec<(usize, Bytes)>, sources: Vec<usize>) -> Result<Pending> {
        for (peer, part) in &to {
            check_len([self.rank, *peer], tag, part, &self.world.options)?;
        }
        to.sort_by_key(|(peer, _)| self.turn(*peer));
        to.into_iter().try_for_each(|(peer, part)| self.send(peer, tag, part))?;
        Ok(Pending {
            mailbox: self.world.mailboxes[self.rank].clone(),
            tag,
            sources,
            deadline: self.world.options.deadline,
            cancel: self.world.options.cancel.clone(),
            clock: Some(self.clock().clone()),
        })
    }
}

impl Fabric for Simulated {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world.mailboxes.len()
    }

    fn shuffle(&self, key: Key, parts: Vec<Bytes>) -> Result<Pending> {
        check_shuffle(parts.len(), self.world())?;
        let to = parts.into_iter().enumerate().collect();
        self.post(Tag { of: Move::Shuffle, key }, to, (0..self.world()).collect())
    }

    fn broadcast(&self, key: Key, part: Bytes) -> Result<Pending> {
        let to = (0..self.world()).map(|peer| (peer, part.clone())).collect();
        self.post(Tag { of: Move::Broadcast, key }, to, (0..self.world()).collect())
    }

    fn exchange(&self, key: Key, to: Vec<(usize, Bytes)>, from: &[usize]) -> Result<Pending> {
        for rank in to.iter().map(|(peer, _)| peer).chain(from) {
            check_rank(*rank, self.world())?;
        }
        self.post(Tag { of: Move::Exchange, key }, to, from.to_vec())
    }

    fn abort(&self, error: &Error) {
        self.leave(Gone::gave_up(error));
    }

    fn close(&self) {
        self.world.mailboxes[self.rank].close();
    }

    fn arrivals(&self) -> u64 {
        self.world.mailboxes[self.rank].arrivals()
    }

    /// What has come, but not yet on the clock, is waited for by the clock.
    fn wait_beyond(&self, arrivals: u64, at_most: Duration) {
        if !self.clock().skip() {
            self.world.mailboxes[self.rank].wait_beyond(arrivals, at_most);
        }
    }

    fn check(&self) -> Result<()> {
        match self.world.mailboxes[self.rank].lost() {
            Some(lost) => Err(lost),
            None => self.world.options.cancel.check(),
        }
    }

    fn deadline(&self) -> Duration {
        self.world.options.deadline
    }

    fn sent(&self) -> u64 {
        self.meter.total()
    }

    fn time(&self) -> Option<f64> {
        Some(self.now())
    }

    fn set_time(&self, seconds: f64) {
        self.clock().set(seconds);
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        match std::thread::panicking() {
            true => self.leave(Gone::died("it panicked")),
            // Whoever waits for this one looks around by itself.
            false => self.world.departed.add(self.rank, Gone::Finished),
        }
    }
}
