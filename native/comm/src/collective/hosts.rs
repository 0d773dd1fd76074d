//! Within hosts first.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::{Algorithm, broadcast_from, gather, reduce};
use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::mesh::check_shuffle;
use crate::wire;

/// Some workers of a fabric, as a fabric of their own. Its moves are exchanges of the whole: no two groups that share a worker may
/// use the same key, nor may a group and an exchange of the whole.
#[derive(Clone)]
pub struct Subgroup<'a> {
    whole: &'a dyn Fabric,
    /// Ranks in the whole, ascending.
    members: Vec<usize>,
    rank: usize,
}

impl<'a> Subgroup<'a> {
    /// The workers of this one's color; `colors` has one a rank.
    ///
    /// # Errors
    /// `InvalidArgument` when there are not as many colors as workers.
    pub fn new(whole: &'a dyn Fabric, colors: &[u32]) -> Result<Subgroup<'a>> {
        if colors.len() != whole.world() {
            let (found, world) = (colors.len(), whole.world());
            return Err(Error::argument(format!("{found} colors for {world} workers")));
        }
        let mine = colors[whole.rank()];
        let members: Vec<usize> = (0..colors.len()).filter(|rank| colors[*rank] == mine).collect();
        let rank = members.iter().take_while(|member| **member < whole.rank()).count();
        Ok(Subgroup { whole, members, rank })
    }
}

impl Fabric for Subgroup<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.members.len()
    }

    fn part(&self, values: &[f32]) -> Bytes {
        self.whole.part(values)
    }

    fn rank_in_all(&self, rank: usize) -> usize {
        self.whole.rank_in_all(self.members[rank])
    }

    fn shuffle(&self, key: Key, parts: Vec<Bytes>) -> Result<Pending> {
        check_shuffle(parts.len(), self.world())?;
        let to = self.members.iter().copied().zip(parts).collect();
        self.whole.exchange(key, to, &self.members)
    }

    fn broadcast(&self, key: Key, part: Bytes) -> Result<Pending> {
        self.shuffle(key, vec![part; self.world()])
    }

    fn exchange(&self, key: Key, to: Vec<(usize, Bytes)>, from: &[usize]) -> Result<Pending> {
        let member = |rank: usize| {
            let world = self.world();
            let none = || Error::argument(format!("rank {rank} named in an exchange, the world has {world}"));
            self.members.get(rank).copied().ok_or_else(none)
        };
        let to = to.into_iter().map(|(rank, part)| Ok((member(rank)?, part))).collect::<Result<_>>()?;
        let from = from.iter().map(|rank| member(*rank)).collect::<Result<Vec<_>>>()?;
        self.whole.exchange(key, to, &from)
    }

    fn abort(&self, error: &Error) {
        self.whole.abort(error);
    }

    fn close(&self) {
        self.whole.close();
    }

    fn arrivals(&self) -> u64 {
        self.whole.arrivals()
    }

    fn wait_beyond(&self, arrivals: u64, at_most: std::time::Duration) {
        self.whole.wait_beyond(arrivals, at_most);
    }

    fn check(&self) -> Result<()> {
        self.whole.check()
    }

    fn deadline(&self) -> std::time::Duration {
        self.whole.deadline()
    }

    fn sent(&self) -> u64 {
        self.whole.sent()
    }

    fn time(&self) -> Option<f64> {
        self.whole.time()
    }

    fn set_time(&self, seconds: f64) {
        self.whole.set_time(seconds);
    }
}

/// Sums `values` over all workers, within each host first: its first worker adds up, all-reduces with those of the other hosts and
/// gives the sum back. `hosts` has each rank's. Between hosts travels one vector a host, not one a worker.
///
/// # Errors
/// Those of [`Fabric`]; `InvalidArgument` when there are not as many hosts as workers.
pub fn all_reduce_by_host(
    fabric: &dyn Fabric,
    key: Key,
    values: &mut [f32],
    hosts: &[u32],
    between: Algorithm,
) -> Result<()> {
    let host = Subgroup::new(fabric, hosts)?;
    let leads: Vec<u32> =
        (0..hosts.len()).map(|rank| u32::from(!hosts[..rank].contains(&hosts[rank]))).collect();
    let parts = gather(&host, key, 0, host.part(values))?;
    if let Some(parts) = parts {
        reduce(&parts, values)?;
        // Behind the two phases of the hosts.
        between.all_reduce(&Subgroup::new(fabric, &leads)?, key.later(2)?, values)?;
    }
    let sum = broadcast_from(&host, key.later(1)?, 0, host.part(values))?;
    wire::copy_f32s(&sum, values, 0)
}
