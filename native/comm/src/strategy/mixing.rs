//! Everyone updates by its own gradient, and takes a mean with its neighbours.

use std::ops::Range;
use std::sync::Arc;

use firesteel_error::Result;

use super::local::{changed, sums, update_touched};
use super::pipeline::Pipeline;
use super::{Computed, Layout, Owned, State, Strategy, Totals, Update, clear};
use crate::fabric::{Fabric, Key};
use crate::gossip::{Descent, Gossip};

/// Decentralised training by any [`Gossip`]: no worker waits for more than its neighbours. At an epoch's end all take the mean of
/// their weights and of the optimizer's state, so that they can be validated, kept and gone on from; what goes on of the gossip
/// itself is averaged too.
///
/// Tables are mixed as the dense part is, whole.
pub struct Mixing {
    fabric: Arc<dyn Fabric>,
    layout: Layout,
    gaps: Vec<Range<usize>>,
    gossip: Box<dyn Gossip>,
    /// Of means at an epoch's end.
    pipeline: Pipeline,
    step: u64,
    totals: Totals,
    changed: Vec<Vec<u32>>,
}

impl Mixing {
    /// By a gossip.
    ///
    /// # Errors
    /// `InvalidArgument` for a world without its topology; `Io` without threads.
    pub fn new(fabric: Arc<dyn Fabric>, layout: &Layout, gossip: Box<dyn Gossip>) -> Result<Mixing> {
        gossip.check(fabric.world())?;
        Ok(Mixing {
            pipeline: sums(&fabric, layout)?,
            fabric,
            layout: layout.clone(),
            gaps: layout.gaps(),
            gossip,
            step: 0,
            totals: Totals::default(),
            changed: vec![Vec::new(); layout.tables.len()],
        })
    }
}

/// The optimizer's way down by what a step has computed.
struct Way<'a> {
    layout: &'a Layout,
    gradient: &'a [f32],
    touched: &'a [Vec<u32>],
    /// None where this worker had no row.
    scale: Option<f32>,
    update: &'a mut dyn Update,
}

impl Descent for Way<'_> {
    fn rate(&self) -> f32 {
        self.update.rate()
    }

    fn gradient(&self) -> Vec<f32> {
        let mut whole = vec![0.0; self.layout.len];
        let Some(scale) = self.scale else { return whole };
        let mut copy = |range: Range<usize>| {
            let of_range = whole[range.clone()].iter_mut().zip(&self.gradient[range]);
            of_range.for_each(|(mean, g)| *mean = scale * g);
        };
        copy(0..self.layout.dense_len);
        for (table, touched) in self.layout.tables.iter().zip(self.touched) {
            touched.iter().for_each(|row| copy(table.row(*row)));
        }
        whole
    }

    fn go(&mut self, weights: &mut [f32]) {
        update_touched(self.layout, weights, (self.gradient, self.touched), self.scale, self.update);
    }

    fn go_along(&mut self, direction: &[f32], weights: &mut [f32]) {
        self.update.update(0, 1.0, weights, direction);
    }
}

impl Strategy for Mixing {
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
        let scale = (self.totals.weight > 0.0).then(|| (1.0 / self.totals.weight) as f32);
        let mut way = Way { layout: &self.layout, gradient, touched, scale, update };
        self.gossip.step(self.fabric.as_ref(), Key::new(self.step, 0, 0), weights, &mut way)?;
        clear(&self.gaps, weights);
        changed(&self.layout, &mut self.changed, touched, true);
        Ok(self.totals)
    }

    fn changed_rows(&self) -> &[Vec<u32>] {
        &self.changed
    }

    fn agrees(&self) -> bool {
        false
    }

    fn meet(&mut self, step: u64, vectors: &mut [&mut [f32]]) -> Result<()> {
        let scale = 1.0 / self.fabric.world() as f32;
        self.pipeline.sum(step, scale, vectors)?;
        self.gossip.restart();
        let mut kept = self.gossip.state();
        let whole = |vector: &&mut Vec<f32>| vector.len() == self.layout.len;
        let mut whole: Vec<&mut [f32]> = kept.iter_mut().filter(whole).map(Vec::as_mut_slice).collect();
        self.pipeline.sum(step + vectors.len() as u64, scale, &mut whole)?;
        self.gossip.set_state(kept, self.layout.len)
    }

    fn state(&self) -> State {
        // After a meeting it is the same everywhere: one will do.
        if self.fabric.rank() > 0 {
            return State::new();
        }
        let kept = self.gossip.state().into_iter().enumerate();
        kept.filter(|(_, vector)| !vector.is_empty()).map(|(nth, vector)| (nth.to_string(), vector)).collect()
    }

    fn resume(&mut self, states: &[State]) -> Result<()> {
        match states.first() {
            Some(state) if !state.is_empty() => {
                self.gossip.set_state(state.values().cloned().collect(), self.layout.len)
            }
            _ => Ok(()),
        }
    }
}
