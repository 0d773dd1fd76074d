//! f32 and u32 vectors as bytes, little-endian.

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

/// Appends values.
pub(crate) fn put_f32s(out: &mut BytesMut, values: &[f32]) {
    match view(values) {
        Some(bytes) => out.put_slice(bytes),
        None => values.iter().for_each(|v| out.put_f32_le(*v)),
    }
}

/// The bytes that values are in memory, where those are what travels.
pub(crate) fn view(values: &[f32]) -> Option<&[u8]> {
    cfg!(target_endian = "little").then(|| bytemuck::cast_slice(values))
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
