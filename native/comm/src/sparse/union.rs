//! Which rows any worker touches, and then the sums of those.

use bytes::{BufMut, BytesMut};
use firesteel_error::{Error, Result};

use super::{Rows, SumRows, Table, Touched};
use crate::collective::{Algorithm, all_reduce_sum, slice_of};
use crate::compress::Bitmap;
use crate::fabric::{Fabric, Key};

/// Workers unite the bitmaps of their rows, a bit a row of the table, and all-reduce the rows that are in the union as one dense vector,
/// as OmniReduce does by blocks (Fei et al. 2021, <https://doi.org/10.1145/3452296.3472904>). Exact; four rounds.
///
/// Of `n` workers each sends about 2·(n−1)/n·(⌈rows/8⌉ + 4·u·dims) bytes, where u rows are in the union: [`Touched::any`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Union;

impl SumRows for Union {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, table: Table, mine: Rows) -> Result<Rows> {
        mine.check(table)?;
        let rows = unite(fabric, key, table, &mine.rows)?;
        let mut values = vec![0.0; rows.len() * table.dims()];
        mine.add_to(&rows, &mut values, table);
        all_reduce_sum(fabric, key.later(ROUNDS)?, &mut values)?;
        Ok(Rows { rows, values })
    }

    fn bytes(&self, table: Table, touched: Touched, rank: usize, world: usize) -> u64 {
        bytes(table, rank, world) + Algorithm::TwoPhase.bytes(touched.any * table.dims(), rank, world)
    }
}

/// Phases of [`unite`].
pub(super) const ROUNDS: usize = 2;

/// The rows that any worker touches: slices of everyone's bitmap are shuffled to their owners, united, and broadcast.
///
/// # Errors
/// Those of [`Fabric`]; `Corrupt` naming the rank whose part is no bitmap of its slice, or leaves out rows that this worker touches.
pub(super) fn unite(fabric: &dyn Fabric, key: Key, table: Table, mine: &[u32]) -> Result<Vec<u32>> {
    let (rank, world, len) = (fabric.rank(), fabric.world(), table.rows());
    if world == 1 {
        return Ok(mine.to_vec());
    }
    let mut bitmap = Bitmap::new(len);
    mine.iter().for_each(|row| bitmap.set(*row as usize));
    let bitmap = bitmap.encode();
    let slice = |owner| slice_of(bitmap.len(), owner, world);
    let bits = |owner| (8 * slice(owner).end).min(len) - (8 * slice(owner).start).min(len);
    let parts = (0..world).map(|owner| bitmap.slice(slice(owner))).collect();
    let received = fabric.shuffle(key, parts)?.wait()?;
    let mut union = Bitmap::new(bits(rank));
    for (from, part) in received.iter().enumerate() {
        let read = Bitmap::decode(part, bits(rank));
        union.or(&read.map_err(|e| e.context(format!("reading which rows rank {from} touches")))?)?;
    }
    let mut all = BytesMut::with_capacity(bitmap.len());
    for (owner, part) in fabric.broadcast(key.later(1)?, union.encode())?.wait()?.iter().enumerate() {
        let read = Bitmap::decode(part, bits(owner));
        read.map_err(|e| e.context(format!("reading which rows rank {owner} united")))?;
        if bitmap[slice(owner)].iter().zip(part).any(|(mine, all)| mine & !all != 0) {
            return Err(Error::corrupt(format!("rank {owner} left out rows that rank {rank} touches")));
        }
        all.put_slice(part);
    }
    Ok(Bitmap::decode(&all, len)?.indices().map(|row| row as u32).collect())
}

/// Bytes that `rank` sends in [`unite`].
pub(super) fn bytes(table: Table, rank: usize, world: usize) -> u64 {
    let len = table.rows().div_ceil(8);
    let own = slice_of(len, rank, world).len();
    (len - own + (world - 1) * own) as u64
}
