//! Values at places that are drawn.

use bytes::Bytes;
use firesteel_error::Result;

use super::ratio::Ratio;
use super::{Bitmap, Compressor, Draw, Law, Place, check_payload};
use crate::wire;

const NAME: &str = "random-k";

/// Keeps k = max(1, ⌈ratio·m⌉) values of m, at indices that all workers draw alike, each set of k as likely as any other; the
/// others become 0. Exact for k = m.
///
/// Decoded values are scaled by m/k: unbiased, ω = m/k − 1. As they are, for error feedback, [`super::Shrink`] gives them, as
/// 1/(1 + ω) = k/m.
///
/// Payload: the k values, f32, by rising index: 4k bytes. Linear: payloads of one key add up, and their sum decodes to the sum.
/// A value that is no number spoils only itself.
///
/// Wangni et al. 2018, arXiv:1710.09854; Stich et al. 2018, arXiv:1809.07599.
#[derive(Clone, Debug)]
pub struct RandomK {
    ratio: Ratio,
}

impl RandomK {
    /// Keeps `ratio` of the values, 0 < ratio ≤ 1.
    ///
    /// # Errors
    /// `InvalidArgument` when the ratio is not in its range.
    pub fn new(ratio: f64) -> Result<RandomK> {
        Ok(RandomK { ratio: Ratio::new(NAME, ratio)? })
    }
}

impl Compressor for RandomK {
    fn law(&self, len: usize) -> Law {
        match self.ratio.of(len) {
            kept if kept == len => Law::Exact,
            kept => Law::Unbiased { omega: len as f64 / kept as f64 - 1.0 },
        }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(4 * self.ratio.of(len))
    }

    /// All workers draw the same places.
    fn is_linear(&self) -> bool {
        true
    }

    fn encode(&self, values: &[f32], at: &Place) -> Result<Bytes> {
        let drawn = sample(&at.shared(), self.ratio.of(values.len()), values.len());
        let kept: Vec<f32> = drawn.indices().map(|index| values[index]).collect();
        Ok(wire::f32s(&kept))
    }

    fn decode(&self, payload: &[u8], at: &Place, out: &mut [f32]) -> Result<()> {
        let kept = self.ratio.of(out.len());
        check_payload(NAME, payload, 4 * kept)?;
        let scale = (out.len() as f64 / kept as f64) as f32;
        let drawn = sample(&at.shared(), kept, out.len());
        out.fill(0.0);
        for (index, value) in drawn.indices().zip(payload.as_chunks::<4>().0) {
            out[index] = scale * f32::from_le_bytes(*value);
        }
        Ok(())
    }
}

/// `count` of `len` indices, without repetition: Floyd's algorithm (Bentley and Floyd 1987), `count` draws.
fn sample(draw: &Draw, count: usize, len: usize) -> Bitmap {
    let mut drawn = Bitmap::new(len);
    for last in len - count..len {
        // Even over 0 ..= last, but for len/2⁶⁴.
        let index = ((u128::from(draw.word(last as u64)) * (last as u128 + 1)) >> 64) as usize;
        drawn.set(if drawn.get(index) { last } else { index });
    }
    drawn
}
