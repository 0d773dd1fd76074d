//! A byte a value, between the least and the greatest.

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

use super::bits::split_f32;
use super::{Compressor, Law, Place, check_finite, check_payload};

const NAME: &str = "min_max_u8";
/// Least and greatest value, and zeros.
const HEADER: usize = 32;
/// What the codes' length is padded to.
const ALIGN: usize = 32;

/// 256 even levels between the least and the greatest value, of which 0 is one, or would be.
///
/// With scale = 255/(max − min + 10⁻⁷), u = rint(max·scale) and l = u − 255, a value x has the code min(rint(x·scale), u) − l,
/// held within 0 to 255, as ties and near-constant vectors would leave them by one; a code c stands for (c + l)/scale. rint
/// rounds ties to even. A vector is what BAGUA calls a chunk.
///
/// Law: contraction, δ = 1/(1 + m/25,000) for m values of which the largest magnitude is a ≥ 10⁻⁷. Then an error is at most
/// h = 0.51·(max − min + 10⁻⁷)/255 ≤ 0.006·a beside roundings, and never more than the value, so that
/// ‖C(x) − x‖² ≤ m·h²/(a² − h² + m·h²)·‖x‖². Below 10⁻⁷ errors are still no larger than values, but all may become 0.
///
/// Payload: 32 bytes, which start with min and max, then a byte a value, padded with zeros to a multiple of 32.
///
/// Refuses vectors with values that are not finite, and those for which max − min, or a·scale, is not.
///
/// Source: BAGUA (Gan et al. 2021, "Scaling up Distributed Learning with System Relaxations").
#[derive(Clone, Copy, Debug, Default)]
pub struct MinMaxU8;

/// How codes and values belong together.
struct Grid {
    scale: f32,
    upper: f32,
    lower: f32,
}

impl Grid {
    /// None where a level would not be finite.
    fn new(min: f32, max: f32) -> Option<Grid> {
        let scale = 255.0 / (max - min + 1e-7);
        let upper = rint(max * scale);
        let finite = scale > 0.0 && upper.is_finite() && (min * scale).is_finite();
        finite.then_some(Grid { scale, upper, lower: upper - 255.0 })
    }
}

/// From here on an f32 has no fractions, and its lowest bits are those of an integer.
const WHOLE: f32 = (1 << 23) as f32;

/// Rounds ties to even: f32's own is a call, one a value, where the target has no instruction for it.
#[inline(always)]
fn rint(value: f32) -> f32 {
    let away = WHOLE.copysign(value);
    let rounded = (value + away) - away;
    if value.abs() < WHOLE { rounded } else { value }
}

/// The value that `pick` prefers to all others; in lanes, as one maximum is one chain of comparisons. 0 of none.
#[inline(always)]
fn extreme(values: &[f32], pick: impl Fn(f32, f32) -> f32) -> f32 {
    let first = values.first().copied().unwrap_or(0.0);
    let (groups, rest) = values.as_chunks::<8>();
    let mut lanes = [first; 8];
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane = pick(*value, *lane);
        }
    }
    lanes.iter().chain(rest).copied().fold(first, pick)
}

impl Compressor for MinMaxU8 {
    fn law(&self, len: usize) -> Law {
        Law::Contraction { delta: 1.0 / (1.0 + len as f64 / 25_000.0) }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(HEADER + len.next_multiple_of(ALIGN))
    }

    fn encode(&self, values: &[f32], _at: &Place) -> Result<Bytes> {
        check_finite(values)?;
        let min = extreme(values, |a, b| if a < b { a } else { b });
        let max = extreme(values, |a, b| if a > b { a } else { b });
        let Some(Grid { scale, upper, lower }) = Grid::new(min, max) else {
            let text = format!("{NAME}: values from {min} to {max} are too large to be told apart");
            return Err(Error::new(Kind::Diverged, text));
        };
        let mut out = vec![0; HEADER + values.len().next_multiple_of(ALIGN)];
        out[..4].copy_from_slice(&min.to_le_bytes());
        out[4..8].copy_from_slice(&max.to_le_bytes());
        for (code, value) in out[HEADER..].iter_mut().zip(values) {
            let level = rint(value * scale);
            let level = if level < upper { level } else { upper };
            *code = ((level - lower).clamp(0.0, 255.0) + WHOLE).to_bits() as u8;
        }
        Ok(out.into())
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload(NAME, payload, HEADER + out.len().next_multiple_of(ALIGN))?;
        let (min, rest) = split_f32(payload);
        let (max, _) = split_f32(rest);
        let ordered = min.is_finite() && max.is_finite() && min <= max;
        let Some(Grid { scale, lower, .. }) = Grid::new(min, max).filter(|_| ordered) else {
            return Err(Error::corrupt(format!("{NAME}: from {min} to {max}, expected a finite range")));
        };
        let (codes, padding) = payload[HEADER..].split_at(out.len());
        if payload[8..HEADER].iter().chain(padding).any(|byte| *byte != 0) {
            return Err(Error::corrupt(format!("{NAME}: a byte of the padding is not 0, expected zeros")));
        }
        for (out, code) in out.iter_mut().zip(codes) {
            *out = (f32::from(*code) + lower) / scale;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::rint;

    #[test]
    fn ties_go_to_even() {
        for value in [0.0, 0.5, 1.5, 2.5, 0.499_999_97, 127.5, 8_388_607.5, 8_388_609.0, 1e30, 3.3e38] {
            assert_eq!(rint(value), value.round_ties_even());
            assert_eq!(rint(-value), (-value).round_ties_even());
        }
    }
}
