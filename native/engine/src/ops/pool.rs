//! `(channels, height, width) -> (channels, height', width')`: the largest or the mean value of each window. A 2×2
//! max-pool behind a convolution is part of that convolution instead.

use std::ops::Range;

use firesteel_error::{Error, Result};
use firesteel_model::Op;
use pulp::bytemuck;

use crate::fuse::{Activation, Stage};
use crate::kernels::lanes::{Lane, activate, lanes, lanes_mut, taken};
use crate::memory::LANES;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge, Value};

#[derive(Clone, Debug)]
struct Windows {
    source: Id,
    result: Id,
    channels: usize,
    from: [usize; 2],
    to: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

/// The windows of a stage, its source and its result.
fn windows(builder: &mut Builder, stage: &Stage) -> (Windows, Value, Value) {
    let (Op::MaxPool2d { kernel, stride, padding } | Op::AvgPool2d { kernel, stride, padding }) =
        *builder.op(stage)
    else {
        unreachable!("lowered by its operation");
    };
    let shape = |s: &[usize]| [s[s.len() - 2], s[s.len() - 1]];
    let node = builder.source_nodes(stage)[0];
    let from = shape(builder.graph.shape(node));
    let to = shape(&builder.graph.nodes()[stage.node].shape);
    let channels = builder.graph.nodes()[stage.node].shape[0];
    let source = builder.only_source(stage);
    let result = builder.result(stage, &[source]);
    let stride = stride.unwrap_or(kernel);
    let windows =
        Windows { source: source.id, result: result.id, channels, from, to, kernel, stride, padding };
    (windows, source, result)
}

impl Windows {
    /// The positions along an axis that window `at` covers, and its first tap inside the image.
    fn along(&self, axis: usize, at: usize) -> (Range<usize>, usize) {
        let start = at * self.stride[axis];
        let skipped = self.padding[axis].saturating_sub(start);
        let begin = (start + skipped) - self.padding[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.padding[axis]).min(self.from[axis]);
        (begin..end.max(begin), skipped)
    }

    /// Calls `f` with each position of the result and its window.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(usize, Window)) {
        let [height, width] = self.from;
        for c in 0..self.channels {
            for y in 0..self.to[0] {
                let (rows, first_row) = self.along(0, y);
                for x in 0..self.to[1] {
                    let (columns, first_column) = self.along(1, x);
                    let window = Window {
                        place: (c * height + rows.start) * width + columns.start,
                        tap: first_row * self.kernel[1] + first_column,
                        rows: rows.len(),
                        columns: columns.len(),
                        width,
                        kernel: self.kernel[1],
                    };
                    f((c * self.to[0] + y) * self.to[1] + x, window);
                }
            }
        }
    }
}

/// The part of a window that lies inside the image.
struct Window {
    /// Its first place in the image, and the tap of the window there.
    place: usize,
    tap: usize,
    rows: usize,
    columns: usize,
    /// Of the image.
    width: usize,
    /// The width of the whole window.
    kernel: usize,
}

impl Window {
    /// Calls `f` with each place and its tap.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(usize, u16)) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                f(self.place + row * self.width + column, (self.tap + row * self.kernel + column) as u16);
            }
        }
    }
}

/// Emits a max-pool, and the activation fused behind it.
pub(crate) fn lower_max(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let (windows, source, result) = windows(builder, stage);
    if windows.kernel[0] * windows.kernel[1] > usize::from(u16::MAX) {
        return Err(Error::argument(format!(
            "layer '{}' (max_pool2d): a window of {:?} has more than {} values",
            builder.graph.nodes()[stage.node].name,
            windows.kernel,
            u16::MAX
        )));
    }
    let taps = builder.buffer(result.len * LANES / 2);
    let activation = stage.activation;
    let forward = MaxForward { windows: windows.clone(), taps, activation };
    builder.call(forward, &[source.id, result.id, taps], 0);
    Ok(vec![Box::new(move |builder| {
        super::activation::emit_backward(builder, activation, result);
        let (Some(edge), Some(gradient)) = (builder.edge(source), result.gradient) else { return };
        builder.call(MaxBackward { windows, taps, gradient, edge }, &[taps, gradient, edge.id], 0);
    })])
}

/// Emits an average pool.
pub(crate) fn lower_avg(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let (windows, source, result) = windows(builder, stage);
    builder.call(AvgForward(windows.clone()), &[source.id, result.id], 0);
    Ok(vec![Box::new(move |builder| {
        let (Some(edge), Some(gradient)) = (builder.edge(source), result.gradient) else { return };
        builder.call(AvgBackward { windows, gradient, edge }, &[gradient, edge.id], 0);
    })])
}

#[derive(Debug)]
struct MaxForward {
    windows: Windows,
    /// Which tap of each window was largest, u16.
    taps: Id,
    activation: Option<Activation>,
}

// SAFETY: writes the result and the taps in the rank's share of blocks only.
unsafe impl Kernel for MaxForward {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let from = lanes(pass.read(self.windows.source, block));
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let result = unsafe { pass.write(self.windows.result, block) };
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let taps: &mut [u16] = bytemuck::cast_slice_mut(unsafe { pass.write(self.taps, block) });
            let (to, taps) = (lanes_mut(result), taps.as_chunks_mut::<LANES>().0);
            pass.job.arch.dispatch(
                #[inline(always)]
                || {
                    self.windows.each(
                        #[inline(always)]
                        |at, window| (to[at], taps[at]) = largest(from, &window),
                    );
                },
            );
            if let Some(activation) = self.activation {
                activate(pass.job.arch, activation, result);
            }
        }
    }
}

/// The largest of some places and its tap, the first of equals; NaN is larger than all.
#[inline(always)]
fn largest(from: &[Lane], window: &Window) -> (Lane, [u16; LANES]) {
    let mut value = [f32::NEG_INFINITY; LANES];
    // Where all are −∞, it is the first that lies in the image.
    let mut which = [window.tap as u16; LANES];
    window.each(
        #[inline(always)]
        |place, tap| {
            let candidate = &from[place];
            for l in 0..LANES {
                let keep = candidate[l] <= value[l] || value[l].is_nan();
                value[l] = if keep { value[l] } else { candidate[l] };
                which[l] = if keep { which[l] } else { tap };
            }
        },
    );
    (value, which)
}

#[derive(Debug)]
struct MaxBackward {
    windows: Windows,
    taps: Id,
    gradient: Id,
    edge: Edge,
}

// SAFETY: writes the source's gradient in the rank's share of blocks only.
unsafe impl Kernel for MaxBackward {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let gradient = lanes(pass.read(self.gradient, block));
            let taps: &[u16] = bytemuck::cast_slice(pass.read(self.taps, block));
            let taps = taps.as_chunks::<LANES>().0;
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.edge.id, block) });
            if !self.edge.add {
                to.as_flattened_mut().fill(0.0);
            }
            pass.job.arch.dispatch(
                #[inline(always)]
                || {
                    self.windows.each(
                        #[inline(always)]
                        |at, window| {
                            let (gradient, taps) = (&gradient[at], &taps[at]);
                            window.each(
                                #[inline(always)]
                                |place, tap| {
                                    let (to, taken) = (&mut to[place], taken(gradient, taps, tap));
                                    for l in 0..LANES {
                                        to[l] += taken[l];
                                    }
                                },
                            );
                        },
                    );
                },
            );
        }
    }
}

#[derive(Debug)]
struct AvgForward(Windows);

// SAFETY: writes the result in the rank's share of blocks only.
unsafe impl Kernel for AvgForward {
    fn run(&self, pass: &Pass) {
        let scale = 1.0 / (self.0.kernel[0] * self.0.kernel[1]) as f32;
        for block in pass.block_share() {
            let from = lanes(pass.read(self.0.source, block));
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.0.result, block) });
            pass.job.arch.dispatch(
                #[inline(always)]
                || {
                    self.0.each(
                        #[inline(always)]
                        |at, window| {
                            let mut sums = [0.0; LANES];
                            window.each(
                                #[inline(always)]
                                |place, _| (0..LANES).for_each(|l| sums[l] += from[place][l]),
                            );
                            to[at] = sums.map(|s| s * scale);
                        },
                    );
                },
            );
        }
    }
}

#[derive(Debug)]
struct AvgBackward {
    windows: Windows,
    gradient: Id,
    edge: Edge,
}

// SAFETY: writes the source's gradient in the rank's share of blocks only.
unsafe impl Kernel for AvgBackward {
    fn run(&self, pass: &Pass) {
        let scale = 1.0 / (self.windows.kernel[0] * self.windows.kernel[1]) as f32;
        for block in pass.block_share() {
            let gradient = lanes(pass.read(self.gradient, block));
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.edge.id, block) });
            if !self.edge.add {
                to.as_flattened_mut().fill(0.0);
            }
            pass.job.arch.dispatch(
                #[inline(always)]
                || {
                    self.windows.each(
                        #[inline(always)]
                        |at, window| {
                            let gradient = gradient[at].map(|g| g * scale);
                            window.each(
                                #[inline(always)]
                                |place, _| (0..LANES).for_each(|l| to[place][l] += gradient[l]),
                            );
                        },
                    );
                },
            );
        }
    }
}
