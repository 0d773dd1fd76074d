//! `(channels, height, width) -> (outputs, height', width')`: cross-correlation, an activation, and perhaps a 2×2
//! max-pool.

use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::Op;
use pulp::bytemuck;
use pulp::{Simd, WithSimd};

use super::activation::split;
use super::{bias_gradient, pad};
use crate::fuse::{Activation, Stage};
use crate::kernels::convolution::{
    self, Epilogue, Shape, SourceGradient, Strip, tiles, unpool, weight_gradient,
};
use crate::kernels::lanes::activate;
use crate::kernels::tile::{ROWS, rows_of_four};
use crate::memory::{LANES, with_room};
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge};

/// f32 of a strip of gradient that stay in the nearest cache while all taps meet them.
const STRIP: usize = 6 * 1024;

#[derive(Clone, Debug)]
struct Convolution {
    shape: Shape,
    source: Id,
    result: Id,
    /// Which of four values a fused pool took, u16.
    places: Option<Id>,
    weight: Range<usize>,
    bias: Option<Range<usize>>,
    activation: Option<Activation>,
}

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let Op::Conv2d { outputs, kernel, stride, padding, groups, .. } = *builder.op(stage) else {
        unreachable!("lowered by its operation");
    };
    let (padded, [channels, height, width], pad) = pad::lower(builder, stage, padding);
    let pool = usize::from(stage.pool) + 1;
    let channels = channels / groups;
    let mut taps = with_room(channels * kernel[0] * kernel[1])?;
    taps.extend((0..channels * kernel[0] * kernel[1]).map(|tap| {
        let (c, y, x) = (tap / (kernel[0] * kernel[1]), tap / kernel[1] % kernel[0], tap % kernel[1]);
        ((c * height + y) * width + x) * LANES
    }));
    let shape = Shape {
        groups,
        channels,
        outputs: outputs / groups,
        height,
        width,
        out_height: ((height - kernel[0]) / stride[0] + 1) / pool * pool,
        out_width: ((width - kernel[1]) / stride[1] + 1) / pool * pool,
        stride,
        taps,
    };
    let result = builder.result(stage, &[padded]);
    let convolution = Convolution {
        source: padded.id,
        result: result.id,
        places: stage.pool.then(|| builder.buffer(result.len * LANES / 2)),
        weight: builder.parameter(stage, 0).expect("a convolution has a weight"),
        bias: builder.parameter(stage, 1),
        activation: stage.activation,
        shape,
    };
    let mut buffers = vec![padded.id, result.id];
    buffers.extend(convolution.places);
    builder.call(Forward(convolution.clone()), &buffers, 0);
    let stage = *stage;
    let mut backwards: Vec<Backward> = pad.into_iter().collect();
    backwards.push(Box::new(move |builder| {
        let gradient = result.gradient.expect("a layer with weights has a gradient");
        super::activation::emit_backward(builder, stage.activation, result);
        let edge = builder.edge(padded);
        buffers.push(gradient);
        buffers.extend(edge.map(|e| e.id));
        let scratch = convolution.scratch();
        builder.call(BackwardCall { convolution, gradient, edge }, &buffers, scratch);
        builder.finishes(&stage);
    }));
    Ok(backwards)
}

impl Convolution {
    /// The rows of the result that a strip of `channels` takes: as many as fit [`STRIP`], pairs for a pool.
    fn strip_rows(&self, channels: usize) -> usize {
        let pool = 1 + usize::from(self.places.is_some());
        let fit = STRIP / (channels * self.shape.out_width * LANES).max(1);
        fit.clamp(1, self.shape.out_height).next_multiple_of(pool).min(self.shape.out_height)
    }

    /// f32 of an unpooled strip.
    fn strip_len(&self, channels: usize) -> usize {
        channels * self.strip_rows(channels) * self.shape.out_width * LANES
    }

    fn scratch(&self) -> usize {
        let channels = self.shape.groups * self.shape.outputs;
        let weights = ROWS * self.shape.taps.len() * LANES + self.strip_len(ROWS);
        weights.max(self.strip_len(channels))
    }

    fn places<'a>(&self, pass: &Pass<'a>, block: usize) -> &'a [u16] {
        bytemuck::cast_slice(self.places.map_or(&[], |id| pass.read(id, block)))
    }

    /// Strip `rows` of the gradient of some channels: a part of it, or unpooled into scratch.
    #[inline(always)]
    fn strip<'a>(
        &self,
        channels: Range<usize>,
        rows: Range<usize>,
        gradient: &'a [f32],
        places: &[u16],
        scratch: &'a mut [f32],
    ) -> Strip<'a> {
        let line = self.shape.out_width * LANES;
        if self.places.is_none() {
            let plane = self.shape.out_height * line;
            let start = channels.start * plane + rows.start * line;
            return Strip { values: &gradient[start..], stride: plane, rows };
        }
        let stride = rows.len() * line;
        let values = &mut scratch[..channels.len() * stride];
        unpool(&self.shape, channels, rows.clone(), gradient, places, values);
        Strip { values, stride, rows }
    }
}

#[derive(Debug)]
struct Forward(Convolution);

// SAFETY: writes the result and places in the rank's share of blocks only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        let convolution = &self.0;
        for block in pass.block_share() {
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let y = unsafe { pass.write(convolution.result, block) };
            let count = y.len();
            let (floor, rest) = split(convolution.activation);
            let epilogue = Epilogue { bias: convolution.bias.clone().map(|b| &pass.job.weights[b]), floor };
            let job = convolution::Forward {
                shape: &convolution.shape,
                x: pass.read(convolution.source, block),
                weight: &pass.job.weights[convolution.weight.clone()],
                epilogue,
                y,
            };
            match convolution.places {
                None => pass.job.arch.dispatch(Image(job)),
                Some(id) => {
                    // The buffer ends with a whole line, the places may not.
                    // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
                    let places: &mut [u16] = bytemuck::cast_slice_mut(unsafe { pass.write(id, block) });
                    pass.job.arch.dispatch(Pooled(job, &mut places[..count]));
                }
            }
            if let Some(rest) = rest {
                // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
                activate(pass.job.arch, rest, unsafe { pass.write(convolution.result, block) });
            }
        }
    }
}

struct Image<'a>(convolution::Forward<'a>);

impl WithSimd for Image<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.image(simd);
    }
}

struct Pooled<'a>(convolution::Forward<'a>, &'a mut [u16]);

impl WithSimd for Pooled<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.pooled(simd, self.1);
    }
}

#[derive(Debug)]
struct BackwardCall {
    convolution: Convolution,
    gradient: Id,
    edge: Option<Edge>,
}

// SAFETY: writes the weight's and bias's gradient in the rank's share of output channels, the source's gradient in
// its share of blocks.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        pass.job.arch.dispatch(Weights(self, pass));
        if let Some(bias) = &self.convolution.bias {
            let shape = &self.convolution.shape;
            let pool = if self.convolution.places.is_some() { 4 } else { 1 };
            let positions = shape.out_height * shape.out_width / pool;
            bias_gradient(pass, self.gradient, bias, pass.share(bias.len()), positions);
        }
        if let Some(edge) = self.edge {
            pass.job.arch.dispatch(Source(self, pass, edge));
        }
    }
}

struct Weights<'a>(&'a BackwardCall, &'a Pass<'a>);

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Weights(BackwardCall { convolution, .. }, pass) = self;
        let shape = &convolution.shape;
        let units = tiles(shape, rows_of_four::<S>());
        let share = pass.share(units.clone().count());
        for (group, channels) in units.skip(share.start).take(share.len()) {
            self.channels(simd, group, channels);
        }
    }
}

impl Weights<'_> {
    /// The gradient of the weights of some channels, over all blocks.
    #[inline(always)]
    fn channels<S: Simd>(&self, simd: S, group: usize, channels: Range<usize>) {
        let Weights(BackwardCall { convolution, gradient, .. }, pass) = self;
        let shape = &convolution.shape;
        let (sums, strips) =
            // SAFETY: it is taken once at a time.
            unsafe { pass.scratch(convolution.scratch()) }.split_at_mut(ROWS * shape.taps.len() * LANES);
        let sums = &mut sums[..channels.len() * shape.taps.len() * S::F32_LANES];
        sums.fill(0.0);
        for block in 0..pass.blocks() {
            let (x, g) = (pass.read(convolution.source, block), pass.read(*gradient, block));
            let places = convolution.places(pass, block);
            for start in (0..shape.out_height).step_by(convolution.strip_rows(ROWS)) {
                let rows = start..shape.out_height.min(start + convolution.strip_rows(ROWS));
                let strip = convolution.strip(channels.clone(), rows, g, places, strips);
                weight_gradient(simd, shape, group, channels.len(), x, &strip, sums);
            }
        }
        let start = convolution.weight.start;
        let to =
            // SAFETY: the range is in this rank's share, and is not read.
            unsafe { pass.gradient(start + channels.start * shape.taps.len()..start + channels.end * shape.taps.len()) };
        for (to, lanes) in to.iter_mut().zip(sums.chunks_exact(S::F32_LANES)) {
            let sum: f32 = simd.reduce_sum_f32s(bytemuck::pod_read_unaligned(bytemuck::cast_slice(lanes)));
            *to = if pass.add { *to + sum } else { sum };
        }
    }
}

struct Source<'a>(&'a BackwardCall, &'a Pass<'a>, Edge);

impl WithSimd for Source<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Source(BackwardCall { convolution, gradient, .. }, pass, edge) = self;
        let shape = &convolution.shape;
        let channels = shape.groups * shape.outputs;
        let weight = &pass.job.weights[convolution.weight.clone()];
        // SAFETY: it is taken once at a time.
        let scratch = unsafe { pass.scratch(convolution.scratch()) };
        for block in pass.block_share() {
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = unsafe { pass.write(edge.id, block) };
            if !edge.add {
                to.fill(0.0);
            }
            let g = pass.read(*gradient, block);
            let places = convolution.places(pass, block);
            for start in (0..shape.out_height).step_by(convolution.strip_rows(channels)) {
                let rows = start..shape.out_height.min(start + convolution.strip_rows(channels));
                let strip = convolution.strip(0..channels, rows, g, places, scratch);
                SourceGradient { shape, weight, strip, to: &mut *to }.add(simd);
            }
        }
    }
}
