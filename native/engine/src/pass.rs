//! One run of a plan's kernels: what they read, where they write, and whose share is whose.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::job::Job;
use crate::memory::{LANES, Shared, share};
use crate::training::Training;

/// One call of a plan.
///
/// # Safety
/// `run` reads and writes through a [`Pass`], and every rank of a job has one. An implementation promises that it
/// writes only the share of its rank, and reads nothing that another rank writes in the same call.
pub(crate) unsafe trait Kernel: fmt::Debug + Send + Sync {
    /// Does the share of `pass.rank`.
    fn run(&self, pass: &Pass<'_>);
}

/// A buffer of the plan; its place is known when the plan is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) usize);

/// Where a buffer lies in an arena for one block. In an arena of `n` blocks all its blocks lie together from
/// `offset · n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    /// f32 a block.
    pub(crate) len: usize,
}

/// What the kernels of one rank work with. Rows are grouped into blocks of [`LANES`], lanes innermost:
/// a value of `features` is `(blocks, features, LANES)`.
///
/// It stays on one thread: that there is one a rank is what makes a rank's share its own.
pub(crate) struct Pass<'a> {
    pub(crate) job: &'a Job<'a>,
    pub(crate) arena: Shared<'a>,
    /// Memory of this thread alone, never kept between kernels.
    pub(crate) scratch: Shared<'a>,
    /// The rows at work.
    pub(crate) rows: usize,
    /// The place of the first of them in the batch.
    pub(crate) first: usize,
    /// The flat gradient, or this rank's own.
    pub(crate) gradient: Shared<'a>,
    /// Add to the gradient instead of setting it.
    pub(crate) add: bool,
    pub(crate) rank: usize,
    pub(crate) of: usize,
    pub(crate) one_thread: PhantomData<*mut ()>,
}

impl<'a> Pass<'a> {
    /// The training that backward is a part of.
    pub(crate) fn training(&self) -> &'a Training<'a> {
        self.job.training.expect("backward runs in training only")
    }

    /// The blocks at work.
    pub(crate) fn blocks(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// The rows in a block: [`LANES`] in all but the last.
    pub(crate) fn lanes(&self, block: usize) -> usize {
        LANES.min(self.rows - block * LANES)
    }

    /// This rank's share of `0..units`.
    pub(crate) fn share(&self, units: usize) -> Range<usize> {
        share(units, self.rank, self.of)
    }

    /// This rank's share of the blocks.
    pub(crate) fn block_share(&self) -> Range<usize> {
        self.share(self.blocks())
    }

    fn range(&self, id: Id, block: usize) -> Range<usize> {
        let Place { offset, len } = self.job.plan.places[id.0];
        let start = offset * self.job.capacity + block * len;
        start..start + len
    }

    /// One block of a buffer, to read.
    pub(crate) fn read(&self, id: Id, block: usize) -> &'a [f32] {
        // SAFETY: whoever writes there has promised that nobody reads meanwhile.
        unsafe { self.arena.slice(self.range(id, block)) }
    }

    /// All blocks of a buffer, to read.
    pub(crate) fn read_all(&self, id: Id) -> &'a [f32] {
        let Place { offset, len } = self.job.plan.places[id.0];
        let start = offset * self.job.capacity;
        // SAFETY: as in `read`.
        unsafe { self.arena.slice(start..start + self.blocks() * len) }
    }

    /// Where a buffer starts, to write: block `b` is `len` further for each `b`.
    pub(crate) fn start(&self, id: Id) -> *mut f32 {
        self.arena.pointer(self.range(id, 0))
    }

    /// One block of a buffer, to write.
    ///
    /// # Safety
    /// The block is in this rank's share, and nobody, this rank included, has another slice of it while this one lives.
    pub(crate) unsafe fn write(&self, id: Id, block: usize) -> &'a mut [f32] {
        // SAFETY: by the caller.
        unsafe { self.arena.slice_mut(self.range(id, block)) }
    }

    /// A part of one block of a buffer, to write.
    ///
    /// # Safety
    /// As of [`Pass::write`], for the part.
    pub(crate) unsafe fn write_part(&self, id: Id, block: usize, part: Range<usize>) -> &'a mut [f32] {
        let start = self.range(id, block).start;
        // SAFETY: by the caller.
        unsafe { self.arena.slice_mut(start + part.start..start + part.end) }
    }

    /// A range of the flat gradient, to write.
    ///
    /// # Safety
    /// As of [`Pass::write`], for the range.
    pub(crate) unsafe fn gradient(&self, range: Range<usize>) -> &'a mut [f32] {
        // SAFETY: by the caller.
        unsafe { self.gradient.slice_mut(range) }
    }

    /// The first `len` values of this thread's scratch memory, holding anything.
    ///
    /// # Safety
    /// No slice of it that was taken before is used any more.
    pub(crate) unsafe fn scratch(&self, len: usize) -> &'a mut [f32] {
        // SAFETY: no other thread has this memory, and this one by the caller has no other slice.
        unsafe { self.scratch.slice_mut(0..len) }
    }
}
