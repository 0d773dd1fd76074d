//! How much of a vector is kept.

use firesteel_error::{Error, Result};

/// A part of a vector, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio(f64);

impl Ratio {
    /// # Errors
    /// `InvalidArgument` when it is no such part.
    pub(crate) fn new(name: &str, ratio: f64) -> Result<Ratio> {
        match ratio > 0.0 && ratio <= 1.0 {
            true => Ok(Ratio(ratio)),
            false => {
                Err(Error::argument(format!("{name}: ratio is {ratio}, expected above 0 and at most 1")))
            }
        }
    }

    /// k = max(1, ⌈ratio·m⌉) of `len` = m values; 0 of none.
    pub(crate) fn of(self, len: usize) -> usize {
        // A decimal ratio is a little more or less than what was written: 0.07 of 100 are 7.
        let written = self.0 * len as f64 * (1.0 - 4.0 * f64::EPSILON);
        (written.ceil() as usize).clamp(1.min(len), len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_one_of_any_and_at_most_all() {
        let of = |ratio, len| Ratio::new("it", ratio).unwrap().of(len);
        assert_eq!([of(0.25, 0), of(0.25, 1), of(0.25, 4), of(0.25, 5)], [0, 1, 1, 2]);
        assert_eq!([of(0.07, 100), of(0.14, 50), of(0.55, 100), of(0.28, 100)], [7, 7, 55, 28]);
        assert_eq!([of(1e-9, 1000), of(1.0, 1000), of(0.999_999, 10)], [1, 1000, 10]);
    }
}
