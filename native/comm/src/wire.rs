//! f32 and u32 vectors as bytes, little-endian.

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

/// Appends values.
pub(crate) fn put_f32s(out: &mut BytesMut, values: &[f32]) {
    if cfg!(target_endian = "little") {
        out.put_slice(bytemuck::cast_slice(values));
    } else {
        values.iter().for_each(|v| out.put_f32_le(*v));
    }
}

/// Values as a part of their own.
pub(crate) fn f32s(values: &[f32]) -> Bytes {
    let mut out = BytesMut::with_capacity(size_of_val(values));
    put_f32s(&mut out, values);
    out.freeze()
}

/// Calls `f` on each value of `part` and its place in `into`.
///
/// # Errors
/// `Corrupt` naming the rank when the length is not that of `into`.
pub(crate) fn zip_f32s(part: &[u8], into: &mut [f32], rank: usize, f: impl Fn(&mut f32, f32)) -> Result<()> {
    if part.len() != size_of_val(into) {
        let expected = size_of_val(into);
        return Err(Error::corrupt(format!("rank {rank} sent {} bytes, expected {expected}", part.len())));
    }
    for (value, bytes) in into.iter_mut().zip(part.as_chunks::<4>().0) {
        f(value, f32::from_le_bytes(*bytes));
    }
    Ok(())
}

/// Overwrites `into`.
pub(crate) fn copy_f32s(part: &[u8], into: &mut [f32], rank: usize) -> Result<()> {
    zip_f32s(part, into, rank, |to, from| *to = from)
}

/// Adds to `into`.
pub(crate) fn add_f32s(part: &[u8], into: &mut [f32], rank: usize) -> Result<()> {
    zip_f32s(part, into, rank, |to, from| *to += from)
}
