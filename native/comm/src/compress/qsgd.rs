//! Even levels of a bucket's norm, rounded at random.

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

use super::bits::{BLOCK, check_padding, pack, packed_len, split_f32, sum, unpack};
use super::draw::{Draw, unit};
use super::{Compressor, Law, Place, check_finite, check_payload};

const NAME: &str = "qsgd";

/// s levels of a bucket's Euclidean norm, rounded at random so that the mean is right.
///
/// With ℓ = s·|x|/‖b‖ for a value x of the bucket b, x becomes ‖b‖·sign(x)·l/s, where l is ⌊ℓ⌋ + 1 with probability ℓ − ⌊ℓ⌋, else
/// ⌊ℓ⌋. A bucket of norm 0 becomes zeros.
///
/// Law: unbiased, ω = min(m/s², √m/s) for buckets of m values.
///
/// Payload: a bucket is its norm as f32, then the codes l·sign(x) + s at ⌈log₂(2s + 1)⌉ bits, padded with zeros to a whole byte.
///
/// Refuses vectors with values that are not finite, and buckets whose norm is not.
///
/// Source: Alistarh et al. 2017, "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding"; without its Elias
/// codes.
#[derive(Clone, Copy, Debug)]
pub struct Qsgd {
    levels: u16,
    bucket: usize,
}

/// How a bucket's levels and values belong together.
struct Grid {
    /// Brings values to where neither a level nor its inverse leaves what f32 can hold.
    lift: f32,
    /// Lifted values of a level.
    step: f32,
    /// Levels of a lifted value.
    inverse: f32,
}

impl Grid {
    /// None where the highest level would not be finite.
    fn new(norm: f32, levels: f32) -> Option<Grid> {
        let lift = if norm < 2f32.powi(-64) { 2f32.powi(64) } else { 1.0 };
        let step = norm * lift / levels;
        let inverse = if norm > 0.0 { levels / (norm * lift) } else { 0.0 };
        (step * levels).is_finite().then_some(Grid { lift, step, inverse })
    }
}

impl Qsgd {
    /// The usual length of a bucket, that of the paper's experiments with 4 bits.
    pub const BUCKET: usize = 512;
    /// Levels that codes of 16 bits are enough for.
    pub const MOST_LEVELS: u16 = i16::MAX as u16;

    /// `levels` s from 1 to [`Self::MOST_LEVELS`], in buckets of so many values, the last one of fewer.
    ///
    /// # Errors
    /// `InvalidArgument` naming the parameter that is out of its range.
    pub fn new(levels: u16, bucket: usize) -> Result<Qsgd> {
        if !(1..=Self::MOST_LEVELS).contains(&levels) {
            let most = Self::MOST_LEVELS;
            return Err(Error::argument(format!("{NAME}: levels is {levels}, expected from 1 to {most}")));
        }
        // No vector is as long, and lengths of payloads do not overflow.
        let most = u32::MAX as usize;
        if !(1..=most).contains(&bucket) {
            return Err(Error::argument(format!(
                "{NAME}: bucket is {bucket}, expected from 1 to {most} values"
            )));
        }
        Ok(Qsgd { levels, bucket })
    }

    /// Bits of a code.
    fn width(&self) -> usize {
        (u16::BITS - (2 * self.levels).leading_zeros()) as usize
    }

    fn bucket_bytes(&self, len: usize) -> usize {
        4 + packed_len(len, self.width())
    }

    fn payload_bytes(&self, len: usize) -> usize {
        let rest = len % self.bucket;
        let last = if rest > 0 { self.bucket_bytes(rest) } else { 0 };
        len / self.bucket * self.bucket_bytes(self.bucket) + last
    }

    /// The codes of a bucket, whose draws start at word `first`.
    fn encode_bucket(&self, values: &[f32], grid: &Grid, draw: &Draw, first: usize, out: &mut [u8]) {
        /// From here on an f32 has no fractions, and its lowest bits are those of an integer.
        const WHOLE: f32 = (1 << 23) as f32;
        let Grid { lift, inverse, .. } = *grid;
        let (levels, width) = (f32::from(self.levels), self.width());
        for (i, block) in values.chunks(BLOCK).enumerate() {
            let mut codes = [0; BLOCK];
            let drawn: [u32; BLOCK] = draw.halves((first + i * BLOCK / 2) as u64);
            for ((code, value), drawn) in codes.iter_mut().zip(block).zip(drawn) {
                let exact = value.abs() * lift * inverse;
                let exact = if exact < levels { exact } else { levels };
                let nearest = (exact + WHOLE) - WHOLE;
                let lower = if nearest > exact { nearest - 1.0 } else { nearest };
                let up = if unit(drawn) < exact - lower { 1.0 } else { 0.0 };
                let level = (lower + up).copysign(*value);
                *code = (level + levels + WHOLE).to_bits() as u16;
            }
            pack(&codes[..block.len()], width, &mut out[packed_len(i * BLOCK, width)..]);
        }
    }

    /// The highest code.
    fn decode_bucket(&self, packed: &[u8], grid: &Grid, out: &mut [f32]) -> u16 {
        let (step, lower) = (grid.step, 1.0 / grid.lift);
        let (levels, width) = (i32::from(self.levels), self.width());
        let mut highest = 0;
        for (i, block) in out.chunks_mut(BLOCK).enumerate() {
            let mut codes = [0; BLOCK];
            unpack(&packed[packed_len(i * BLOCK, width)..], width, &mut codes[..block.len()]);
            for (value, code) in block.iter_mut().zip(&codes) {
                *value = (i32::from(*code) - levels) as f32 * step * lower;
                highest = highest.max(*code);
            }
        }
        highest
    }
}

impl Compressor for Qsgd {
    fn law(&self, len: usize) -> Law {
        let (len, levels) = (len.min(self.bucket) as f64, f64::from(self.levels));
        Law::Unbiased { omega: (len / (levels * levels)).min(len.sqrt() / levels) }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(self.payload_bytes(len))
    }

    fn encode(&self, values: &[f32], at: &Place) -> Result<Bytes> {
        check_finite(values)?;
        let draw = at.own();
        let mut out = vec![0; self.payload_bytes(values.len())];
        let parts = out.chunks_mut(self.bucket_bytes(self.bucket));
        for (i, (bucket, part)) in values.chunks(self.bucket).zip(parts).enumerate() {
            let norm = sum(bucket, |value| value * value).sqrt() as f32;
            let Some(grid) = Grid::new(norm, f32::from(self.levels)) else {
                let text = format!("{NAME}: bucket {i} has the norm {norm}, which is too large");
                return Err(Error::new(Kind::Diverged, text));
            };
            let (head, packed) = part.split_at_mut(4);
            head.copy_from_slice(&norm.to_le_bytes());
            self.encode_bucket(bucket, &grid, &draw, i * self.bucket.div_ceil(2), packed);
        }
        Ok(out.into())
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload(NAME, payload, self.payload_bytes(out.len()))?;
        let parts = payload.chunks(self.bucket_bytes(self.bucket));
        for (i, (bucket, part)) in out.chunks_mut(self.bucket).zip(parts).enumerate() {
            let (norm, packed) = split_f32(part);
            let Some(grid) = Grid::new(norm, f32::from(self.levels)).filter(|_| norm >= 0.0) else {
                return Err(Error::corrupt(format!(
                    "{NAME}: bucket {i} has the norm {norm}, expected from 0"
                )));
            };
            check_padding(NAME, packed, bucket.len(), self.width())?;
            let (highest, most) = (self.decode_bucket(packed, &grid, bucket), 2 * self.levels);
            if highest > most {
                return Err(Error::corrupt(format!("{NAME}: a code {highest}, expected at most {most}")));
            }
        }
        Ok(())
    }
}
