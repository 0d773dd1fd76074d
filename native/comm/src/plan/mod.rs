//! Which values of a gradient travel together, and which go first.
//!
//! Backward finishes a gradient part by part, from the last layer to the first. A reduction costs something beside its bytes, so that
//! parts that travel alone pay for it each time, and one that waits for all others hides nothing behind backward. [`plan`] cuts the
//! vector into buckets between the two. It is a function of what it is told alone: workers that have the same [`Profile`] have the same
//! plan, and need not talk about it.
//!
//! Times are predicted as the sources do: one bucket is reduced after the other, each in [`Cost::seconds`], and none before backward
//! has finished all of it.
//!
//! | module | |
//! | --- | --- |
//! | `merged` | the cut that ends first |
//! | `priority` | [`send`]: pieces that overtake each other, and when each is there |

mod merged;
mod priority;

use std::ops::Range;

pub use priority::{Sent, forward_ends, send};

/// Buckets of fixed length begin at multiples of this many f32, as tensors do.
pub(crate) const ALIGNMENT: usize = 16;

/// What backward finishes at once, a tensor or some.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its place in the flat vector.
    pub range: Range<usize>,
    /// Seconds that it takes behind the part before it.
    pub backward: f64,
}

/// What a reduction takes of the workers' links, a + b·bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Seconds of each, however short.
    pub each: f64,
    /// Seconds of a byte of the vector.
    pub per_byte: f64,
}

impl Cost {
    /// Seconds of a bucket of so many values.
    pub fn seconds(self, values: usize) -> f64 {
        self.each + self.per_byte * (4 * values) as f64
    }
}

/// What a step was seen to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// In the order in which backward finishes them, which is theirs in the vector: each begins where the one before it ends.
    pub parts: Vec<Part>,
    /// Of a reduction.
    pub cost: Cost,
}

impl Profile {
    /// When each part is finished, in seconds after the beginning of backward.
    fn ready(&self) -> Vec<f64> {
        let add = |sum: &mut f64, part: &Part| {
            *sum += part.backward;
            Some(*sum)
        };
        self.parts.iter().scan(0.0, add).collect()
    }

    /// When each of some buckets that follow each other has been reduced, in seconds after the beginning of backward.
    pub fn ends(&self, buckets: &[Range<usize>]) -> Vec<f64> {
        let ready = self.ready();
        let add = |end: &mut f64, bucket: &Range<usize>| {
            let last = self.parts.partition_point(|part| part.range.end < bucket.end);
            let ready = ready.get(last).or(ready.last()).copied().unwrap_or(0.0);
            *end = end.max(ready) + self.cost.seconds(bucket.len());
            Some(*end)
        };
        buckets.iter().scan(0.0, add).collect()
    }
}

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// A bucket a part: wait-free backpropagation (Zhang et al. 2017, Poseidon).
    Tensors,
    /// Of so many values, up to a multiple of 16, whatever the parts are.
    Fixed(usize),
    /// Of whole parts, so that the last one ends as early as any cut lets it, and of those cuts one from which no two neighbours can be
    /// joined: what MG-WFBP (Shi, Chu and Li 2019) looks for by going through the layers once. Needs time for parts² / 2 sums.
    Merged,
    /// Pieces of parts, of at most so many values each, those that the next forward needs first before the others: P3 (Jayarajan et al.
    /// 2019), ByteScheduler (Peng et al. 2019). For [`send`].
    Priority(usize),
}

/// Cuts the vector into buckets, which together are all of its parts. They are in the order of the vector, but those of
/// [`Policy::Priority`] in the order of their priority.
pub fn plan(profile: &Profile, policy: Policy) -> Vec<Range<usize>> {
    let ranges = || profile.parts.iter().map(|part| part.range.clone()).filter(|range| !range.is_empty());
    match policy {
        Policy::Tensors => ranges().collect(),
        Policy::Fixed(len) => {
            let start = profile.parts.first().map_or(0, |part| part.range.start);
            let end = profile.parts.last().map_or(0, |part| part.range.end);
            fixed(start..end, len)
        }
        Policy::Merged => merged::cut(profile),
        Policy::Priority(most) => ranges().rev().flat_map(|range| pieces(range, most)).collect(),
    }
}

/// A range in pieces of so many values, up to a multiple of [`ALIGNMENT`].
pub(crate) fn fixed(range: Range<usize>, len: usize) -> Vec<Range<usize>> {
    pieces(range, len.next_multiple_of(ALIGNMENT)).collect()
}

fn pieces(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(most.max(1)).map(move |start| start..start.saturating_add(most.max(1)).min(end))
}

#[cfg(test)]
mod tests;
