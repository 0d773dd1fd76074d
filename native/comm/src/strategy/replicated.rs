//! Everyone learns the mean gradient, and updates everything.

use std::ops::Range;
use std::sync::Arc;

use firesteel_error::{Error, Result};

use super::pipeline::{Agreement, Pipeline, Scale, number};
use super::summed::Summed;
use super::tables::Tables;
use super::tuning::Tuning;
use super::{Computed, Layout, Owned, State, Strategy, Totals, Update, clear};
use crate::fabric::{Fabric, Key};
use crate::reduce::Reduce;
use crate::sparse::SumRows;

/// The phase of totals; those of rows follow. Behind the buckets there is one more for them.
const OF_TOTALS: u16 = 0;
const OF_ROWS: u16 = 1;

/// Makes a bucket's reduction; it is told the bucket's place.
pub type Make<'a> = dyn Fn(&Range<usize>) -> Result<Box<dyn Reduce>> + 'a;

/// Data-parallel training by any [`Reduce`]: buckets of the mean gradient are reduced while backward computes the next, and each
/// worker runs the optimizer on all of the dense part, of which it keeps all state. Rows of tables have owners, as with
/// [`super::Sharded`], unless there is a [`SumRows`] for them.
///
/// What is reduced are means over the rows of all workers, whose weights are summed first: what error feedback keeps is in the same
/// unit in each step.
pub struct Replicated {
    fabric: Arc<dyn Fabric>,
    pipeline: Pipeline,
    tables: OfTables,
    dense_len: usize,
    gaps: Vec<Range<usize>>,
    /// While something may still change.
    tuning: Option<Tuning>,
    step: u64,
    agreement: Option<Arc<Agreement>>,
    staged: usize,
    begun: usize,
}

impl Replicated {
    /// Divides the dense part into the `buckets`, each with a reduction.
    ///
    /// # Errors
    /// Those of `make`; `InvalidArgument` for a table whose range is not rows × dims; `Io` without threads.
    pub fn new(
        fabric: Arc<dyn Fabric>,
        layout: &Layout,
        buckets: Vec<Range<usize>>,
        make: &Make<'_>,
    ) -> Result<Replicated> {
        let tables = OfTables::Owned(Tables::new(&layout.tables, layout.dense_len, fabric.as_ref())?);
        let with = |range: Range<usize>| {
            let of_bucket = OfBucket { reduce: make(&range)?, range: range.clone() };
            Ok((range, Box::new(of_bucket) as Box<dyn Reduce>))
        };
        let buckets = buckets.into_iter().filter(|range| !range.is_empty()).map(with);
        let pipeline = Pipeline::new(fabric.clone(), buckets.collect::<Result<_>>()?)?;
        let dense_len = layout.dense_len;
        Ok(Replicated {
            fabric,
            pipeline,
            tables,
            dense_len,
            gaps: layout.gaps(),
            tuning: None,
            step: 0,
            agreement: None,
            staged: 0,
            begun: 0,
        })
    }

    /// With a sum for the rows of each table, of which everyone updates all.
    ///
    /// # Errors
    /// Those of `make`; `InvalidArgument` for a table that is too large for any memory.
    pub fn with_rows(
        mut self,
        layout: &Layout,
        make: &dyn Fn() -> Result<Box<dyn SumRows>>,
    ) -> Result<Replicated> {
        self.tables = OfTables::Summed(Summed::new(layout, make)?, layout.len);
        Ok(self)
    }

    /// With algorithms or buckets that are chosen by what the first steps take, in the place of reductions that keep nothing.
    pub(super) fn tuned(mut self, tuning: Tuning) -> Replicated {
        self.tuning = Some(tuning).filter(|tuning| !tuning.is_over());
        self
    }

    /// Changes what the last steps say is to be changed.
    fn tune(&mut self, step: u64) -> Result<()> {
        let Some(tuning) = &mut self.tuning else { return Ok(()) };
        let buckets: Vec<Range<usize>> =
            (0..self.pipeline.len()).map(|nth| self.pipeline.range(nth)).collect();
        if let Some(pipeline) = tuning.begin(&self.fabric, step, &buckets)? {
            self.pipeline = pipeline;
        }
        self.tuning.take_if(|tuning| tuning.is_over());
        Ok(())
    }

    fn behind(&self, phase: u16) -> Key {
        Key::new(self.step, number(self.pipeline.len()), phase)
    }
}

/// The reduction of a bucket, which knows how long that is before the first step.
#[derive(Debug)]
struct OfBucket {
    reduce: Box<dyn Reduce>,
    range: Range<usize>,
}

impl Reduce for OfBucket {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        self.reduce.sum(fabric, key, values)
    }

    fn bytes(&self, len: usize, rank: usize, world: usize) -> Option<u64> {
        self.reduce.bytes(len, rank, world)
    }

    fn state(&self) -> State {
        self.reduce.state()
    }

    fn check(&self, states: &[State], len: usize) -> Result<()> {
        self.reduce.check(states, len)
    }

    fn resume(&mut self, states: &[State], rank: usize, world: usize) -> Result<()> {
        let OfBucket { reduce, range } = self;
        let resumed = reduce.check(states, range.len()).and_then(|()| reduce.resume(states, rank, world));
        resumed.map_err(|e| e.context(format!("the bucket of {range:?}")))
    }
}

/// Refuses states of more buckets than there are.
fn check_buckets(states: &[State], buckets: usize) -> Result<()> {
    let bucket = |name: &String| name.split_once('/').and_then(|(number, _)| number.parse::<usize>().ok());
    match states.iter().flat_map(State::keys).filter_map(bucket).max() {
        Some(most) if most >= buckets => {
            Err(Error::corrupt(format!("a state of bucket {most}, expected {buckets} buckets")))
        }
        _ => Ok(()),
    }
}

/// What becomes of the rows of tables.
enum OfTables {
    Owned(Tables),
    /// With the length of all weights.
    Summed(Summed, usize),
}

impl Strategy for Replicated {
    fn owned_len(&self) -> usize {
        match &self.tables {
            OfTables::Owned(tables) => tables.end(),
            OfTables::Summed(_, len) => *len,
        }
    }

    fn owned(&self) -> Box<dyn Iterator<Item = Owned> + '_> {
        let whole = |len| Owned { at: 0, range: 0..len, first: self.fabric.rank() == 0 };
        match &self.tables {
            OfTables::Owned(tables) => {
                Box::new(std::iter::once(whole(self.dense_len)).chain(tables.owned(self.fabric.as_ref())))
            }
            OfTables::Summed(_, len) => Box::new(std::iter::once(whole(*len))),
        }
    }

    fn begin(&mut self, step: u64, totals: Totals) -> Result<()> {
        self.tune(step)?;
        self.step = step;
        (self.staged, self.begun) = (0, 0);
        self.agreement = Some(Agreement::ask(self.fabric.as_ref(), self.behind(OF_TOTALS), totals)?);
        if let Some(tuning) = &mut self.tuning {
            tuning.goes_on(self.fabric.as_ref());
        }
        Ok(())
    }

    fn ready(&mut self, range: Range<usize>, gradient: &[f32]) -> Result<()> {
        if let Some(tuning) = &mut self.tuning {
            tuning.finished(self.fabric.as_ref(), &range);
        }
        if range.start != self.staged || range.len() != gradient.len() {
            return Err(Error::internal(format!("gradient of {range:?} follows {}", self.staged)));
        }
        let agreement = self.agreement.as_ref().ok_or_else(not_begun)?.clone();
        self.staged = range.end;
        while self.begun < self.pipeline.len() && self.pipeline.stage(self.begun, &range, gradient) {
            let key = Key::new(self.step, number(self.begun), 0);
            self.pipeline.begin(self.begun, key, Scale::Mean(agreement.clone()))?;
            self.begun += 1;
        }
        if let Some(tuning) = &mut self.tuning {
            tuning.goes_on(self.fabric.as_ref());
        }
        Ok(())
    }

    fn finish(&mut self, computed: Computed<'_>, update: &mut dyn Update) -> Result<Totals> {
        let Computed { weights, gradient, touched } = computed;
        let fabric = self.fabric.clone();
        let key = self.behind(OF_ROWS);
        let posted = match &mut self.tables {
            OfTables::Owned(tables) => tables.post(fabric.as_ref(), key, gradient, touched)?,
            OfTables::Summed(..) => None,
        };
        if self.begun < self.pipeline.len() {
            let (found, expected) = (self.begun, self.pipeline.len());
            return Err(Error::internal(format!(
                "{found} of {expected} buckets are ready at the step's end"
            )));
        }
        let agreement = self.agreement.take().ok_or_else(not_begun)?;
        let totals = agreement.totals(fabric.as_ref())?;
        let (some, scale) = (totals.weight > 0.0, agreement.scale(fabric.as_ref())?);
        let means = match &mut self.tables {
            OfTables::Summed(..) if !some => Vec::new(),
            OfTables::Owned(_) => Vec::new(),
            OfTables::Summed(tables, _) => {
                // Beside the buckets, which the lanes reduce meanwhile.
                let key = Key { bucket: key.bucket.saturating_add(1), phase: 0, ..key };
                tables.sum(fabric.as_ref(), key, scale, (gradient, touched))?
            }
        };
        self.pipeline.finish(|range, mean| {
            if some {
                update.update(range.start, 1.0, &mut weights[range], mean);
            }
        })?;
        clear(&self.gaps, weights);
        match &mut self.tables {
            OfTables::Owned(tables) => {
                let place = (fabric.as_ref(), key);
                let sent = tables.update(place, posted, some.then_some(scale), weights, update)?;
                tables.take(sent, fabric.world(), weights)?;
            }
            OfTables::Summed(tables, _) => {
                tables.update(means, weights, update);
            }
        }
        Ok(totals)
    }

    fn changed_rows(&self) -> &[Vec<u32>] {
        match &self.tables {
            OfTables::Owned(tables) => tables.changed(),
            OfTables::Summed(tables, _) => tables.changed(),
        }
    }

    fn agrees(&self) -> bool {
        true
    }

    fn state(&self) -> State {
        let mut state = self.pipeline.state();
        if let OfTables::Summed(tables, _) = &self.tables {
            state.extend(tables.state());
        }
        state
    }

    fn resume(&mut self, states: &[State]) -> Result<()> {
        check_buckets(states, self.pipeline.len())?;
        self.pipeline.resume(states)?;
        match &mut self.tables {
            OfTables::Owned(_) => Ok(()),
            OfTables::Summed(tables, _) => tables.resume(states, &self.fabric),
        }
    }
}

fn not_begun() -> Error {
    Error::internal("a step that was not begun")
}
