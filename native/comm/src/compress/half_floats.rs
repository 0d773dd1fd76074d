//! Sixteen bits a value.

use bytes::Bytes;
use firesteel_error::Result;
use half::{bf16, f16};

use super::{Compressor, Law, Place, check_payload};

/// IEEE 754's half precision: 11 bits of significand, rounded to nearest, ties to even.
///
/// Finite values beyond ±65,504 become ±65,504, those within ±2⁻²⁵ become 0. Infinities and NaN stay what they are and spoil
/// nothing else.
///
/// Law: biased, for these two. Of vectors whose values are 0 or of magnitudes from 2⁻¹⁴ to 65,504 it is a contraction of
/// δ = 1 − 2⁻²². Payload: 2 bytes a value.
///
/// Source: IEEE 754-2019; as gradients, Micikevicius et al. 2018, "Mixed Precision Training".
#[derive(Clone, Copy, Debug, Default)]
pub struct Fp16;

/// The upper half of an f32: 8 bits of significand, rounded to nearest, ties to even.
///
/// Finite values that would round to infinity become ±3.39·10³⁸, the largest there is. Infinities and NaN stay what they are and
/// spoil nothing else.
///
/// Law: contraction, δ = 1 − 2⁻¹⁶. Payload: 2 bytes a value.
///
/// Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training".
#[derive(Clone, Copy, Debug, Default)]
pub struct Bf16;

/// A finite value that would be infinite is the largest finite one, which comes just before.
#[inline(always)]
fn to_bf16(value: f32) -> u16 {
    let code = bf16::from_f32(value).to_bits();
    code - u16::from((code & 0x7fff == bf16::INFINITY.to_bits()) & value.is_finite())
}

/// As `f16::from_f32`, which branches where the target has no instruction for it, so that loops are not vectorised; and
/// saturated.
#[inline(always)]
fn to_f16(value: f32) -> u16 {
    /// 2⁻¹⁴, the least with all bits of significand.
    const NORMAL: u32 = 113 << 23;
    /// 65,504 and what lies beyond.
    const LARGEST: u32 = 0x477f_e000;
    const INFINITE: u32 = f32::INFINITY.to_bits();
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let held = if magnitude < LARGEST { magnitude } else { LARGEST };
    // Ties go to even: half a unit, less one where the last bit is not set.
    let normal = held.wrapping_sub((112 << 23) - 0xfff).wrapping_add(held >> 13 & 1) >> 13;
    // Beside ½ an f32's last bit is that of a denormal half.
    let denormal = (f32::from_bits(held) + 0.5).to_bits() - 0.5f32.to_bits();
    let finite = if held < NORMAL { denormal } else { normal };
    let special = u32::from(f16::INFINITY.to_bits()) | (u32::from(magnitude > INFINITE) << 9);
    let code = if magnitude < INFINITE { finite } else { special };
    (code | (value.to_bits() >> 16 & 0x8000)) as u16
}

/// As `f16::to_f32`, likewise.
#[inline(always)]
fn from_f16(code: u16) -> f32 {
    let shifted = u32::from(code & 0x7fff) << 13;
    let normal = f32::from_bits(shifted + (112 << 23));
    // Beside 2⁻¹⁴ its bits are those of the fraction, and nothing of it is lost as that is taken away again.
    let denormal = f32::from_bits(shifted + (113 << 23)) - f32::from_bits(113 << 23);
    let finite = if shifted < 1 << 23 { denormal } else { normal };
    let special = f32::from_bits(shifted | f32::INFINITY.to_bits());
    let value = if shifted < 31 << 23 { finite } else { special };
    f32::from_bits(value.to_bits() | u32::from(code & 0x8000) << 16)
}

fn encode(values: &[f32], code: impl Fn(f32) -> u16) -> Bytes {
    let mut out = vec![0; 2 * values.len()];
    for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *out = code(*value).to_le_bytes();
    }
    out.into()
}

fn decode(payload: &[u8], out: &mut [f32], value: impl Fn(u16) -> f32) {
    for (out, code) in out.iter_mut().zip(payload.as_chunks::<2>().0) {
        *out = value(u16::from_le_bytes(*code));
    }
}

impl Compressor for Fp16 {
    fn law(&self, _len: usize) -> Law {
        Law::Biased
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(2 * len)
    }

    fn encode(&self, values: &[f32], _at: &Place) -> Result<Bytes> {
        Ok(encode(values, to_f16))
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload("fp16", payload, 2 * out.len())?;
        decode(payload, out, from_f16);
        Ok(())
    }
}

impl Compressor for Bf16 {
    fn law(&self, _len: usize) -> Law {
        Law::Contraction { delta: 1.0 - 2f64.powi(-16) }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(2 * len)
    }

    fn encode(&self, values: &[f32], _at: &Place) -> Result<Bytes> {
        Ok(encode(values, to_bf16))
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload("bf16", payload, 2 * out.len())?;
        decode(payload, out, |code| bf16::from_bits(code).to_f32());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_those_of_the_crate() {
        for code in 0..=u16::MAX {
            let (found, expected) = (from_f16(code), f16::from_bits(code).to_f32());
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{code:#x}"
            );
        }
        // Edges between halves, and others all over.
        let edges = (0..=u16::MAX)
            .map(|code| f16::from_bits(code).to_f32().to_bits())
            .flat_map(|bits| [0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff].map(|more| bits.wrapping_add(more)));
        for bits in edges.chain((0..=u32::MAX).step_by(641)) {
            let value = f32::from_bits(bits);
            let expected = match f16::from_f32(value) {
                half if half.is_infinite() && value.is_finite() => f16::MAX.copysign(half),
                half => half,
            };
            let found = f16::from_bits(to_f16(value));
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{value}: {found}, {expected}");
            assert_eq!(found.is_sign_negative(), value.is_sign_negative());
        }
    }
}
