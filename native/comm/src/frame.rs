//! What travels on a connection once both ends have proved who they are.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use crate::fabric::Key;
use crate::mailbox::{Move, Tag};

/// Bytes of a header: kind, move, phase, zero, bucket, step, length; little-endian.
pub(crate) const HEADER: usize = 24;

/// The longest reason an abort may give, in bytes.
const MAX_REASON: usize = 1 << 16;

/// The head of a frame; `len` bytes follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A part.
    Part { tag: Tag, len: usize },
    /// A sign of life.
    Heartbeat,
    /// The peer has finished.
    Goodbye,
    /// The peer gives up; the reason follows.
    Abort { len: usize },
}

impl Head {
    pub(crate) fn encode(self) -> Bytes {
        let nowhere = Key::new(0, 0, 0);
        let (kind, of, key, len) = match self {
            Head::Part { tag, len } => (0, tag.of as u8, tag.key, len),
            Head::Heartbeat => (1, 0, nowhere, 0),
            Head::Goodbye => (2, 0, nowhere, 0),
            Head::Abort { len } => (3, 0, nowhere, len),
        };
        let mut out = BytesMut::with_capacity(HEADER);
        out.put_slice(&[kind, of, key.phase, 0]);
        out.put_u32_le(key.bucket);
        out.put_u64_le(key.step);
        out.put_u64_le(len as u64);
        out.freeze()
    }

    /// Reads a header and checks its length against `max_frame`.
    pub(crate) fn decode(mut bytes: &[u8], max_frame: usize) -> Result<Head> {
        let (kind, of, phase, _) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u8(), bytes.get_u8());
        let (bucket, step, len) = (bytes.get_u32_le(), bytes.get_u64_le(), bytes.get_u64_le());
        let limit = if kind == 0 { max_frame } else { MAX_REASON };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > limit {
            return Err(Error::corrupt(format!("a frame of {len} bytes, at most {limit} are allowed")));
        }
        match (kind, Move::ALL.get(of as usize)) {
            (0, Some(of)) => Ok(Head::Part { tag: Tag { of: *of, key: Key { step, bucket, phase } }, len }),
            (1, _) => Ok(Head::Heartbeat),
            (2, _) => Ok(Head::Goodbye),
            (3, _) => Ok(Head::Abort { len }),
            _ => Err(Error::corrupt(format!("a frame of unknown kind {kind}, move {of}"))),
        }
    }
}

/// The reason of an abort, cut to what a frame may hold.
pub(crate) fn reason(text: &str) -> Bytes {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Bytes::copy_from_slice(&text.as_bytes()[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_the_wire() {
        let tag = Tag { of: Move::Exchange, key: Key::new(u64::MAX - 1, 7, 3) };
        for head in [Head::Part { tag, len: 99 }, Head::Heartbeat, Head::Goodbye, Head::Abort { len: 5 }] {
            assert_eq!(Head::decode(&head.encode(), 100).unwrap(), head);
        }
    }

    #[test]
    fn long_and_unknown_frames_are_refused() {
        let tag = Tag { of: Move::Shuffle, key: Key::new(1, 2, 3) };
        let long = Head::Part { tag, len: 101 }.encode();
        let e = Head::decode(&long, 100).unwrap_err().to_string();
        assert_eq!(e, "a frame of 101 bytes, at most 100 are allowed");
        let e = Head::decode(&[9; HEADER], 100).unwrap_err().to_string();
        assert!(e.contains("at most 65536"), "{e}");
        let mut unknown = [0; HEADER];
        unknown[0] = 9;
        assert!(Head::decode(&unknown, 100).unwrap_err().to_string().contains("unknown kind 9"));
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let text = "é".repeat(MAX_REASON);
        assert_eq!(reason(&text).len(), MAX_REASON);
        assert_eq!(reason("x").as_ref(), b"x");
    }
}
