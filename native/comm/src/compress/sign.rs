//! A bit a value: its sign. That of 0 is +, whatever its own, here and in 1-bit SGD.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::bits::{check_padding, pack_signs, packed_len, split_f32, sum, unpack_signs};
use super::{Compressor, Law, Place, check_finite, check_payload};

/// A value x of m becomes sign(x)·‖x‖₁/m, with sign(0) = +1; needs error feedback.
///
/// Law: contraction, δ = 1/m. ‖C(x) − x‖² = ‖x‖² − ‖x‖₁²/m, and ‖x‖₁ ≥ ‖x‖₂, alike where one value alone is not 0.
///
/// Payload: ‖x‖₁/m as f32, then a bit a value, set below 0, padded with zeros to a whole byte. Refuses vectors with values that
/// are not finite.
///
/// Source: Karimireddy et al. 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes".
#[derive(Clone, Copy, Debug, Default)]
pub struct Sign;

/// A value becomes its sign, +1 or −1, with sign(0) = +1: what workers vote with, and what the vote's owner answers.
///
/// Law: biased; not for error feedback, as it knows no magnitudes.
///
/// Payload: a bit a value, set below 0, padded with zeros to a whole byte. Refuses vectors with values that are not finite: what
/// is no number has no sign, and would be unseen from then on.
///
/// Source: Bernstein et al. 2019, "signSGD with Majority Vote is Communication Efficient and Fault Tolerant".
#[derive(Clone, Copy, Debug, Default)]
pub struct SignVote;

impl Compressor for Sign {
    fn law(&self, len: usize) -> Law {
        Law::Contraction { delta: 1.0 / len.max(1) as f64 }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(4 + packed_len(len, 1))
    }

    fn encode(&self, values: &[f32], _at: &Place) -> Result<Bytes> {
        check_finite(values)?;
        let scale = (sum(values, f64::abs) / values.len().max(1) as f64) as f32;
        let mut out = vec![0; 4 + packed_len(values.len(), 1)];
        let (head, signs) = out.split_at_mut(4);
        head.copy_from_slice(&scale.to_le_bytes());
        pack_signs(values, signs);
        Ok(out.into())
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload("sign", payload, 4 + packed_len(out.len(), 1))?;
        let (scale, signs) = split_f32(payload);
        if !(scale >= 0.0 && scale.is_finite()) {
            return Err(Error::corrupt(format!("sign: a scale of {scale}, expected from 0, and finite")));
        }
        check_padding("sign", signs, out.len(), 1)?;
        unpack_signs(signs, scale, -scale, out);
        Ok(())
    }
}

impl Compressor for SignVote {
    fn law(&self, _len: usize) -> Law {
        Law::Biased
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(packed_len(len, 1))
    }

    fn encode(&self, values: &[f32], _at: &Place) -> Result<Bytes> {
        check_finite(values)?;
        let mut out = vec![0; packed_len(values.len(), 1)];
        pack_signs(values, &mut out);
        Ok(out.into())
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload("sign_vote", payload, packed_len(out.len(), 1))?;
        check_padding("sign_vote", payload, out.len(), 1)?;
        unpack_signs(payload, 1.0, -1.0, out);
        Ok(())
    }
}
