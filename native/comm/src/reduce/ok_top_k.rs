//! The largest values of a sum, each summed by the owner of its region.

use std::ops::Range;

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::residual::{Memory, Side, alike};
use super::{Feedback, Reduce, State};
use crate::collective::slice_of;
use crate::compress::{Indices, Ratio, Sparse, check_finite, check_len, largest};
use crate::fabric::{Fabric, Key};

const NAME: &str = "ok-topk";

/// Steps from one exact estimate of the thresholds to the next, and from one of the regions.
const THRESHOLDS: u32 = 32;
const REGIONS: u32 = 64;

/// What a threshold that lets pass too few or too many is divided or multiplied by.
const LOCAL: f32 = 1.012;
const GLOBAL: f32 = 1.008;

/// Names in the state.
const LEAST: &str = "thresholds";
const STARTS: &str = "regions";
const STEP: &str = "step";

/// Ok-Topk (Li and Hoefler 2022, arXiv:2201.07598): about the k = max(1, ⌈ratio·d⌉) largest of the sums of about the k largest of each
/// worker's d values. A worker sends what is above its threshold to the owners of the regions, who add up and broadcast the sums above
/// a threshold that all have in common. What a worker has not sent, or has and is not among what was broadcast, it keeps.
///
/// Of `n` workers each sends about 16k·(n−1)/n bytes with [`Indices::Fixed`], as 8 for a value, however many they are.
///
/// Thresholds are those of exactly k values every 32 steps, when all sums are broadcast, 8k·(n−1) bytes at most. Between, they are
/// carried, moved by 1.2 and 0.8 percent where less than 2k/3 pass, or more than 5k/4 and 4k/3. Where more than 2k would pass, or fewer
/// than k/2, they are estimated at once, which the paper's code is content to move faster; so at most 2k values are sent, and given.
/// Regions are such that each worker's part of the k largest is about as long, by the mean over workers, every 64 steps.
///
/// Among more or fewer workers, thresholds and regions are estimated anew.
#[derive(Debug)]
pub struct OkTopK {
    ratio: Ratio,
    indices: Indices,
    memory: Memory,
    plan: Plan,
}

/// What goes on beside what is left.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// Since the regions were estimated.
    step: u32,
    /// The least magnitude that is sent, and that is broadcast.
    local: f32,
    global: f32,
    /// Where the regions of all workers but the first begin.
    starts: Vec<u32>,
}

impl OkTopK {
    /// Gives about `ratio` of the values, 0 < ratio ≤ 1.
    ///
    /// # Errors
    /// `InvalidArgument` when the ratio is not in its range.
    pub fn new(ratio: f64, indices: Indices) -> Result<OkTopK> {
        let (ratio, memory) = (Ratio::new(NAME, ratio)?, Memory::new(Feedback::On, &[])?);
        Ok(OkTopK { ratio, indices, memory, plan: Plan::default() })
    }
}

impl Reduce for OkTopK {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let (rank, len, count) = (fabric.rank(), values.len(), self.ratio.of(values.len()));
        check_len(NAME, len)?;
        let mut plan = self.plan.clone();
        self.memory.add(Side::Worker, values)?;
        let exact = plan.step.is_multiple_of(THRESHOLDS);
        let own = Sparse::at(choose(values, count, &mut plan.local, exact, [LOCAL, 1.25]), values);
        if plan.step == 0 {
            plan.starts = starts(fabric, key, &own.indices, len)?;
        }
        let left = self.memory.kept(Side::Worker);
        left.copy_from_slice(values);
        let encode = |some: Sparse, of: usize| some.encode_some(NAME, self.indices, of);
        let decode = |part: &[u8], of: usize| Sparse::decode_some(NAME, self.indices, part, of);
        let parts = (0..fabric.world()).map(|owner| plan.region(owner, len));
        let parts = parts.map(|region| encode(own.within(&region), region.len()));
        let received = fabric.shuffle(key.later(1)?, parts.collect::<Result<_>>()?)?.wait()?;
        values.fill(0.0);
        let region = plan.region(rank, len);
        let sums = &mut values[region.clone()];
        for (from, part) in received.iter().enumerate() {
            let theirs = decode(part, region.len());
            let theirs = theirs.map_err(|e| e.context(format!("reading the part of rank {from}")))?;
            theirs.iter().for_each(|(index, value)| sums[index] += value);
        }
        check_finite(sums)?;
        let least = if exact { 0.0 } else { plan.global };
        let part = encode(Sparse::at(passing(sums, least), sums), region.len())?;
        values.fill(0.0);
        let mut sums = Sparse::default();
        for (owner, part) in fabric.broadcast(key.later(2)?, part)?.wait()?.iter().enumerate() {
            let region = plan.region(owner, len);
            let theirs = decode(part, region.len());
            let theirs = theirs.map_err(|e| e.context(format!("reading the sums of rank {owner}")))?;
            sums.indices.extend(theirs.indices.iter().map(|index| index + region.start as u32));
            sums.values.extend(theirs.values);
        }
        for nth in choose(&sums.values, count, &mut plan.global, exact, [GLOBAL, 4.0 / 3.0]) {
            let (index, value) = (sums.indices[nth as usize], sums.values[nth as usize]);
            values[index as usize] = value;
            if own.indices.binary_search(&index).is_ok() {
                left[index as usize] = 0.0;
            }
        }
        plan.step = (plan.step + 1) % REGIONS;
        self.plan = plan;
        self.memory.commit();
        Ok(())
    }

    fn bytes(&self, _: usize, _: usize, _: usize) -> Option<u64> {
        None
    }

    fn state(&self) -> State {
        let mut state = self.memory.state();
        let Plan { step, local, global, starts } = &self.plan;
        state.insert(STEP.into(), vec![*step as f32]);
        state.insert(LEAST.into(), vec![*local, *global]);
        // Halves, as f32 have no more than 24 bits of an index.
        let halves = starts.iter().flat_map(|start| [(start >> 16) as f32, (start & 0xffff) as f32]);
        state.insert(STARTS.into(), halves.collect());
        state
    }

    fn check(&self, states: &[State], len: usize) -> Result<()> {
        self.memory.check(states, len)
    }

    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        self.memory.resume(states, rank, world)?;
        self.plan = Plan::default();
        if states.len() != world {
            return Ok(());
        }
        let mine = &states[rank..=rank];
        let (step, least, starts) = (alike(mine, STEP), alike(mine, LEAST), alike(mine, STARTS));
        let (&[step], &[local, global]) = (step.as_slice(), least.as_slice()) else {
            let text = format!("{NAME}: {} of {STEP} and {} of {LEAST}", step.len(), least.len());
            return Err(Error::corrupt(format!("{text}, expected 1 and 2")));
        };
        // None before the first step.
        let whole = |[high, low]: &[f32; 2]| (*high as u32) << 16 | *low as u32;
        let starts: Vec<u32> = starts.as_chunks().0.iter().map(whole).collect();
        if step > 0.0 && (starts.len() != world - 1 || !starts.is_sorted()) {
            let text = format!("{NAME}: {STARTS} from {starts:?}, expected {} rising starts", world - 1);
            return Err(Error::corrupt(text));
        }
        self.plan = Plan { step: step as u32 % REGIONS, local, global, starts };
        Ok(())
    }
}

impl Plan {
    /// What of `len` values a worker owns.
    fn region(&self, owner: usize, len: usize) -> Range<usize> {
        let end = |owner: usize| self.starts.get(owner).map_or(len, |start| len.min(*start as usize));
        let start = if owner == 0 { 0 } else { end(owner - 1) };
        start..end(owner)
    }
}

/// The values that are not 0 and not below a magnitude.
fn passing(values: &[f32], least: f32) -> Vec<u32> {
    let passes = |value: f32| value != 0.0 && value.abs() >= least;
    (0..).zip(values).filter(|(_, value)| passes(**value)).map(|(index, _)| index).collect()
}

/// The values that pass a threshold, which is moved by `by` where they are fewer than 2/3 or more than `most` of `count`; exactly
/// `count`, if there are as many that are not 0, where they are far from it.
fn choose(values: &[f32], count: usize, least: &mut f32, exact: bool, [by, most]: [f32; 2]) -> Vec<u32> {
    let passing = passing(values, *least);
    let found = passing.len();
    if exact || found > 2 * count || 2 * found < count {
        let mut chosen = largest(values, count.min(values.len()));
        chosen.retain(|index| values[*index as usize] != 0.0);
        let all = chosen.len() < count || values.len() == count;
        let smallest = chosen.iter().map(|index| values[*index as usize].abs()).min_by(f32::total_cmp);
        *least = smallest.filter(|_| !all).unwrap_or(0.0);
        return chosen;
    }
    if 3 * found < 2 * count {
        *least /= by;
    } else if found as f32 > most * count as f32 {
        *least *= by;
    }
    passing
}

/// Where the regions of all workers but the first begin: what cuts each worker's indices into equal parts, in the mean.
fn starts(fabric: &dyn Fabric, key: Key, indices: &[u32], len: usize) -> Result<Vec<u32>> {
    let world = fabric.world();
    let cut = |nth: usize| match indices.is_empty() {
        true => slice_of(len, nth, world).start as u32,
        false => indices[nth * indices.len() / world],
    };
    let own: Vec<u8> = (1..world).flat_map(|nth| cut(nth).to_le_bytes()).collect();
    let mut sums = vec![0u64; world - 1];
    for (from, part) in fabric.broadcast(key, Bytes::from(own))?.wait()?.iter().enumerate() {
        let cuts: Vec<u32> = part.as_chunks().0.iter().map(|cut| u32::from_le_bytes(*cut)).collect();
        let fit =
            part.len() == 4 * sums.len() && cuts.is_sorted() && cuts.iter().all(|cut| *cut as usize <= len);
        if !fit {
            let text = format!("{NAME}: rank {from} cuts {len} values at {cuts:?}");
            return Err(Error::corrupt(format!("{text}, expected {} rising cuts", sums.len())));
        }
        sums.iter_mut().zip(cuts).for_each(|(sum, cut)| *sum += u64::from(cut));
    }
    Ok(sums.into_iter().map(|sum| (sum / world as u64) as u32).collect())
}
