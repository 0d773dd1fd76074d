//! What crosses between a device and the other workers' side: gradients out, weights in.

use std::ops::Range;
use std::sync::Arc;

use firesteel_error::Result;
use firesteel_model::Table;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::DeviceReplica;
use crate::cuda::device::{Device, Stream};
use crate::cuda::frame::each;
use crate::cuda::lower::Lowered;
use crate::cuda::memory::{Event, Memory, Pinned};
use crate::cuda::source::Arg;
use crate::memory::product;
use crate::precision::GradientCopy;

/// Gradients go out in pieces of at least so many values: fewer would not be worth a launch.
const PIECE: usize = 1 << 20;

/// A part of the dense gradient that goes out while the next is computed.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) launches: Range<usize>,
    pub(super) values: Range<usize>,
    pub(super) computed: Event,
    pub(super) copied: Event,
}

/// Some rows of a table as a list, on both sides; as long as it was ever asked for.
#[derive(Debug)]
pub(super) struct List {
    room: usize,
    rows: Memory,
    values: Memory,
    rows_here: Pinned<u32>,
    values_here: Pinned<f32>,
    /// Behind the values' way here.
    here: Event,
}

impl List {
    pub(super) fn new(device: &Arc<dyn Device>, room: usize, dims: usize) -> Result<List> {
        let len = product(room, dims)?;
        Ok(List {
            room,
            rows: Memory::new(device, product(room, 4)?)?,
            values: Memory::new(device, product(len, 4)?)?,
            rows_here: Pinned::new(device, room)?,
            values_here: Pinned::new(device, len)?,
            here: Event::new(device)?,
        })
    }

    /// Sees that there is room for so many rows.
    fn reserve(&mut self, device: &Arc<dyn Device>, rows: usize, dims: usize) -> Result<()> {
        if rows > self.room {
            *self = List::new(device, rows.next_power_of_two(), dims)?;
        }
        Ok(())
    }
}

impl DeviceReplica {
    /// Queues a piece of the gradient's way here.
    pub(super) fn fetch_piece(&mut self, place: usize, gradient: &mut Pinned<f32>) -> Result<()> {
        let piece = &self.pieces[place];
        let (start, len) = (piece.values.start, piece.values.len());
        let from = self.gradient.address() + 4 * start as u64;
        let (from, to, bytes) = match &mut self.narrow {
            // SAFETY: the vector has the piece.
            None => (from, unsafe { gradient.at_mut().add(4 * start) }, 4),
            Some((copy, narrow, pinned)) => {
                let at = narrow.address() + 2 * start as u64;
                let half = u32::from(*copy == GradientCopy::F16);
                let args = [Arg::Pointer(from), Arg::Pointer(at), Arg::U64(len as u64), Arg::U32(half)];
                // SAFETY: both sides have the piece.
                unsafe { each(self.device.as_ref(), "narrow", len as u64, &args) }?;
                // SAFETY: as above.
                (at, unsafe { pinned.at_mut().add(2 * start) }, 2)
            }
        };
        piece.computed.record(Stream::Compute)?;
        piece.computed.hold(Stream::Out)?;
        // SAFETY: both have the piece, and nobody reads it before `copied` has been waited for.
        unsafe { self.device.fetch(Stream::Out, to, from, bytes * len) }?;
        piece.copied.record(Stream::Out)
    }

    /// Waits for a piece of the gradient.
    pub(super) fn take_piece(&self, piece: &Piece, gradient: &mut [f32]) -> Result<()> {
        piece.copied.wait()?;
        let Some((copy, _, pinned)) = &self.narrow else { return Ok(()) };
        let (from, to) = (&pinned[piece.values.clone()], &mut gradient[piece.values.clone()]);
        match copy {
            GradientCopy::F16 => from.reinterpret_cast::<f16>().convert_to_f32_slice(to),
            _ => from.reinterpret_cast::<bf16>().convert_to_f32_slice(to),
        }
        Ok(())
    }

    /// Queues the way here of the rows that a step has touched, as lists.
    pub(super) fn fetch_lists(&mut self, nth: usize) -> Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        let slot = &room.slots[nth];
        let places = slot.layout.touched(slot.memory.address());
        for (((table, place), touched), list) in
            self.graph.tables().iter().zip(places).zip(&slot.touched).zip(&mut self.lists)
        {
            list.reserve(&self.device, touched.len(), table.dims)?;
            let len = touched.len() * table.dims;
            let from = self.gradient.address() + 4 * table.range.start as u64;
            move_rows(self.device.as_ref(), "pack", [from, place.rows, list.values.address()], len, table)?;
            list.here.record(Stream::Compute)?;
            list.here.hold(Stream::Out)?;
            let to = list.values_here.at_mut();
            // SAFETY: there is room for the rows, and nobody reads before the event has been waited for.
            unsafe { self.device.fetch(Stream::Out, to, list.values.address(), 4 * len) }?;
            list.here.record(Stream::Out)?;
        }
        Ok(())
    }

    /// Puts them where they belong.
    pub(super) fn take_lists(&self, nth: usize, gradient: &mut [f32]) -> Result<()> {
        let touched = &self.room()?.slots[nth].touched;
        for ((table, touched), list) in self.graph.tables().iter().zip(touched).zip(&self.lists) {
            list.here.wait()?;
            for (row, values) in touched.iter().zip(list.values_here.chunks_exact(table.dims)) {
                gradient[place_of(table, *row)].copy_from_slice(values);
            }
        }
        Ok(())
    }

    /// Takes over weights from here: the dense ones, and the rows of each table that have changed.
    pub(crate) fn take_weights(&mut self, weights: &Pinned<f32>, rows: &[Vec<u32>]) -> Result<()> {
        let (device, dense) = (self.device.clone(), self.graph.dense_len());
        device.finish()?;
        // SAFETY: both have so many values, and `finish` comes before anybody writes.
        unsafe { device.send(Stream::Compute, self.weights.address(), weights.at(), 4 * dense) }?;
        for ((table, rows), list) in self.graph.tables().iter().zip(rows).zip(&mut self.lists) {
            list.reserve(&device, rows.len(), table.dims)?;
            list.rows_here[..rows.len()].copy_from_slice(rows);
            for (to, row) in list.values_here.chunks_exact_mut(table.dims).zip(rows) {
                to.copy_from_slice(&weights[place_of(table, *row)]);
            }
            let len = rows.len() * table.dims;
            // SAFETY: as above.
            unsafe {
                device.send(Stream::Compute, list.rows.address(), list.rows_here.at(), 4 * rows.len())?;
                device.send(Stream::Compute, list.values.address(), list.values_here.at(), 4 * len)?;
            }
            let to = self.weights.address() + 4 * table.range.start as u64;
            let places = [list.values.address(), list.rows.address(), to];
            move_rows(device.as_ref(), "unpack", places, len, table)?;
        }
        device.finish()
    }
}

/// The place of a row of a table in the flat vectors.
fn place_of(table: &Table, row: u32) -> Range<usize> {
    let start = table.range.start + row as usize * table.dims;
    start..start + table.dims
}

/// Starts a kernel that packs rows of a table into a list, or unpacks them: from where, which rows, to where.
fn move_rows(
    device: &dyn Device,
    kernel: &'static str,
    places: [u64; 3],
    len: usize,
    table: &Table,
) -> Result<()> {
    let sizes = [Arg::U64(len as u64), Arg::U32(table.dims as u32)];
    // SAFETY: the rows are the table's, and the list has room for them.
    unsafe { each(device, kernel, len as u64, &[&places.map(Arg::Pointer)[..], &sizes].concat()) }
}

/// The pieces that the gradient goes out in.
pub(super) fn pieces(device: &Arc<dyn Device>, lowered: &Lowered) -> Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut launch, mut value) = (0, 0);
    let all = lowered.backward.len();
    let dense = lowered.ready.last().map_or(0, |(_, end)| *end);
    for &(after, end) in &lowered.ready {
        if end - value >= PIECE || end == dense {
            // The last has all launches: those of tables too.
            let after = if end == dense { all } else { after };
            let (computed, copied) = (Event::new(device)?, Event::new(device)?);
            pieces.push(Piece { launches: launch..after, values: value..end, computed, copied });
            (launch, value) = (after, end);
        }
    }
    if pieces.is_empty() {
        let (computed, copied) = (Event::new(device)?, Event::new(device)?);
        pieces.push(Piece { launches: 0..all, values: 0..0, computed, copied });
    }
    Ok(pieces)
}
