//! Codes of a few bits each, from a byte's lowest bit on, and sums over values: what several compressors share.

use firesteel_error::{Error, Result};

/// Codes are packed in groups: eight of them end on a byte's edge, whatever their width.
const GROUP: usize = 8;

/// How many values are rounded before their codes are packed: an even number of groups, so that they end on a byte's edge and
/// use up whole words of what is drawn.
pub(super) const BLOCK: usize = 64;

/// The bytes of `len` codes of `width` bits.
pub(super) fn packed_len(len: usize, width: usize) -> usize {
    len / GROUP * width + (len % GROUP * width).div_ceil(8)
}

/// Writes codes of at most 16 bits from the start of `out`; what lies behind them may become 0.
#[inline(always)]
pub(super) fn pack(codes: &[u16], width: usize, out: &mut [u8]) {
    let (groups, rest) = codes.as_chunks::<GROUP>();
    let mut at = 0;
    for group in groups {
        put(pack_group(group, width), width, &mut out[at..]);
        at += width;
    }
    if !rest.is_empty() {
        let mut group = [0; GROUP];
        group[..rest.len()].copy_from_slice(rest);
        put(pack_group(&group, width), packed_len(rest.len(), width), &mut out[at..]);
    }
}

#[inline(always)]
fn pack_group(codes: &[u16; GROUP], width: usize) -> u128 {
    let four =
        |codes: &[u16]| codes.iter().rev().fold(0, |packed: u64, code| packed << width | u64::from(*code));
    u128::from(four(&codes[..4])) | u128::from(four(&codes[4..])) << (4 * width)
}

/// Writes at least the lowest `len` bytes; all sixteen where there is room, as a fixed length is faster.
#[inline(always)]
fn put(packed: u128, len: usize, out: &mut [u8]) {
    let bytes = packed.to_le_bytes();
    match out.first_chunk_mut() {
        Some(out) => *out = bytes,
        None => out[..len].copy_from_slice(&bytes[..len]),
    }
}

/// Reads codes of at most 16 bits from the start of `bytes`.
#[inline(always)]
pub(super) fn unpack(bytes: &[u8], width: usize, codes: &mut [u16]) {
    let (groups, rest) = codes.as_chunks_mut::<GROUP>();
    let mut at = 0;
    for group in groups {
        *group = unpack_group(take(&bytes[at..]), width);
        at += width;
    }
    let group = unpack_group(take(&bytes[at..]), width);
    rest.copy_from_slice(&group[..rest.len()]);
}

#[inline(always)]
fn unpack_group(packed: u128, width: usize) -> [u16; GROUP] {
    let mask = (1 << width) - 1;
    let halves = [packed as u64, (packed >> (4 * width)) as u64];
    std::array::from_fn(|i| (halves[i / 4] >> (i % 4 * width) & mask) as u16)
}

#[inline(always)]
fn take(bytes: &[u8]) -> u128 {
    match bytes.first_chunk() {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => {
            let mut all = [0; 16];
            all[..bytes.len()].copy_from_slice(bytes);
            u128::from_le_bytes(all)
        }
    }
}

/// Refuses bits that are set behind the last code of `len`.
pub(super) fn check_padding(name: &str, bytes: &[u8], len: usize, width: usize) -> Result<()> {
    let used = len % GROUP * width % 8;
    match bytes.last() {
        Some(last) if used > 0 && last >> used != 0 => Err(Error::corrupt(format!(
            "{name}: {last:#010b} ends the payload, expected {used} bits and zeros"
        ))),
        _ => Ok(()),
    }
}

/// A bit a value, set where it is below 0: not for 0, whatever its own sign.
pub(super) fn pack_signs(values: &[f32], out: &mut [u8]) {
    pack_flags(values, out, |value| value < 0.0);
}

/// A bit a value.
#[inline(always)]
pub(super) fn pack_flags(values: &[f32], out: &mut [u8], flag: impl Fn(f32) -> bool) {
    let (groups, rest) = values.as_chunks::<GROUP>();
    let byte = |values: &[f32]| {
        values.iter().enumerate().fold(0, |byte, (i, value)| byte | u8::from(flag(*value)) << i)
    };
    for (group, out) in groups.iter().zip(out.iter_mut()) {
        *out = byte(group);
    }
    if !rest.is_empty() {
        out[groups.len()] = byte(rest);
    }
}

/// `plus` where a bit is not set, `minus` where it is.
pub(super) fn unpack_signs(bytes: &[u8], plus: f32, minus: f32, out: &mut [f32]) {
    let (plus, apart) = (plus.to_bits(), plus.to_bits() ^ minus.to_bits());
    // Without a choice, which may be compiled to a branch for every bit.
    let pick = |byte: u8, i: usize| {
        let set = (u32::from(byte) << (31 - i)) as i32 >> 31;
        f32::from_bits(plus ^ (apart & set as u32))
    };
    let (groups, rest) = out.as_chunks_mut::<GROUP>();
    let whole = groups.len();
    for (group, byte) in groups.iter_mut().zip(bytes) {
        *group = std::array::from_fn(|i| pick(*byte, i));
    }
    for (i, value) in rest.iter_mut().enumerate() {
        *value = pick(bytes[whole], i);
    }
}

/// The sum of `f` of all values. In lanes, as one sum is one chain of additions.
#[inline(always)]
pub(super) fn sum(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let (groups, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane += f(f64::from(*value));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| f(f64::from(*value))).sum::<f64>()
}

/// Reads the f32 that a payload starts with, and what follows; its length is known to suffice.
pub(super) fn split_f32(payload: &[u8]) -> (f32, &[u8]) {
    let (first, rest) = payload.split_first_chunk().unwrap_or((&[0; 4], &[]));
    (f32::from_le_bytes(*first), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_at_all_widths_and_lengths() {
        for width in 1..=16 {
            for len in (0..40).chain([64, 100]) {
                let codes: Vec<u16> =
                    (0..len).map(|i| ((i as u32 * 40_503) >> 3 & ((1 << width) - 1)) as u16).collect();
                let mut bytes = vec![0; packed_len(len, width)];
                assert_eq!(bytes.len(), (len * width).div_ceil(8));
                pack(&codes, width, &mut bytes);
                check_padding("test", &bytes, len, width).unwrap();
                let mut back = vec![u16::MAX; len];
                unpack(&bytes, width, &mut back);
                assert_eq!(back, codes, "{width} bits");
            }
        }
    }

    #[test]
    fn the_first_code_has_the_lowest_bits() {
        let mut bytes = [0; 4];
        pack(&[0b101, 0b011, 0b110, 0b001], 3, &mut bytes[..2]);
        assert_eq!(bytes, [0b1001_1101, 0b0000_0011, 0, 0]);
        assert!(check_padding("test", &[0, 0b0001_0000], 4, 3).is_err());
    }

    #[test]
    fn zero_has_no_sign() {
        let values = [1.0, -1.0, 0.0, -0.0, -3.0, 2.0, -f32::MIN_POSITIVE, 1.0, -1.0];
        let mut bytes = [0; 2];
        pack_signs(&values, &mut bytes);
        assert_eq!(bytes, [0b0101_0010, 1]);
        let mut back = [0.0; 9];
        unpack_signs(&bytes, 2.0, -5.0, &mut back);
        assert_eq!(back, [2.0, -5.0, 2.0, 2.0, -5.0, 2.0, -5.0, 2.0, -5.0]);
    }
}
