//! A table that sums of sparse vectors are read off.

use firesteel_error::{Error, Kind, Result};

use super::{Draw, check_finite};

/// The prime that hashes are taken by: 2⁶¹ − 1.
const PRIME: u64 = (1 << 61) - 1;

/// Rows that a median is taken of.
pub(crate) const MOST_ROWS: usize = 64;

/// Medians that are taken at once.
const BLOCK: usize = 64;

/// A count sketch: r rows of c cells, T\[a, h_a(i)\] += s_a(i)·x_i in every row a, read back as the median over rows of
/// s_a(i)·T\[a, h_a(i)\].
///
/// It is linear, but for roundings: the tables of vectors add up to that of their sum, which is how S2 Reducer sums sparse gradients with dense
/// collectives, a [`Bitmap`](super::Bitmap) beside it saying which indices to read.
///
/// With one row an estimate is unbiased over seeds, its variance at most ‖x‖²/c. An index that shares no cell with another that is not
/// 0, in more than half of the rows, is exact. With many rows the median shields from a few large values, but the
/// estimates of indices that were never added are not 0.
///
/// Buckets h are 2-wise independent, (h₁·i + h₂) mod p mod c, signs s 4-wise, the lowest bit of a cubic polynomial mod p, with
/// p = 2⁶¹ − 1 (Carter and Wegman 1979). Indices are taken mod p. An index costs a few multiplications a row, one of a run a few additions.
///
/// Charikar, Chen and Farach-Colton 2002, <https://doi.org/10.1007/3-540-45465-9_59>; Ge et al. 2021, arXiv:2110.02140.
#[derive(Clone, Debug, PartialEq)]
pub struct CountSketch {
    hashes: Vec<Hash>,
    columns: usize,
    /// (rows, columns)
    table: Vec<f32>,
}

impl CountSketch {
    /// An empty table of `rows`, from 1 to 64, and `columns`, from 1 to 2³² − 1, whose hashes are drawn: to add up, tables need the same
    /// draw on all workers, as [`Place::shared`](super::Place::shared) gives it.
    ///
    /// # Errors
    /// `InvalidArgument` when rows or columns are not in their range.
    pub fn new(rows: usize, columns: usize, draw: &Draw) -> Result<CountSketch> {
        if !(1..=MOST_ROWS).contains(&rows) {
            let text = format!("count sketch: rows is {rows}, expected from 1 to {MOST_ROWS}");
            return Err(Error::argument(text));
        }
        if columns == 0 || u32::try_from(columns).is_err() {
            let text = format!("count sketch: columns is {columns}, expected from 1 to {}", u32::MAX);
            return Err(Error::argument(text));
        }
        let hashes = (0..rows as u64).map(|row| Hash::new(draw, row)).collect();
        Ok(CountSketch { hashes, columns, table: vec![0.0; rows * columns] })
    }

    /// Adds a value.
    ///
    /// # Errors
    /// `Diverged` when it is infinite or no number, which would spoil all that share its cells.
    pub fn add(&mut self, index: usize, value: f32) -> Result<()> {
        if !value.is_finite() {
            let text = format!("value {index} to be added to a count sketch is {value}");
            return Err(Error::new(Kind::Diverged, text));
        }
        for (hash, row) in self.hashes.iter().zip(self.table.chunks_exact_mut(self.columns)) {
            let cell = hash.cell(index as u64, self.columns as u64);
            row[cell.column as usize] += cell.signed(value);
        }
        Ok(())
    }

    /// Adds values at consecutive indices from `start` on, such as a row of an embedding table.
    ///
    /// # Errors
    /// `Diverged` when one is infinite or no number; then none is added.
    pub fn add_run(&mut self, start: usize, values: &[f32]) -> Result<()> {
        check_finite(values)?;
        for (hash, row) in self.hashes.iter().zip(self.table.chunks_exact_mut(self.columns)) {
            for (value, cell) in values.iter().zip(hash.run(start as u64, self.columns as u64)) {
                row[cell.column as usize] += cell.signed(*value);
            }
        }
        Ok(())
    }

    /// What was added at an index, in sum and about. Of an even number of rows, the mean of the two in the middle.
    pub fn estimate(&self, index: usize) -> f32 {
        let mut found = [[0.0]; MOST_ROWS];
        let found = &mut found[..self.hashes.len()];
        for ((hash, row), [found]) in self.rows().zip(found.iter_mut()) {
            let cell = hash.cell(index as u64, self.columns as u64);
            *found = cell.signed(row[cell.column as usize]);
        }
        let [median] = medians(found);
        median
    }

    /// Overwrites `out` with the estimates of consecutive indices from `start` on.
    pub fn estimate_run(&self, start: usize, out: &mut [f32]) {
        let mut runs: Vec<_> =
            self.rows().map(|(hash, row)| (hash.run(start as u64, self.columns as u64), row)).collect();
        let mut found = vec![[0.0; BLOCK]; runs.len()];
        for out in out.chunks_mut(BLOCK) {
            for ((run, row), found) in runs.iter_mut().zip(&mut found) {
                // In registers, which what is behind a reference is not.
                let mut here = *run;
                for (found, cell) in found[..out.len()].iter_mut().zip(&mut here) {
                    *found = cell.signed(row[cell.column as usize]);
                }
                *run = here;
            }
            out.copy_from_slice(&medians(&mut found)[..out.len()]);
        }
    }

    /// Adds what another has added.
    ///
    /// # Errors
    /// `InvalidArgument` when its hashes are others.
    pub fn merge(&mut self, other: &CountSketch) -> Result<()> {
        if self.columns != other.columns || self.hashes != other.hashes {
            let shape = |sketch: &CountSketch| format!("{} × {}", sketch.hashes.len(), sketch.columns);
            let (found, expected) = (shape(other), shape(self));
            let text = format!("count sketch: a table of {found}, expected {expected} with the same hashes");
            return Err(Error::argument(text));
        }
        self.table.iter_mut().zip(&other.table).for_each(|(cell, other)| *cell += other);
        Ok(())
    }

    /// Forgets all that was added.
    pub fn clear(&mut self) {
        self.table.fill(0.0);
    }

    /// The cells, (rows, columns): what is summed over workers.
    pub fn table(&self) -> &[f32] {
        &self.table
    }

    /// The cells, (rows, columns), to be replaced by a sum over workers.
    pub fn table_mut(&mut self) -> &mut [f32] {
        &mut self.table
    }

    /// Where the cells of an index are in the table, one a row.
    pub fn cells(&self, index: usize) -> impl Iterator<Item = usize> {
        let column = move |hash: &Hash| hash.cell(index as u64, self.columns as u64).column as usize;
        self.hashes.iter().enumerate().map(move |(row, hash)| row * self.columns + column(hash))
    }

    /// Each row with its hashes.
    fn rows(&self) -> impl Iterator<Item = (&Hash, &[f32])> {
        self.hashes.iter().zip(self.table.chunks_exact(self.columns))
    }
}

/// Those of the columns, of at least one row; rows are put in order as far as that takes.
fn medians<const N: usize>(rows: &mut [[f32; N]]) -> [f32; N] {
    let (count, middle) = (rows.len(), rows.len() / 2);
    let lowest = if count % 2 == 1 { middle } else { middle - 1 };
    // The greatest of what is left goes last; all columns at once, as vectors do.
    for last in (lowest..count).rev() {
        for at in 0..last {
            let (low, high) = rows.split_at_mut(at + 1);
            for (low, high) in low[at].iter_mut().zip(&mut high[0]) {
                (*low, *high) = if *high < *low { (*high, *low) } else { (*low, *high) };
            }
        }
    }
    std::array::from_fn(|column| match lowest == middle {
        true => rows[middle][column],
        false => 0.5 * (rows[lowest][column] + rows[middle][column]),
    })
}

/// A row's: coefficients below the prime, of the lowest power first.
#[derive(Clone, Debug, PartialEq)]
struct Hash {
    bucket: [u64; 2],
    sign: [u64; 4],
}

/// Where an index falls in a row.
struct Cell {
    column: u64,
    negative: bool,
}

impl Cell {
    /// Without a branch: which way it goes cannot be foreseen.
    #[inline(always)]
    fn signed(&self, value: f32) -> f32 {
        f32::from_bits(value.to_bits() ^ u32::from(self.negative) << 31)
    }
}

impl Hash {
    fn new(draw: &Draw, row: u64) -> Hash {
        let number = |i: u64| reduce(u128::from(draw.word(6 * row + i) >> 3));
        let sign = [number(2), number(3), number(4), number(5)];
        // A factor of 0 would throw all into one bucket.
        Hash { bucket: [number(0), number(1).max(1)], sign }
    }

    fn cell(&self, index: u64, columns: u64) -> Cell {
        let index = reduce(u128::from(index));
        let column = polynomial(&self.bucket, index) % columns;
        Cell { column, negative: polynomial(&self.sign, index) & 1 == 1 }
    }

    /// The same for index after index.
    fn run(&self, start: u64, columns: u64) -> Run {
        let index = |by: u64| plus(reduce(u128::from(start)), by);
        let mut sign = [0, 1, 2, 3].map(|by| polynomial(&self.sign, index(by)));
        // Values become differences of order 0 to 3.
        for order in 1..4 {
            for at in (order..4).rev() {
                sign[at] = plus(sign[at], PRIME - sign[at - 1]);
            }
        }
        let hash = polynomial(&self.bucket, index(0));
        let step = self.bucket[1] % columns;
        let wrapped = (step + columns - PRIME % columns) % columns;
        Run { hash, by: self.bucket[1], column: hash % columns, step, wrapped, columns, sign }
    }
}

/// Cells of consecutive indices: a polynomial's next value is had from its differences, by additions alone.
#[derive(Clone, Copy)]
struct Run {
    /// Of the bucket, before it is taken mod the columns.
    hash: u64,
    /// What it grows by.
    by: u64,
    column: u64,
    /// What the column grows by, and where the hash passes the prime.
    step: u64,
    wrapped: u64,
    columns: u64,
    /// Differences of order 0 to 3.
    sign: [u64; 4],
}

impl Run {
    #[inline(always)]
    fn step(&mut self) -> Cell {
        let cell = Cell { column: self.column, negative: self.sign[0] & 1 == 1 };
        let next = self.hash + self.by;
        self.hash = next.min(next.wrapping_sub(PRIME));
        let passed = u64::from(next >= PRIME).wrapping_neg();
        let column = self.column + (self.step ^ (passed & (self.step ^ self.wrapped)));
        self.column = column.min(column.wrapping_sub(self.columns));
        let [value, first, second, third] = self.sign;
        self.sign = [plus(value, first), plus(first, second), plus(second, third), third];
        cell
    }
}

impl Iterator for Run {
    type Item = Cell;

    #[inline(always)]
    fn next(&mut self) -> Option<Cell> {
        Some(self.step())
    }
}

/// mod the prime, of less than 2¹²²: 2⁶¹ is 1.
fn reduce(value: u128) -> u64 {
    plus(value as u64 & PRIME, (value >> 61) as u64)
}

/// mod the prime, of at most the prime each.
#[inline(always)]
fn plus(a: u64, b: u64) -> u64 {
    let sum = a + b;
    // The difference wraps where there is nothing to take off; a branch could not be foreseen.
    sum.min(sum.wrapping_sub(PRIME))
}

/// By Horner, mod the prime.
fn polynomial(coefficients: &[u64], at: u64) -> u64 {
    coefficients.iter().rev().fold(0, |sum, next| plus(reduce(u128::from(sum) * u128::from(at)), *next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Place;
    use crate::fabric::Key;

    fn draw(seed: u64) -> Draw {
        Place { seed, key: Key::new(0, 0, 0), rank: 0, part: 0 }.shared()
    }

    #[test]
    fn the_fast_remainder_is_the_remainder() {
        let draw = draw(1);
        let edges = [0, 1, 2, PRIME - 2, PRIME - 1];
        let some: Vec<u64> = edges.into_iter().chain((0..500).map(|i| draw.word(i) % PRIME)).collect();
        for a in &some {
            for b in &some {
                let product = u128::from(*a) * u128::from(*b);
                assert_eq!(u128::from(reduce(product)), product % u128::from(PRIME));
            }
        }
        assert_eq!(reduce(u128::from(PRIME)), 0);
        assert_eq!(u128::from(reduce(u128::from(u64::MAX))), u128::from(u64::MAX) % u128::from(PRIME));
        let at = |x: u128| ((5 * x + 3) % u128::from(PRIME) * x + 2) % u128::from(PRIME);
        assert_eq!(u128::from(polynomial(&[2, 3, 5], some[7])), at(u128::from(some[7])));
    }

    #[test]
    fn a_run_goes_where_its_indices_go() {
        for seed in 0..20 {
            for (columns, start) in [(1, 0), (2, 5), (97, 1 << 40), (1000, 0), (u64::from(u32::MAX), 77)] {
                let hash = Hash::new(&draw(seed), seed);
                for (i, cell) in hash.run(start, columns).take(500).enumerate() {
                    let expected = hash.cell(start + i as u64, columns);
                    assert_eq!((cell.column, cell.negative), (expected.column, expected.negative), "{i}");
                }
            }
        }
    }

    #[test]
    fn medians_are_those_of_sorted_columns() {
        let draw = draw(3);
        for count in 1..=MOST_ROWS {
            let mut rows: Vec<[f32; 3]> =
                (0..count as u64).map(|row| [0, 1, 2].map(|i| draw.uniform(3 * row + i))).collect();
            let expected = [0, 1, 2].map(|i| {
                let mut column: Vec<f32> = rows.iter().map(|row| row[i]).collect();
                column.sort_by(f32::total_cmp);
                0.5 * (column[(count - 1) / 2] + column[count / 2])
            });
            assert_eq!(medians(&mut rows), expected, "{count}");
        }
        assert_eq!(medians(&mut [[7.0], [f32::MIN], [f32::MAX]]), [7.0]);
    }

    #[test]
    fn signs_are_four_wise_independent() {
        // All sixteen patterns of four signs, as often as each other: of a line, four in a row would not be.
        let mut seen = [0u32; 16];
        const DRAWS: u64 = 16_000;
        for seed in 0..DRAWS {
            let hash = Hash::new(&draw(seed), 0);
            let bits = [0, 1, 2, 3].map(|index| usize::from(hash.cell(index, 7).negative));
            seen[bits.into_iter().fold(0, |sum, bit| 2 * sum + bit)] += 1;
        }
        // A chi-square of 15 degrees: mean 15, deviation 5.5.
        let mean = DRAWS as f64 / 16.0;
        let chi: f64 = seen.iter().map(|seen| (f64::from(*seen) - mean).powi(2) / mean).sum();
        assert!(chi < 15.0 + 5.0 * 5.5, "{chi}");
    }

    #[test]
    fn what_shares_no_cell_is_exact() {
        let mut alone = 0;
        for seed in 0..50 {
            let mut sketch = CountSketch::new(1, 64, &draw(seed)).unwrap();
            let indices: Vec<usize> = (0..20).map(|i| draw(1000 + seed).word(i) as usize % 5000).collect();
            let column = |index: usize| sketch.hashes[0].cell(index as u64, 64).column;
            let columns: Vec<u64> = indices.iter().map(|index| column(*index)).collect();
            let value = |index: usize| (index as f32 - 2500.0) / 7.0;
            indices.iter().for_each(|index| sketch.add(*index, value(*index)).unwrap());
            for (index, column) in indices.iter().zip(&columns) {
                if columns.iter().filter(|other| *other == column).count() == 1 {
                    assert_eq!(sketch.estimate(*index), value(*index));
                    alone += 1;
                }
            }
        }
        // (63/64)¹⁹ of 1000.
        assert!((650..850).contains(&alone), "{alone}");
    }
}
