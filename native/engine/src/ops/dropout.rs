//! In training, zeroes a value with probability `rate` and scales the rest by 1/(1−rate).
//!
//! Whether a value is dropped depends on the seed, the step, the layer, the row's place in the global batch and the
//! feature, so it is the same at any number of threads and workers.

use firesteel_error::Result;
use firesteel_model::Op;

use crate::fuse::Stage;
use crate::kernels::lanes::{lanes, lanes_mut, put};
use crate::memory::LANES;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge};
use crate::random::{dropout_key, philox};

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let Op::Dropout { rate } = *builder.op(stage) else {
        unreachable!("lowered by its operation");
    };
    let source = builder.only_source(stage);
    let result = builder.result(stage, &[source]);
    let factors = builder.buffer(result.len * LANES);
    let forward = Forward { source: source.id, result: result.id, factors, layer: stage.node, rate };
    builder.call(forward, &[source.id, result.id, factors], 0);
    Ok(vec![Box::new(move |builder| {
        let (Some(edge), Some(gradient)) = (builder.edge(source), result.gradient) else { return };
        builder.call(BackwardCall { factors, gradient, edge }, &[factors, gradient, edge.id], 0);
    })])
}

#[derive(Debug)]
struct Forward {
    source: Id,
    result: Id,
    /// 0 or 1/(1−rate), for backward.
    factors: Id,
    layer: usize,
    rate: f32,
}

// SAFETY: writes the result and the factors in the rank's share of blocks only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        let Some(training) = pass.job.training else {
            for block in pass.block_share() {
                // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
                let to = unsafe { pass.write(self.result, block) };
                to.copy_from_slice(pass.read(self.source, block));
            }
            return;
        };
        let key = dropout_key(training.seed, training.step, self.layer);
        // A word below it drops: `rate` of all words.
        let bound = (f64::from(self.rate) * 4_294_967_296.0) as u32;
        let kept = 1.0 / (1.0 - self.rate);
        for block in pass.block_share() {
            let from = pass.read(self.source, block);
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = unsafe { pass.write(self.result, block) };
            let mut positions = [0; LANES];
            let first = pass.first + block * LANES;
            let count = pass.lanes(block);
            positions[..count].copy_from_slice(&training.batch.positions[first..first + count]);
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let factors = lanes_mut(unsafe { pass.write(self.factors, block) });
            let (from, to) = (lanes(from), lanes_mut(to));
            pass.job.arch.dispatch(
                #[inline(always)]
                || {
                    for (four, factors) in factors.chunks_mut(4).enumerate() {
                        let mut words = [[0; LANES]; 4];
                        for l in 0..LANES {
                            let (low, high) = (positions[l] as u32, (positions[l] >> 32) as u32);
                            let drawn = philox([low, high, four as u32, 0], key);
                            for (words, word) in words.iter_mut().zip(drawn) {
                                words[l] = word;
                            }
                        }
                        for (factor, words) in factors.iter_mut().zip(&words) {
                            for l in 0..LANES {
                                factor[l] = if words[l] < bound { 0.0 } else { kept };
                            }
                        }
                    }
                    put(to, false, |i, l| from[i][l] * factors[i][l]);
                },
            );
        }
    }
}

#[derive(Debug)]
struct BackwardCall {
    factors: Id,
    gradient: Id,
    edge: Edge,
}

// SAFETY: writes the source's gradient in the rank's share of blocks only.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let factors = lanes(pass.read(self.factors, block));
            let gradient = lanes(pass.read(self.gradient, block));
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.edge.id, block) });
            let add = self.edge.add;
            pass.job.arch.dispatch(
                #[inline(always)]
                || put(to, add, |i, l| gradient[i][l] * factors[i][l]),
            );
        }
    }
}
