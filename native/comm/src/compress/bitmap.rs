//! Sets of blocks, a bit each.

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

/// A set of indices below a length, one bit each, packed: which rows of an embedding table have a gradient.
///
/// All workers' bitmaps, united, say which rows to decode from a [`CountSketch`](super::CountSketch), as S2 Reducer does (Ge et
/// al. 2021, arXiv:2110.02140, which sends an f32 a row): ⌈len/8⌉ bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Index i is bit i mod 64 of word i/64; the bits from `len` on are 0.
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    /// None of `len`.
    pub fn new(len: usize) -> Bitmap {
        Bitmap { words: vec![0; len.div_ceil(64)], len }
    }

    /// The blocks of `width` values that are not all 0: (rows, width) gives a bit a row.
    ///
    /// # Errors
    /// `InvalidArgument` when the values are no whole number of blocks.
    pub fn of_blocks(values: &[f32], width: usize) -> Result<Bitmap> {
        if width == 0 || !values.len().is_multiple_of(width) {
            let len = values.len();
            return Err(Error::argument(format!(
                "bitmap: width is {width}, expected a divisor of {len} values"
            )));
        }
        let mut bitmap = Bitmap::new(values.len() / width);
        for (index, block) in values.chunks_exact(width).enumerate() {
            if block.iter().any(|value| *value != 0.0) {
                bitmap.set(index);
            }
        }
        Ok(bitmap)
    }

    /// How many there may be.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it can hold none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Adds an index.
    ///
    /// # Panics
    /// As a slice does, when the index is not below the length.
    pub fn set(&mut self, index: usize) {
        assert!(index < self.len, "index {index} of a bitmap of {}", self.len);
        self.words[index / 64] |= 1 << (index % 64);
    }

    /// Whether it has an index; none from the length on.
    pub fn get(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// What it has, from the lowest on.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        let bits = |(at, word): (usize, &u64)| {
            let next = |left: &u64| Some(left & (left - 1)).filter(|left| *left != 0);
            std::iter::successors(Some(*word).filter(|word| *word != 0), next)
                .map(move |left| at * 64 + left.trailing_zeros() as usize)
        };
        self.words.iter().enumerate().flat_map(bits)
    }

    /// Adds what another has.
    ///
    /// # Errors
    /// `InvalidArgument` when they differ in length.
    pub fn or(&mut self, other: &Bitmap) -> Result<()> {
        if self.len != other.len {
            let (found, expected) = (other.len, self.len);
            return Err(Error::argument(format!("bitmap: another of {found} bits, expected {expected}")));
        }
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
        Ok(())
    }

    /// ⌈len/8⌉ bytes, index i in bit i mod 8 of byte i/8.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.len.div_ceil(8));
        self.put(&mut out);
        out.freeze()
    }

    /// Reads what [`Bitmap::encode`] wrote of `len` bits.
    ///
    /// # Errors
    /// `Corrupt` when the payload is of another length, or has bits from `len` on.
    pub fn decode(payload: &[u8], len: usize) -> Result<Bitmap> {
        super::check_payload("bitmap", payload, len.div_ceil(8))?;
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        let words: Vec<u64> = payload.chunks(8).map(word).collect();
        match words.last() {
            Some(last) if !len.is_multiple_of(64) && last >> (len % 64) != 0 => {
                Err(Error::corrupt(format!("bitmap: bits beyond the end, expected {len}")))
            }
            _ => Ok(Bitmap { words, len }),
        }
    }

    /// Appends what [`Bitmap::encode`] gives.
    pub(super) fn put(&self, out: &mut BytesMut) {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        out.put(bytes.take(self.len.div_ceil(8)).collect::<Vec<u8>>().as_slice());
    }
}
