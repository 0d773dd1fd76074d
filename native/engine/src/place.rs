//! Placing buffers in one arena by lifetime.

use firesteel_error::{Error, Kind, Result};

use crate::pass::Place;

/// A buffer before it has a place: its length and the first and last step that uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) len: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Places buffers so that two of them overlap only when no step needs both, and says how much memory that takes.
/// Largest first, each at the lowest place that is free for its whole life.
pub(crate) fn place(buffers: &[Lifetime]) -> Result<(Vec<Place>, usize)> {
    // What no step uses, as gradients in an inference, takes no place.
    let mut order: Vec<usize> = (0..buffers.len()).filter(|&b| buffers[b].first <= buffers[b].last).collect();
    order.sort_by_key(|&b| (std::cmp::Reverse(buffers[b].len), b));
    let mut places = vec![Place { offset: 0, len: 0 }; buffers.len()];
    let mut total: usize = 0;
    // Their sum is the most that places can reach: below it nothing wraps.
    let sum = order.iter().try_fold(0usize, |sum, &b| sum.checked_add(buffers[b].len));
    sum.ok_or_else(|| Error::new(Kind::Io, "no memory for the values of all layers"))?;
    for (done, &b) in order.iter().enumerate() {
        let mut taken: Vec<Place> =
            order[..done].iter().filter(|&&o| buffers[o].meets(&buffers[b])).map(|&o| places[o]).collect();
        taken.sort_by_key(|p| p.offset);
        let mut offset = 0;
        for other in taken {
            if offset + buffers[b].len <= other.offset {
                break;
            }
            offset = offset.max(other.offset + other.len);
        }
        places[b] = Place { offset, len: buffers[b].len };
        total = total.max(offset + buffers[b].len);
    }
    Ok((places, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_no_memory_holds_are_refused() {
        let life = Lifetime { len: usize::MAX / 2, first: 0, last: 1 };
        assert_eq!(place(&[life; 3]).unwrap_err().to_string(), "no memory for the values of all layers");
    }

    #[test]
    fn buffers_share_memory_only_when_their_lives_do_not_meet() {
        let life = |len, first, last| Lifetime { len, first, last };
        let unused = life(99, usize::MAX, 0);
        let buffers = [life(32, 0, 2), life(16, 1, 4), life(32, 3, 5), life(16, 5, 6), unused];
        let (places, total) = place(&buffers).unwrap();
        assert_eq!(total, 48);
        for (i, a) in buffers.iter().enumerate() {
            for (j, b) in buffers.iter().enumerate().filter(|(j, b)| *j > i && a.meets(b)) {
                let (p, q) = (places[i], places[j]);
                assert!(p.offset + p.len <= q.offset || q.offset + q.len <= p.offset, "{a:?} {b:?}");
            }
        }
    }
}
