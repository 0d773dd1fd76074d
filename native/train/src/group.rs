//! All workers of a training: a fabric, and rounds in which they tell each other things.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_comm::{Fabric, Key, collective};
use firesteel_error::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One worker's view of all of them. Every worker calls the same methods in the same order.
pub(crate) struct Group {
    fabric: Arc<dyn Fabric>,
    /// No round has the number of another: numbers are the steps of the fabric's keys, in a bucket that no gradient has.
    round: u64,
}

/// The bucket of rounds that are not steps, far from any bucket of gradients.
const TALK: u32 = u32::MAX;

const OK: u8 = u8::MAX;

impl Group {
    pub(crate) fn new(fabric: Arc<dyn Fabric>) -> Group {
        Group { fabric, round: 0 }
    }

    pub(crate) fn fabric(&self) -> Arc<dyn Fabric> {
        self.fabric.clone()
    }

    pub(crate) fn rank(&self) -> usize {
        self.fabric.rank()
    }

    pub(crate) fn world(&self) -> usize {
        self.fabric.world()
    }

    fn key(&mut self) -> Key {
        self.round += 1;
        Key::new(self.round, TALK, 0)
    }

    /// Everyone's value by rank, or, on all workers alike, the error of the lowest rank that has one.
    pub(crate) fn share<T: Serialize + DeserializeOwned>(&mut self, mine: Result<T>) -> Result<Vec<T>> {
        let mine = mine.and_then(|value| {
            serde_json::to_vec(&value)
                .map_err(|e| Error::internal(format!("a message cannot be written: {e}")))
        });
        let key = self.key();
        let parts = collective::all_gather(self.fabric.as_ref(), key, status(mine))?;
        // What is wrong on all of them alike is nobody's in particular.
        let alike = parts.iter().all(|part| *part == parts[0]);
        for (rank, part) in parts.iter().enumerate() {
            check(rank, part, alike)?;
        }
        let read = |(rank, part): (usize, &Bytes)| {
            serde_json::from_slice(&part[1..])
                .map_err(|e| Error::corrupt(format!("rank {rank} sent a message that cannot be read: {e}")))
        };
        parts.iter().enumerate().map(read).collect()
    }

    /// Mine once everyone has theirs, or, on all workers alike, the error of the lowest rank that has one.
    pub(crate) fn once_all_have<T>(&mut self, mine: Result<T>) -> Result<T> {
        let (value, status) = match mine {
            Ok(value) => (Some(value), Ok(())),
            Err(e) => (None, Err(e)),
        };
        self.share(status)?;
        value.ok_or_else(|| Error::internal("a worker that failed was not heard"))
    }

    /// Everyone's bytes on rank 0, by rank; none elsewhere.
    pub(crate) fn gather(&mut self, mine: Bytes) -> Result<Option<Vec<Bytes>>> {
        let key = self.key();
        collective::gather(self.fabric.as_ref(), key, 0, mine)
    }

    /// Rank 0's bytes everywhere.
    pub(crate) fn of_rank0(&mut self, mine: Bytes) -> Result<Bytes> {
        let key = self.key();
        collective::broadcast_from(self.fabric.as_ref(), key, 0, mine)
    }

    /// Sums over all workers.
    pub(crate) fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        let key = self.key();
        collective::all_reduce_sum(self.fabric.as_ref(), key, values)
    }
}

/// The error that a rank sent instead of a value.
fn check(rank: usize, part: &Bytes, alike: bool) -> Result<()> {
    match part.first() {
        Some(&OK) => Ok(()),
        None => Err(Error::corrupt(format!("rank {rank} sent an empty message"))),
        Some(kind) => {
            let text = String::from_utf8_lossy(&part[1..]).into_owned();
            let name = format!("rank {rank}");
            let text = if alike || text.contains(&name) { text } else { format!("{name}: {text}") };
            Err(Error::new(*Kind::ALL.get(usize::from(*kind)).unwrap_or(&Kind::Internal), text))
        }
    }
}

fn status(mine: Result<Vec<u8>>) -> Bytes {
    let mut out = BytesMut::new();
    match mine {
        Ok(value) => {
            out.put_u8(OK);
            out.extend_from_slice(&value);
        }
        Err(e) => {
            let kind = Kind::ALL.iter().position(|k| *k == e.kind()).unwrap_or(0);
            out.put_u8(kind as u8);
            out.extend_from_slice(e.to_string().as_bytes());
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use firesteel_comm::{Options, local_world};

    fn together<T: Send + 'static>(world: usize, run: impl Fn(Group) -> T + Sync) -> Vec<T> {
        let fabrics = local_world(world, &Options::default()).unwrap();
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> =
                fabrics.into_iter().map(|f| scope.spawn(move || run(Group::new(Arc::new(f))))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn values_arrive_by_rank() {
        for all in together(3, |mut group| {
            let rank = group.rank();
            group.share(Ok(rank * 10)).unwrap()
        }) {
            assert_eq!(all, [0, 10, 20]);
        }
    }

    #[test]
    fn everyone_gets_the_error_of_the_lowest_rank() {
        let errors = together(3, |mut group| {
            let rank = group.rank();
            let mine = if rank == 0 { Ok(1) } else { Err(Error::data(format!("column 'x' is bad {rank}"))) };
            group.share(mine).unwrap_err()
        });
        for e in errors {
            assert_eq!(e.to_string(), "rank 1: column 'x' is bad 1");
            assert_eq!(e.kind(), Kind::InvalidData);
        }
    }

    #[test]
    fn what_one_worker_lacks_ends_all() {
        let outcomes = together(3, |mut group| {
            let rank = group.rank();
            let mine = || if rank == 1 { Err(Error::argument("no room for a replica")) } else { Ok(rank) };
            (group.once_all_have(Ok(rank)).unwrap(), group.once_all_have(mine()).unwrap_err())
        });
        for (rank, (mine, e)) in outcomes.into_iter().enumerate() {
            assert_eq!(mine, rank);
            assert_eq!(
                (e.to_string().as_str(), e.kind()),
                ("rank 1: no room for a replica", Kind::InvalidArgument)
            );
        }
    }

    #[test]
    fn an_error_that_all_have_names_no_rank() {
        for e in together(3, |mut group| group.share::<u8>(Err(Error::corrupt("damaged"))).unwrap_err()) {
            assert_eq!((e.to_string().as_str(), e.kind()), ("damaged", Kind::Corrupt));
        }
    }

    #[test]
    fn a_lone_worker_keeps_its_words() {
        let e = together(1, |mut group| group.share::<u8>(Err(Error::argument("no"))).unwrap_err());
        assert_eq!(e[0].to_string(), "no");
        assert_eq!(e[0].kind(), Kind::InvalidArgument);
    }
}
