//! Direct convolutions of one block, samples in lanes.
//!
//! Every sample of a block sees the same taps, so no image is unrolled and no edge is wasted: a convolution is a
//! product whose depth runs over taps and whose operand moves by a table of offsets. Images are padded beforehand.

use std::ops::Range;

use pulp::Simd;
use pulp::bytemuck;

use super::lanes::taken;
use super::tile::{
    ROWS, Scalars, Tile, accumulate, accumulate_at, by_size, columns, load, multiply, raise, rows_of_four,
    store, zeros,
};
use crate::memory::{LANES, groups};

/// The sizes of a convolution. `x` is `(groups·channels, height, width)`, padding included; the result, before a
/// pool, `(groups·outputs, out_height, out_width)`; weights `(groups·outputs, channels, kernel…)`. The graph has checked
/// that no product of them overflows.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) groups: usize,
    pub(crate) channels: usize,
    pub(crate) outputs: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// When a pool is fused in, only what it reads: even.
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) stride: [usize; 2],
    /// Where each tap of a window lies from its first, in f32, for the channels of one group.
    pub(crate) taps: Vec<usize>,
}

impl Shape {
    /// f32 of one channel of a block.
    fn plane(&self) -> usize {
        self.height * self.width * LANES
    }

    /// Where the channels of a group start.
    fn group(&self, group: usize) -> usize {
        group * self.channels * self.plane()
    }

    /// Where the window of an output position starts.
    #[inline(always)]
    fn window(&self, y: usize, x: usize) -> usize {
        (y * self.stride[0] * self.width + x * self.stride[1]) * LANES
    }

    /// f32 of x in a block.
    pub(crate) fn x_len(&self) -> usize {
        self.groups * self.channels * self.plane()
    }

    /// f32 of the result in a block, before a pool.
    pub(crate) fn y_len(&self) -> usize {
        self.groups * self.outputs * self.out_height * self.out_width * LANES
    }

    /// Whether every window lies inside the image: kernels rely on it.
    fn is_sound(&self) -> bool {
        let last = self.window(self.out_height - 1, self.out_width - 1) + self.taps[self.taps.len() - 1];
        last + LANES <= self.channels * self.plane()
    }

    /// Values of the weight.
    pub(crate) fn weights(&self) -> usize {
        self.groups * self.outputs * self.taps.len()
    }
}

/// Rows of the gradient by the result: `(channels, rows.len(), out_width, LANES)`, channels `stride` apart.
#[derive(Clone, Debug)]
pub(crate) struct Strip<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) rows: Range<usize>,
}

impl Strip<'_> {
    /// Whether it has so many channels of a convolution's result: kernels rely on it.
    fn is_sound(&self, shape: &Shape, channels: usize) -> bool {
        let last = (channels - 1) * self.stride + self.rows.len() * shape.out_width * LANES;
        last <= self.values.len() && self.rows.end <= shape.out_height
    }
}

/// What a forward convolution adds and applies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    /// Results below it are raised to it: 0 is relu, −∞ nothing.
    pub(crate) floor: f32,
}

impl Epilogue<'_> {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, channel: usize, value: S::f32s) -> S::f32s {
        let bias = simd.splat_f32s(self.bias.map_or(0.0, |b| b[channel]));
        raise(simd, simd.splat_f32s(self.floor), simd.add_f32s(value, bias))
    }
}

/// All groups of output channels that one tile computes: `(group of the convolution, channels)`.
pub(crate) fn tiles(shape: &Shape, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> + Clone {
    let outputs = shape.outputs;
    (0..shape.groups).flat_map(move |g| {
        groups(outputs, most).map(move |c| (g, g * outputs + c.start..g * outputs + c.end))
    })
}

/// Forward for one block.
pub(crate) struct Forward<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) epilogue: Epilogue<'a>,
    pub(crate) y: &'a mut [f32],
}

impl Forward<'_> {
    fn check(&self) {
        let shape = self.shape;
        assert!(shape.is_sound() && self.x.len() == shape.x_len() && self.weight.len() == shape.weights());
    }

    /// Computes the whole image.
    #[inline(always)]
    pub(crate) fn image<S: Simd>(mut self, simd: S) {
        self.check();
        assert!(self.y.len() == self.shape.y_len());
        let row = self.shape.out_width * LANES / S::F32_LANES;
        for (group, channels) in tiles(self.shape, ROWS) {
            for y in 0..self.shape.out_height {
                let mut at = 0;
                while at < row {
                    let n = columns::<S>().min(row - at);
                    let m = channels.len();
                    // SAFETY: `check` has seen that all windows lie in x; the positions lie in a row of y.
                    unsafe {
                        by_size!(m, n, image_tile::<S>(simd, &mut self, group, channels.start, y, at));
                    }
                    at += n;
                }
            }
        }
    }

    /// Computes the image through a 2×2 max-pool; `places` says which of the four was largest.
    #[inline(always)]
    pub(crate) fn pooled<S: Simd>(mut self, simd: S, places: &mut [u16]) {
        self.check();
        assert!(self.y.len() * 4 == self.shape.y_len() && places.len() == self.y.len());
        for (group, channels) in tiles(self.shape, rows_of_four::<S>()) {
            for y in 0..self.shape.out_height / 2 {
                for x in 0..self.shape.out_width / 2 {
                    for part in 0..LANES / S::F32_LANES {
                        let at = PoolPlace { group, channel: channels.start, y, x, part };
                        let m = channels.len();
                        // SAFETY: `check` has seen that all windows lie in x; the position lies in y.
                        unsafe { by_size!(m, 4 columns, pooled_tile::<S>(simd, &mut self, places, at)) };
                    }
                }
            }
        }
    }
}

/// # Safety
/// `M` channels from `channel` on exist, and vectors `at..at + N` of row `y`.
#[inline(always)]
unsafe fn image_tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    job: &mut Forward,
    group: usize,
    channel: usize,
    y: usize,
    at: usize,
) {
    let shape = job.shape;
    let vectors = LANES / S::F32_LANES;
    // SAFETY: windows lie in x, rows in the weight, positions in y.
    unsafe {
        let start = job.x.as_ptr().add(shape.group(group));
        let place = |v: usize| shape.window(y, v / vectors) + v % vectors * S::F32_LANES;
        let x = std::array::from_fn::<_, N, _>(|j| start.add(place(at + j)));
        let taps = shape.taps.len();
        let weight = Scalars { start: job.weight.as_ptr().add(channel * taps), row: taps, step: 1 };
        let mut sums: Tile<S, M, N> = zeros(simd);
        accumulate_at(simd, &mut sums, &shape.taps, weight, x);
        for (i, sums) in sums.iter().enumerate() {
            let row = ((channel + i) * shape.out_height + y) * shape.out_width * LANES;
            for (j, sum) in sums.iter().enumerate() {
                let value = job.epilogue.apply(simd, channel + i, *sum);
                store::<S>(job.y.as_mut_ptr().add(row + (at + j) * S::F32_LANES), value);
            }
        }
    }
}

/// A position of a pooled image.
#[derive(Clone, Copy)]
struct PoolPlace {
    group: usize,
    channel: usize,
    y: usize,
    x: usize,
    /// Which vector of the block.
    part: usize,
}

/// # Safety
/// `M` channels from `at.channel` on exist, and the position.
#[inline(always)]
unsafe fn pooled_tile<S: Simd, const M: usize>(
    simd: S,
    job: &mut Forward,
    places: &mut [u16],
    at: PoolPlace,
) {
    let shape = job.shape;
    let part = at.part * S::F32_LANES;
    // SAFETY: windows lie in x, rows in the weight, the position in y and places.
    unsafe {
        let start = job.x.as_ptr().add(shape.group(at.group) + part);
        let window = |j: usize| shape.window(2 * at.y + j / 2, 2 * at.x + j % 2);
        let x = std::array::from_fn::<_, 4, _>(|j| start.add(window(j)));
        let taps = shape.taps.len();
        let weight = Scalars { start: job.weight.as_ptr().add(at.channel * taps), row: taps, step: 1 };
        let mut sums: Tile<S, M, 4> = zeros(simd);
        accumulate_at(simd, &mut sums, &shape.taps, weight, x);
        let (height, width) = (shape.out_height / 2, shape.out_width / 2);
        for (i, sums) in sums.iter().enumerate() {
            let (value, which) = largest(simd, sums);
            let to = (((at.channel + i) * height + at.y) * width + at.x) * LANES + part;
            store::<S>(job.y.as_mut_ptr().add(to), job.epilogue.apply(simd, at.channel + i, value));
            let which: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&which));
            for (to, which) in places.get_unchecked_mut(to..to + S::F32_LANES).iter_mut().zip(which) {
                *to = *which as u16;
            }
        }
    }
}

/// The largest of four and its index, the first of equals; NaN is larger than all.
#[inline(always)]
fn largest<S: Simd>(simd: S, values: &[S::f32s; 4]) -> (S::f32s, S::u32s) {
    let (mut value, mut which) = (values[0], simd.splat_u32s(0));
    for (j, other) in values.iter().enumerate().skip(1) {
        // A NaN is kept as the value, and is taken as the other.
        let ordered = simd.equal_f32s(value, value);
        let keep = simd.or_m32s(simd.less_than_or_equal_f32s(*other, value), simd.not_m32s(ordered));
        value = simd.select_f32s(keep, value, *other);
        which = simd.select_u32s(keep, which, simd.splat_u32s(j as u32));
    }
    (value, which)
}

/// Undoes a 2×2 max-pool for some rows: each gradient goes where the largest value was.
#[inline(always)]
pub(crate) fn unpool(
    shape: &Shape,
    channels: Range<usize>,
    rows: Range<usize>,
    gradient: &[f32],
    places: &[u16],
    strip: &mut [f32],
) {
    let (height, width) = (shape.out_height / 2, shape.out_width / 2);
    let (gradient, places) = (gradient.as_chunks::<LANES>().0, places.as_chunks::<LANES>().0);
    let planes = strip.as_chunks_mut::<LANES>().0.chunks_exact_mut(rows.len() * shape.out_width);
    for (channel, plane) in channels.zip(planes) {
        let both = plane.chunks_exact_mut(2 * shape.out_width);
        for (y, both) in (rows.start / 2..rows.end / 2).zip(both) {
            let (above, below) = both.split_at_mut(shape.out_width);
            let row = (channel * height + y) * width;
            for x in 0..width {
                let (g, place) = (&gradient[row + x], &places[row + x]);
                (above[2 * x], above[2 * x + 1]) = (taken(g, place, 0), taken(g, place, 1));
                (below[2 * x], below[2 * x + 1]) = (taken(g, place, 2), taken(g, place, 3));
            }
        }
    }
}

/// Adds what one strip gives to the gradient of the weights of some channels, lane by lane:
/// `sums` is `(channels, taps)` vectors.
#[inline(always)]
pub(crate) fn weight_gradient<S: Simd>(
    simd: S,
    shape: &Shape,
    group: usize,
    channels: usize,
    x: &[f32],
    strip: &Strip,
    sums: &mut [f32],
) {
    assert!(shape.is_sound() && strip.is_sound(shape, channels) && x.len() == shape.x_len());
    assert!(sums.len() >= channels * shape.taps.len() * S::F32_LANES && channels <= rows_of_four::<S>());
    let x = &x[shape.group(group)..];
    for taps in groups(shape.taps.len(), 4) {
        let job = (shape, x, strip, taps.start);
        let n = taps.len();
        // SAFETY: channels and taps are of this convolution, the strip has `channels`.
        unsafe { by_size!(channels, n, weight_tile::<S>(simd, job, sums)) };
    }
}

/// # Safety
/// `N` taps from the job's first on exist; the strip has `M` channels.
#[inline(always)]
unsafe fn weight_tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    (shape, x, strip, tap): (&Shape, &[f32], &Strip, usize),
    sums: &mut [f32],
) {
    let place = |i: usize, j: usize| (i * shape.taps.len() + tap + j) * S::F32_LANES;
    let mut tile: Tile<S, M, N> = zeros(simd);
    // SAFETY: taps of a window lie in x, positions in the strip, sums of (channel, tap) in `sums`.
    unsafe {
        for i in 0..M {
            for j in 0..N {
                tile[i][j] = load::<S>(sums.as_ptr().add(place(i, j)));
            }
        }
        let step = shape.stride[1] * LANES;
        for (row, y) in strip.rows.clone().enumerate() {
            let mut g = strip.values.as_ptr().add(row * shape.out_width * LANES);
            let window = x.as_ptr().add(shape.window(y, 0));
            let mut from = std::array::from_fn::<_, N, _>(|j| window.add(shape.taps[tap + j]));
            for _ in 0..shape.out_width {
                for part in 0..LANES / S::F32_LANES {
                    let part = part * S::F32_LANES;
                    let gradient = |i| load::<S>(g.add(i * strip.stride + part));
                    multiply(simd, &mut tile, gradient, |j| load::<S>(from[j].add(part)));
                }
                g = g.wrapping_add(LANES);
                from = from.map(|f| f.wrapping_add(step));
            }
        }
        for i in 0..M {
            for j in 0..N {
                store::<S>(sums.as_mut_ptr().add(place(i, j)), tile[i][j]);
            }
        }
    }
}

/// The gradient by x, from a strip with all channels.
pub(crate) struct SourceGradient<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) weight: &'a [f32],
    pub(crate) strip: Strip<'a>,
    /// Added to.
    pub(crate) to: &'a mut [f32],
}

/// Where a tile of a [`SourceGradient`] lies.
#[derive(Clone, Copy)]
struct SourcePlace {
    group: usize,
    tap: usize,
    /// Of the strip.
    line: usize,
    /// The vector of the line.
    at: usize,
}

impl SourceGradient<'_> {
    /// Adds what the strip gives.
    #[inline(always)]
    pub(crate) fn add<S: Simd>(mut self, simd: S) {
        let shape = self.shape;
        assert!(shape.is_sound() && self.strip.is_sound(shape, shape.groups * shape.outputs));
        assert!(self.to.len() == shape.x_len() && self.weight.len() == shape.weights());
        let row = shape.out_width * LANES / S::F32_LANES;
        for group in 0..shape.groups {
            for taps in groups(shape.taps.len(), ROWS) {
                for line in 0..self.strip.rows.len() {
                    let mut at = 0;
                    while at < row {
                        let (m, n) = (taps.len(), columns::<S>().min(row - at));
                        let place = SourcePlace { group, tap: taps.start, line, at };
                        // SAFETY: taps and vectors exist in this convolution.
                        unsafe { by_size!(m, n, source_tile::<S>(simd, &mut self, place)) };
                        at += n;
                    }
                }
            }
        }
    }
}

/// # Safety
/// `M` taps and `N` vectors from the place on exist.
#[inline(always)]
unsafe fn source_tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    job: &mut SourceGradient,
    place: SourcePlace,
) {
    let (shape, strip, at) = (job.shape, &job.strip, place.at);
    let vectors = LANES / S::F32_LANES;
    let channel = place.group * shape.outputs;
    let taps = shape.taps.len();
    // SAFETY: channels lie in the weight and the strip, windows in the image.
    unsafe {
        let line = channel * strip.stride + place.line * shape.out_width * LANES;
        let start = strip.values.as_ptr().add(line);
        let g = std::array::from_fn::<_, N, _>(|j| start.add((at + j) * S::F32_LANES));
        let weight = job.weight.as_ptr().add(channel * taps + place.tap);
        let mut sums: Tile<S, M, N> = zeros(simd);
        accumulate(
            simd,
            &mut sums,
            shape.outputs,
            Scalars { start: weight, row: 1, step: taps },
            g,
            strip.stride,
        );
        let image = job.to.as_mut_ptr().add(shape.group(place.group));
        for j in 0..N {
            let (x, part) = ((at + j) / vectors, (at + j) % vectors * S::F32_LANES);
            let window = image.add(shape.window(strip.rows.start + place.line, x) + part);
            for (i, sums) in sums.iter().enumerate() {
                let to = window.add(shape.taps[place.tap + i]);
                store::<S>(to, simd.add_f32s(load::<S>(to), sums[j]));
            }
        }
    }
}
