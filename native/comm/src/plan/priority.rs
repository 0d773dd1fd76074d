//! Pieces that overtake each other.

use std::collections::VecDeque;
use std::ops::Range;

use super::Profile;

/// When a piece travels, in seconds after the beginning of backward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// It is handed to the network, and cannot be overtaken any more.
    pub from: f64,
    /// All workers have its sum.
    pub until: f64,
}

/// When each of the `pieces`, those of the highest priority first, travels: whenever there is room, the first of those that are
/// finished is handed to the network, which reduces one after the other. On their way are at most `credit` bytes, or one piece.
pub fn send(profile: &Profile, pieces: &[Range<usize>], credit: usize) -> Vec<Sent> {
    let ready = profile.ready();
    let ready = |piece: &Range<usize>| {
        let part = profile.parts.partition_point(|part| part.range.end < piece.end);
        ready.get(part).copied().unwrap_or(0.0)
    };
    let ready: Vec<f64> = pieces.iter().map(ready).collect();
    let mut sent = vec![Sent { from: 0.0, until: 0.0 }; pieces.len()];
    let mut waiting: Vec<usize> = (0..pieces.len()).collect();
    let mut on_their_way: VecDeque<usize> = VecDeque::new();
    let (mut now, mut free) = (0.0f64, 0.0f64);
    while !waiting.is_empty() {
        while on_their_way.front().is_some_and(|first| sent[*first].until <= now) {
            on_their_way.pop_front();
        }
        let bytes: usize = on_their_way.iter().map(|nth| 4 * pieces[*nth].len()).sum();
        let fits = |nth: usize| on_their_way.is_empty() || bytes + 4 * pieces[nth].len() <= credit;
        let first = waiting.iter().position(|nth| ready[*nth] <= now);
        if let Some(place) = first.filter(|place| fits(waiting[*place])) {
            let nth = waiting.remove(place);
            free = free.max(now) + profile.cost.seconds(pieces[nth].len());
            sent[nth] = Sent { from: now, until: free };
            on_their_way.push_back(nth);
        } else {
            let arrives = on_their_way.front().map(|first| sent[*first].until);
            let finished = waiting.iter().map(|nth| ready[*nth]).filter(|time| *time > now);
            now = finished.chain(arrives).fold(f64::INFINITY, f64::min);
        }
    }
    sent
}

/// When the next forward could end if each of its layers waited for its own weights alone, in seconds after the beginning of
/// backward. A part takes half as long as in backward, as it commonly does.
pub fn forward_ends(profile: &Profile, pieces: &[Range<usize>], sent: &[Sent]) -> f64 {
    let there = |part: &Range<usize>| {
        let of_part =
            pieces.iter().zip(sent).filter(|(piece, _)| piece.start < part.end && part.start < piece.end);
        of_part.map(|(_, sent)| sent.until).fold(0.0, f64::max)
    };
    let backward: f64 = profile.parts.iter().map(|part| part.backward).sum();
    let layers = profile.parts.iter().rev();
    layers.fold(backward, |now, part| now.max(there(&part.range)) + part.backward / 2.0)
}
