//! What messages cost, by sending some.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::{Link, all_gather, barrier};
use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::stopwatch::Stopwatch;
use crate::wire;

/// How often all is sent; the fastest counts, as what else a computer does only delays.
const TIMES: usize = 5;
/// Messages that are sent at once, to see what each costs beside its latency.
const BURST: usize = 16;
/// Values of a short and of a long message, to see what bytes cost: 64 KiB and 1 MiB.
const LENGTHS: [usize; 2] = [1 << 14, 1 << 18];
/// Phases of one round: a barrier, a message alone, those at once, a short and a long one, and four answers.
const PHASES: usize = BURST + 8;
/// The most bytes in a second that are believed, where a long message takes no longer than a short one.
const MOST: f64 = 1e12;

impl Link {
    /// What messages between neighbours cost, measured by all workers at once in about 5.6 MB of messages from each: each sends to the
    /// next rank, which answers, and answers to the one before, so that all links are used both ways, as all-reduces use them. The
    /// latency is half of both ways'; the bandwidth includes what it takes to write values into a message and to add them up from it.
    /// All get the same, the worst that any has seen. Uses 121 phases of the key, from its own on.
    ///
    /// # Errors
    /// Those of [`Fabric`]; `Corrupt` naming a rank whose figures are none.
    pub fn measure(fabric: &dyn Fabric, key: Key) -> Result<Link> {
        let probe = Probe { fabric, watch: Stopwatch::start() };
        let mut best = [f64::INFINITY; 4];
        for nth in 0..TIMES {
            let taken = probe.round(key.later(nth * PHASES)?)?;
            best.iter_mut().zip(taken).for_each(|(best, taken)| *best = best.min(taken));
        }
        let [alone, burst, short, long] = best;
        let per_message = ((burst - alone) / (BURST - 1) as f64).max(0.0);
        let bytes = (4 * (LENGTHS[1] - LENGTHS[0])) as f64;
        let bandwidth = if long > short { (bytes / (long - short)).min(MOST) } else { MOST };
        let seen = Link { latency: (alone / 2.0 - per_message).max(0.0), per_message, bandwidth };
        let parts = all_gather(fabric, key.later(TIMES * PHASES)?, seen.encode())?;
        let worst = |worst: Link, (rank, part): (usize, Bytes)| {
            let of_rank = Link::decode(part, rank)?;
            Ok(Link {
                latency: worst.latency.max(of_rank.latency),
                per_message: worst.per_message.max(of_rank.per_message),
                bandwidth: worst.bandwidth.min(of_rank.bandwidth),
            })
        };
        let best = Link { latency: 0.0, per_message: 0.0, bandwidth: MOST };
        parts.into_iter().enumerate().try_fold(best, worst)
    }

    fn encode(self) -> Bytes {
        let mut part = BytesMut::with_capacity(24);
        [self.latency, self.per_message, self.bandwidth].into_iter().for_each(|value| part.put_f64_le(value));
        part.freeze()
    }

    fn decode(mut part: Bytes, rank: usize) -> Result<Link> {
        if part.len() != 24 {
            let found = part.len();
            return Err(Error::corrupt(format!(
                "rank {rank} sent {found} bytes about its link, expected 24"
            )));
        }
        let [latency, per_message, bandwidth] = std::array::from_fn(|_| part.get_f64_le());
        match latency >= 0.0 && per_message >= 0.0 && bandwidth > 0.0 {
            true => Ok(Link { latency, per_message, bandwidth }),
            false => Err(Error::corrupt(format!(
                "rank {rank} says that its link has {latency} s, {per_message} s a message and {bandwidth} bytes a second"
            ))),
        }
    }
}

struct Probe<'a> {
    fabric: &'a dyn Fabric,
    watch: Stopwatch,
}

impl Probe<'_> {
    /// Seconds of a message alone, of those at once, of a short and of a long one, each with an empty answer, once all workers are
    /// there.
    fn round(&self, key: Key) -> Result<[f64; 4]> {
        barrier(self.fabric, key)?;
        let long = |nth: usize| vec![vec![0.0; LENGTHS[nth]]];
        let alone = self.there_and_back(key.later(1)?, vec![vec![]])?;
        let burst = self.there_and_back(key.later(3)?, vec![vec![]; BURST])?;
        let short = self.there_and_back(key.later(4 + BURST)?, long(0))?;
        Ok([alone, burst, short, self.there_and_back(key.later(6 + BURST)?, long(1))?])
    }

    /// Seconds until the next rank has answered to messages, as this one does to the one before: workers that begin at different times
    /// see that as part of no latency. Uses a phase for each message, and one.
    fn there_and_back(&self, key: Key, mut messages: Vec<Vec<f32>>) -> Result<f64> {
        let (rank, world) = (self.fabric.rank(), self.fabric.world());
        let (next, before) = ((rank + 1) % world, (rank + world - 1) % world);
        let start = self.watch.seconds(self.fabric);
        let send = |(nth, values): (usize, &Vec<f32>)| {
            self.fabric.exchange(key.later(nth)?, vec![(next, self.fabric.part(values))], &[before])
        };
        let sent = messages.iter().enumerate().map(send).collect::<Result<Vec<Pending>>>()?;
        for (pending, values) in sent.into_iter().zip(&mut messages) {
            wire::add_f32s(&pending.wait()?[0], values, before)?;
        }
        let answer = key.later(messages.len())?;
        self.fabric.exchange(answer, vec![(before, Bytes::new())], &[next])?.wait()?;
        Ok(self.watch.seconds(self.fabric) - start)
    }
}
