//! A worker's copy of a network on a device.

mod exchange;
mod launches;
mod together;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use firesteel_error::{Error, Kind, Result};
use firesteel_model::Graph;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use pulp::bytemuck;

use super::device::{Device, Stream};
use super::frame::{COUNTERS, PARTS};
use super::lower::Lowered;
use super::memory::{Memory, Pinned};
use super::moments::{DeviceMoments, NOW};
use super::peers::Peers;
use super::slot::{Layout, Slot, Words};
use crate::batch::{Batch, Totals, Values};
use crate::check::{check_inputs, check_length, check_outputs};
use crate::loss::Loss;
use crate::memory::product;
use crate::optim::Optimizer;
use crate::precision::{GradientCopy, Precision};
use crate::random::{dropout_key, fill};
use crate::replica::Sink;
use exchange::{List, Piece, pieces};
use launches::{Phase, run};
use together::Together;

/// The scale that f16's losses, which are sums and not means, begin with.
const SCALE: f32 = 1024.0;

/// Buffers that an error of memory names.
const NAMED: usize = 3;

/// A step that has ended: its number, and its totals.
pub(crate) type Done = (u64, Totals);

/// Flat weights, gradient and running statistics on a device, and the launches of a step.
#[derive(Debug)]
pub(crate) struct DeviceReplica {
    device: Arc<dyn Device>,
    graph: Arc<Graph>,
    lowered: Lowered,
    loss: Loss,
    precision: Precision,
    seed: u64,
    weights: Memory,
    gradient: Memory,
    statistics: Memory,
    /// The dense weights in another precision.
    factors: Option<Memory>,
    fixed: Memory,
    /// The sums of a batch's losses and weights, the state of f16's scale, then the sums of each block.
    totals: Memory,
    parts: [Memory; 2],
    /// Steps that are known to have been left out, as they overflowed.
    skipped: u64,
    /// Steps that have ended, of which nobody has heard.
    early: VecDeque<Done>,
    /// Where the dense gradient lies in 16 bits on its way, on both sides.
    narrow: Option<(GradientCopy, Memory, Pinned<u16>)>,
    moments: Option<DeviceMoments>,
    /// For workers whose devices add up among themselves.
    together: Option<Together>,
    /// Each with what stands behind its computation and behind its copy.
    pieces: Vec<Piece>,
    /// Of each table.
    lists: Vec<List>,
    /// Absent when there was no memory for it.
    room: Option<Room>,
}

/// What grows with the rows of a batch.
#[derive(Debug)]
struct Room {
    /// Batches that are not much smaller are filled up to so many.
    rows: usize,
    arena: Memory,
    slots: [Slot; 2],
    next: usize,
    /// What inference answers, on its way.
    answers: Pinned<u8>,
    /// Numbers of rows that have been computed: kernels are chosen, loaded and tuned for each.
    seen: BTreeSet<usize>,
}

impl DeviceReplica {
    /// Lowers a network and draws its weights from the seed, those of the CPU's.
    ///
    /// # Errors
    /// `InvalidArgument` when network and loss do not fit each other, `Io` when there is no memory, naming what takes most.
    pub(crate) fn new(
        device: Arc<dyn Device>,
        graph: Arc<Graph>,
        rows: usize,
        (loss, precision, seed): (Loss, Precision, u64),
    ) -> Result<DeviceReplica> {
        loss.check_outputs(graph.output_len())?;
        let lowered = Lowered::new(&graph, precision)?;
        let mut weights = vec![0.0f32; graph.len()];
        for (index, parameter) in graph.parameters().iter().enumerate() {
            let row = *parameter.shape.last().expect("a parameter has an axis");
            fill(&mut weights[parameter.range.clone()], parameter.init, row, seed, index);
        }
        let mut statistics = vec![0.0f32; graph.buffers_len()];
        for buffer in graph.buffers() {
            statistics[buffer.range.clone()].fill(buffer.start);
        }
        let largest = largest(&graph, &lowered, rows);
        let new = |bytes: usize| Memory::new(&device, bytes).map_err(named(&largest));
        let floats = |len: usize| new(product(len, 4)?);
        let scale = if precision == Precision::F16 { SCALE } else { 1.0 };
        let mut replica = DeviceReplica {
            weights: floats(graph.len())?,
            gradient: floats(graph.len())?,
            statistics: floats(graph.buffers_len())?,
            factors: (precision.bytes() < 4).then(|| new(2 * graph.dense_len())).transpose()?,
            fixed: floats(lowered.fixed)?,
            totals: new(16 * (device.blocks() as usize + 2))?,
            parts: [new(PARTS)?, new(4 * COUNTERS)?],
            pieces: pieces(&device, &lowered)?,
            lists: graph.tables().iter().map(|t| List::new(&device, 1, t.dims)).collect::<Result<_>>()?,
            room: None,
            skipped: 0,
            early: VecDeque::new(),
            narrow: None,
            moments: None,
            together: None,
            device: device.clone(),
            graph,
            lowered,
            loss,
            precision,
            seed,
        };
        replica.totals.set(&[0.0, 0.0, 0.0, 0.0, scale, 0.0, 0.0, 0.0])?;
        replica.weights.set(&weights)?;
        replica.statistics.set(&statistics)?;
        replica.reserve(rows)?;
        Ok(replica)
    }

    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Reads all weights.
    pub(crate) fn weights(&self, to: &mut Pinned<f32>) -> Result<()> {
        check_length("weights", to.len(), self.graph.len())?;
        self.weights.get_into(to)
    }

    pub(crate) fn set_weights(&self, weights: &[f32]) -> Result<()> {
        check_length("weights", weights.len(), self.graph.len())?;
        self.weights.set(weights)
    }

    pub(crate) fn statistics(&self) -> Result<Vec<f32>> {
        self.statistics.get(self.graph.buffers_len())
    }

    pub(crate) fn set_statistics(&self, statistics: &[f32]) -> Result<()> {
        check_length("statistics", statistics.len(), self.graph.buffers_len())?;
        self.statistics.set(statistics)
    }

    /// Says in which numbers [`DeviceReplica::step`] brings gradients here.
    pub(crate) fn copy_as(&mut self, copy: GradientCopy) -> Result<()> {
        let len = self.graph.dense_len();
        self.narrow = match copy {
            GradientCopy::F32 => None,
            _ => Some((copy, Memory::new(&self.device, 2 * len)?, Pinned::new(&self.device, len)?)),
        };
        Ok(())
    }

    /// Makes room for an optimizer's state, so that updates happen here, by the gradient of this worker or the sum over its peers.
    pub(crate) fn train_with(&mut self, optimizer: Optimizer, peers: Option<Peers>) -> Result<()> {
        self.early = self.settle()?.into();
        if let Some(room) = &mut self.room {
            // They name another state, or none.
            room.slots.iter_mut().for_each(|slot| slot.captured.clear());
        }
        let rows = self.room.as_ref().map_or(0, |room| room.rows);
        let largest = largest(&self.graph, &self.lowered, rows);
        peers.map_or(Ok(()), |peers| self.join(peers)).map_err(named(&largest))?;
        let moments = DeviceMoments::new(&self.device, optimizer, self.graph.len());
        self.moments = Some(moments.map_err(named(&largest))?);
        Ok(())
    }

    pub(crate) fn moments(&self) -> Option<&DeviceMoments> {
        self.moments.as_ref()
    }

    /// Makes room for batches of `rows`; steps of about that many are the fastest.
    ///
    /// # Errors
    /// `Io` when there is no memory for them, naming what takes most. Then weights are what they were.
    pub(crate) fn reserve(&mut self, rows: usize) -> Result<()> {
        let rows = rows.max(1);
        let before = self.room.as_ref().map_or(0, |room| room.rows);
        if rows <= before && rows * 2 > before {
            return Ok(());
        }
        self.early = self.settle()?.into();
        // There may not be memory for both.
        self.room = None;
        // Where shares of a batch differ from step to step, the next may be a little larger.
        let more = if before > 0 && rows > before { rows + rows / 16 } else { rows };
        let made = match self.make_room(more) {
            Err(_) if more > rows => self.make_room(rows),
            made => made,
        };
        self.room = Some(made.map_err(named(&largest(&self.graph, &self.lowered, rows)))?);
        Ok(())
    }

    fn make_room(&self, rows: usize) -> Result<Room> {
        let (device, graph) = (&self.device, &self.graph);
        let pixels = product(self.lowered.pixels, rows)?;
        if u32::try_from(pixels).is_err() {
            return Err(Error::argument(format!(
                "a batch of {rows} rows has {pixels} pixels in a layer, expected at most {} on a GPU",
                u32::MAX
            )));
        }
        let targets = (self.loss != Loss::SoftmaxCrossEntropy).then(|| graph.output_len());
        let layout = Layout::new(graph, self.precision, rows, targets, self.lowered.drops.len())?;
        Ok(Room {
            rows,
            // Buffers begin at multiples of eight times their bytes a row.
            arena: Memory::new(device, product(self.lowered.arena, rows.next_multiple_of(8))?)?,
            slots: [Slot::new(device, layout.clone())?, Slot::new(device, layout)?],
            next: 0,
            answers: Pinned::new(
                device,
                product(product(rows, graph.output_len())?, self.precision.bytes())?,
            )?,
            seen: BTreeSet::new(),
        })
    }

    /// The place of the state of f16's scale.
    fn overflow(&self) -> u64 {
        self.totals.address() + 16
    }

    fn room(&self) -> Result<&Room> {
        self.room.as_ref().ok_or_else(|| Error::internal("a replica without room for rows"))
    }

    fn slot(&mut self, nth: usize) -> Result<&mut Slot> {
        let room = self.room.as_mut().ok_or_else(|| Error::internal("a replica without room for rows"))?;
        Ok(&mut room.slots[nth])
    }

    /// The slot whose turn it is, and the step that was in it.
    fn take_slot(&mut self) -> Result<(usize, Option<Done>)> {
        let nth = self.room()?.next;
        let done = self.end(nth)?;
        if let Some(room) = &mut self.room {
            room.next = 1 - nth;
        }
        Ok((nth, done))
    }

    /// Waits for the step of a slot.
    fn end(&mut self, nth: usize) -> Result<Option<Done>> {
        let slot = self.slot(nth)?;
        let Some(step) = slot.step.take() else { return Ok(None) };
        slot.done.wait()?;
        let [loss, weight] = [slot.totals[0], slot.totals[1]];
        slot.warm |= slot.full;
        let [scale, found, _, skipped] = slot.overflow();
        if found != 0 && f32::from_bits(scale) <= 1.0 {
            let what =
                "a gradient is too large for a half float, even without a scale; bf16 has the range of f32";
            return Err(Error::new(Kind::Diverged, what));
        }
        self.skipped = u64::from(skipped + found);
        Ok(Some((step, Totals { loss, weight })))
    }

    /// Forward, backward and update, queued: it comes back before they have been done, and gives the totals of an earlier step,
    /// over all workers. `t` counts steps from 1.
    ///
    /// # Errors
    /// `InvalidData` when the batch does not fit the network; `Io` of anything that was queued.
    pub(crate) fn train(
        &mut self,
        (step, t): (u64, u64),
        batch: &Batch,
        learning_rate: f32,
    ) -> Result<Option<Done>> {
        if batch.rows == 0 && self.together.is_none() {
            return Ok(Some((step, Totals::default())));
        }
        self.check(batch)?;
        let queued = self.queue_step((step, t), batch, learning_rate);
        let done = self.or_finish(queued)?;
        self.early.extend(done);
        Ok(self.early.pop_front())
    }

    /// After an error nothing is queued that uses what is written next, and others wait in vain.
    fn or_finish<T>(&self, queued: Result<T>) -> Result<T> {
        if queued.is_err() {
            self.device.leave();
            // The first error is the one to tell.
            _ = self.device.finish();
        }
        queued
    }

    fn queue_step(
        &mut self,
        (step, t): (u64, u64),
        batch: &Batch,
        learning_rate: f32,
    ) -> Result<Option<Done>> {
        let (nth, done) = self.take_slot()?;
        // A step that overflowed was none.
        let t = t.saturating_sub(self.skipped).max(1);
        let moments = self.moments.as_mut().ok_or_else(|| Error::internal("there is no optimizer"))?;
        let now = moments.now(learning_rate, t);
        let rows = self.load(nth, step, batch, now)?;
        match self.together.as_ref().map(Together::len) {
            Some(len) => self.step_together(nth, rows, len)?,
            None => {
                let backward = Phase::Backward(0..self.lowered.backward.len());
                self.run_or_replay(nth, rows, Some(0), &[Phase::Forward, backward, Phase::Update])?;
            }
        }
        self.send_totals(nth, rows)?;
        self.slot(nth)?.step = Some(step);
        Ok(done)
    }

    /// Waits for all steps; the totals of those that nobody has heard of.
    ///
    /// # Errors
    /// `Io` of anything that was queued.
    pub(crate) fn settle(&mut self) -> Result<Vec<Done>> {
        let mut all: Vec<Done> = self.early.drain(..).collect();
        if let Some(next) = self.room.as_ref().map(|room| room.next) {
            for nth in [next, 1 - next] {
                all.extend(self.end(nth)?);
            }
        }
        Ok(all)
    }

    /// Forward and backward, as [`crate::Replica::step`]; `gradient` is the flat vector here.
    pub(crate) fn step(
        &mut self,
        step: u64,
        batch: &Batch,
        gradient: &mut Pinned<f32>,
        sink: &mut dyn Sink,
    ) -> Result<Totals> {
        if self.moments.is_some() {
            return Err(Error::internal(
                "a replica that updates its weights itself is to be trained, not stepped",
            ));
        }
        self.check(batch)?;
        let (nth, _) = self.take_slot()?;
        if batch.rows == 0 {
            let dense = self.graph.dense_len();
            self.slot(nth)?.touched.iter_mut().for_each(Vec::clear);
            gradient[..dense].fill(0.0);
            sink.forward_done(Totals::default())?;
            sink.ready(0..dense, &gradient[..dense])?;
            return Ok(Totals::default());
        }
        let stepped = self.step_in(nth, step, batch, gradient, sink);
        self.or_finish(stepped)
    }

    fn step_in(
        &mut self,
        nth: usize,
        step: u64,
        batch: &Batch,
        gradient: &mut Pinned<f32>,
        sink: &mut dyn Sink,
    ) -> Result<Totals> {
        let rows = self.load(nth, step, batch, [0.0; NOW])?;
        self.run_or_replay(nth, rows, Some(0), &[Phase::Forward])?;
        // An overflow anywhere is one of the whole: nothing goes out before it is known.
        let late = self.precision == Precision::F16;
        if late {
            let whole = Phase::Backward(0..self.lowered.backward.len());
            self.run_or_replay(nth, rows, Some(1), &[whole, Phase::Unscale])?;
        }
        self.send_totals(nth, rows)?;
        for place in 0..self.pieces.len() {
            if !late {
                let launches = self.pieces[place].launches.clone();
                self.run_or_replay(nth, rows, Some(1 + place), &[Phase::Backward(launches)])?;
            }
            self.fetch_piece(place, gradient)?;
        }
        self.fetch_lists(nth)?;
        self.slot(nth)?.step = Some(step);
        let mut totals = self.end(nth)?.map_or_else(Totals::default, |(_, totals)| totals);
        if self.slot(nth)?.overflow()[1] != 0 {
            totals = Totals::default();
        }
        let mut told = sink.forward_done(totals);
        for piece in &self.pieces {
            self.take_piece(piece, gradient)?;
            if told.is_ok() {
                told = sink.ready(piece.values.clone(), &gradient[piece.values.clone()]);
            }
        }
        self.take_lists(nth, gradient)?;
        told.map(|()| totals)
    }

    /// The rows of each table that the last [`DeviceReplica::step`] touched, sorted.
    pub(crate) fn touched(&self) -> &[Vec<u32>] {
        // The slot before the one whose turn it is.
        self.room.as_ref().map_or(&[], |room| &room.slots[1 - room.next].touched)
    }

    /// Inference, as [`crate::Replica::forward`].
    pub(crate) fn forward(&mut self, rows: usize, inputs: &[Values], output: &mut [f32]) -> Result<()> {
        check_inputs(&self.graph, rows, inputs)?;
        let outputs = self.graph.output_len();
        check_outputs(output.len(), rows, outputs)?;
        let most = self.room()?.rows;
        for first in (0..rows).step_by(most) {
            let range = first..(first + most).min(rows);
            let piece: Vec<Values> = inputs.iter().map(|input| self.rows_of(*input, rows, &range)).collect();
            let to = &mut output[range.start * outputs..range.end * outputs];
            self.infer(range.len(), &piece, to)?;
        }
        Ok(())
    }

    fn rows_of<'v>(&self, input: Values<'v>, rows: usize, range: &Range<usize>) -> Values<'v> {
        match input {
            Values::Dense(values) => {
                let len = values.len() / rows;
                Values::Dense(&values[range.start * len..range.end * len])
            }
            Values::Index(values) => Values::Index(&values[range.clone()]),
        }
    }

    /// The outputs of so many rows, for which there is room.
    fn infer(&mut self, rows: usize, inputs: &[Values], output: &mut [f32]) -> Result<()> {
        let (device, outputs) = (self.device.clone(), output.len());
        // Steps that are queued keep their slots.
        device.finish()?;
        let nth = self.room()?.next;
        let slot = self.slot(nth)?;
        slot.inputs(inputs, rows)?;
        slot.send(device.as_ref())?;
        let slot = &self.room()?.slots[nth];
        let addresses = slot.layout.inputs(slot.memory.address());
        let frame = self.frame(rows, &addresses, None)?;
        self.round_weights(&frame)?;
        run(&self.lowered.forward, &frame)?;
        let bytes = outputs * self.precision.bytes();
        let from = frame.address(self.lowered.output);
        let Some(room) = &mut self.room else { return Ok(()) };
        // SAFETY: there is room for the rows, and `finish` comes before anybody reads.
        unsafe { device.fetch(Stream::Compute, room.answers.at_mut(), from, bytes) }?;
        device.finish()?;
        widen(self.precision, &room.answers[..bytes], output);
        Ok(())
    }

    fn check(&mut self, batch: &Batch) -> Result<()> {
        check_inputs(&self.graph, batch.rows, batch.inputs)?;
        check_length("positions", batch.positions.len(), batch.rows)?;
        self.loss.check_batch(self.graph.output_len(), batch.rows, batch.targets, batch.weights)?;
        match self.room.as_ref().is_some_and(|room| room.rows >= batch.rows) {
            true => Ok(()),
            false => self.reserve(batch.rows),
        }
    }

    /// Queues a batch's way to the device; how many rows are to be computed.
    fn load(&mut self, nth: usize, step: u64, batch: &Batch, now: [f32; NOW]) -> Result<usize> {
        let key = |layer: &usize| dropout_key(self.seed, step, *layer);
        let keys: Vec<[u32; 2]> = self.lowered.drops.iter().map(key).collect();
        let (device, all) = (self.device.clone(), self.room()?.rows);
        let slot = self.slot(nth)?;
        slot.fill(batch, Words { now, keys: &keys })?;
        slot.send(device.as_ref())?;
        slot.full = batch.rows * 2 > all;
        Ok(if slot.full { all } else { batch.rows })
    }
}

impl Drop for DeviceReplica {
    /// Others may have ended too, and not for the same reason.
    fn drop(&mut self) {
        let mut slots = self.room.iter().flat_map(|room| &room.slots);
        if slots.any(|slot| slot.step.is_some()) {
            self.device.leave();
        }
    }
}

/// Values of a precision as f32.
pub(crate) fn widen(precision: Precision, from: &[u8], to: &mut [f32]) {
    let halves = || bytemuck::cast_slice::<u8, u16>(from);
    match precision {
        Precision::F32 | Precision::Tf32 => to.copy_from_slice(bytemuck::cast_slice(from)),
        Precision::Bf16 => halves().reinterpret_cast::<bf16>().convert_to_f32_slice(to),
        Precision::F16 => halves().reinterpret_cast::<f16>().convert_to_f32_slice(to),
    }
}

/// What of a plan takes most memory, for batches of `rows`.
fn largest(graph: &Graph, lowered: &Lowered, rows: usize) -> String {
    let layer = |(bytes, node): &(usize, usize)| {
        let name = &graph.nodes()[*node].name;
        ((*bytes as u64).saturating_mul(rows as u64), format!("layer '{name}' for {rows} rows"))
    };
    let mut all: Vec<(u64, String)> = lowered.largest.iter().take(NAMED).map(layer).collect();
    all.push((8 * graph.len() as u64, "weights and their gradient".to_owned()));
    all.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let texts: Vec<String> =
        all.iter().take(NAMED).map(|(bytes, what)| format!("{what} {bytes} bytes")).collect();
    texts.join(", ")
}

/// Says of an error of memory what takes most.
fn named(largest: &str) -> impl FnOnce(Error) -> Error + '_ {
    move |e| match e.kind() {
        Kind::Io => Error::new(Kind::Io, format!("{e}; the plan's largest: {largest}")),
        _ => e,
    }
}
