//! Some values of a vector.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_error::Result;

use super::indices::{Indices, check_len};
use super::reader::Reader;
use crate::wire;

/// Values and where they are, by rising index; all others are 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sparse {
    pub(crate) indices: Vec<u32>,
    pub(crate) values: Vec<f32>,
}

impl Sparse {
    /// Those of a vector at some indices, which rise.
    pub(crate) fn at(indices: Vec<u32>, of: &[f32]) -> Sparse {
        let values = indices.iter().map(|index| of[*index as usize]).collect();
        Sparse { indices, values }
    }

    /// Each with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, f32)> {
        self.indices.iter().map(|index| *index as usize).zip(self.values.iter().copied())
    }

    /// Those in a range, at indices that count from its start.
    pub(crate) fn within(&self, range: &Range<usize>) -> Sparse {
        let at = |end: usize| self.indices.partition_point(|index| (*index as usize) < end);
        let some = at(range.start)..at(range.end);
        let indices = self.indices[some.clone()].iter().map(|index| index - range.start as u32);
        Sparse { indices: indices.collect(), values: self.values[some].to_vec() }
    }

    /// Indices, then values: what [`Sparse::decode`] reads, 8 bytes each with [`Indices::Fixed`]. Of a vector of `len` values.
    ///
    /// # Errors
    /// `InvalidArgument` when u32 do not reach its end.
    pub(crate) fn encode(&self, name: &str, coding: Indices, len: usize) -> Result<Bytes> {
        let mut out = BytesMut::with_capacity(8 * self.values.len() + 1);
        self.put(name, coding, len, &mut out)?;
        Ok(out.freeze())
    }

    /// The same behind their number, a u32, for who does not know how many there are.
    ///
    /// # Errors
    /// As of [`Sparse::encode`].
    pub(crate) fn encode_some(&self, name: &str, coding: Indices, len: usize) -> Result<Bytes> {
        let mut out = BytesMut::with_capacity(8 * self.values.len() + 5);
        out.put_u32_le(self.values.len() as u32);
        self.put(name, coding, len, &mut out)?;
        Ok(out.freeze())
    }

    fn put(&self, name: &str, coding: Indices, len: usize, out: &mut BytesMut) -> Result<()> {
        check_len(name, len)?;
        coding.put(&self.indices, len, out);
        wire::put_f32s(out, &self.values);
        Ok(())
    }

    /// Reads `count` values of a vector of `len`.
    ///
    /// # Errors
    /// `Corrupt` for what [`Sparse::encode`] does not give, and for values that are not finite.
    pub(crate) fn decode(
        name: &'static str,
        coding: Indices,
        payload: &[u8],
        (count, len): (usize, usize),
    ) -> Result<Sparse> {
        Sparse::take(Reader::new(name, payload), coding, count, len)
    }

    /// Reads values of a vector of `len`.
    ///
    /// # Errors
    /// `Corrupt` for what [`Sparse::encode_some`] does not give, and for values that are not finite.
    pub(crate) fn decode_some(
        name: &'static str,
        coding: Indices,
        payload: &[u8],
        len: usize,
    ) -> Result<Sparse> {
        let mut from = Reader::new(name, payload);
        let count = from.count(len)?;
        Sparse::take(from, coding, count, len)
    }

    fn take(mut from: Reader, coding: Indices, count: usize, len: usize) -> Result<Sparse> {
        let indices = coding.take(&mut from, count, len)?;
        let values: Vec<f32> = from.words(count)?.map(f32::from_le_bytes).collect();
        if let Some(nth) = values.iter().position(|value| !value.is_finite()) {
            let (index, value) = (indices[nth], values[nth]);
            return Err(from.corrupt(format!("value {index} is {value}, expected a finite one")));
        }
        from.end()?;
        Ok(Sparse { indices, values })
    }
}

/// The indices of the `count` values that are largest in magnitude, rising; of those that are equal, the lower ones. All are finite.
pub(crate) fn largest(values: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    // Without their signs, finite values are ordered as their bits are.
    let size = |value: &f32| value.abs().to_bits();
    let mut sizes: Vec<u32> = values.iter().map(size).collect();
    let (_, least, above) = sizes.select_nth_unstable(values.len() - count);
    let least = *least;
    let larger = above.iter().filter(|size| **size > least).count();
    let mut ties = count - larger;
    let mut indices = Vec::with_capacity(count);
    for (index, value) in values.iter().enumerate() {
        let size = size(value);
        if size > least {
            indices.push(index as u32);
        } else if size == least && ties > 0 {
            ties -= 1;
            indices.push(index as u32);
        }
    }
    indices
}
