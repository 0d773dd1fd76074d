//! Everyone's rows to everyone, and everyone sums.

use firesteel_error::Result;

use super::{Rows, SumRows, Table, Touched};
use crate::collective::all_gather;
use crate::fabric::{Fabric, Key};

/// The sparse all-gather of rows and their numbers, summed in rank order: what frameworks do with sparse tensors, and the baseline
/// of S2 Reducer (Ge et al. 2021, arXiv:2110.02140). Exact; one round.
///
/// Of `n` workers each sends its k rows n−1 times: 4·(n−1)·k·(1+dims) bytes. [`super::Union`] sends less as soon as workers touch the
/// same rows, or are many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gather;

impl SumRows for Gather {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, table: Table, mine: Rows) -> Result<Rows> {
        mine.check(table)?;
        let parts = all_gather(fabric, key, mine.encode())?;
        Rows::sum_parts(&parts, table)
    }

    fn bytes(&self, table: Table, touched: Touched, _: usize, world: usize) -> u64 {
        (world as u64 - 1) * Rows::bytes(touched.mine, table)
    }
}
