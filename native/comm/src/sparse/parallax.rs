//! Everyone's rows to one worker, which sums.

use bytes::Bytes;
use firesteel_error::Result;

use super::{Rows, SumRows, Table, Touched};
use crate::collective::{broadcast_from, gather};
use crate::fabric::{Fabric, Key};

/// Rank 0 gathers everyone's rows and sends their sums to all: a parameter server for what is sparse, as in Parallax (Kim et al. 2019,
/// arXiv:1808.02621), with one server, and the baseline of S2 Reducer (Ge et al. 2021, arXiv:2110.02140). Exact; two rounds.
///
/// Of `n` workers rank 0 sends the union's u rows n−1 times, 4·(n−1)·u·(1+dims) bytes, the others their k rows once: the slower the more
/// there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parallax;

impl SumRows for Parallax {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, table: Table, mine: Rows) -> Result<Rows> {
        mine.check(table)?;
        let sum = match gather(fabric, key, 0, mine.encode())? {
            Some(parts) => Rows::sum_parts(&parts, table)?.encode(),
            None => Bytes::new(),
        };
        let sum = broadcast_from(fabric, key.later(1)?, 0, sum)?;
        Rows::decode(&sum, 0, table)
    }

    fn bytes(&self, table: Table, touched: Touched, rank: usize, world: usize) -> u64 {
        match rank {
            0 => (world as u64 - 1) * Rows::bytes(touched.any, table),
            _ => Rows::bytes(touched.mine, table),
        }
    }
}
