//! What a strategy learns in its first steps, and does otherwise from then on, as all workers do.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::pipeline::{Pipeline, Scale, number};
use crate::collective::{Algorithm, Link, barrier, broadcast_from};
use crate::fabric::{Fabric, Key};
use crate::plan::{Cost, Part, Policy, Profile, plan};
use crate::reduce::{AllReduce, Reduce};
use crate::stopwatch::Stopwatch;

/// Steps that are watched, behind a first one in which memory is touched and caches are filled.
const WATCHED: u64 = 3;

/// Buckets that are reduced to see what each costs: two rounds of lanes behind one alone.
const BUCKETS: usize = 17;
/// Values of a short one and the most of a long one: 4 KiB and 256 KiB.
const SHORT: usize = 1 << 10;
const LONG: usize = 1 << 16;
/// How often; the fastest counts.
const TIMES: usize = 3;

/// Keys of what is measured are buckets from the last number down.
const LAST: u32 = u32::MAX;

/// All-reduces whose algorithm is chosen by what links cost, or whose buckets are cut by what steps take, or both.
#[derive(Debug)]
pub(super) struct Tuning {
    /// None: chosen.
    algorithm: Option<Algorithm>,
    /// Whether buckets are cut anew.
    merges: bool,
    link: Option<Link>,
    begun: u64,
    watch: Watch,
}

impl Tuning {
    pub(super) fn new(algorithm: Option<Algorithm>, merges: bool) -> Tuning {
        Tuning { algorithm, merges, link: None, begun: 0, watch: Watch::new() }
    }

    /// Whether nothing will change any more.
    pub(super) fn is_over(&self) -> bool {
        (self.algorithm.is_some() || self.link.is_some()) && (!self.merges || self.begun > WATCHED + 1)
    }

    /// Before all workers begin a step: the buckets from then on, and their reductions, where either changes; the same on all.
    ///
    /// # Errors
    /// Those of [`Fabric`]; `Corrupt` naming a rank whose figures are none; `Io` without threads.
    pub(super) fn begin(
        &mut self,
        fabric: &Arc<dyn Fabric>,
        step: u64,
        buckets: &[Range<usize>],
    ) -> Result<Option<Pipeline>> {
        self.watch.ends_step(self.begun > 1);
        self.begun += 1;
        let mut changed = None;
        if self.algorithm.is_none() && self.link.is_none() {
            if fabric.sums_in_place() {
                // Nothing passes two phases, which move nothing there and are what it began with.
                self.algorithm = Some(Algorithm::TwoPhase);
            } else {
                self.link = Some(Link::measure(fabric.as_ref(), Key::new(step, LAST, 0))?);
                changed = Some(buckets.to_vec());
            }
        }
        if self.merges && self.begun == WATCHED + 2 {
            let len = buckets.last().map_or(0, |bucket| bucket.end);
            changed = Some(self.merge(fabric, step, len)?);
        }
        let with = |range: Range<usize>| (range.clone(), self.reduce(range.len(), fabric.world()));
        let pipeline = |buckets: Vec<Range<usize>>| {
            Pipeline::new(fabric.clone(), buckets.into_iter().map(with).collect())
        };
        changed.map(pipeline).transpose()
    }

    /// The watched parts of the vector, all in buckets.
    fn merge(&self, fabric: &Arc<dyn Fabric>, step: u64, len: usize) -> Result<Vec<Range<usize>>> {
        let profile = Profile { parts: self.watch.parts(len), cost: self.cost(fabric, step, len)? };
        // Behind the keys of what has been measured.
        let key = Key::new(step, LAST - 1, 0);
        let told = broadcast_from(fabric.as_ref(), key, 0, encode(&profile))?;
        let profile = decode(told, len)?;
        let buckets = plan(&profile, Policy::Merged);
        let Cost { each, per_byte } = profile.cost;
        tracing::info!(
            "a gradient of {len} values in {} parts travels in {} buckets: a reduction takes {each:.2e} s and {per_byte:.2e} s a byte",
            profile.parts.len(),
            buckets.len(),
        );
        Ok(buckets)
    }

    /// What a bucket takes of links that others are reduced on beside it: the latency of one alone is hidden then, and is not in it.
    fn cost(&self, fabric: &Arc<dyn Fabric>, step: u64, len: usize) -> Result<Cost> {
        let long = (len / BUCKETS).clamp(2 * SHORT, LONG);
        let mut taken = [f64::INFINITY; 3];
        for (nth, (count, values)) in [(1, SHORT), (BUCKETS, SHORT), (BUCKETS, long)].into_iter().enumerate()
        {
            let of =
                |bucket: usize| (bucket * values..(bucket + 1) * values, self.reduce(values, fabric.world()));
            let mut pipeline = Pipeline::new(fabric.clone(), (0..count).map(of).collect())?;
            for time in 0..TIMES {
                let first = 2 + ((nth * TIMES + time) * (BUCKETS + 1)) as u32;
                taken[nth] = taken[nth].min(seconds(fabric.as_ref(), &mut pipeline, step, LAST - first)?);
            }
        }
        let [alone, short, long_ones] = taken;
        let per_byte = (long_ones - short).max(0.0) / (4 * BUCKETS * (long - SHORT)) as f64;
        let each = (short - alone) / (BUCKETS - 1) as f64 - per_byte * (4 * SHORT) as f64;
        Ok(Cost { each: each.max(0.0), per_byte })
    }

    fn reduce(&self, len: usize, world: usize) -> Box<dyn Reduce> {
        let chosen = || self.link.map_or(Algorithm::TwoPhase, |link| Algorithm::choose(len, world, link));
        Box::new(AllReduce::new(self.algorithm.unwrap_or_else(chosen)))
    }

    /// Backward goes on from here.
    pub(super) fn goes_on(&mut self, fabric: &dyn Fabric) {
        self.watch.goes_on(fabric);
    }

    /// Backward has finished a part.
    pub(super) fn finished(&mut self, fabric: &dyn Fabric, range: &Range<usize>) {
        self.watch.finished(fabric, range);
    }
}

/// Seconds until all buckets of a pipeline have been reduced, once all workers are there. Keys are buckets from `last` down.
fn seconds(fabric: &dyn Fabric, pipeline: &mut Pipeline, step: u64, last: u32) -> Result<f64> {
    let watch = Stopwatch::start();
    barrier(fabric, Key::new(step, last, 0))?;
    let start = watch.seconds(fabric);
    for bucket in 0..pipeline.len() {
        let range = pipeline.range(bucket);
        pipeline.stage(bucket, &range, &vec![0.0; range.len()]);
        pipeline.begin(bucket, Key::new(step, last - 1 - number(bucket), 0), Scale::By(1.0))?;
    }
    pipeline.finish(|_, _| ())?;
    Ok(watch.seconds(fabric) - start)
}

/// What parts of the gradient backward finishes at once, and how long each takes; what is done with them meanwhile is left out.
#[derive(Debug)]
struct Watch {
    clock: Stopwatch,
    since: f64,
    step: Vec<Part>,
    /// The least that each has taken, of steps in which they are the same.
    least: Vec<Part>,
}

impl Watch {
    fn new() -> Watch {
        Watch { clock: Stopwatch::start(), since: 0.0, step: Vec::new(), least: Vec::new() }
    }

    fn goes_on(&mut self, fabric: &dyn Fabric) {
        self.since = self.clock.seconds(fabric);
    }

    fn finished(&mut self, fabric: &dyn Fabric, range: &Range<usize>) {
        let backward = (self.clock.seconds(fabric) - self.since).max(0.0);
        self.step.push(Part { range: range.clone(), backward });
    }

    /// Of steps whose parts differ, as where a batch has no row for this worker, those with more parts count.
    fn ends_step(&mut self, counts: bool) {
        let step = std::mem::take(&mut self.step);
        if !counts || step.len() < self.least.len() {
            return;
        }
        let same =
            step.len() == self.least.len() && step.iter().zip(&self.least).all(|(a, b)| a.range == b.range);
        if same {
            self.least
                .iter_mut()
                .zip(&step)
                .for_each(|(least, part)| least.backward = least.backward.min(part.backward));
        } else {
            self.least = step;
        }
    }

    /// All of the vector.
    fn parts(&self, len: usize) -> Vec<Part> {
        match self.least.last().is_some_and(|part| part.range.end == len) {
            true => self.least.clone(),
            false => vec![Part { range: 0..len, backward: 0.0 }],
        }
    }
}

/// A profile as bytes: its cost, and each part's end and time.
fn encode(profile: &Profile) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + 16 * profile.parts.len());
    out.put_f64_le(profile.cost.each);
    out.put_f64_le(profile.cost.per_byte);
    for part in &profile.parts {
        out.put_u64_le(part.range.end as u64);
        out.put_f64_le(part.backward);
    }
    out.freeze()
}

/// # Errors
/// `Corrupt` naming rank 0, who sent it, for what is no profile of a vector of so many values.
fn decode(mut told: Bytes, len: usize) -> Result<Profile> {
    let wrong = |what: &str| Error::corrupt(format!("rank 0 sent a profile of {len} values {what}"));
    if told.len() < 16 || !told.len().is_multiple_of(16) {
        return Err(wrong(&format!("in {} bytes", told.len())));
    }
    let time = |told: &mut Bytes| {
        Some(told.get_f64_le())
            .filter(|time| *time >= 0.0 && time.is_finite())
            .ok_or_else(|| wrong("with a time that is none"))
    };
    let cost = Cost { each: time(&mut told)?, per_byte: time(&mut told)? };
    let (mut parts, mut start) = (Vec::new(), 0);
    while told.has_remaining() {
        let end = usize::try_from(told.get_u64_le()).ok().filter(|end| *end >= start && *end <= len);
        let range = start..end.ok_or_else(|| wrong("that do not follow each other"))?;
        start = range.end;
        parts.push(Part { range, backward: time(&mut told)? });
    }
    if start == len { Ok(Profile { parts, cost }) } else { Err(wrong("that ends too early")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let parts = vec![Part { range: 0..5, backward: 0.5 }, Part { range: 5..7, backward: 0.0 }];
        Profile { parts, cost: Cost { each: 1e-3, per_byte: 1e-9 } }
    }

    #[test]
    fn profiles_are_told_as_they_are() {
        assert_eq!(decode(encode(&profile()), 7).unwrap(), profile());
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let refused = |bytes: Bytes, len| decode(bytes, len).unwrap_err().to_string();
        let whole = encode(&profile());
        assert_eq!(refused(whole.slice(..20), 7), "rank 0 sent a profile of 7 values in 20 bytes");
        assert_eq!(refused(whole.slice(..32), 7), "rank 0 sent a profile of 7 values that ends too early");
        assert_eq!(
            refused(whole.clone(), 6),
            "rank 0 sent a profile of 6 values that do not follow each other"
        );
        let mut late = profile();
        late.parts[0].backward = f64::NAN;
        assert_eq!(refused(encode(&late), 7), "rank 0 sent a profile of 7 values with a time that is none");
    }

    #[test]
    fn the_least_of_steps_with_the_most_parts_counts() {
        let mut watch = Watch::new();
        let mut step = |times: &[f64], counts| {
            let part = |(nth, time): (usize, &f64)| Part { range: nth..nth + 1, backward: *time };
            watch.step = times.iter().enumerate().map(part).collect();
            watch.ends_step(counts);
        };
        step(&[0.1, 0.1, 0.1], false);
        step(&[3.0], true);
        step(&[2.0, 1.0], true);
        step(&[1.0, 2.0], true);
        step(&[0.0], true);
        assert_eq!(watch.parts(2).iter().map(|part| part.backward).collect::<Vec<_>>(), [1.0, 1.0]);
        assert_eq!(watch.parts(3), [Part { range: 0..3, backward: 0.0 }], "what was not seen whole");
    }
}
