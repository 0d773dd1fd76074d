//! The cut that ends first.

use std::ops::Range;

use super::Profile;

/// Whole parts that travel together.
///
/// What ends first with its first parts reduced is a beginning of what ends first with all, as a later end of the first is never of
/// use to the others. So the best end of all parts up to each follows from those before it. That cuts where it is of no use too, where
/// backward hides it: neighbours are joined then as long as the last bucket ends when it did.
pub(super) fn cut(profile: &Profile) -> Vec<Range<usize>> {
    let Profile { parts, cost } = profile;
    let ready = profile.ready();
    // When the parts before each can have been reduced, and where their last bucket begins.
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
    for (last, part) in parts.iter().enumerate() {
        let with = |first: usize| {
            let values = part.range.end - parts[first].range.start;
            (best[first].0.max(ready[last]) + cost.seconds(values), first)
        };
        best.extend((0..=last).map(with).min_by(|a, b| a.0.total_cmp(&b.0)));
    }
    let begins = |end: &usize| (*end > 0).then(|| best[*end].1);
    let bounds = std::iter::successors(Some(parts.len()), begins);
    let mut bounds: Vec<usize> = bounds.collect();
    bounds.reverse();
    join(profile, bounds, best[parts.len()].0)
}

/// Takes away bounds between parts while all ends no later than that.
fn join(profile: &Profile, mut bounds: Vec<usize>, end: f64) -> Vec<Range<usize>> {
    let parts = &profile.parts;
    let buckets = |bounds: &[usize]| -> Vec<Range<usize>> {
        let ranges = bounds.windows(2).map(|two| parts[two[0]].range.start..parts[two[1] - 1].range.end);
        ranges.filter(|range| !range.is_empty()).collect()
    };
    loop {
        let before = bounds.len();
        let mut nth = 1;
        while nth + 1 < bounds.len() {
            let bound = bounds.remove(nth);
            if profile.ends(&buckets(&bounds)).last().is_none_or(|last| *last > end) {
                bounds.insert(nth, bound);
                nth += 1;
            }
        }
        // What has been joined may let a bound before it go.
        if bounds.len() == before {
            return buckets(&bounds);
        }
    }
}
