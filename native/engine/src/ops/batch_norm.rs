//! Standardises each feature or channel over the batch, then scales and shifts (Ioffe & Szegedy 2015).
//!
//! Running statistics follow PyTorch: `running = (1 − momentum)·running + momentum·batch`, the batch's variance
//! unbiased. Needs the whole batch at once, so it runs in wide plans only.

use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::Op;

use crate::fuse::Stage;
use crate::kernels::lanes::{Lane, lanes, lanes_mut};
use crate::memory::LANES;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge};
use crate::training::Training;

#[derive(Clone, Debug)]
struct BatchNorm {
    source: Id,
    result: Id,
    /// The mean and 1/√(variance + ε) of each feature; block 0 only.
    statistics: Id,
    features: usize,
    /// Positions a feature.
    positions: usize,
    epsilon: f32,
    momentum: f32,
    weight: Range<usize>,
    bias: Range<usize>,
    running_mean: Range<usize>,
    running_variance: Range<usize>,
}

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let Op::BatchNorm { epsilon, momentum } = *builder.op(stage) else {
        unreachable!("lowered by its operation");
    };
    let source = builder.only_source(stage);
    let result = builder.result(stage, &[source]);
    let weight = builder.parameter(stage, 0).expect("a batch norm has a weight");
    let features = weight.len();
    let statistics = builder.buffer(2 * features);
    let buffers = &builder.graph.nodes()[stage.node].buffers;
    let running = |i: usize| builder.graph.buffers()[buffers[i]].range.clone();
    let norm = BatchNorm {
        source: source.id,
        result: result.id,
        statistics,
        features,
        positions: result.len / features,
        epsilon,
        momentum,
        weight,
        bias: builder.parameter(stage, 1).expect("a batch norm has a bias"),
        running_mean: running(0),
        running_variance: running(1),
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

impl BatchNorm {
    /// The positions of a feature in a block.
    fn part(&self, feature: usize) -> Range<usize> {
        feature * self.positions * LANES..(feature + 1) * self.positions * LANES
    }

    /// The mean and biased variance of a feature over the batch.
    #[inline(always)]
    fn measure(&self, pass: &Pass, feature: usize) -> (f32, f32) {
        let mean = self.mean(pass, feature, |x| x);
        let variance = self.mean(pass, feature, |x| (x - mean) * (x - mean));
        (mean, variance)
    }

    /// The mean of `f` of a feature over the batch. Sums are f32 within a block, f64 across.
    #[inline(always)]
    fn mean(&self, pass: &Pass, feature: usize, f: impl Fn(f32) -> f32) -> f32 {
        let mut total = 0.0;
        for block in 0..pass.blocks() {
            let mut sums: Lane = [0.0; LANES];
            for lane in lanes(&pass.read(self.source, block)[self.part(feature)]) {
                for l in 0..LANES {
                    sums[l] += f(lane[l]);
                }
            }
            total += sums[..pass.lanes(block)].iter().map(|s| f64::from(*s)).sum::<f64>();
        }
        (total / (pass.rows * self.positions) as f64) as f32
    }

    fn remember(&self, pass: &Pass, training: &Training, feature: usize, mean: f32, variance: f32) {
        let count = (pass.rows * self.positions) as f32;
        let unbiased = if count > 1.0 { variance * count / (count - 1.0) } else { variance };
        for (range, new) in [(&self.running_mean, mean), (&self.running_variance, unbiased)] {
            let at = range.start + feature;
            // SAFETY: the range is in this rank's share of features.
            let running = &mut unsafe { training.buffer(at..at + 1) }[0];
            *running = (1.0 - self.momentum) * *running + self.momentum * new;
        }
    }

    fn running(&self, pass: &Pass, feature: usize) -> (f32, f32) {
        let at = |range: &Range<usize>| pass.job.buffers[range.start + feature];
        (at(&self.running_mean), at(&self.running_variance))
    }
}

#[derive(Debug)]
struct Forward(BatchNorm);

// SAFETY: writes the result, the statistics and the running statistics in the rank's share of features only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        if pass.rows == 0 {
            return;
        }
        let norm = &self.0;
        pass.job.arch.dispatch(
            #[inline(always)]
            || {
                for feature in pass.share(norm.features) {
                    let training = pass.job.training;
                    let (mean, variance) = match training {
                        Some(_) => norm.measure(pass, feature),
                        None => norm.running(pass, feature),
                    };
                    let scale = 1.0 / (variance + norm.epsilon).sqrt();
                    if let Some(training) = training {
                        norm.remember(pass, training, feature, mean, variance);
                        // SAFETY: the part is in this rank's share; nothing else that is in use now lies there.
                        let kept =
                            unsafe { pass.write_part(norm.statistics, 0, 2 * feature..2 * feature + 2) };
                        kept.copy_from_slice(&[mean, scale]);
                    }
                    let weight = pass.job.weights[norm.weight.start + feature] * scale;
                    let bias = pass.job.weights[norm.bias.start + feature];
                    for block in 0..pass.blocks() {
                        let from = &pass.read(norm.source, block)[norm.part(feature)];
                        // SAFETY: the part is in this rank's share; nothing else that is in use now lies there.
                        let to = unsafe { pass.write_part(norm.result, block, norm.part(feature)) };
                        for (to, from) in to.iter_mut().zip(from) {
                            *to = (*from - mean).mul_add(weight, bias);
                        }
                    }
                }
            },
        );
    }
}

#[derive(Debug)]
struct BackwardCall {
    norm: BatchNorm,
    gradient: Id,
    edge: Option<Edge>,
}

// SAFETY: writes all gradients in the rank's share of features only.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        let norm = &self.norm;
        pass.job.arch.dispatch(
            #[inline(always)]
            || {
                for feature in pass.share(norm.features) {
                    let [mean, scale] =
                        std::array::from_fn(|i| pass.read(norm.statistics, 0)[2 * feature + i]);
                    let (along, all) = self.sums(pass, feature, mean, scale);
                    for (start, sum) in [(norm.weight.start, along), (norm.bias.start, all)] {
                        // SAFETY: the range is in this rank's share, and is not read.
                        let to = unsafe { pass.gradient(start + feature..start + feature + 1) };
                        to[0] = sum;
                    }
                    if let Some(edge) = self.edge {
                        let count = (pass.rows * norm.positions) as f32;
                        self.source(pass, edge, feature, [mean, scale, along / count, all / count]);
                    }
                }
            },
        );
    }
}

impl BackwardCall {
    /// Σ g·x̂ and Σ g of a feature. Lanes that are no samples have g = 0.
    #[inline(always)]
    fn sums(&self, pass: &Pass, feature: usize, mean: f32, scale: f32) -> (f32, f32) {
        let (mut along, mut all) = (0.0, 0.0);
        for block in 0..pass.blocks() {
            let x = lanes(&pass.read(self.norm.source, block)[self.norm.part(feature)]);
            let g = lanes(&pass.read(self.gradient, block)[self.norm.part(feature)]);
            let (mut by_x, mut by_one): (Lane, Lane) = ([0.0; LANES], [0.0; LANES]);
            for (x, g) in x.iter().zip(g) {
                for l in 0..LANES {
                    by_x[l] = g[l].mul_add((x[l] - mean) * scale, by_x[l]);
                    by_one[l] += g[l];
                }
            }
            let total = |sums: &Lane| sums.iter().map(|s| f64::from(*s)).sum::<f64>();
            along += total(&by_x);
            all += total(&by_one);
        }
        (along as f32, all as f32)
    }

    /// dx = w·scale·(g − mean(g) − x̂·mean(g·x̂)), 0 in lanes that are no samples.
    #[inline(always)]
    fn source(&self, pass: &Pass, edge: Edge, feature: usize, [mean, scale, along, all]: [f32; 4]) {
        let weight = pass.job.weights[self.norm.weight.start + feature] * scale;
        for block in 0..pass.blocks() {
            let x = lanes(&pass.read(self.norm.source, block)[self.norm.part(feature)]);
            let g = lanes(&pass.read(self.gradient, block)[self.norm.part(feature)]);
            // SAFETY: the part is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write_part(edge.id, block, self.norm.part(feature)) });
            let count = pass.lanes(block);
            for ((x, g), to) in x.iter().zip(g).zip(to) {
                for l in 0..LANES {
                    let value = weight * (g[l] - all - (x[l] - mean) * scale * along);
                    let value = if l < count { value } else { 0.0 };
                    to[l] = if edge.add { to[l] + value } else { value };
                }
            }
        }
    }
}
