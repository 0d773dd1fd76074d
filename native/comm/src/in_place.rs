//! Sums in the memory of the workers themselves, where all are threads of one process.
//!
//! Each lends its vector to all for the time of one sum. Of each chunk a worker owns a slice, which nobody else touches meanwhile:
//! it reads that slice of all vectors and writes the sum to all of them. A worker whose wait fails takes its vector back, for which
//! it waits only while somebody computes in it.

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

/// Where the workers of a world find what the others lend.
#[derive(Debug)]
pub(crate) struct Board {
    world: usize,
    lent: Mutex<HashMap<(usize, Key), Arc<Lent>>>,
}

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
    /// Of so many workers, all threads of this process.
    pub(crate) fn of(world: usize) -> Arc<Board> {
        Arc::new(Board { world, lent: Mutex::default() })
    }

    /// A poisoned lock only says that another thread panicked between two complete changes of the map.
    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, Key), Arc<Lent>>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
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
                let Key { step, bucket, .. } = key;
                let text = format!("rank {rank} sums bucket {bucket} of step {step} twice at once");
                return Err(Error::internal(text));
            }
        };
        Ok(Loan { board: self, rank, key, lent, values: PhantomData })
    }
}

impl Loan<'_> {
    /// Sums this worker's slices of what all have lent into all of it, in rank order.
    ///
    /// # Errors
    /// `PeerLost` naming a rank that took its vector back, `Corrupt` naming one whose vector has another length.
    pub(crate) fn sum(&mut self) -> Result<()> {
        let (rank, world) = (self.rank, self.board.world);
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
                // SAFETY: the locks are held, the lengths are equal, and a slice is within them. All who sum by this board and key
                // cut slices for the same world, so those of two ranks share no value; of one rank there is one loan, and it sums
                // once at a time.
                unsafe { sum_block(&places, start..slice.end.min(start + BLOCK)) };
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

/// Sums the same values of all vectors into all of them.
///
/// # Safety
/// Until it returns all vectors are lent, the block is within each, and nobody else reads or writes what it has of any.
unsafe fn sum_block(places: &[Place], block: Range<usize>) {
    let mut sum = [0.0; BLOCK];
    let sum = &mut sum[..block.len()];
    for (rank, place) in places.iter().enumerate() {
        // SAFETY: as the caller promises.
        let values = unsafe { std::slice::from_raw_parts(place.start.add(block.start), block.len()) };
        match rank {
            0 => sum.copy_from_slice(values),
            _ => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
        }
    }
    for place in places {
        // SAFETY: as the caller promises; what was read is not borrowed any more.
        let values = unsafe { std::slice::from_raw_parts_mut(place.start.add(block.start), block.len()) };
        values.copy_from_slice(sum);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_vector_is_taken_back_only_when_nobody_computes_in_it() {
        let board = Board::of(2);
        let mut values = [1.0];
        let loan = board.lend(0, Key::new(0, 0, 0), &mut values).unwrap();
        let lent = loan.lent.clone();
        let computes = lent.0.read().unwrap();
        thread::scope(|scope| {
            let (done, back) = channel();
            scope.spawn(move || {
                drop(loan);
                done.send(()).unwrap();
            });
            assert!(back.recv_timeout(Duration::from_millis(100)).is_err());
            assert!(board.lock().is_empty(), "nobody begins to compute in it");
            drop(computes);
            back.recv_timeout(Duration::from_secs(20)).unwrap();
        });
        assert!(lent.0.read().unwrap().is_none());
    }
}
