//! A bit a value: which of two means it becomes.

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::bits::{check_padding, pack_signs, packed_len, split_f32, sum, unpack_signs};
use super::{Compressor, Law, Place, check_finite, check_payload};

const NAME: &str = "one_bit";
const HEADER: usize = 8;

/// Values below 0 become their mean, all others theirs; needs error feedback. A side without values has the mean 0.
///
/// Law: contraction, δ = 1/m for m values. With sums S₋, S₊ of n₋, n₊ values, ‖C(x) − x‖² = ‖x‖² − S₋²/n₋ − S₊²/n₊, and
/// S₋²/n₋ + S₊²/n₊ ≥ ‖x‖₁²/m ≥ ‖x‖²/m.
///
/// Payload: the means as f32, the negative one first, then a bit a value, set below 0, padded with zeros to a whole byte. Refuses
/// vectors with values that are not finite.
///
/// Source: Seide et al. 2014, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed Training of
/// Speech DNNs", which has means of each column of a layer; here they are of all that is compressed at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneBit;

impl Compressor for OneBit {
    fn law(&self, len: usize) -> Law {
        Law::Contraction { delta: 1.0 / len.max(1) as f64 }
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(HEADER + packed_len(len, 1))
    }

    fn encode(&self, values: &[f32], _at: &Place) -> Result<Bytes> {
        check_finite(values)?;
        let mut out = vec![0; HEADER + packed_len(values.len(), 1)];
        let (head, signs) = out.split_at_mut(HEADER);
        pack_signs(values, signs);
        let below = signs.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
        let mean = |sum: f64, count: usize| (sum / count.max(1) as f64) as f32;
        let minus = mean(sum(values, |value| if value < 0.0 { value } else { 0.0 }), below);
        let plus = mean(sum(values, |value| if value > 0.0 { value } else { 0.0 }), values.len() - below);
        head[..4].copy_from_slice(&minus.to_le_bytes());
        head[4..].copy_from_slice(&plus.to_le_bytes());
        Ok(out.into())
    }

    fn decode(&self, payload: &[u8], _at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload(NAME, payload, HEADER + packed_len(out.len(), 1))?;
        let (minus, rest) = split_f32(payload);
        let (plus, signs) = split_f32(rest);
        if !(minus <= 0.0 && plus >= 0.0 && minus.is_finite() && plus.is_finite()) {
            let text = format!("{NAME}: means {minus} and {plus}, expected finite ones to both sides of 0");
            return Err(Error::corrupt(text));
        }
        check_padding(NAME, signs, out.len(), 1)?;
        unpack_signs(signs, plus, minus, out);
        Ok(())
    }
}
