//! Everyone updates by its own gradient, and now and then all take the mean of their weights.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::pipeline::{Pipeline, number};
use super::rounds::Rounds;
use super::sharded::cut;
use super::{Computed, Layout, Owned, State, Strategy, Totals, Update};
use crate::collective::{Algorithm, Subgroup, all_reduce_sum};
use crate::fabric::{Fabric, Key};
use crate::reduce::AllReduce;

/// What all make of the mean of their weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outer {
    /// They go on with it (McDonald et al. 2010, Stich 2019).
    Mean,
    /// They go on while it is taken, and add what it differs from what they had when they began: by a round late. BAGUA's asynchronous
    /// model average (Gan et al. 2021), by steps, so that all begin the same rounds, or by a clock: [`Local::timed`].
    Late,
    /// SlowMo (Wang et al. 2020): u ← β·u + (x₀ − x̄)/η; x ← x₀ − α·η·u, where x₀ is what they began with.
    SlowMo {
        /// How much of its last step a step repeats, at least 0 and below 1.
        beta: f32,
        /// The size of a step, above 0.
        alpha: f32,
    },
    /// Elastic averaging (Zhang et al. 2015), synchronous: e = a·(x − x̃) is taken from each worker's weights and given to the center
    /// x̃, n·a = `pull`. An epoch ends with the center.
    Elastic {
        /// Above 0 and at most 1.
        pull: f32,
    },
}

/// Local SGD: each worker makes steps of its own, by the mean gradient of its own rows, and in every so many all of them meet. Sends
/// 2·(n−1)/n of all weights each time, tables included. An optimizer's moments stay where they are; at an epoch's end they are
/// averaged too.
pub struct Local {
    fabric: Arc<dyn Fabric>,
    layout: Layout,
    pipeline: Pipeline,
    every: u64,
    /// Steps before that, after each of which all meet; those that have been made of them.
    before: u64,
    made: u64,
    outer: Outer,
    /// When means begin, where steps do not say it.
    clock: Option<Rounds>,
    /// How many neighbouring ranks meet among themselves, and in how many steps.
    groups: Option<(usize, u64)>,
    step: u64,
    totals: Totals,
    /// Steps since all met.
    alone: u64,
    rate: f32,
    /// What all had when they met last: x₀ or x̃.
    met: Vec<f32>,
    /// u.
    slow: Vec<f32>,
    changed: Vec<Vec<u32>>,
}

impl Local {
    /// All meet in every so many steps.
    ///
    /// # Errors
    /// `InvalidArgument` naming the option that is out of its range; `Io` without threads.
    pub fn new(fabric: Arc<dyn Fabric>, layout: &Layout, every: u64, outer: Outer) -> Result<Local> {
        let within = |name: &str, value: f32, fits: bool, range: &str| match fits {
            true => Ok(()),
            false => Err(Error::argument(format!("{name} is {value}, expected {range}"))),
        };
        match outer {
            Outer::Mean | Outer::Late => {}
            Outer::SlowMo { beta, alpha } => {
                within("beta", beta, (0.0..1.0).contains(&beta), "at least 0 and below 1")?;
                within("alpha", alpha, alpha > 0.0 && alpha.is_finite(), "a finite number above 0")?;
            }
            Outer::Elastic { pull } => {
                within("pull", pull, pull > 0.0 && pull <= 1.0, "above 0 and at most 1")?;
            }
        }
        if every == 0 {
            return Err(Error::argument("every is 0, expected at least 1"));
        }
        Ok(Local {
            pipeline: sums(&fabric, layout)?,
            fabric,
            changed: vec![Vec::new(); layout.tables.len()],
            layout: layout.clone(),
            every,
            before: 0,
            made: 0,
            outer,
            clock: None,
            groups: None,
            step: 0,
            totals: Totals::default(),
            alone: 0,
            rate: 0.0,
            met: Vec::new(),
            slow: Vec::new(),
        })
    }

    /// All meet after each of the first `steps`: post-local SGD (Lin et al. 2020).
    pub fn after(mut self, steps: u64) -> Local {
        self.before = steps;
        self
    }

    /// A mean begins so long after the one before it began, as each worker's own clock says, whatever steps the workers have made by
    /// then; the steps of [`Local::new`] do not count. No worker begins one while that before has not come, so none is more than one ahead.
    /// Who ends an epoch waits for the others as long as the fabric's deadline. BAGUA's asynchronous model average as it is (Gan et al.
    /// 2021); runs are not repeatable.
    ///
    /// # Errors
    /// `InvalidArgument` over a network that is simulated, where no time passes by itself.
    pub fn timed(self, every: Duration) -> Result<Local> {
        if self.fabric.time().is_some() {
            let what =
                "means by a clock over a simulated network, expected async_average, which goes by steps";
            return Err(Error::argument(what));
        }
        Ok(Local { outer: Outer::Late, clock: Some(Rounds::new(every)), ..self })
    }

    /// With meetings of `size` neighbouring ranks in every `every` steps, as of the workers of one host (Lin et al. 2020).
    ///
    /// # Errors
    /// `InvalidArgument` for a number that does not divide the workers, or steps that do not divide those of all.
    pub fn in_groups(mut self, size: usize, every: u64) -> Result<Local> {
        let world = self.fabric.world();
        if size == 0 || !world.is_multiple_of(size) {
            let what =
                format!("groups of {size} workers, expected a number that divides the {world} workers");
            return Err(Error::argument(what));
        }
        if every == 0 || !self.every.is_multiple_of(every) {
            let all = self.every;
            return Err(Error::argument(format!(
                "groups meet in every {every} steps, expected a number that divides the {all} of all workers"
            )));
        }
        self.groups = Some((size, every));
        Ok(self)
    }

    /// All meet: `weights` become the same everywhere, but for what an elastic mean leaves.
    fn mean(&mut self, step: u64, weights: &mut [f32]) -> Result<()> {
        self.alone = 0;
        let world = self.fabric.world() as f32;
        match self.outer {
            Outer::Mean => self.pipeline.sum(step, 1.0 / world, &mut [weights]),
            Outer::Late => {
                self.arrive(weights)?;
                self.met = weights.to_vec();
                self.pipeline.begin_sum(step, 1.0 / world, weights)
            }
            Outer::SlowMo { beta, alpha } => {
                self.pipeline.sum(step, 1.0 / world, &mut [&mut *weights])?;
                self.slow.resize(weights.len(), 0.0);
                // A rate of 0 goes nowhere, and says nothing of the way.
                let way = if self.rate > 0.0 { 1.0 / self.rate } else { 0.0 };
                let all = weights.iter_mut().zip(&mut self.met).zip(&mut self.slow);
                for ((weight, met), slow) in all {
                    *slow = beta * *slow + way * (*met - *weight);
                    *met -= alpha * self.rate * *slow;
                    *weight = *met;
                }
                Ok(())
            }
            Outer::Elastic { pull } => {
                let a = pull / world;
                let mut moved: Vec<f32> =
                    weights.iter().zip(&self.met).map(|(weight, met)| a * (weight - met)).collect();
                weights.iter_mut().zip(&moved).for_each(|(weight, moved)| *weight -= moved);
                self.pipeline.sum(step, 1.0, &mut [&mut moved])?;
                self.met.iter_mut().zip(moved).for_each(|(met, moved)| *met += moved);
                Ok(())
            }
        }
    }

    /// What was begun by [`Outer::Late`] ends.
    fn arrive(&mut self, weights: &mut [f32]) -> Result<()> {
        let met = &self.met;
        self.pipeline.finish(|range, mean| {
            let all = weights[range.clone()].iter_mut().zip(mean).zip(&met[range]);
            all.for_each(|((weight, mean), met)| *weight += mean - met);
        })
    }

    /// Begins a mean when it is time and the one before it has come.
    fn mean_by_clock(&mut self, weights: &mut [f32]) -> Result<()> {
        let step = self.step;
        let Some(clock) = &mut self.clock else { return Ok(()) };
        clock.begin(step);
        self.fabric.check()?;
        if !clock.is_due() || !self.pipeline.is_done() {
            return Ok(());
        }
        let number = clock.next();
        self.mean(number, weights)
    }

    /// Begins the means that others have begun in this epoch, so that all have as many.
    fn catch_up(&mut self, step: u64, weights: &mut [f32]) -> Result<()> {
        let Some(clock) = &self.clock else { return Ok(()) };
        let key = Key::new(step, number(self.pipeline.len()), 0);
        let begun = self.fabric.broadcast(key, clock.begun().to_le_bytes().to_vec().into())?.wait()?;
        let read = |(rank, part): (usize, &Bytes)| {
            let wrong = |_| Error::corrupt(format!("rank {rank} sent {} bytes, expected 8", part.len()));
            <[u8; 8]>::try_from(&part[..]).map(u64::from_le_bytes).map_err(wrong)
        };
        let most = begun.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
        let most = most.into_iter().max().unwrap_or(0);
        while let Some(clock) = self.clock.as_mut().filter(|clock| clock.begun() < most) {
            let number = clock.next();
            self.mean(number, weights)?;
        }
        self.clock.iter_mut().for_each(Rounds::end);
        Ok(())
    }

    fn group_mean(&self, size: usize, weights: &mut [f32]) -> Result<()> {
        let colors: Vec<u32> = (0..self.fabric.world()).map(|rank| (rank / size) as u32).collect();
        let group = Subgroup::new(self.fabric.as_ref(), &colors)?;
        // Behind those of all.
        all_reduce_sum(&group, Key::new(self.step, number(self.pipeline.len()), 0), weights)?;
        weights.iter_mut().for_each(|weight| *weight /= size as f32);
        Ok(())
    }
}

impl Strategy for Local {
    fn owned_len(&self) -> usize {
        self.layout.len
    }

    fn owned(&self) -> Box<dyn Iterator<Item = Owned> + '_> {
        Box::new(std::iter::once(Owned { at: 0, range: 0..self.layout.len, first: self.fabric.rank() == 0 }))
    }

    fn begin(&mut self, step: u64, totals: Totals) -> Result<()> {
        (self.step, self.totals) = (step, totals);
        Ok(())
    }

    fn finish(&mut self, computed: Computed<'_>, update: &mut dyn Update) -> Result<Totals> {
        let Computed { weights, gradient, touched } = computed;
        if self.met.is_empty() && matches!(self.outer, Outer::SlowMo { .. } | Outer::Elastic { .. }) {
            self.met = weights.to_vec();
        }
        self.rate = update.rate();
        let scale = (self.totals.weight > 0.0).then(|| (1.0 / self.totals.weight) as f32);
        update_touched(&self.layout, weights, (gradient, touched), scale, update);
        self.alone += 1;
        let early = self.made < self.before;
        self.made += u64::from(early);
        let groups = self.groups.filter(|(_, every)| self.alone.is_multiple_of(*every));
        if self.clock.is_some() {
            self.mean_by_clock(weights)?;
        } else if early || self.alone == self.every {
            self.mean(self.step, weights)?;
        } else if let Some((size, _)) = groups {
            self.group_mean(size, weights)?;
        }
        let all = self.alone == 0 || groups.is_some();
        changed(&self.layout, &mut self.changed, touched, all);
        Ok(self.totals)
    }

    fn changed_rows(&self) -> &[Vec<u32>] {
        &self.changed
    }

    fn agrees(&self) -> bool {
        false
    }

    fn meet(&mut self, step: u64, vectors: &mut [&mut [f32]]) -> Result<()> {
        let Some((weights, others)) = vectors.split_first_mut() else { return Ok(()) };
        match self.outer {
            Outer::Late => {
                self.catch_up(step, weights)?;
                self.arrive(weights)?;
                self.pipeline.sum(step, 1.0 / self.fabric.world() as f32, &mut [weights])?;
                self.alone = 0;
            }
            _ if self.alone > 0 => self.mean(step, weights)?,
            _ => {}
        }
        match self.outer {
            Outer::Mean | Outer::Late => {}
            Outer::SlowMo { .. } => self.met = weights.to_vec(),
            Outer::Elastic { .. } if self.met.is_empty() => {}
            Outer::Elastic { .. } => weights.copy_from_slice(&self.met),
        }
        self.pipeline.sum(step + 1, 1.0 / self.fabric.world() as f32, others)
    }

    fn state(&self) -> State {
        let mut state = State::new();
        // The same everywhere: one will do.
        if self.fabric.rank() == 0 && !self.slow.is_empty() {
            state.insert(SLOW.to_owned(), self.slow.clone());
        }
        if self.fabric.rank() == 0 && self.made > 0 {
            state.insert(MADE.to_owned(), vec![self.made as f32]);
        }
        state
    }

    fn resume(&mut self, states: &[State]) -> Result<()> {
        let made = states.first().and_then(|state| state.get(MADE)?.first());
        self.made = made.map_or(0, |made| *made as u64);
        let slow = states.first().and_then(|state| state.get(SLOW)).cloned().unwrap_or_default();
        match slow.len() {
            0 => {}
            len if len == self.layout.len => self.slow = slow,
            len => {
                let expected = self.layout.len;
                return Err(Error::corrupt(format!("a slow momentum of {len} values, expected {expected}")));
            }
        }
        Ok(())
    }
}

/// Names in the state.
const SLOW: &str = "slow";
const MADE: &str = "steps";

/// What sums vectors as long as all weights.
pub(super) fn sums(fabric: &Arc<dyn Fabric>, layout: &Layout) -> Result<Pipeline> {
    let all = Layout { dense_len: layout.len, ..layout.clone() };
    let plain = |range: Range<usize>| (range, Box::new(AllReduce::new(Algorithm::TwoPhase)) as _);
    let buckets = cut(&all)?.into_iter().filter(|range| !range.is_empty()).map(plain);
    Pipeline::new(fabric.clone(), buckets.collect())
}

/// Updates what a worker has a gradient of: the dense part, and the rows that it touched.
pub(super) fn update_touched(
    layout: &Layout,
    weights: &mut [f32],
    (gradient, touched): (&[f32], &[Vec<u32>]),
    scale: Option<f32>,
    update: &mut dyn Update,
) {
    let Some(scale) = scale else { return };
    let dense = 0..layout.dense_len;
    if !dense.is_empty() {
        update.update(0, scale, &mut weights[dense.clone()], &gradient[dense]);
    }
    for (table, touched) in layout.tables.iter().zip(touched) {
        for range in touched.iter().map(|row| table.row(*row)) {
            update.update(range.start, scale, &mut weights[range.clone()], &gradient[range]);
        }
    }
}

/// Notes which rows a step has changed: those that it touched, or all.
pub(super) fn changed(layout: &Layout, changed: &mut [Vec<u32>], touched: &[Vec<u32>], all: bool) {
    for ((changed, touched), table) in changed.iter_mut().zip(touched).zip(&layout.tables) {
        changed.clear();
        match all {
            true => changed.extend(0..table.rows as u32),
            false => changed.extend(touched),
        }
    }
}
