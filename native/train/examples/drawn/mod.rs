//! Rows that follow from their number alone, the same wherever they are made.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, StringArray};

/// Uniform in 0..1, a function of two numbers.
pub fn uniform(a: usize, b: usize) -> f32 {
    let mut x =
        (a as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (b as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    for _ in 0..3 {
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (x >> 40) as f32 / (1u64 << 24) as f32
}

/// About normal, with a deviation of 1.
pub fn normal(a: usize, b: usize) -> f32 {
    (0..4).map(|i| uniform(a, 4 * b + i) - 0.5).sum::<f32>() * 3f32.sqrt()
}

/// Columns of strings and a label.
pub struct Strings {
    /// Of all workers.
    pub rows: usize,
    pub columns: usize,
    /// That a column may have; the rarer ones may not occur.
    pub values: usize,
    /// Whether they occur as Zipf has them, the one of rank k with a probability of about 1/k, or all alike.
    pub zipf: bool,
}

impl Strings {
    /// The part of one worker; each string has a share in the score that a label is drawn by.
    pub fn part(&self, rank: usize, world: usize) -> Vec<(String, ArrayRef)> {
        let first = rank * self.rows / world;
        let rows = (rank + 1) * self.rows / world - first;
        let column = |c: usize| {
            let strings = (0..rows).map(|r| format!("v{}", self.value(first + r, c)));
            (format!("c{c}"), Arc::new(StringArray::from_iter_values(strings)) as ArrayRef)
        };
        let label = |r: usize| {
            let score: f32 = (0..self.columns).map(|c| normal(c, self.value(first + r, c))).sum();
            i32::from(uniform(first + r, self.columns) < 1.0 / (1.0 + (-1.5 * score).exp()))
        };
        let labels = Int32Array::from_iter_values((0..rows).map(label));
        let labels: (String, ArrayRef) = ("y".into(), Arc::new(labels));
        (0..self.columns).map(column).chain([labels]).collect()
    }

    /// From 1 on.
    fn value(&self, row: usize, column: usize) -> usize {
        let drawn = uniform(row, column);
        match self.zipf {
            true => (self.values as f32).powf(drawn) as usize,
            false => 1 + (self.values as f32 * drawn) as usize,
        }
    }
}
