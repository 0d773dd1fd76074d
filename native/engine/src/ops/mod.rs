//! The operations. Each file has its forward, its backward, their shapes, and a `lower` that emits the calls of both
//! into a plan.
//!
//! Every operation is held to numbers by hand (`tests/it/literals.rs`), to finite differences of a plain engine in f64
//! (`gradients.rs`), to PyTorch (`golden.rs`), and each mode and number of threads to the others (`modes.rs`).

use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::Op;

use crate::fuse::Stage;
use crate::kernels::lanes::{Lane, lanes, sum};
use crate::memory::LANES;
use crate::pass::{Id, Pass};
use crate::plan::{Backward, Builder};

mod activation;
mod add;
mod batch_norm;
mod concat;
mod conv2d;
mod dropout;
pub(crate) mod embedding;
mod flatten;
mod layer_norm;
mod linear;
pub(crate) mod load;
mod pad;
mod pool;

/// Emits a stage's forward; what it returns emits, last first, its backward.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    match builder.op(stage) {
        Op::Linear { .. } => linear::lower(builder, stage),
        Op::Embedding { .. } => embedding::lower(builder, stage),
        Op::Conv2d { .. } => conv2d::lower(builder, stage),
        Op::MaxPool2d { .. } => pool::lower_max(builder, stage),
        Op::AvgPool2d { .. } => pool::lower_avg(builder, stage),
        Op::Flatten => flatten::lower(builder, stage),
        Op::Concat => concat::lower(builder, stage),
        Op::Add => add::lower(builder, stage),
        Op::Relu | Op::Tanh | Op::Sigmoid | Op::Gelu => activation::lower(builder, stage),
        Op::Dropout { .. } => dropout::lower(builder, stage),
        Op::BatchNorm { .. } => batch_norm::lower(builder, stage),
        Op::LayerNorm { .. } => layer_norm::lower(builder, stage),
    }
}

/// The gradient of a bias, for some of its channels: the sum of the gradient `(channels, positions)` over positions
/// and samples.
fn bias_gradient(pass: &Pass, gradient: Id, bias: &Range<usize>, channels: Range<usize>, positions: usize) {
    // SAFETY: the range is in this rank's share, and is not read.
    let to = unsafe { pass.gradient(bias.start + channels.start..bias.start + channels.end) };
    pass.job.arch.dispatch(
        #[inline(always)]
        || {
            for (to, channel) in to.iter_mut().zip(channels) {
                let mut sums: Lane = [0.0; LANES];
                for block in 0..pass.blocks() {
                    let plane = &lanes(pass.read(gradient, block))[channel * positions..][..positions];
                    for lane in plane {
                        for l in 0..LANES {
                            sums[l] += lane[l];
                        }
                    }
                }
                *to = if pass.add { *to } else { 0.0 } + sum(&sums);
            }
        },
    );
}
