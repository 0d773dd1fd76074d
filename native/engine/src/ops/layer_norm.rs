//! Standardises each sample over its last axis, then scales and shifts (Ba et al. 2016).

use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::Op;

use crate::fuse::Stage;
use crate::kernels::lanes::{Lane, lanes, lanes_mut, sum};
use crate::memory::LANES;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge};

#[derive(Clone, Debug)]
struct LayerNorm {
    source: Id,
    result: Id,
    /// The mean and 1/√(variance + ε) of each row of the last axis, one behind the other.
    statistics: Id,
    /// The length of the last axis.
    width: usize,
    epsilon: f32,
    weight: Range<usize>,
    bias: Range<usize>,
}

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let Op::LayerNorm { epsilon } = *builder.op(stage) else {
        unreachable!("lowered by its operation");
    };
    let source = builder.only_source(stage);
    let result = builder.result(stage, &[source]);
    let weight = builder.parameter(stage, 0).expect("a layer norm has a weight");
    let width = weight.len();
    let statistics = builder.buffer(2 * result.len / width * LANES);
    let norm = LayerNorm {
        source: source.id,
        result: result.id,
        statistics,
        width,
        epsilon,
        weight,
        bias: builder.parameter(stage, 1).expect("a layer norm has a bias"),
    };
    builder.call(Forward(norm.clone()), &[source.id, result.id, statistics], 0);
    let stage = *stage;
    Ok(vec![Box::new(move |builder| {
        let gradient = result.gradient.expect("a layer with weights has a gradient");
        let edge = builder.edge(source);
        let mut buffers = vec![source.id, statistics, gradient];
        buffers.extend(edge.map(|e| e.id));
        builder.call(BackwardCall { norm, gradient, edge }, &buffers, 0);
        builder.finishes(&stage);
    })])
}

#[derive(Debug)]
struct Forward(LayerNorm);

// SAFETY: writes the result and the statistics in the rank's share of blocks only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        let norm = &self.0;
        let (weight, bias) = (&pass.job.weights[norm.weight.clone()], &pass.job.weights[norm.bias.clone()]);
        for block in pass.block_share() {
            let from = lanes(pass.read(norm.source, block)).chunks_exact(norm.width);
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(norm.result, block) }).chunks_exact_mut(norm.width);
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let statistics = lanes_mut(unsafe { pass.write(norm.statistics, block) }).as_chunks_mut::<2>().0;
            pass.job.arch.dispatch(
                #[inline(always)]
                || {
                    for ((from, to), statistics) in from.zip(to).zip(statistics) {
                        *statistics = measure(from, norm.epsilon);
                        let [mean, scale] = statistics;
                        for (((to, from), weight), bias) in to.iter_mut().zip(from).zip(weight).zip(bias) {
                            for l in 0..LANES {
                                to[l] = ((from[l] - mean[l]) * scale[l]).mul_add(*weight, *bias);
                            }
                        }
                    }
                },
            );
        }
    }
}

/// The mean and 1/√(variance + ε) of each sample.
#[inline(always)]
fn measure(values: &[Lane], epsilon: f32) -> [Lane; 2] {
    let share = 1.0 / values.len() as f32;
    let (mut mean, mut variance) = ([0.0; LANES], [0.0; LANES]);
    for value in values {
        for l in 0..LANES {
            mean[l] += value[l];
        }
    }
    mean = mean.map(|m| m * share);
    for value in values {
        for l in 0..LANES {
            let distance = value[l] - mean[l];
            variance[l] = distance.mul_add(distance, variance[l]);
        }
    }
    [mean, variance.map(|v| 1.0 / v.mul_add(share, epsilon).sqrt())]
}

#[derive(Debug)]
struct BackwardCall {
    norm: LayerNorm,
    gradient: Id,
    edge: Option<Edge>,
}

// SAFETY: writes the weight's and bias's gradient in the rank's share of the last axis, the source's gradient in its
// share of blocks.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        self.parameters(pass);
        if let Some(edge) = self.edge {
            self.source(pass, edge);
        }
    }
}

impl BackwardCall {
    fn parameters(&self, pass: &Pass) {
        let norm = &self.norm;
        let share = pass.share(norm.width);
        let range = |start: usize| start + share.start..start + share.end;
        // SAFETY: the range is in this rank's share, and is not read.
        let weight = unsafe { pass.gradient(range(norm.weight.start)) };
        // SAFETY: the range is in this rank's share, and is not read.
        let bias = unsafe { pass.gradient(range(norm.bias.start)) };
        pass.job.arch.dispatch(
            #[inline(always)]
            || {
                for ((to_weight, to_bias), feature) in weight.iter_mut().zip(bias).zip(share) {
                    let (mut by_weight, mut by_bias) = ([0.0; LANES], [0.0; LANES]);
                    for block in 0..pass.blocks() {
                        let x = lanes(pass.read(norm.source, block)).chunks_exact(norm.width);
                        let g = lanes(pass.read(self.gradient, block)).chunks_exact(norm.width);
                        let statistics = lanes(pass.read(norm.statistics, block)).as_chunks::<2>().0;
                        for ((x, g), [mean, scale]) in x.zip(g).zip(statistics) {
                            let (x, g) = (&x[feature], &g[feature]);
                            for l in 0..LANES {
                                by_weight[l] = g[l].mul_add((x[l] - mean[l]) * scale[l], by_weight[l]);
                                by_bias[l] += g[l];
                            }
                        }
                    }
                    *to_weight = if pass.add { *to_weight } else { 0.0 } + sum(&by_weight);
                    *to_bias = if pass.add { *to_bias } else { 0.0 } + sum(&by_bias);
                }
            },
        );
    }

    /// dx = scale·(g·w − mean(g·w) − x̂·mean(g·w·x̂)).
    fn source(&self, pass: &Pass, edge: Edge) {
        let norm = &self.norm;
        let weight = &pass.job.weights[norm.weight.clone()];
        let share = 1.0 / norm.width as f32;
        for block in pass.block_share() {
            let x = lanes(pass.read(norm.source, block)).chunks_exact(norm.width);
            let g = lanes(pass.read(self.gradient, block)).chunks_exact(norm.width);
            let statistics = lanes(pass.read(norm.statistics, block)).as_chunks::<2>().0;
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(edge.id, block) }).chunks_exact_mut(norm.width);
            pass.job.arch.dispatch(
                #[inline(always)]
                || {
                    for (((x, g), [mean, scale]), to) in x.zip(g).zip(statistics).zip(to) {
                        let (mut all, mut along) = ([0.0; LANES], [0.0; LANES]);
                        for ((x, g), weight) in x.iter().zip(g).zip(weight) {
                            for l in 0..LANES {
                                let g = g[l] * weight;
                                all[l] += g;
                                along[l] = g.mul_add((x[l] - mean[l]) * scale[l], along[l]);
                            }
                        }
                        for (((x, g), weight), to) in x.iter().zip(g).zip(weight).zip(to) {
                            for l in 0..LANES {
                                let standard = (x[l] - mean[l]) * scale[l];
                                let rest = (all[l] + standard * along[l]) * share;
                                let value = scale[l] * (g[l] * weight - rest);
                                to[l] = if edge.add { to[l] + value } else { value };
                            }
                        }
                    }
                },
            );
        }
    }
}
