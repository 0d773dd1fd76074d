//! Powers of two, rounded at random.

use bytes::Bytes;
use firesteel_error::Result;

use super::bits::{BLOCK, check_padding, pack_flags, packed_len};
use super::{Compressor, Law, Place, check_payload};

const NAME: &str = "natural";
/// Bits of an f32 below its exponent.
const FRACTION: u32 = 23;

/// A magnitude in [2ᵏ, 2ᵏ⁺¹) becomes 2ᵏ⁺¹ with probability |x|/2ᵏ − 1, else 2ᵏ.
///
/// 0 stays 0. What is below 2⁻¹²⁶ becomes that or 0, with the right mean too. Finite values are held below 2¹²⁸: from 2¹²⁷ on
/// they become 2¹²⁷. What is infinite or no number becomes infinite and spoils nothing else.
///
/// Law: unbiased, ω = 1/8, reached at |x| = 4/3·2ᵏ; of values below 2¹²⁷.
///
/// Payload: 9 bits a value: a byte each with the exponent of an f32, then a bit each with the sign, padded with zeros to a whole
/// byte.
///
/// Source: Horváth et al. 2019, "Natural Compression for Distributed Deep Learning".
#[derive(Clone, Copy, Debug, Default)]
pub struct Natural;

/// The exponent that a value is rounded to.
#[inline(always)]
fn round(value: f32, drawn: u32) -> u8 {
    const INFINITE: u32 = f32::INFINITY.to_bits();
    let bits = value.to_bits() & !(1 << 31);
    // The fraction is the probability: what is drawn beside it carries as often, for denormals as well.
    let rounded = bits + (drawn >> (32 - FRACTION));
    let finite = if rounded < INFINITE { rounded } else { INFINITE - 1 };
    let rounded = if bits < INFINITE { finite } else { INFINITE };
    (rounded >> FRACTION) as u8
}

impl Compressor for Natural {
    fn law(&self, _len: usize) -> Law {
        Law::Unbiased { omega: 0.125 }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(len + packed_len(len, 1))
    }

    fn encode(&self, values: &[f32], at: &Place) -> Result<Bytes> {
        let draw = at.own();
        let mut out = vec![0; values.len() + packed_len(values.len(), 1)];
        let (exponents, signs) = out.split_at_mut(values.len());
        for (i, (exponents, block)) in exponents.chunks_mut(BLOCK).zip(values.chunks(BLOCK)).enumerate() {
            let drawn: [u32; BLOCK] = draw.halves((i * BLOCK / 2) as u64);
            for ((exponent, value), drawn) in exponents.iter_mut().zip(block).zip(drawn) {
                *exponent = round(*value, drawn);
            }
        }
        pack_flags(values, signs, f32::is_sign_negative);
        Ok(out.into())
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload(NAME, payload, out.len() + packed_len(out.len(), 1))?;
        let (exponents, signs) = payload.split_at(out.len());
        check_padding(NAME, signs, out.len(), 1)?;
        for ((values, exponents), byte) in out.chunks_mut(8).zip(exponents.chunks(8)).zip(signs) {
            for (i, (value, exponent)) in values.iter_mut().zip(exponents).enumerate() {
                let sign = u32::from(byte >> i & 1);
                *value = f32::from_bits(sign << 31 | u32::from(*exponent) << FRACTION);
            }
        }
        Ok(())
    }
}
