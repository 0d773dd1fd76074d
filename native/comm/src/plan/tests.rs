//! What a plan promises, on profiles that are drawn.

use super::*;
use crate::compress::{Draw, Place};
use crate::fabric::Key;

const PROFILES: u64 = 20_000;

/// A log-uniform number between two.
fn between(draw: &Draw, nth: u64, least: f64, most: f64) -> f64 {
    least * (most / least).powf(f64::from(draw.uniform(nth)))
}

/// 1 to 24 parts of 16 to 200,000 values, microseconds to a tenth of a second each; some of them nothing at all.
fn profile(seed: u64) -> Profile {
    let draw = Place { seed, key: Key::new(0, 0, 0), rank: 0, part: 0 }.own();
    let mut end = 0;
    let part = |nth: u64| {
        let start = end;
        end += between(&draw, 3 * nth, 16.0, 2e5) as usize;
        let none = draw.word(3 * nth + 2).is_multiple_of(5);
        Part { range: start..end, backward: if none { 0.0 } else { between(&draw, 3 * nth + 1, 1e-6, 1e-1) } }
    };
    let parts = (0..1 + draw.word(1_000) % 24).map(part).collect();
    let each = if draw.word(1_001).is_multiple_of(8) { 0.0 } else { between(&draw, 1_002, 1e-6, 1e-2) };
    Profile { parts, cost: Cost { each, per_byte: between(&draw, 1_003, 1e-11, 1e-6) } }
}

fn whole(profile: &Profile) -> Range<usize> {
    0..profile.parts[profile.parts.len() - 1].range.end
}

/// When the last of some buckets ends.
fn end(profile: &Profile, buckets: &[Range<usize>]) -> f64 {
    *profile.ends(buckets).last().unwrap()
}

#[track_caller]
fn check_partition(profile: &Profile, buckets: &[Range<usize>]) {
    let mut next = 0;
    for bucket in buckets {
        assert!(bucket.start == next && !bucket.is_empty(), "{bucket:?} follows {next}");
        next = bucket.end;
    }
    assert_eq!(next, whole(profile).end);
}

/// As the authors of MG-WFBP go through the layers: a part joins the next one where that is finished before its own reduction ends, and
/// either waits for the link then or saves more than it is late.
fn by_the_paper(profile: &Profile) -> Vec<Range<usize>> {
    let ready = profile.ready();
    let mut bounds = vec![0];
    // When the link is free for the bucket under way, and where it begins.
    let (mut free, mut first) = (0.0f64, 0);
    for next in 1..profile.parts.len() {
        let values = profile.parts[next].range.start - profile.parts[first].range.start;
        let begins = free.max(ready[next - 1]);
        let ends = begins + profile.cost.seconds(values);
        let joins = ready[next] < ends && (begins > ready[next] || ready[next] - begins < profile.cost.each);
        if !joins {
            bounds.push(profile.parts[next].range.start);
            (free, first) = (ends, next);
        }
    }
    bounds.push(whole(profile).end);
    bounds.windows(2).map(|two| two[0]..two[1]).collect()
}

#[test]
fn every_cut_has_all_values_once_and_in_order() {
    for seed in 0..200 {
        let profile = profile(seed);
        for policy in [Policy::Tensors, Policy::Fixed(1), Policy::Fixed(5_000), Policy::Merged] {
            let buckets = plan(&profile, policy);
            check_partition(&profile, &buckets);
            assert_eq!(buckets, plan(&profile.clone(), policy));
        }
        let mut pieces = plan(&profile, Policy::Priority(5_000));
        assert!(pieces.iter().all(|piece| piece.len() <= 5_000));
        let last = &profile.parts[profile.parts.len() - 1].range;
        assert_eq!(pieces[0].start, last.start, "the first layer's goes first");
        pieces.sort_by_key(|piece| piece.start);
        check_partition(&profile, &pieces);
    }
}

#[test]
fn merged_buckets_are_whole_parts_and_end_before_all_others() {
    let (mut earlier, mut fewer) = (0, 0);
    for seed in 0..PROFILES {
        let profile = profile(seed);
        let buckets = plan(&profile, Policy::Merged);
        let starts =
            |bucket: &Range<usize>| profile.parts.iter().any(|part| part.range.start == bucket.start);
        assert!(buckets.iter().all(starts), "{seed}");
        check_partition(&profile, &buckets);
        let found = end(&profile, &buckets);
        let (tensors, paper) = (plan(&profile, Policy::Tensors), by_the_paper(&profile));
        for (name, others) in
            [("a part each", &tensors), ("one", &vec![whole(&profile)]), ("the paper's", &paper)]
        {
            let theirs = end(&profile, others);
            assert!(found <= theirs, "{seed}: {found}, {name} {theirs}");
        }
        earlier += u64::from(found < 0.99 * end(&profile, &tensors).min(end(&profile, &[whole(&profile)])));
        fewer += u64::from(buckets.len() < tensors.len());
    }
    assert!(earlier > PROFILES / 20 && fewer > PROFILES / 2, "{earlier}, {fewer}");
}

#[test]
fn no_two_neighbours_could_be_one() {
    for seed in 0..1_000 {
        let profile = profile(seed);
        let buckets = plan(&profile, Policy::Merged);
        for nth in 1..buckets.len() {
            let mut joined = buckets.clone();
            joined[nth - 1].end = joined.remove(nth).end;
            assert!(end(&profile, &joined) > end(&profile, &buckets), "{seed}: {nth}");
        }
    }
}

#[test]
fn what_is_on_its_way_is_within_the_credit() {
    for seed in 0..500 {
        let profile = profile(seed);
        let ready = profile.ready();
        let pieces = plan(&profile, Policy::Priority(4_096));
        for credit in [16_384, 40_000, 1 << 20] {
            let sent = send(&profile, &pieces, credit);
            for (piece, at) in pieces.iter().zip(&sent) {
                let part = profile.parts.iter().position(|part| part.range.end >= piece.end).unwrap();
                assert!(at.from >= ready[part] && at.until > at.from, "{seed}");
                let way = pieces
                    .iter()
                    .zip(&sent)
                    .filter(|(_, other)| other.from <= at.from && at.from < other.until);
                let bytes: usize = way.map(|(piece, _)| 4 * piece.len()).sum();
                assert!(bytes <= credit, "{seed}: {bytes} of {credit}");
            }
            // The link is never idle while something could go: it ends as early as anything does.
            let costs: f64 = pieces.iter().map(|piece| profile.cost.seconds(piece.len())).sum();
            let last = sent.iter().map(|sent| sent.until).fold(0.0, f64::max);
            assert!(last <= (ready[ready.len() - 1] + costs) * (1.0 + 1e-9), "{seed}");
        }
    }
}

#[test]
fn what_forward_needs_first_overtakes() {
    let part = |start: usize, backward| Part { range: start..start + 1_000, backward };
    let parts = vec![part(0, 1.0), part(1_000, 1.0), part(2_000, 1.0)];
    // A part takes 2 s on the link.
    let profile = Profile { parts, cost: Cost { each: 0.0, per_byte: 5e-4 } };
    let pieces = plan(&profile, Policy::Priority(500));
    assert_eq!(pieces, [2_000..2_500, 2_500..3_000, 1_000..1_500, 1_500..2_000, 0..500, 500..1_000]);
    let until = |credit| send(&profile, &pieces, credit).iter().map(|sent| sent.until).collect::<Vec<_>>();
    // A piece a second from 1 s on, when the last layer is finished; those of the second from 2 s, of the first from 3 s.
    assert_eq!(until(2_000), [4.0, 5.0, 3.0, 6.0, 2.0, 7.0]);
    // What is handed over cannot be overtaken.
    assert_eq!(until(4_000), [5.0, 6.0, 4.0, 7.0, 2.0, 3.0]);
    let sent = send(&profile, &pieces, 2_000);
    assert_eq!(forward_ends(&profile, &pieces, &sent), 7.5);
    let late = [Sent { from: 0.0, until: 7.0 }; 6];
    assert_eq!(forward_ends(&profile, &pieces, &late), 8.5);
}
