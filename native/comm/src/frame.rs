//! What travels on a connection once both ends have proved who they are.
//!
//! A part is one frame, or, when it is longer than a frame may be, a frame that announces its length and then pieces,
//! in order, until it is complete. Anything may travel between pieces but another part of several frames.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Kind, Result};

use crate::fabric::{Key, Options};
use crate::mailbox::{Move, Tag};
use crate::shared::Offer;

/// Bytes of a header: kind, move, phase (2), bucket, step, length; little-endian.
pub(crate) const HEADER: usize = 24;

/// The longest reason an abort may give, in bytes.
const MAX_REASON: usize = 1 << 16;

/// The head of a frame. `len` bytes follow it, but for what is lent, whose place follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A part.
    Part { tag: Tag, len: usize },
    /// A part of `total` bytes begins; its pieces follow.
    Long { tag: Tag, total: usize },
    /// A piece of the part that began last.
    Piece { len: usize },
    /// A sign of life.
    Heartbeat,
    /// The peer has finished.
    Goodbye,
    /// The peer gives up; the reason follows.
    Abort { len: usize },
    /// Where the peer's memory is, for who can read it: [`Offer`].
    Offer,
    /// The peer reads the memory that it was offered.
    Accepted,
    /// A part of `len` bytes that lies in the peer's memory, at a [`Loan`](crate::shared::Loan)'s place.
    Lent { tag: Tag, len: usize },
    /// What was lent under this number is not read any more.
    Returned { number: u64 },
}

impl Head {
    pub(crate) fn encode(self) -> Bytes {
        let nowhere = Key::new(0, 0, 0);
        let (kind, of, key, len) = match self {
            Head::Part { tag, len } => (0, tag.of as u8, tag.key, len),
            Head::Heartbeat => (1, 0, nowhere, 0),
            Head::Goodbye => (2, 0, nowhere, 0),
            Head::Abort { len } => (3, 0, nowhere, len),
            Head::Long { tag, total } => (4, tag.of as u8, tag.key, total),
            Head::Piece { len } => (5, 0, nowhere, len),
            Head::Offer => (6, 0, nowhere, Offer::LEN),
            Head::Accepted => (7, 0, nowhere, 0),
            Head::Lent { tag, len } => (8, tag.of as u8, tag.key, len),
            Head::Returned { number } => (9, 0, Key { step: number, ..nowhere }, 0),
        };
        let mut out = BytesMut::with_capacity(HEADER);
        out.put_slice(&[kind, of]);
        out.put_u16_le(key.phase);
        out.put_u32_le(key.bucket);
        out.put_u64_le(key.step);
        out.put_u64_le(len as u64);
        out.freeze()
    }

    /// Reads a header and checks its length against the limits.
    pub(crate) fn decode(mut bytes: &[u8], options: &Options) -> Result<Head> {
        let (kind, of, phase) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u16_le());
        let (bucket, step, len) = (bytes.get_u32_le(), bytes.get_u64_le(), bytes.get_u64_le());
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let tag = Move::ALL.get(of as usize).map(|of| Tag { of: *of, key: Key { step, bucket, phase } });
        let (head, limit) = match (kind, tag) {
            (0, Some(tag)) => (Head::Part { tag, len }, options.max_frame),
            (1, _) => (Head::Heartbeat, 0),
            (2, _) => (Head::Goodbye, 0),
            (3, _) => (Head::Abort { len }, MAX_REASON),
            (4, Some(tag)) => (Head::Long { tag, total: len }, options.max_part),
            (5, _) => (Head::Piece { len }, options.max_frame),
            (6, _) => (Head::Offer, Offer::LEN),
            (7, _) => (Head::Accepted, 0),
            (8, Some(tag)) => (Head::Lent { tag, len }, options.max_part),
            (9, _) => (Head::Returned { number: step }, 0),
            _ => return Err(Error::corrupt(format!("a frame of unknown kind {kind}, move {of}"))),
        };
        if len > limit {
            let text = format!("a frame of kind {kind} with {len} bytes, at most {limit} are allowed");
            return Err(Error::corrupt(text));
        }
        if head == Head::Offer && len < Offer::LEN {
            return Err(Error::corrupt(format!("an offer of {len} bytes, expected {}", Offer::LEN)));
        }
        Ok(head)
    }
}

/// The frames that carry a part.
pub(crate) fn frames(tag: Tag, part: &Bytes, max_frame: usize) -> impl Iterator<Item = (Head, Bytes)> {
    let (len, most) = (part.len(), max_frame.max(1));
    let (first, pieces) = match len <= most {
        true => ((Head::Part { tag, len }, part.clone()), 0),
        false => ((Head::Long { tag, total: len }, Bytes::new()), len.div_ceil(most)),
    };
    let piece = move |nth: usize| {
        let piece = part.slice(nth * most..len.min((nth + 1) * most));
        (Head::Piece { len: piece.len() }, piece)
    };
    std::iter::once(first).chain((0..pieces).map(piece))
}

/// The reason of an abort: what sort it is, and words, cut to what a frame may hold.
pub(crate) fn reason(kind: Kind, text: &str) -> Bytes {
    let mut end = text.len().min(MAX_REASON - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let number = Kind::ALL.iter().position(|other| *other == kind).unwrap_or_default() as u8;
    [&[number], &text.as_bytes()[..end]].concat().into()
}

/// The same, read.
pub(crate) fn read_reason(bytes: &[u8]) -> (Kind, String) {
    let (number, text) = bytes.split_first().unwrap_or((&0, &[]));
    let kind = Kind::ALL.get(usize::from(*number)).copied().unwrap_or(Kind::PeerLost);
    (kind, String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag { of: Move::Exchange, key: Key { step: u64::MAX - 1, bucket: 7, phase: 0xabcd } };

    fn options() -> Options {
        Options { max_frame: 100, max_part: 1_000, ..Options::default() }
    }

    #[test]
    fn heads_survive_the_wire() {
        for head in [
            Head::Part { tag: TAG, len: 99 },
            Head::Long { tag: TAG, total: 999 },
            Head::Piece { len: 100 },
            Head::Heartbeat,
            Head::Offer,
            Head::Accepted,
            Head::Lent { tag: TAG, len: 999 },
            Head::Returned { number: u64::MAX },
            Head::Goodbye,
            Head::Abort { len: 5 },
        ] {
            assert_eq!(Head::decode(&head.encode(), &options()).unwrap(), head);
        }
    }

    #[test]
    fn long_and_unknown_frames_are_refused() {
        let refusal = |bytes: &[u8]| Head::decode(bytes, &options()).unwrap_err().to_string();
        let text = refusal(&Head::Part { tag: TAG, len: 101 }.encode());
        assert_eq!(text, "a frame of kind 0 with 101 bytes, at most 100 are allowed");
        let text = refusal(&Head::Long { tag: TAG, total: 1_001 }.encode());
        assert_eq!(text, "a frame of kind 4 with 1001 bytes, at most 1000 are allowed");
        assert!(refusal(&Head::Piece { len: 101 }.encode()).contains("at most 100"));
        assert!(refusal(&Head::Abort { len: MAX_REASON + 1 }.encode()).contains("at most 65536"));
        let mut heartbeat = Head::Heartbeat.encode().to_vec();
        heartbeat[16] = 1;
        assert_eq!(refusal(&heartbeat), "a frame of kind 1 with 1 bytes, at most 0 are allowed");
        assert_eq!(refusal(&[99; HEADER]), "a frame of unknown kind 99, move 99");
        let mut no_move = Head::Part { tag: TAG, len: 1 }.encode().to_vec();
        no_move[1] = 3;
        assert_eq!(refusal(&no_move), "a frame of unknown kind 0, move 3");
    }

    #[test]
    fn the_pieces_of_a_part_are_the_part() {
        let part = Bytes::from((0..250).collect::<Vec<u8>>());
        for len in [0, 1, 100, 101, 200, 250] {
            let part = part.slice(..len);
            let frames: Vec<_> = frames(TAG, &part, 100).collect();
            let first = match len > 100 {
                true => Head::Long { tag: TAG, total: len },
                false => Head::Part { tag: TAG, len },
            };
            assert_eq!(frames[0].0, first);
            assert_eq!(frames.len(), if len > 100 { 1 + len.div_ceil(100) } else { 1 });
            let together: Vec<u8> = frames.into_iter().flat_map(|(_, piece)| piece).collect();
            assert_eq!(together, part);
        }
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let text = "é".repeat(MAX_REASON);
        let cut = reason(Kind::Diverged, &text);
        assert_eq!(cut.len(), MAX_REASON - 1);
        assert_eq!(read_reason(&cut).1, text[..MAX_REASON - 2]);
        for kind in Kind::ALL {
            assert_eq!(read_reason(&reason(kind, "x")), (kind, "x".into()));
        }
        assert_eq!(read_reason(&[99]), (Kind::PeerLost, String::new()));
    }
}
