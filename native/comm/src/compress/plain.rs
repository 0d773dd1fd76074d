//! Values as they are.

use bytes::Bytes;
use firesteel_error::Result;

use super::{Compressor, Law, Place, check_payload};
use crate::wire;

/// f32, little-endian: 4 bytes a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain;

impl Compressor for Plain {
    fn law(&self, _: usize) -> Law {
        Law::Exact
    }

    fn bytes(&self, len: usize) -> Option<usize> {
        Some(4 * len)
    }

    fn is_linear(&self) -> bool {
        true
    }

    fn encode(&self, values: &[f32], _: &Place) -> Result<Bytes> {
        Ok(wire::f32s(values))
    }

    fn decode(&self, payload: &[u8], at: &Place, out: &mut [f32]) -> Result<()> {
        check_payload("f32", payload, 4 * out.len())?;
        wire::copy_f32s(payload, out, at.rank)
    }
}
