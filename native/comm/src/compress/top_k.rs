//! The largest values.

use bytes::Bytes;
use firesteel_error::Result;

use super::indices::Indices;
use super::ratio::Ratio;
use super::sparse::{Sparse, largest};
use super::{Compressor, Law, Place, check_finite};

const NAME: &str = "top-k";

/// Keeps the k = max(1, ⌈ratio·m⌉) values of m that are largest in magnitude, as they are; the others become 0.
///
/// Of values that are equal in magnitude those with lower indices are kept, so that the result is one.
///
/// A contraction, δ = k/m: the mean of the k largest squares is at least the mean of all. Exact for k = m.
///
/// Payload: the indices, rising, and the values, f32: 8k bytes with [`Indices::Fixed`].
///
/// Aji and Heafield 2017, arXiv:1704.05021; with error feedback Stich et al. 2018, arXiv:1809.07599.
#[derive(Clone, Debug)]
pub struct TopK {
    ratio: Ratio,
    indices: Indices,
}

impl TopK {
    /// Keeps `ratio` of the values, 0 < ratio ≤ 1.
    ///
    /// # Errors
    /// `InvalidArgument` when the ratio is not in its range.
    pub fn new(ratio: f64, indices: Indices) -> Result<TopK> {
        Ok(TopK { ratio: Ratio::new(NAME, ratio)?, indices })
    }
}

impl Compressor for TopK {
    fn law(&self, len: usize) -> Law {
        match self.ratio.of(len) {
            kept if kept == len => Law::Exact,
            kept => Law::Contraction { delta: kept as f64 / len as f64 },
        }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        match self.indices {
            Indices::Fixed => Some(8 * self.ratio.of(len)),
            Indices::Shortest => None,
        }
    }

    fn encode(&self, values: &[f32], _: &Place) -> Result<Bytes> {
        // A value that is no number would take the place of one.
        check_finite(values)?;
        let kept = Sparse::at(largest(values, self.ratio.of(values.len())), values);
        kept.encode(NAME, self.indices, values.len())
    }

    fn decode(&self, payload: &[u8], _: &Place, out: &mut [f32]) -> Result<()> {
        let count = (self.ratio.of(out.len()), out.len());
        let kept = Sparse::decode(NAME, self.indices, payload, count)?;
        out.fill(0.0);
        kept.iter().for_each(|(index, value)| out[index] = value);
        Ok(())
    }
}
