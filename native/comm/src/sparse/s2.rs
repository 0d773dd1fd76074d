//! Which rows any worker touches, and then a sketch of their sums.

use firesteel_error::{Error, Result};

use super::left::Left;
use super::union::{self, ROUNDS, unite};
use super::{Rows, SumRows, Table, Touched, refuse};
use crate::collective::{Algorithm, all_reduce_sum};
use crate::compress::count_sketch::MOST_ROWS;
use crate::compress::ratio::Ratio;
use crate::compress::{CountSketch, Place};
use crate::fabric::{Fabric, Key};
use crate::reduce::{Feedback, State};

const NAME: &str = "s2";

/// Workers unite the bitmaps of their rows, add up count sketches of their values, and read the union's rows off the sum: S2 Reducer
/// (Ge et al. 2021, arXiv:2110.02140). Four rounds.
///
/// A sketch of r rows of c cells has about ratio·rows·dims cells, whatever is touched. While the union's u rows have no more values
/// than that, and in a world of one, they are summed as they are, as [`super::Union`] does. All know u once bitmaps are united, so all
/// choose alike; for that bitmaps go first, and do not ride on the sketch's messages as in the paper.
///
/// Of `n` workers each sends about 2·(n−1)/n·(⌈rows/8⌉ + 4·min(r·c, u·dims)) bytes.
///
/// Laws of a sketch, beside roundings. Linear for r = 1. Exact where a value shares no cell with one that is not 0, in more than half
/// of the r rows. For r = 1 unbiased over steps, as each draws other hashes: E C(x) = x and E‖C(x) − x‖² ≤ (m−1)/c·‖x‖² of m = u·dims
/// values. A sketch that is shorter than they are is mostly noise. Relative errors, Euclidean, root of the mean square over 1,000
/// steps, by cells for each of 640 values in rows of 16, and where 1 of 16 values is not 0:
///
/// | r | 0.25 | 0.5 | 0.75 | 1 of 16: 0.25 | 0.5 | 0.75 |
/// | --- | --- | --- | --- | --- | --- | --- |
/// | 1 | 2.1 | 1.5 | 1.2 | 2.2 | 1.6 | 1.5 |
/// | 3 | 2.3 | 1.6 | 1.2 | 1.8 | 1.0 | 0.7 |
/// | 5 | 2.4 | 1.6 | 1.3 | 1.9 | 0.9 | 0.6 |
///
/// Zeros instead would have 1. A larger r is for rows that are mostly 0; others gain nothing by it. For r = 1 errors of single steps are
/// far apart, as consecutive values fall along a line of cells: of 1,000 steps of 3,200 values at 0.25, half were below 1.8, one 9.4.
///
/// With feedback, for r = 1, what is read is scaled by c/(c+m−1), which makes a contraction of it, δ the same, in the mean over hashes.
/// What that leaves of a worker's values is added when any worker touches their rows again, and not before: all rows that ever were
/// touched would be, in every step. It grows to 4·dims bytes for each of those.
#[derive(Debug)]
pub struct S2 {
    /// Of the sketch.
    rows: usize,
    ratio: Ratio,
    seed: u64,
    /// With feedback.
    left: Option<Left>,
}

impl S2 {
    /// With sketches of `rows`, from 1 to 64, and together `ratio` of a table's values in cells, 0 < ratio ≤ 1; `seed` is of their
    /// hashes.
    ///
    /// # Errors
    /// `InvalidArgument` when rows or the ratio are not in their range, and for error feedback with more than one row.
    pub fn new(rows: usize, ratio: f64, feedback: Feedback, seed: u64) -> Result<S2> {
        let ratio = Ratio::new(NAME, ratio)?;
        if !(1..=MOST_ROWS).contains(&rows) {
            return Err(Error::argument(format!("{NAME}: rows is {rows}, expected from 1 to {MOST_ROWS}")));
        }
        let left = match feedback {
            Feedback::Off => None,
            Feedback::On if rows == 1 => Some(Left::default()),
            Feedback::On => {
                return Err(Error::argument(format!(
                    "{NAME}: error feedback with {rows} rows, expected 1: medians of parts do not add up to that of a sum"
                )));
            }
        };
        Ok(S2 { rows, ratio, seed, left })
    }

    /// Of a sketch that is sent when `any` rows are touched; none where those are as short.
    fn columns(&self, table: Table, any: usize, world: usize) -> Option<usize> {
        let columns = self.ratio.of(table.len()).div_ceil(self.rows);
        (world > 1 && columns * self.rows < any * table.dims()).then_some(columns)
    }

    /// Sums by a sketch. With feedback, what it leaves of this worker's values.
    fn sketch(
        &self,
        fabric: &dyn Fabric,
        key: Key,
        columns: usize,
        values: &mut [f32],
    ) -> Result<Option<Vec<f32>>> {
        // All draw alike, and others in each step.
        let draw = Place { seed: self.seed, key, rank: 0, part: 0 }.shared();
        let mut sketch = CountSketch::new(self.rows, columns, &draw)?;
        sketch.add_run(0, values)?;
        // 1/(1 + ω): what is unbiased becomes a contraction.
        let scale = (columns as f64 / (columns + values.len() - 1) as f64) as f32;
        let left = self.left.is_some().then(|| {
            let mut left = vec![0.0; values.len()];
            sketch.estimate_run(0, &mut left);
            left.iter_mut().zip(&*values).for_each(|(left, value)| *left = value - scale * *left);
            left
        });
        all_reduce_sum(fabric, key, sketch.table_mut())?;
        sketch.estimate_run(0, values);
        if left.is_some() {
            values.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(left)
    }
}

impl SumRows for S2 {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, table: Table, mine: Rows) -> Result<Rows> {
        mine.check(table)?;
        self.left.as_ref().map_or(Ok(()), |left| left.check(table))?;
        let rows = unite(fabric, key, table, &mine.rows)?;
        let mut values = vec![0.0; rows.len() * table.dims()];
        mine.add_to(&rows, &mut values, table);
        if let Some(left) = &self.left {
            left.add_to(&rows, &mut values, table);
        }
        let key = key.later(ROUNDS)?;
        let kept = match self.columns(table, rows.len(), fabric.world()) {
            Some(columns) => self.sketch(fabric, key, columns, &mut values)?,
            None => {
                all_reduce_sum(fabric, key, &mut values)?;
                None
            }
        };
        if let Some(left) = &mut self.left {
            match kept {
                Some(kept) => left.keep(&rows, &kept, table),
                None => left.forget(&rows),
            }
        }
        Ok(Rows { rows, values })
    }

    fn bytes(&self, table: Table, touched: Touched, rank: usize, world: usize) -> u64 {
        let columns = self.columns(table, touched.any, world);
        let len = columns.map_or(touched.any * table.dims(), |columns| columns * self.rows);
        union::bytes(table, rank, world) + Algorithm::TwoPhase.bytes(len, rank, world)
    }

    fn state(&self) -> State {
        self.left.as_ref().map(Left::state).unwrap_or_default()
    }

    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        match &mut self.left {
            Some(left) => *left = Left::resume(states, rank, world)?,
            None => refuse(states, NAME)?,
        }
        Ok(())
    }
}
