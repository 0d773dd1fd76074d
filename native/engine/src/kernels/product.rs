//! Matrix products on values in lanes: `y(i) = Σ_d a(i, d)·x(d)` for each sample, samples side by side.
//!
//! x is `(blocks, depth, LANES)`, already the panels that Goto's algorithm would pack, so nothing is packed but
//! strided scalars. Measured on one core of a Zen 4 server: 116 GFLOPS of a peak of 118; the `gemm` crate: 105, and
//! it allocates at every call.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::tile::{ROWS, Scalars, Tile, accumulate, by_size, columns, load, raise, store, zeros};
use crate::memory::{LANES, groups};

/// Blocks that one group of scalars meets while it is in the nearest cache.
const CHUNK: usize = 4;

/// Scratch of [`Product::run`] for a packed product, in f32.
pub(crate) fn packed_len(depth: usize) -> usize {
    depth * ROWS
}

/// A product for some blocks and some rows of the matrix.
#[derive(Debug)]
pub(crate) struct Product<'a> {
    /// `(blocks, depth, LANES)`.
    pub(crate) x: &'a [f32],
    /// `(rows, LANES)` for each block; written in `rows` only.
    pub(crate) y: *mut f32,
    pub(crate) blocks: Range<usize>,
    pub(crate) rows: Range<usize>,
    pub(crate) height: usize,
    pub(crate) depth: usize,
    /// `(height, depth)`, or `(depth, height)` when `transposed`.
    pub(crate) a: &'a [f32],
    pub(crate) transposed: bool,
    pub(crate) bias: Option<&'a [f32]>,
    /// Results below it are raised to it: 0 is relu, −∞ nothing.
    pub(crate) floor: f32,
    /// Add to y instead of setting it.
    pub(crate) add: bool,
    /// [`packed_len`] f32 when transposed.
    pub(crate) scratch: &'a mut [f32],
}

impl Product<'_> {
    /// Computes it.
    ///
    /// # Safety
    /// `y` has `height·LANES` f32 for each block up to the end of `blocks`, and nobody else uses `rows` of `blocks`.
    pub(crate) unsafe fn run(self, arch: Arch) {
        assert!(
            self.x.len() >= self.blocks.end * self.depth * LANES && self.a.len() == self.height * self.depth
        );
        assert!(self.rows.end <= self.height && self.bias.is_none_or(|b| b.len() == self.height));
        assert!(!self.transposed || self.scratch.len() >= packed_len(self.depth));
        arch.dispatch(self);
    }

    /// Rows `group` of a, as scalars; strided ones are packed first.
    #[inline(always)]
    fn scalars(&mut self, group: &Range<usize>) -> Scalars {
        if !self.transposed {
            return Scalars { start: self.a[group.start * self.depth..].as_ptr(), row: self.depth, step: 1 };
        }
        let rows = group.len();
        for (to, from) in self.scratch.chunks_exact_mut(rows).zip(self.a.chunks_exact(self.height)) {
            to.copy_from_slice(&from[group.clone()]);
        }
        Scalars { start: self.scratch.as_ptr(), row: 1, step: rows }
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let vectors = LANES / S::F32_LANES;
        for group in groups(self.rows.len(), ROWS) {
            let group = self.rows.start + group.start..self.rows.start + group.end;
            let a = self.scalars(&group);
            for start in self.blocks.clone().step_by(CHUNK) {
                let end = self.blocks.end.min(start + CHUNK);
                let mut at = start * vectors;
                while at < end * vectors {
                    let n = columns::<S>().min(end * vectors - at);
                    // SAFETY: `run` has checked the sizes; vectors `at..at + n` lie in the blocks.
                    unsafe { by_size!(group.len(), n, tile::<S>(simd, &self, a, group.start, at)) };
                    at += n;
                }
            }
        }
    }
}

/// Rows `row..row + M` for vectors `at..at + N`, counted through all blocks.
///
/// # Safety
/// Both lie inside the product.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    product: &Product,
    a: Scalars,
    row: usize,
    at: usize,
) {
    // SAFETY: by the caller, all places lie in x and y.
    unsafe {
        let vectors = LANES / S::F32_LANES;
        let place = |v: usize, height: usize| (v / vectors) * height * LANES + (v % vectors) * S::F32_LANES;
        let x = std::array::from_fn::<_, N, _>(|j| product.x.as_ptr().add(place(at + j, product.depth)));
        let mut sums: Tile<S, M, N> = zeros(simd);
        accumulate(simd, &mut sums, product.depth, a, x, LANES);
        let floor = simd.splat_f32s(product.floor);
        for (i, sums) in sums.iter().enumerate() {
            let bias = simd.splat_f32s(product.bias.map_or(0.0, |b| b[row + i]));
            for (j, sum) in sums.iter().enumerate() {
                let y = product.y.add(place(at + j, product.height) + (row + i) * LANES);
                let mut value = simd.add_f32s(*sum, bias);
                if product.add {
                    value = simd.add_f32s(value, load::<S>(y));
                }
                store::<S>(y, raise(simd, floor, value));
            }
        }
    }
}

/// The product of gradients and values summed over samples: `c(i, k) (+)= Σ_s g(i, s)·x(k, s)`.
#[derive(Debug)]
pub(crate) struct OuterProduct<'a> {
    /// `(blocks, height, LANES)`; 0 in lanes that are no samples.
    pub(crate) g: &'a [f32],
    /// `(blocks, width, LANES)`.
    pub(crate) x: &'a [f32],
    pub(crate) blocks: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// The rows of c to compute.
    pub(crate) rows: Range<usize>,
    /// Rows `rows` of c, `(rows, width)`.
    pub(crate) c: &'a mut [f32],
    /// Add to c instead of setting it.
    pub(crate) add: bool,
    /// [`OUTER_SCRATCH`] f32.
    pub(crate) scratch: &'a mut [f32],
}

/// Blocks of samples that are turned into rows at a time.
const TURNED: usize = 32;
/// Columns that are turned at a time: the widest tile.
const PANEL: usize = 64;
/// Scratch of an [`OuterProduct`], in f32.
pub(crate) const OUTER_SCRATCH: usize = TURNED * LANES * PANEL;

impl OuterProduct<'_> {
    /// Computes it.
    pub(crate) fn run(self, arch: Arch) {
        assert!(self.g.len() >= self.blocks * self.height * LANES && self.rows.end <= self.height);
        assert!(self.x.len() >= self.blocks * self.width * LANES);
        assert!(self.c.len() == self.rows.len() * self.width && self.scratch.len() >= OUTER_SCRATCH);
        arch.dispatch(self);
    }

    /// Samples of `blocks` as rows of `panel` values, for columns from `column` on.
    #[inline(always)]
    fn turn(&mut self, blocks: Range<usize>, column: usize, panel: usize) {
        let width = panel.min(self.width - column);
        for (to, block) in self.scratch.chunks_exact_mut(LANES * panel).zip(blocks) {
            let from = &self.x[(block * self.width + column) * LANES..][..width * LANES];
            for (k, lane) in from.as_chunks::<LANES>().0.iter().enumerate() {
                for (l, value) in lane.iter().enumerate() {
                    to[l * panel + k] = *value;
                }
            }
        }
    }
}

impl WithSimd for OuterProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let widest = columns::<S>() * S::F32_LANES;
        for column in (0..self.width).step_by(widest) {
            let n = (self.width - column).div_ceil(S::F32_LANES).min(columns::<S>());
            for start in (0..self.blocks).step_by(TURNED) {
                let blocks = start..self.blocks.min(start + TURNED);
                self.turn(blocks.clone(), column, n * S::F32_LANES);
                let add = self.add || start > 0;
                for group in groups(self.rows.len(), ROWS) {
                    let at = Corner { row: group.start, column, add };
                    // SAFETY: `run` has checked the sizes; the corner and the group lie in c.
                    unsafe { by_size!(group.len(), n, outer_tile::<S>(simd, &mut self, &blocks, at)) };
                }
            }
        }
    }
}

/// Where a tile of an outer product lies.
#[derive(Clone, Copy)]
struct Corner {
    /// Counted from the first of the product's rows.
    row: usize,
    column: usize,
    add: bool,
}

/// # Safety
/// M rows from the corner on lie in c, and `scratch` holds the turned samples of `blocks`.
#[inline(always)]
unsafe fn outer_tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    product: &mut OuterProduct,
    blocks: &Range<usize>,
    at: Corner,
) {
    let panel = N * S::F32_LANES;
    let mut sums: Tile<S, M, N> = zeros(simd);
    for (turned, block) in blocks.clone().enumerate() {
        // SAFETY: the block lies in g, its turned samples in scratch.
        unsafe {
            let row = product.rows.start + at.row;
            let g = product.g.as_ptr().add((block * product.height + row) * LANES);
            let samples = product.scratch.as_ptr().add(turned * LANES * panel);
            let x = std::array::from_fn::<_, N, _>(|j| samples.add(j * S::F32_LANES));
            accumulate(simd, &mut sums, LANES, Scalars { start: g, row: LANES, step: 1 }, x, panel);
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let row = &mut product.c[(at.row + i) * product.width..][..product.width];
        for (j, sum) in sums.iter().enumerate() {
            let column = at.column + j * S::F32_LANES;
            let to = &mut row[column..product.width.min(column + S::F32_LANES)];
            let before = if at.add { simd.partial_load_f32s(to) } else { simd.splat_f32s(0.0) };
            simd.partial_store_f32s(to, simd.add_f32s(*sum, before));
        }
    }
}
