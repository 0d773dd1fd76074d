//! The whole table as a vector.

use firesteel_error::Result;

use super::{Rows, SumRows, Table, Touched};
use crate::collective::{Algorithm, all_reduce_sum};
use crate::fabric::{Fabric, Key};

/// The all-reduce of the table, its untouched rows too: what SparCML (Renggli et al. 2019, arXiv:1802.08021) falls back to when a sum is
/// no longer sparse, and the baseline that stands for it beside S2 Reducer (Ge et al. 2021, arXiv:2110.02140). Exact; two rounds, and
/// as much memory as the table.
///
/// Rows whose sums are 0 in all values are not given back, whoever touched them: nobody is told who did.
///
/// Of `n` workers each sends about 2·(n−1)/n·4·rows·dims bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dense;

impl SumRows for Dense {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, table: Table, mine: Rows) -> Result<Rows> {
        mine.check(table)?;
        let dims = table.dims();
        let mut dense = vec![0.0; table.len()];
        for (row, values) in mine.rows.iter().zip(mine.values.chunks_exact(dims)) {
            dense[*row as usize * dims..(*row as usize + 1) * dims].copy_from_slice(values);
        }
        all_reduce_sum(fabric, key, &mut dense)?;
        let mut sum = Rows::default();
        for (row, values) in dense.chunks_exact(dims).enumerate() {
            if values.iter().any(|value| *value != 0.0) {
                sum.rows.push(row as u32);
                sum.values.extend_from_slice(values);
            }
        }
        Ok(sum)
    }

    fn bytes(&self, table: Table, _: Touched, rank: usize, world: usize) -> u64 {
        Algorithm::TwoPhase.bytes(table.len(), rank, world)
    }
}
