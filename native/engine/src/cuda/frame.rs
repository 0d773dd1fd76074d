//! Where everything is while launches are made, and how they are started.

use firesteel_error::Result;

use super::device::Device;
use super::source::{Arg, Call, Columns, Work};
use crate::pass::Place;

/// Threads of a block.
pub(crate) const THREADS: u32 = 256;

/// Places of a result, along each axis, that a block of a product makes.
pub(crate) const TILE: u64 = 64;

/// The fewest factors that a block adds up for one place.
const SHARE: u64 = 64;

/// Parts of products that are not yet added up have so much room, and so many counters.
pub(crate) const PARTS: usize = 16 * 1024 * 1024;
pub(crate) const COUNTERS: usize = 4096;

/// Where values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// A buffer with so many values a row.
    Rows(usize),
    /// So many f32 from the start of the plan's memory that does not grow with rows.
    Fixed(usize),
    /// The values of an input.
    Input(usize),
    /// So many f32 from the start of the flat weights.
    Weights(usize),
    /// So many values from the start of the flat weights in the plan's precision.
    Factors(usize),
    /// So many f32 from the start of the flat gradient.
    Gradient(usize),
    /// The same of the running statistics.
    Statistics(usize),
}

/// Where everything is while launches are made.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) places: &'a [Place],
    /// Rows that are computed.
    pub(crate) rows: u64,
    /// Rows that the arena has room for.
    pub(crate) room: u64,
    /// Bytes of a value.
    pub(crate) bytes: u64,
    pub(crate) arena: u64,
    pub(crate) fixed: u64,
    pub(crate) weights: u64,
    pub(crate) factors: u64,
    pub(crate) gradient: u64,
    pub(crate) statistics: u64,
    /// For parts of products, and counters.
    pub(crate) parts: [u64; 2],
    pub(crate) inputs: &'a [u64],
    /// Absent in inference.
    pub(crate) training: Option<Step<'a>>,
}

/// A step of training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// How many of the rows are the batch's; the others fill it up and weigh nothing.
    pub(crate) count: u64,
    /// Of the rows, in the global batch.
    pub(crate) positions: u64,
    /// Two words of each layer that drops.
    pub(crate) keys: u64,
    /// One a table.
    pub(crate) touched: &'a [Touched],
}

/// The rows of a table that a batch reads, on the device.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touched {
    pub(crate) count: u64,
    pub(crate) rows: u64,
    pub(crate) starts: u64,
    pub(crate) order: u64,
}

/// Starts a kernel with a thread a value, or as many blocks as the device takes.
///
/// # Safety
/// As of [`Device::launch`].
pub(crate) unsafe fn each(device: &dyn Device, kernel: &'static str, len: u64, args: &[Arg]) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let blocks = len.div_ceil(u64::from(THREADS)).min(u64::from(device.blocks())) as u32;
    // SAFETY: by the caller.
    unsafe { device.launch(&Call { kernel, blocks, threads: THREADS, args }) }
}

impl Frame<'_> {
    pub(crate) fn address(&self, at: At) -> u64 {
        let of = |base: u64, values: u64| base + 4 * values;
        match at {
            At::Rows(id) => self.arena + self.places[id].offset as u64 * self.room,
            At::Fixed(offset) => of(self.fixed, offset as u64),
            At::Input(input) => self.inputs[input],
            At::Weights(offset) => of(self.weights, offset as u64),
            At::Factors(offset) => self.factors + self.bytes * offset as u64,
            At::Gradient(offset) => of(self.gradient, offset as u64),
            At::Statistics(offset) => of(self.statistics, offset as u64),
        }
    }

    pub(crate) fn pointer(&self, at: At) -> Arg {
        Arg::Pointer(self.address(at))
    }

    /// Starts a kernel with so many blocks, or as many as the device takes; every kernel does the rest in a loop.
    pub(crate) fn launch(&self, kernel: &'static str, blocks: u64, args: &[Arg]) -> Result<()> {
        let blocks = blocks.clamp(1, u64::from(self.device.blocks())) as u32;
        // SAFETY: the lowering passes what the kernels of `source` take, and the replica made room for what they read and write.
        unsafe { self.device.launch(&Call { kernel, blocks, threads: THREADS, args }) }
    }

    /// One with a thread a value.
    pub(crate) fn each(&self, kernel: &'static str, len: u64, args: &[Arg]) -> Result<()> {
        // SAFETY: as of `launch`.
        unsafe { each(self.device, kernel, len, args) }
    }

    /// One that multiplies: so many groups of (m, k) by (k, n). Where there are fewer tiles than multiprocessors, several blocks
    /// share the sums of one.
    pub(crate) fn multiply(
        &self,
        kernel: &'static str,
        groups: u64,
        [m, n, k]: [u64; 3],
        args: &[Arg],
    ) -> Result<()> {
        let tiles = groups * m.div_ceil(TILE) * n.div_ceil(TILE);
        let room = (PARTS as u64 / (4 * TILE * TILE)).min(COUNTERS as u64) / tiles.max(1);
        let wanted = (2 * u64::from(self.device.processors())).div_ceil(tiles.max(1));
        let splits = wanted.min(k / SHARE).min(room).max(1);
        let [parts, arrived] = self.parts;
        let work = Work { groups, m, k, n: n as u32, splits: splits as u32, parts, arrived };
        self.launch(kernel, tiles * splits, &[args, &[Arg::Work(work)]].concat())
    }

    /// One that adds up each column of (rows, width), `sums` sums of it. Where there are fewer columns than multiprocessors want,
    /// several blocks share the rows.
    pub(crate) fn columns(
        &self,
        kernel: &'static str,
        rows: u64,
        width: usize,
        sums: u64,
        args: &[Arg],
    ) -> Result<()> {
        self.sum(kernel, (width as u64).div_ceil(32), rows / SHARE, 32 * sums, (rows, width), args)
    }

    /// The same of each feature of (rows, features, inner).
    pub(crate) fn features(
        &self,
        kernel: &'static str,
        [features, inner]: [usize; 2],
        sums: u64,
        args: &[Arg],
    ) -> Result<()> {
        let most = self.rows * inner as u64 / (SHARE / 8 * u64::from(THREADS));
        self.sum(kernel, features as u64, most, sums, (self.rows, features), args)
    }

    /// One that makes so many sums of each tile, shared by `most` blocks at most.
    fn sum(
        &self,
        kernel: &'static str,
        tiles: u64,
        most: u64,
        sums: u64,
        (rows, width): (u64, usize),
        args: &[Arg],
    ) -> Result<()> {
        let room = PARTS as u64 / (8 * sums) / tiles.max(1);
        let processors = u64::from(self.device.processors());
        let wanted = if tiles > COUNTERS as u64 { 1 } else { (2 * processors).div_ceil(tiles.max(1)) };
        let splits = wanted.min(most).min(room).max(1);
        let [parts, arrived] = self.parts;
        let work = Columns { rows, width: width as u32, splits: splits as u32, parts, arrived };
        self.launch(kernel, tiles * splits, &[args, &[Arg::Columns(work)]].concat())
    }
}
