//! Where a batch waits for its step: in memory that the device copies from by itself, and on the device. There are two, so that
//! one fills while the other is computed.

use std::sync::Arc;

use firesteel_error::{Error, Result};
use firesteel_model::{Graph, InputKind, Source};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use pulp::bytemuck;

use super::device::{Device, Stream};
use super::frame::{Step, Touched};
use super::memory::{Captured, Event, Memory, Pinned};
use super::moments::NOW;
use crate::batch::{Batch, Targets, Values};
use crate::memory::product;
use crate::precision::Precision;

/// Words before the keys of dropout: how many rows, and the numbers of the optimizer.
const KEYS: usize = 1 + NOW;

/// Where the parts of a batch lie, in bytes from its start.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    precision: Precision,
    rows: usize,
    /// Layers that drop.
    drops: usize,
    positions: usize,
    weights: usize,
    /// Where, and how many numbers a row, or none for classes.
    targets: (usize, Option<usize>),
    /// Where each is, and how many values it has a row; one that has none is of indices.
    inputs: Vec<(usize, Option<usize>)>,
    /// Which input each table reads, and how many rows it has.
    tables: Vec<[usize; 2]>,
    /// Of each table: its touched rows, where the samples of each begin, and these in order.
    lists: Vec<[usize; 3]>,
    bytes: usize,
}

impl Layout {
    /// For batches of up to `rows`, whose targets are so many numbers a row, or classes. So many layers drop.
    ///
    /// # Errors
    /// `Io` when that is more than can be counted.
    pub(crate) fn new(
        graph: &Graph,
        precision: Precision,
        rows: usize,
        targets: Option<usize>,
        drops: usize,
    ) -> Result<Layout> {
        let mut bytes = 0;
        let mut part = |len: usize, each: usize| -> Result<usize> {
            let (at, more) = (bytes, product(len, each)?);
            bytes = product(1, at + more)?.next_multiple_of(64);
            Ok(at)
        };
        let tables = graph.tables().iter().map(|table| {
            match graph.nodes()[graph.parameters()[table.parameter].node].sources[0] {
                Source::Input(input) => Ok([input, table.rows]),
                Source::Node(_) => Err(Error::internal("an embedding reads no input")),
            }
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        part(KEYS + 2 * drops + tables.len(), 4)?;
        let positions = part(rows, 8)?;
        let weights = part(rows, 4)?;
        let targets = (part(product(rows, targets.unwrap_or(1))?, 4)?, targets);
        let inputs = graph.spec().inputs.iter().map(|input| match &input.kind {
            InputKind::Dense { shape } => {
                let len = shape.iter().product();
                Ok((part(product(rows, len)?, precision.bytes())?, Some(len)))
            }
            InputKind::Index { .. } => Ok((part(rows, 4)?, None)),
        });
        let inputs = inputs.collect::<Result<_>>()?;
        let list = |_: &[usize; 2]| Ok([part(rows, 4)?, part(rows + 1, 4)?, part(rows, 4)?]);
        let lists = tables.iter().map(list).collect::<Result<_>>()?;
        Ok(Layout { precision, rows, drops, positions, weights, targets, inputs, tables, lists, bytes })
    }

    /// The place of the number of rows.
    pub(crate) fn count(&self, base: u64) -> u64 {
        base
    }

    /// The place of the optimizer's numbers.
    pub(crate) fn now(&self, base: u64) -> u64 {
        base + 4
    }

    /// The place of the rows' weights.
    pub(crate) fn weights(&self, base: u64) -> u64 {
        base + self.weights as u64
    }

    /// The place of the targets.
    pub(crate) fn targets(&self, base: u64) -> u64 {
        base + self.targets.0 as u64
    }

    /// The places of the inputs.
    pub(crate) fn inputs(&self, base: u64) -> Vec<u64> {
        self.inputs.iter().map(|(at, _)| base + *at as u64).collect()
    }

    /// The places of what each table touches.
    pub(crate) fn touched(&self, base: u64) -> Vec<Touched> {
        let counts = base + 4 * (KEYS + 2 * self.drops) as u64;
        let one = |(table, lists): (usize, &[usize; 3])| {
            let [rows, starts, order] = lists.map(|at| base + at as u64);
            Touched { count: counts + 4 * table as u64, rows, starts, order }
        };
        self.lists.iter().enumerate().map(one).collect()
    }

    /// The places of what a step adds to inference.
    pub(crate) fn step<'t>(&self, base: u64, touched: &'t [Touched]) -> Step<'t> {
        let positions = base + self.positions as u64;
        Step { count: self.count(base), positions, keys: base + 4 * KEYS as u64, touched }
    }
}

/// What a batch says beside its rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a> {
    pub(crate) now: [f32; NOW],
    /// Of the layers that drop.
    pub(crate) keys: &'a [[u32; 2]],
}

/// One of two.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) layout: Layout,
    pinned: Pinned<u8>,
    pub(crate) memory: Memory,
    sent: Event,
    /// Behind the step.
    pub(crate) done: Event,
    /// The sums of its losses and weights, then the state of f16's scale.
    pub(crate) totals: Pinned<f64>,
    /// Which step is queued.
    pub(crate) step: Option<u64>,
    /// Whether its batch is filled up to all rows.
    pub(crate) full: bool,
    /// Whether such a one has been computed.
    pub(crate) warm: bool,
    /// The launches of such a one.
    pub(crate) captured: Vec<Option<Captured>>,
    /// The rows of each table that the batch reads, sorted.
    pub(crate) touched: Vec<Vec<u32>>,
    /// Used again: how often each index comes, and where the samples of each begin.
    counts: Vec<u32>,
    begins: Vec<u32>,
}

impl Slot {
    pub(crate) fn new(device: &Arc<dyn Device>, layout: Layout) -> Result<Slot> {
        Ok(Slot {
            pinned: Pinned::new(device, layout.bytes)?,
            memory: Memory::new(device, layout.bytes)?,
            sent: Event::new(device)?,
            done: Event::new(device)?,
            totals: Pinned::new(device, 4)?,
            step: None,
            full: false,
            warm: false,
            captured: Vec::new(),
            touched: vec![Vec::new(); layout.tables.len()],
            counts: Vec::new(),
            begins: Vec::new(),
            layout,
        })
    }

    /// The state of f16's scale behind the step that was waited for: the scale, whether it overflowed, steps that did not since,
    /// and steps that did before it.
    pub(crate) fn overflow(&self) -> [u32; 4] {
        let words: &[u32] = bytemuck::cast_slice(&self.totals[2..4]);
        [words[0], words[1], words[2], words[3]]
    }

    /// Writes a batch and what it says beside.
    pub(crate) fn fill(&mut self, batch: &Batch, words: Words) -> Result<()> {
        if batch.rows > 0 {
            self.rows(batch)?;
        }
        self.touch(batch)?;
        let block = part::<u32>(&mut self.pinned, 0, KEYS + 2 * self.layout.drops + self.touched.len());
        block[0] = batch.rows as u32;
        block[1..KEYS].copy_from_slice(&words.now.map(f32::to_bits));
        let keys = words.keys.iter().flatten();
        block[KEYS..].iter_mut().zip(keys).for_each(|(to, key)| *to = *key);
        let counts = &mut block[KEYS + 2 * self.layout.drops..];
        counts.iter_mut().zip(&self.touched).for_each(|(to, touched)| *to = touched.len() as u32);
        Ok(())
    }

    /// Writes rows, filled up with copies of the first that weigh nothing: others might be far from all that a norm has seen.
    fn rows(&mut self, batch: &Batch) -> Result<()> {
        let Layout { positions, weights, targets: (targets, width), rows: room, .. } = self.layout;
        self.inputs(batch.inputs, room)?;
        put(&mut self.pinned, positions, batch.positions, room);
        match batch.weights {
            Some(given) => put(&mut self.pinned, weights, given, room),
            None => part(&mut self.pinned, weights, room)[..batch.rows].fill(1.0f32),
        }
        part::<f32>(&mut self.pinned, weights, room)[batch.rows..].fill(0.0);
        match (batch.targets, width) {
            (Targets::Classes(classes), None) => put(&mut self.pinned, targets, classes, room),
            // Of two classes, as numbers.
            (Targets::Classes(classes), Some(_)) => {
                let values = part::<f32>(&mut self.pinned, targets, classes.len());
                values.iter_mut().zip(classes).for_each(|(to, class)| *to = *class as f32);
            }
            (Targets::Values(values), width) => {
                put(&mut self.pinned, targets, values, room * width.unwrap_or(1));
            }
        }
        Ok(())
    }

    /// Writes inputs, filled up to `room` rows with the first.
    pub(crate) fn inputs(&mut self, inputs: &[Values], room: usize) -> Result<()> {
        for (input, &(at, len)) in inputs.iter().zip(&self.layout.inputs) {
            match (input, len) {
                (Values::Index(values), None) => {
                    let to = part(&mut self.pinned, at, room);
                    to[..values.len()].copy_from_slice(values);
                    repeat(to, values.len(), 1);
                }
                (Values::Dense(values), Some(len)) => {
                    let all = room * len;
                    match self.layout.precision {
                        Precision::F32 | Precision::Tf32 => {
                            let to = part::<f32>(&mut self.pinned, at, all);
                            to[..values.len()].copy_from_slice(values);
                            repeat(to, values.len(), len);
                        }
                        half => {
                            let to = part::<u16>(&mut self.pinned, at, all);
                            let own = &mut to[..values.len()];
                            match half {
                                Precision::F16 => {
                                    own.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values)
                                }
                                _ => own.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values),
                            }
                            repeat(to, values.len(), len);
                        }
                    }
                }
                _ => return Err(Error::internal("an input of another kind")),
            }
        }
        Ok(())
    }

    /// Queues the copy; kernels that are queued from now on come after it.
    pub(crate) fn send(&self, device: &dyn Device) -> Result<()> {
        // SAFETY: both are so long, and nobody writes before `done` has been waited for.
        unsafe { device.send(Stream::In, self.memory.address(), self.pinned.at(), self.layout.bytes) }?;
        self.sent.record(Stream::In)?;
        self.sent.hold(Stream::Compute)
    }

    /// Lists the rows that a batch reads of each table: sorted, and for each its samples in their order.
    fn touch(&mut self, batch: &Batch) -> Result<()> {
        for (table, touched) in self.touched.iter_mut().enumerate() {
            let [input, entries] = self.layout.tables[table];
            let Values::Index(indices) = batch.inputs[input] else {
                return Err(Error::internal("an embedding's input has no indices"));
            };
            let [rows, starts, order] = self.layout.lists[table];
            let sorted = part::<u32>(&mut self.pinned, order, indices.len());
            sort(indices, entries, sorted, &mut self.counts);
            touched.clear();
            let begins = &mut self.begins;
            begins.clear();
            for (place, sample) in sorted.iter().enumerate() {
                let row = indices[*sample as usize];
                if touched.last() != Some(&row) {
                    touched.push(row);
                    begins.push(place as u32);
                }
            }
            begins.push(indices.len() as u32);
            part::<u32>(&mut self.pinned, starts, begins.len()).copy_from_slice(begins);
            part::<u32>(&mut self.pinned, rows, touched.len()).copy_from_slice(touched);
        }
        Ok(())
    }
}

/// The samples by their index below `entries`, those of one in their order. Few entries are counted.
fn sort(indices: &[u32], entries: usize, sorted: &mut [u32], counts: &mut Vec<u32>) {
    if entries > 4 * indices.len() {
        sorted.iter_mut().enumerate().for_each(|(nth, to)| *to = nth as u32);
        sorted.sort_unstable_by_key(|sample| (indices[*sample as usize], *sample));
        return;
    }
    counts.clear();
    counts.resize(entries, 0);
    indices.iter().for_each(|index| counts[*index as usize] += 1);
    let mut before = 0;
    for count in counts.iter_mut() {
        before += std::mem::replace(count, before);
    }
    for (sample, index) in indices.iter().enumerate() {
        let place = &mut counts[*index as usize];
        sorted[*place as usize] = sample as u32;
        *place += 1;
    }
}

/// The values at a place.
fn part<T: bytemuck::Pod>(bytes: &mut [u8], at: usize, len: usize) -> &mut [T] {
    bytemuck::cast_slice_mut(&mut bytes[at..at + len * size_of::<T>()])
}

/// Copies values to a place, and 0 behind them up to `all`.
fn put<T: bytemuck::Pod>(bytes: &mut [u8], at: usize, values: &[T], all: usize) {
    let to = part(bytes, at, all);
    to[..values.len()].copy_from_slice(values);
    to[values.len()..].fill(T::zeroed());
}

/// Fills a vector behind its first `own` values with the first `row` of them, again and again.
fn repeat<T: Copy>(values: &mut [T], own: usize, row: usize) {
    let (first, behind) = values.split_at_mut(own);
    for to in behind.chunks_exact_mut(row) {
        to.copy_from_slice(&first[..row]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_or_compared_samples_have_one_order() {
        let indices: Vec<u32> = (0..200).map(|i| i * 37 % 23).collect();
        let mut orders = [23, 10_000].map(|entries| {
            let mut sorted = vec![u32::MAX; indices.len()];
            sort(&indices, entries, &mut sorted, &mut vec![9; 3]);
            sorted
        });
        assert_eq!(orders[0], orders[1]);
        assert!(orders[0].is_sorted_by_key(|sample| (indices[*sample as usize], *sample)));
        orders[0].sort_unstable();
        assert_eq!(orders[0], (0..200).collect::<Vec<u32>>());
    }
}
