//! The largest values.

use bytes::{Bytes, BytesMut};
use firesteel_error::Result;

use super::indices::{self, Indices};
use super::ratio::Ratio;
use super::reader::Reader;
use super::{Compressor, Law, Place, check_finite};
use crate::wire;

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
        indices::check_len(NAME, values.len())?;
        // A value that is no number would take the place of one.
        check_finite(values)?;
        let indices = largest(values, self.ratio.of(values.len()));
        let kept: Vec<f32> = indices.iter().map(|index| values[*index as usize]).collect();
        let mut out = BytesMut::with_capacity(8 * kept.len() + 1);
        self.indices.put(&indices, values.len(), &mut out);
        wire::put_f32s(&mut out, &kept);
        Ok(out.freeze())
    }

    fn decode(&self, payload: &[u8], _: &Place, out: &mut [f32]) -> Result<()> {
        let kept = self.ratio.of(out.len());
        let mut from = Reader::new(NAME, payload);
        let indices = self.indices.take(&mut from, kept, out.len())?;
        out.fill(0.0);
        for (index, value) in indices.into_iter().zip(from.words(kept)?) {
            let value = f32::from_le_bytes(value);
            if !value.is_finite() {
                return Err(from.corrupt(format!("value {index} is {value}, expected a finite one")));
            }
            out[index as usize] = value;
        }
        from.end()
    }
}

/// The indices of the `count` largest, rising.
fn largest(values: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    // Without their signs, finite values are ordered as their bits are.
    let size = |value: &f32| value.abs().to_bits();
    let mut sizes: Vec<u32> = values.iter().map(size).collect();
    let (_, least, above) = sizes.select_nth_unstable(values.len() - count);
    let least = *least;
    let larger = above.iter().filter(|size| **size > least).count();
    let mut ties = count - larger;
    let mut indices = Vec::with_capacity(count);
    for (index, value) in values.iter().enumerate() {
        let size = size(value);
        if size > least {
            indices.push(index as u32);
        } else if size == least && ties > 0 {
            ties -= 1;
            indices.push(index as u32);
        }
    }
    indices
}
