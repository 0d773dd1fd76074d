//! Steps of workers whose devices add their gradients up among themselves: each then updates all weights, by the same sums.

use firesteel_error::Result;

use super::DeviceReplica;
use super::launches::Phase;
use crate::cuda::device::Stream;
use crate::cuda::frame::{Frame, Touched};
use crate::cuda::memory::Memory;
use crate::cuda::moments::Part;
use crate::cuda::peers::{Float, Numbers, Peers};
use crate::cuda::source::Arg;
use crate::memory::product;

/// What such a worker has beside the others' devices: of each table, the rows that any worker has touched.
#[derive(Debug)]
pub(super) struct Together {
    tables: Vec<Marked>,
    /// Values of the gradient, with the marks behind it.
    len: usize,
}

#[derive(Debug)]
struct Marked {
    /// A mark a row, behind the gradient.
    marks: usize,
    rows: Memory,
    count: Memory,
}

impl DeviceReplica {
    /// Adds up with others from now on.
    pub(super) fn join(&mut self, peers: Peers) -> Result<()> {
        let mut len = self.graph.len();
        let mut tables = Vec::new();
        for table in self.graph.tables() {
            let (rows, count) =
                (Memory::new(&self.device, product(table.rows, 4)?)?, Memory::new(&self.device, 4)?);
            tables.push(Marked { marks: len, rows, count });
            len += table.rows;
        }
        self.device.join(peers)?;
        // There may not be memory for both.
        self.gradient = Memory::new(&self.device, 0)?;
        self.gradient = Memory::new(&self.device, product(len, 4)?)?;
        self.together = Some(Together { tables, len });
        Ok(())
    }

    /// Queues forward, backward, the sums over all workers, and the update. A worker without rows has nothing to add.
    pub(super) fn step_together(&mut self, nth: usize, rows: usize, len: usize) -> Result<()> {
        let last = self.pieces.len() - 1;
        if rows == 0 {
            // SAFETY: both are so long.
            unsafe {
                self.device.clear(self.totals.address(), 16)?;
                self.device.clear(self.gradient.address(), 4 * len)?;
            }
        } else {
            self.run_or_replay(nth, rows, Some(0), &[Phase::Clear, Phase::Forward])?;
        }
        // What a driver does when a kernel runs first may wait for all that runs, and with it for other workers, who may wait for
        // this one: until then nothing runs beside their sums.
        let first = self.room.as_mut().is_some_and(|room| room.seen.insert(rows));
        for place in 0..=last {
            if rows > 0 {
                let mut phases = vec![Phase::Backward(self.pieces[place].launches.clone())];
                phases.extend((place == last).then_some(Phase::Mark));
                self.run_or_replay(nth, rows, Some(1 + place), &phases)?;
            }
            if !first {
                self.add_up(place, len)?;
            }
        }
        if first {
            self.device.finish()?;
            (0..=last).try_for_each(|place| self.add_up(place, len))?;
            self.device.finish()?;
        }
        self.run_or_replay(nth, rows, Some(2 + last), &[Phase::List, Phase::Update])
    }

    /// Queues the sum of a piece of the gradient, and with the last that of all that is not in pieces.
    fn add_up(&self, place: usize, len: usize) -> Result<()> {
        let piece = &self.pieces[place];
        let values = |range: std::ops::Range<usize>| Numbers {
            at: self.gradient.address() + 4 * range.start as u64,
            len: range.len(),
            float: Float::F32,
        };
        let mut sums = vec![values(piece.values.clone())];
        let is_last = place + 1 == self.pieces.len();
        if is_last {
            sums.push(values(self.graph.dense_len()..len));
            sums.push(Numbers { at: self.totals.address(), len: 2, float: Float::F64 });
        }
        sums.retain(|numbers| numbers.len > 0);
        piece.computed.record(Stream::Compute)?;
        piece.computed.hold(Stream::Out)?;
        // SAFETY: the gradient and the totals are so long, and are there as long as this is.
        unsafe { self.device.all_reduce(&sums) }?;
        if is_last {
            piece.copied.record(Stream::Out)?;
            piece.copied.hold(Stream::Compute)?;
        }
        Ok(())
    }
}

impl Together {
    /// Values of the gradient, with the marks behind it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Queues zeros where a step writes only what it touches.
    pub(super) fn clear(&self, frame: &Frame, dense: usize) -> Result<()> {
        // SAFETY: the gradient is so long.
        unsafe { frame.device.clear(frame.gradient + 4 * dense as u64, 4 * (self.len - dense)) }
    }

    /// Queues the marks of what this worker has touched.
    pub(super) fn mark(&self, frame: &Frame, touched: &[Touched]) -> Result<()> {
        self.tables.iter().zip(touched).try_for_each(|(table, touched)| {
            let marks = frame.gradient + 4 * table.marks as u64;
            let args = [touched.rows, touched.count, marks].map(Arg::Pointer);
            frame.each("mark", frame.rows, &args)
        })
    }

    /// Queues the lists of what any worker has.
    pub(super) fn list(&self, frame: &Frame, rows: impl Iterator<Item = usize>) -> Result<()> {
        self.tables.iter().zip(rows).try_for_each(|(table, rows)| {
            // SAFETY: it is so long.
            unsafe { frame.device.clear(table.count.address(), 4) }?;
            let marks = frame.gradient + 4 * table.marks as u64;
            let places = [marks, table.rows.address(), table.count.address()].map(Arg::Pointer);
            frame.each("list_marked", rows as u64, &[&places[..], &[Arg::U32(rows as u32)]].concat())
        })
    }

    /// As [`DeviceReplica::parts`].
    pub(super) fn part(&self, nth: usize, table: &firesteel_model::Table) -> Part {
        let listed = [&self.tables[nth].rows, &self.tables[nth].count].map(Memory::address);
        Part { start: table.range.start, len: table.range.len(), rows: Some((table.dims, listed)) }
    }
}
