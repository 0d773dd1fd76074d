//! Means, deviations and counts that workers merge, always in rank order.

use std::collections::HashMap;

use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::preprocess::Scaling;
use super::raw::{NULL, Texts};

/// Count, mean and sum of squared differences of some features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    count: Vec<u64>,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Spread {
    /// Of rows of `width` values each feature apart, or, `shared`, all values together. Rows that `held` marks and
    /// values that are not finite do not count.
    pub(crate) fn of<T: Copy + Into<f64>>(values: &[T], width: usize, shared: bool, held: &[bool]) -> Spread {
        let features = if shared { 1 } else { width };
        let mut spread =
            Spread { count: vec![0; features], mean: vec![0.0; features], squares: vec![0.0; features] };
        let at = |column: usize| if shared { 0 } else { column };
        // Sums of differences from the first value keep the digits of values far from 0, such as times.
        let mut first = vec![None; features];
        each(values, width, held, |column, value| {
            spread.count[at(column)] += 1;
            spread.mean[at(column)] += value - *first[at(column)].get_or_insert(value);
        });
        for ((mean, count), first) in spread.mean.iter_mut().zip(&spread.count).zip(first) {
            *mean = first.unwrap_or(0.0) + *mean / (*count).max(1) as f64;
        }
        let (mean, squares) = (&spread.mean, &mut spread.squares);
        each(values, width, held, |column, value| squares[at(column)] += (value - mean[at(column)]).powi(2));
        spread
    }

    /// Takes the values of `other` in (Chan et al. 1979).
    pub(crate) fn merge(&mut self, other: &Spread) -> Result<()> {
        // Of vectors that were all NULL: nobody knew how wide they are.
        if other.count.is_empty() {
            return Ok(());
        }
        if self.count.is_empty() {
            *self = other.clone();
            return Ok(());
        }
        if self.count.len() != other.count.len() {
            return Err(Error::internal("workers send statistics of different widths"));
        }
        for i in 0..self.count.len() {
            let (a, b) = (self.count[i] as f64, other.count[i] as f64);
            if b == 0.0 {
                continue;
            }
            let apart = other.mean[i] - self.mean[i];
            self.mean[i] += apart * (b / (a + b));
            self.squares[i] += other.squares[i] + apart * apart * (a * b / (a + b));
            self.count[i] += other.count[i];
        }
        Ok(())
    }

    /// Whether sums stayed in range; JSON, the messages' form, has no infinity.
    pub(crate) fn check(self, column: &str) -> Result<Spread> {
        if self.mean.iter().chain(&self.squares).all(|v| v.is_finite()) {
            return Ok(self);
        }
        Err(Error::data(format!("column '{column}' holds values too large to be standardised")))
    }

    /// Means and deviations; a feature whose values are all equal has deviation 1.
    pub(crate) fn scaling(&self, standardize: bool) -> Scaling {
        let deviation = |(squares, count): (&f64, &u64)| {
            let deviation = (squares / (*count).max(1) as f64).sqrt();
            if deviation > 0.0 && deviation.is_finite() { deviation } else { 1.0 }
        };
        Scaling {
            mean: self.mean.clone(),
            deviation: self.squares.iter().zip(&self.count).map(deviation).collect(),
            standardize,
        }
    }
}

/// Calls `visit` with the place within the row and the value of every finite value of rows that count.
fn each<T: Copy + Into<f64>>(values: &[T], width: usize, held: &[bool], mut visit: impl FnMut(usize, f64)) {
    for (row, held) in values.chunks_exact(width.max(1)).zip(held) {
        if *held {
            continue;
        }
        for (column, value) in row.iter().enumerate() {
            let value: f64 = (*value).into();
            if value.is_finite() {
                visit(column, value);
            }
        }
    }
}

/// How often each text occurs in rows that are not held out.
pub(crate) fn count_texts(texts: &Texts, held: &[bool]) -> Vec<(String, u64)> {
    let mut counts = vec![0u64; texts.distinct.len()];
    for (code, held) in texts.codes.iter().zip(held) {
        if !held && *code != NULL {
            counts[*code as usize] += 1;
        }
    }
    let counted = texts.distinct.iter().zip(counts).filter(|(_, n)| *n > 0);
    counted.map(|(text, n)| (text.to_string(), n)).collect()
}

/// The texts that get an index of their own: the most frequent first, equally frequent ones by text.
pub(crate) fn vocabulary(counts: Vec<Vec<(String, u64)>>, least: usize, most: usize) -> Vec<String> {
    let mut total: HashMap<String, u64> = HashMap::new();
    for (text, n) in counts.into_iter().flatten() {
        *total.entry(text).or_default() += n;
    }
    let mut frequent: Vec<(String, u64)> = total.into_iter().filter(|(_, n)| *n >= least as u64).collect();
    frequent.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    frequent.truncate(most);
    frequent.into_iter().map(|(text, _)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_parts_equal_the_whole() {
        let values: Vec<f64> = (0..100).map(|i| 1e9 + (f64::from(i) * 0.7).sin()).collect();
        let whole = Spread::of(&values, 1, false, &[false; 100]);
        for cut in [0, 1, 50, 100] {
            let part = |range: std::ops::Range<usize>| {
                Spread::of(&values[range.clone()], 1, false, &vec![false; range.len()])
            };
            let mut merged = part(0..cut);
            merged.merge(&part(cut..100)).unwrap();
            let (a, b) = (merged.scaling(true), whole.scaling(true));
            assert!((a.mean[0] - b.mean[0]).abs() < 1e-6 && (a.deviation[0] - b.deviation[0]).abs() < 1e-8);
        }
    }

    #[test]
    fn features_apart_or_together_without_held_or_missing() {
        let values = [1.0f32, 10.0, 3.0, f32::NAN, 99.0, 99.0];
        let apart = Spread::of(&values, 2, false, &[false, false, true]).scaling(true);
        assert_eq!((apart.mean, apart.deviation), (vec![2.0, 10.0], vec![1.0, 1.0]));
        let together = Spread::of(&[0.0f32, 2.0, 4.0, 6.0], 2, true, &[false, false]).scaling(true);
        assert_eq!((together.mean, together.deviation), (vec![3.0], vec![5f64.sqrt()]));
    }

    #[test]
    fn sums_out_of_range_are_refused() {
        let spread = Spread::of(&[1e300, -1e300], 1, false, &[false, false]);
        let e = spread.check("x").unwrap_err().to_string();
        assert_eq!(e, "column 'x' holds values too large to be standardised");
    }

    #[test]
    fn vocabularies_are_by_count_then_text() {
        let of = |pairs: &[(&str, u64)]| pairs.iter().map(|(t, n)| (t.to_string(), *n)).collect::<Vec<_>>();
        let counts = || vec![of(&[("b", 2), ("a", 1), ("rare", 1)]), of(&[("a", 1), ("c", 5)])];
        assert_eq!(vocabulary(counts(), 2, 10), ["c", "a", "b"]);
        assert_eq!(vocabulary(counts(), 1, 2), ["c", "a"]);
    }
}
