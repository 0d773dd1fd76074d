//! What a step launches, and when that is captured.

use std::ops::Range;

use firesteel_error::{Error, Result};

use super::DeviceReplica;
use super::together::Together;
use crate::cuda::device::Stream;
use crate::cuda::frame::{Frame, Step, Touched};
use crate::cuda::lower::Launch;
use crate::cuda::memory::Captured;
use crate::cuda::moments::Part;
use crate::cuda::slot::Slot;
use crate::cuda::source::Arg;
use crate::loss::Loss;
use crate::precision::Precision;

/// A part of a step.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Up to the loss.
    Forward,
    /// Some launches of backward.
    Backward(Range<usize>),
    /// What f16 does behind backward, for a worker that does not update here.
    Unscale,
    Update,
    /// Of workers that add up among themselves: zeros where backward writes only what it touches, marks of that, and lists of
    /// what all have marked.
    Clear,
    Mark,
    List,
}

impl DeviceReplica {
    /// Queues parts of a step. Those of full batches, which are the same each time, are captured from the second time on, each set
    /// at its `place`.
    pub(super) fn run_or_replay(
        &mut self,
        nth: usize,
        rows: usize,
        place: Option<usize>,
        phases: &[Phase],
    ) -> Result<()> {
        let queue = |replica: &Self| phases.iter().try_for_each(|phase| replica.queue(nth, rows, phase));
        let room = self.room()?;
        let slot = &room.slots[nth];
        let Some(place) = place.filter(|_| slot.warm && rows == room.rows) else { return queue(self) };
        if slot.captured.get(place).is_none_or(Option::is_none) {
            let captured = Captured::new(&self.device, || queue(self))?;
            let all = &mut self.slot(nth)?.captured;
            all.resize_with(all.len().max(place + 1), || None);
            all[place] = Some(captured);
        }
        match &self.room()?.slots[nth].captured[place] {
            // SAFETY: whoever drops what the launches use waits for what is queued first.
            Some(captured) => unsafe { captured.replay() },
            None => Err(Error::internal("launches were captured, and are gone")),
        }
    }

    /// Queues a part of a step, launch by launch.
    pub(super) fn queue(&self, nth: usize, rows: usize, phase: &Phase) -> Result<()> {
        let slot = &self.room()?.slots[nth];
        let base = slot.memory.address();
        let (inputs, touched) = (slot.layout.inputs(base), slot.layout.touched(base));
        let frame = self.frame(rows, &inputs, Some(slot.layout.step(base, &touched)))?;
        match phase {
            Phase::Forward => {
                self.round_weights(&frame)?;
                run(&self.lowered.forward, &frame)?;
                self.queue_loss(&frame, slot)
            }
            Phase::Backward(launches) => run(&self.lowered.backward[launches.clone()], &frame),
            Phase::Unscale => self.unscale(&frame, &touched),
            Phase::Update => self.update(&frame, slot, &touched),
            Phase::Clear => self.together()?.clear(&frame, self.graph.dense_len()),
            Phase::Mark => self.together()?.mark(&frame, &touched),
            Phase::List => self.together()?.list(&frame, self.graph.tables().iter().map(|table| table.rows)),
        }
    }

    pub(super) fn frame<'a>(
        &'a self,
        rows: usize,
        inputs: &'a [u64],
        training: Option<Step<'a>>,
    ) -> Result<Frame<'a>> {
        let room = self.room()?;
        Ok(Frame {
            device: self.device.as_ref(),
            places: &self.lowered.places,
            rows: rows as u64,
            room: room.rows.next_multiple_of(8) as u64,
            bytes: self.precision.bytes() as u64,
            arena: room.arena.address(),
            fixed: self.fixed.address(),
            weights: self.weights.address(),
            factors: self.factors.as_ref().unwrap_or(&self.weights).address(),
            gradient: self.gradient.address(),
            statistics: self.statistics.address(),
            parts: [0, 1].map(|i| self.parts[i].address()),
            inputs,
            training,
        })
    }

    /// Dense weights in the precision of the values that they meet.
    pub(super) fn round_weights(&self, frame: &Frame) -> Result<()> {
        let Some(factors) = &self.factors else { return Ok(()) };
        let len = self.graph.dense_len() as u64;
        let args = [Arg::Pointer(self.weights.address()), Arg::Pointer(factors.address()), Arg::U64(len)];
        frame.each("round_weights", len, &args)
    }

    /// The loss, its gradient, and their sums.
    pub(super) fn queue_loss(&self, frame: &Frame, slot: &Slot) -> Result<()> {
        let base = slot.memory.address();
        let sum = self.totals.address();
        // A warp a row.
        let blocks = frame.rows.div_ceil(8).clamp(1, u64::from(self.device.blocks()));
        let logits = frame.pointer(self.lowered.output);
        let read = [slot.layout.targets(base), slot.layout.weights(base)].map(Arg::Pointer);
        let gradient = frame.pointer(self.lowered.output_gradient);
        let written = [gradient, Arg::Pointer(sum + 32), Arg::Pointer(self.overflow())];
        let sizes = [Arg::U64(frame.rows), Arg::U32(self.graph.output_len() as u32)];
        let args = [&[logits][..], &read, &written, &sizes].concat();
        let (kind, delta) = match self.loss {
            Loss::SoftmaxCrossEntropy => (None, 0.0),
            Loss::BinaryCrossEntropy => (Some(0), 0.0),
            Loss::MeanSquaredError => (Some(1), 0.0),
            Loss::Huber { delta } => (Some(2), delta),
        };
        match kind {
            None => frame.launch("softmax_cross_entropy", blocks, &args)?,
            Some(kind) => {
                let kind = [Arg::U32(kind), Arg::F32(delta)];
                frame.launch("loss_by_value", blocks, &[&args[..], &kind].concat())?;
            }
        }
        frame.launch("sum_totals", 1, &[Arg::Pointer(sum + 32), Arg::Pointer(sum), Arg::U32(blocks as u32)])
    }

    fn together(&self) -> Result<&Together> {
        self.together.as_ref().ok_or_else(|| Error::internal("a replica that has joined no others"))
    }

    /// What an update or an exchange goes over: all dense values, and the touched rows of each table.
    pub(super) fn parts(&self, rows: u64, touched: &[Touched]) -> Vec<Part> {
        let dense = Part { start: 0, len: self.graph.dense_len(), rows: None };
        let tables = self.graph.tables().iter().zip(touched).enumerate();
        let tables = tables.map(|(nth, (table, touched))| match &self.together {
            Some(together) => together.part(nth, table),
            None => Part {
                start: table.range.start,
                len: rows as usize * table.dims,
                rows: Some((table.dims, [touched.rows, touched.count])),
            },
        });
        std::iter::once(dense).chain(tables).filter(|part| part.len > 0).collect()
    }

    pub(super) fn update(&self, frame: &Frame, slot: &Slot, touched: &[Touched]) -> Result<()> {
        let moments = self.moments.as_ref().ok_or_else(|| Error::internal("there is no optimizer"))?;
        let now = slot.layout.now(slot.memory.address());
        let parts = self.parts(frame.rows, touched);
        if self.precision == Precision::F16 {
            self.each_part(frame, "find_overflow", &parts)?;
        }
        let at = [frame.weights, frame.gradient, now, self.totals.address()];
        parts.iter().try_for_each(|part| moments.update(*part, at))
    }

    pub(super) fn unscale(&self, frame: &Frame, touched: &[Touched]) -> Result<()> {
        let parts = self.parts(frame.rows, touched);
        self.each_part(frame, "find_overflow", &parts)?;
        self.each_part(frame, "unscale", &parts)
    }

    pub(super) fn each_part(&self, frame: &Frame, kernel: &'static str, parts: &[Part]) -> Result<()> {
        parts.iter().try_for_each(|part| {
            let gradient = Arg::Pointer(frame.gradient + 4 * part.start as u64);
            let args = [&[gradient][..], &part.args(), &[Arg::Pointer(self.overflow())]].concat();
            frame.each(kernel, part.len as u64, &args)
        })
    }

    /// Queues the totals' way here, behind all that was queued, and the next scale of f16.
    pub(super) fn send_totals(&mut self, nth: usize, rows: usize) -> Result<()> {
        let (device, from, overflow) = (self.device.clone(), self.totals.address(), self.overflow());
        let to = self.slot(nth)?.totals.at_mut();
        // SAFETY: both have 32 bytes, and nobody reads them before `done` has been waited for.
        unsafe { device.fetch(Stream::Compute, to, from, 32) }?;
        if self.precision == Precision::F16 {
            self.frame(rows, &[], None)?.launch("settle_overflow", 1, &[Arg::Pointer(overflow)])?;
        }
        self.slot(nth)?.done.record(Stream::Compute)
    }
}

pub(super) fn run(launches: &[Launch], frame: &Frame) -> Result<()> {
    launches.iter().try_for_each(|launch| launch(frame))
}
