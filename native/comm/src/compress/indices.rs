//! How sorted indices travel.

use bytes::{BufMut, BytesMut};
use firesteel_error::{Error, Result};

use super::Bitmap;
use super::reader::Reader;

/// How a sparsifier sends which values it kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indices {
    /// A u32 each: 4k bytes, whatever the indices.
    Fixed,
    /// A byte that says which of three codes follows, and the shortest of them for these indices: a bitmap of ⌈m/8⌉ bytes, a
    /// u32 each, or the gaps between them as LEB128 varints (a byte where a gap is below 128, and so on).
    Shortest,
}

/// A code, by its number in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Code {
    Bitmap = 0,
    Words = 1,
    Gaps = 2,
}

impl Code {
    /// The bytes that it takes.
    fn bytes(self, indices: &[u32], len: usize) -> usize {
        match self {
            Code::Bitmap => len.div_ceil(8),
            Code::Words => 4 * indices.len(),
            Code::Gaps => gaps(indices).map(varint_bytes).sum(),
        }
    }

    /// The one that takes fewest; the first of those that take as few.
    fn shortest(indices: &[u32], len: usize) -> Code {
        let [bitmap, words, gaps] = [Code::Bitmap, Code::Words, Code::Gaps];
        let shorter = |a: Code, b: Code| if b.bytes(indices, len) < a.bytes(indices, len) { b } else { a };
        shorter(shorter(bitmap, words), gaps)
    }

    fn put(self, indices: &[u32], len: usize, out: &mut BytesMut) {
        match self {
            Code::Bitmap => {
                let mut bitmap = Bitmap::new(len);
                indices.iter().for_each(|index| bitmap.set(*index as usize));
                bitmap.put(out);
            }
            Code::Words => indices.iter().for_each(|index| out.put_u32_le(*index)),
            Code::Gaps => gaps(indices).for_each(|gap| put_varint(gap, out)),
        }
    }

    /// Reads `count` indices, rising and below `len`.
    fn take(self, from: &mut Reader, count: usize, len: usize) -> Result<Vec<u32>> {
        match self {
            Code::Bitmap => {
                let bitmap = Bitmap::decode(from.take(len.div_ceil(8))?, len)?;
                let found = bitmap.count();
                if found != count {
                    return Err(from.corrupt(format!("a bitmap of {found} indices, expected {count}")));
                }
                Ok(bitmap.indices().map(|index| index as u32).collect())
            }
            Code::Words => rising(from.words(count)?.map(u32::from_le_bytes), len, from),
            Code::Gaps => {
                // No more bytes are set aside than `len` needs, whatever the payload says.
                let mut indices = Vec::with_capacity(count.min(len));
                let mut next = 0;
                for _ in 0..count {
                    let index = next + u64::from(take_varint(from)?);
                    if index >= len as u64 {
                        return Err(from.corrupt(format!("index {index}, expected below {len}")));
                    }
                    indices.push(index as u32);
                    next = index + 1;
                }
                Ok(indices)
            }
        }
    }
}

impl Indices {
    /// Appends indices, rising and below `len`.
    pub(super) fn put(self, indices: &[u32], len: usize, out: &mut BytesMut) {
        match self {
            Indices::Fixed => Code::Words.put(indices, len, out),
            Indices::Shortest => {
                let code = Code::shortest(indices, len);
                out.put_u8(code as u8);
                code.put(indices, len, out);
            }
        }
    }

    /// Reads `count` indices, which is at most `len`.
    ///
    /// # Errors
    /// `Corrupt` when they do not rise, reach `len`, or are not coded as [`Indices::put`] does.
    pub(super) fn take(self, from: &mut Reader, count: usize, len: usize) -> Result<Vec<u32>> {
        if self == Indices::Fixed {
            return Code::Words.take(from, count, len);
        }
        let code = match from.byte()? {
            0 => Code::Bitmap,
            1 => Code::Words,
            2 => Code::Gaps,
            found => return Err(from.corrupt(format!("indices in code {found}, expected 0, 1 or 2"))),
        };
        let indices = code.take(from, count, len)?;
        match Code::shortest(&indices, len) {
            shortest if shortest == code => Ok(indices),
            shortest => Err(from.corrupt(format!("indices as {code:?}, expected {shortest:?}"))),
        }
    }
}

/// Refuses vectors that indices of 32 bits do not reach the end of.
pub(crate) fn check_len(name: &str, len: usize) -> Result<()> {
    match u32::try_from(len) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::argument(format!("{name}: {len} values, expected at most {}", u32::MAX))),
    }
}

/// Words that are indices.
fn rising(words: impl Iterator<Item = u32>, len: usize, from: &Reader) -> Result<Vec<u32>> {
    let indices: Vec<u32> = words.collect();
    if let Some(pair) = indices.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(from.corrupt(format!("index {} after {}, expected a higher one", pair[1], pair[0])));
    }
    match indices.last() {
        Some(last) if *last as usize >= len => {
            Err(from.corrupt(format!("index {last}, expected below {len}")))
        }
        _ => Ok(indices),
    }
}

/// How many indices lie between each and the one before.
fn gaps(indices: &[u32]) -> impl Iterator<Item = u32> {
    let before = std::iter::once(None).chain(indices.iter().map(Some));
    indices.iter().zip(before).map(|(index, before)| match before {
        None => *index,
        Some(before) => index - before - 1,
    })
}

/// Bytes of a varint: seven bits each.
fn varint_bytes(value: u32) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

/// LEB128: seven bits a byte, the lowest first, the eighth set where more follow.
fn put_varint(mut value: u32, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Refuses varints of more than 32 bits, and those that a shorter one says too.
fn take_varint(from: &mut Reader) -> Result<u32> {
    let mut value = 0;
    for at in 0..5 {
        let byte = from.byte()?;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return match u32::try_from(value) {
                Ok(value) if varint_bytes(value) == at + 1 => Ok(value),
                _ => Err(from.corrupt(format!("a varint of {} bytes for {value}", at + 1))),
            };
        }
    }
    Err(from.corrupt("a varint of more than 5 bytes".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload, which is read again.
    fn through(how: Indices, indices: &[u32], len: usize) -> Vec<u8> {
        let mut out = BytesMut::new();
        how.put(indices, len, &mut out);
        let mut from = Reader::new("it", &out);
        assert_eq!(how.take(&mut from, indices.len(), len).unwrap(), indices);
        from.end().unwrap();
        out.to_vec()
    }

    fn refused(how: Indices, payload: &[u8], count: usize, len: usize) -> String {
        let mut from = Reader::new("it", payload);
        how.take(&mut from, count, len).unwrap_err().to_string()
    }

    #[test]
    fn the_shortest_code_is_taken() {
        let every = |by: u32, count: u32| (0..count).map(|i| i * by).collect::<Vec<u32>>();
        assert_eq!(through(Indices::Shortest, &[1, 3, 9], 10), [0, 0b1010, 0b10]);
        assert_eq!(through(Indices::Shortest, &[3, 300, 302], 1000), [2, 3, 0xa8, 2, 1]);
        // Gaps of 2²⁸ and more take five bytes.
        let far = through(Indices::Shortest, &[1 << 29, 1 << 30, u32::MAX - 1], u32::MAX as usize);
        assert_eq!((far[0], far.len()), (1, 13));
        for (indices, len, bytes) in [
            (every(2, 500), 1000, 125),
            (every(9, 111), 1000, 111),
            (every(128, 100), 12_800, 100),
            (every(129, 100), 12_900, 199),
            (vec![], 0, 0),
            (vec![], 1000, 0),
            (vec![0], 1, 1),
        ] {
            assert_eq!(through(Indices::Shortest, &indices, len).len(), 1 + bytes, "{len}");
            assert_eq!(through(Indices::Fixed, &indices, len).len(), 4 * indices.len(), "{len}");
        }
    }

    #[test]
    fn what_was_not_put_is_refused() {
        let fixed = |indices: &[u32]| indices.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>();
        let [fix, short] = [Indices::Fixed, Indices::Shortest];
        assert_eq!(refused(fix, &fixed(&[5, 4]), 2, 9), "it: index 4 after 5, expected a higher one");
        assert_eq!(refused(fix, &fixed(&[5, 5]), 2, 9), "it: index 5 after 5, expected a higher one");
        assert_eq!(refused(fix, &fixed(&[5, 9]), 2, 9), "it: index 9, expected below 9");
        assert_eq!(refused(fix, &fixed(&[5]), 2, 9), "it: a payload of 4 bytes, expected at least 8");
        assert_eq!(refused(short, &[], 1, 9), "it: a payload of 0 bytes, expected at least 1");
        assert_eq!(refused(short, &[3, 0], 1, 9), "it: indices in code 3, expected 0, 1 or 2");
        assert_eq!(refused(short, &[0, 1, 2], 1, 9), "bitmap: bits beyond the end, expected 9");
        assert_eq!(refused(short, &[0, 3, 0], 1, 9), "it: a bitmap of 2 indices, expected 1");
        assert_eq!(refused(short, &[2, 9], 1, 9), "it: index 9, expected below 9");
        assert_eq!(refused(short, &[2, 0x83, 0], 1, 900), "it: a varint of 2 bytes for 3");
        let long = [2, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(refused(short, &long, 1, 1 << 32), "it: a varint of 5 bytes for 34359738367");
        assert_eq!(
            refused(short, &[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0], 1, 900),
            "it: a varint of more than 5 bytes"
        );
        assert_eq!(refused(short, &[1, 3, 0, 0, 0], 1, 900), "it: indices as Words, expected Gaps");
    }
}
