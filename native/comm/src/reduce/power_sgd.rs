//! Products of thin matrices.

use firesteel_error::{Error, Result};

use super::residual::{Memory, Side, alike};
use super::{Feedback, Reduce, State};
use crate::collective::{Algorithm, all_reduce_sum, phases};
use crate::compress::{Place, check_finite};
use crate::fabric::{Fabric, Key};

/// What of a vector's length may be left of it beside those before it, for it to count as another direction.
const LEAST: f64 = 1e-6;

/// The state's name of where the next step begins.
const START: &str = "start";

/// PowerSGD (Vogels et al. 2019): a matrix M, the sum of what workers have, becomes the product of two thin ones, P·Qᵀ, found by one
/// step of a power iteration from where the last one ended: P = M·Q, made orthonormal, then Q = Mᵀ·P. So the result is P·Pᵀ·M.
/// What it leaves is kept.
///
/// Both are sums over workers, so payloads are all-reduced: 2·(n−1)/n·4·r·(rows + columns) bytes of each of `n` workers in four
/// rounds; 4·r·rows·columns multiplications and as many additions.
///
/// Of a rank below r, directions that are not there are 0, and drawn anew for the next step: a gradient that is 0 stops nothing.
#[derive(Debug)]
pub struct PowerSgd {
    rank: usize,
    rows: usize,
    columns: usize,
    seed: u64,
    memory: Memory,
    /// (rank, columns): Q of the last step, each row of length 1; empty before the first.
    start: Vec<f32>,
}

impl PowerSgd {
    /// Of rank r = `rank` for vectors that are matrices (rows, columns); `seed` is of where it begins.
    ///
    /// # Errors
    /// `InvalidArgument` when r is 0, or r·(rows + columns) ≥ rows·columns: the product would be no shorter than the matrix.
    pub fn new(rank: usize, shape: [usize; 2], seed: u64) -> Result<PowerSgd> {
        let [rows, columns] = shape;
        if rank == 0 {
            return Err(Error::argument("power-sgd: rank is 0, expected at least 1"));
        }
        let (sides, whole) = (rows as u128 + columns as u128, rows as u128 * columns as u128);
        let thin = sides.saturating_mul(rank as u128);
        if thin >= whole {
            let most = whole.saturating_sub(1) / sides.max(1);
            return Err(Error::argument(format!(
                "power-sgd: rank {rank} of {rows} × {columns} takes {thin} values, expected fewer than the matrix has, \
                 as up to rank {most}"
            )));
        }
        let memory = Memory::new(Feedback::On, &[])?;
        Ok(PowerSgd { rank, rows, columns, seed, memory, start: Vec::new() })
    }

    /// Overwrites row `nth` of a start with numbers that all workers draw alike.
    fn draw(&self, key: Key, nth: usize, row: &mut [f32]) {
        let draw = Place { seed: self.seed, key, rank: 0, part: nth as u32 }.shared();
        (0..).zip(row).for_each(|(i, value)| *value = 2.0 * draw.uniform(i) - 1.0);
    }

    /// Where the next step begins: the directions of Q, and others for those that are not there.
    fn next(&self, key: Key, mut q: Vec<f32>) -> Vec<f32> {
        for (nth, row) in q.chunks_exact_mut(self.columns).enumerate() {
            match norm(row.iter().copied().map(f64::from)) {
                0.0 => self.draw(key, nth, row),
                norm => row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32),
            }
        }
        q
    }
}

impl Reduce for PowerSgd {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let (rank, rows, columns) = (self.rank, self.rows, self.columns);
        if values.len() != rows * columns {
            let found = values.len();
            return Err(Error::internal(format!(
                "power-sgd: {found} values of a matrix of {rows} × {columns}"
            )));
        }
        self.memory.add(Side::Worker, values)?;
        let start = match self.start.is_empty() {
            true => self.next(key, vec![0.0; rank * columns]),
            false => self.start.clone(),
        };
        // (rank, rows)
        let mut p = vec![0.0; rank * rows];
        for (p, start) in p.chunks_exact_mut(rows).zip(start.chunks_exact(columns)) {
            p.iter_mut().zip(values.chunks_exact(columns)).for_each(|(p, row)| *p = dot(row, start));
        }
        all_reduce_sum(fabric, key, &mut p)?;
        check_finite(&p)?;
        orthonormalise(&mut p, rows);
        // (rank, columns), of this worker
        let mut own = vec![0.0; rank * columns];
        for (p, own) in p.chunks_exact(rows).zip(own.chunks_exact_mut(columns)) {
            p.iter().zip(values.chunks_exact(columns)).for_each(|(p, row)| add(own, *p, row));
        }
        let mut q = own.clone();
        all_reduce_sum(fabric, key.later(phases(p.len()))?, &mut q)?;
        check_finite(&q)?;
        // With its own Q a worker keeps what is not in the sum of its own.
        let left = self.memory.kept(Side::Worker);
        left.copy_from_slice(values);
        values.fill(0.0);
        for (i, (left, sum)) in
            left.chunks_exact_mut(columns).zip(values.chunks_exact_mut(columns)).enumerate()
        {
            for nth in 0..rank {
                let (p, of) = (p[nth * rows + i], nth * columns..(nth + 1) * columns);
                add(left, -p, &own[of.clone()]);
                add(sum, p, &q[of]);
            }
        }
        self.start = self.next(key, q);
        self.memory.commit();
        Ok(())
    }

    fn bytes(&self, _: usize, rank: usize, world: usize) -> Option<u64> {
        let of = |side: usize| Algorithm::TwoPhase.bytes(self.rank * side, rank, world);
        Some(of(self.rows) + of(self.columns))
    }

    fn state(&self) -> State {
        let mut state = self.memory.state();
        if !self.start.is_empty() {
            state.insert(START.into(), self.start.clone());
        }
        state
    }

    fn check(&self, states: &[State], len: usize) -> Result<()> {
        self.memory.check(states, len)
    }

    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        // All have the same.
        let start = alike(states, START);
        if ![0, self.rank * self.columns].contains(&start.len()) {
            let (found, rank, columns) = (start.len(), self.rank, self.columns);
            return Err(Error::corrupt(format!(
                "power-sgd: {START} of {found} values, expected {rank} × {columns}"
            )));
        }
        self.memory.resume(states, rank, world)?;
        self.start = start;
        Ok(())
    }
}

/// Gram-Schmidt: rows of `len` become of length 1 and orthogonal to those before, or 0 where almost nothing is left of them.
fn orthonormalise(rows: &mut [f32], len: usize) {
    for nth in 0..rows.len() / len {
        let (before, row) = rows.split_at_mut(nth * len);
        let row = &mut row[..len];
        let mut rest: Vec<f64> = row.iter().copied().map(f64::from).collect();
        let whole = norm(rest.iter().copied());
        // What the first pass leaves of those before by rounding, the second does not.
        for other in before.chunks_exact(len).chain(before.chunks_exact(len)) {
            let along: f64 = rest.iter().zip(other).map(|(rest, other)| rest * f64::from(*other)).sum();
            rest.iter_mut().zip(other).for_each(|(rest, other)| *rest -= along * f64::from(*other));
        }
        let left = norm(rest.iter().copied());
        let scale = if left > LEAST * whole { 1.0 / left } else { 0.0 };
        row.iter_mut().zip(rest).for_each(|(value, rest)| *value = (scale * rest) as f32);
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Adds `by`·`row`.
fn add(to: &mut [f32], by: f32, row: &[f32]) {
    to.iter_mut().zip(row).for_each(|(to, value)| *to += by * value);
}

/// In lanes, as one sum is one chain of additions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_orthonormal_or_nothing() {
        // The third is of the first two, the fourth is 0, the fifth almost the first.
        let mut rows =
            [[1e-30, 2e-30, 0.0], [3.0, 0.0, 1.0], [4.0, 2.0, 1.0], [0.0; 3], [1.0, 2.0, 1e-3]].concat();
        orthonormalise(&mut rows, 3);
        let row = |nth: usize| &rows[3 * nth..3 * nth + 3];
        for (a, b, expected) in [(0, 0, 1.0), (1, 1, 1.0), (0, 1, 0.0), (4, 4, 1.0), (4, 0, 0.0), (4, 1, 0.0)]
        {
            assert!((dot(row(a), row(b)) - expected).abs() < 1e-6, "{a} · {b}");
        }
        assert_eq!([row(2), row(3)], [[0.0; 3]; 2]);
    }
}
