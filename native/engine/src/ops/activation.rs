//! relu, tanh, sigmoid, gelu on any shape, where they stand alone; behind a product they are part of it.

use firesteel_error::Result;

use crate::fuse::{Activation, Stage};
use crate::kernels::lanes::{activate, activate_backward, lanes, lanes_mut, put};
use crate::kernels::math;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge, Value};

/// Emits a layer that stands alone.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let source = builder.only_source(stage);
    let result = builder.result(stage, &[source]);
    let activation = Activation::of(builder.op(stage));
    builder.call(Forward { source: source.id, result: result.id, activation }, &[source.id, result.id], 0);
    Ok(vec![Box::new(move |builder| {
        let (Some(edge), Some(gradient)) = (builder.edge(source), result.gradient) else { return };
        // gelu's slope needs the operand, the others' the result.
        let seen = if activation.is_some() { result.id } else { source.id };
        builder.call(BackwardCall { seen, gradient, edge, activation }, &[seen, gradient, edge.id], 0);
    })])
}

/// Emits the backward of an activation fused behind something: turns the result's gradient, in place, into that
/// before the activation.
pub(crate) fn emit_backward(builder: &mut Builder, activation: Option<Activation>, result: Value) {
    let (Some(gradient), Some(activation)) = (result.gradient, activation) else { return };
    builder.call(InPlace { result: result.id, gradient, activation }, &[result.id, gradient], 0);
}

/// What a product does of an activation in its last step, the floor under its results, and what is left to do.
pub(crate) fn split(activation: Option<Activation>) -> (f32, Option<Activation>) {
    match activation {
        Some(Activation::Relu) => (0.0, None),
        other => (f32::NEG_INFINITY, other),
    }
}

#[derive(Debug)]
struct Forward {
    source: Id,
    result: Id,
    /// None is gelu.
    activation: Option<Activation>,
}

// SAFETY: writes the result in the rank's share of blocks only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let (from, to) = (pass.read(self.source, block), unsafe { pass.write(self.result, block) });
            if let Some(activation) = self.activation {
                to.copy_from_slice(from);
                activate(pass.job.arch, activation, to);
                continue;
            }
            pass.job.arch.dispatch(
                #[inline(always)]
                || to.iter_mut().zip(from).for_each(|(y, x)| *y = math::gelu(*x)),
            );
        }
    }
}

#[derive(Debug)]
struct InPlace {
    result: Id,
    gradient: Id,
    activation: Activation,
}

// SAFETY: writes the gradient in the rank's share of blocks only.
unsafe impl Kernel for InPlace {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let (result, gradient) =
                (pass.read(self.result, block), unsafe { pass.write(self.gradient, block) });
            activate_backward(pass.job.arch, self.activation, result, gradient);
        }
    }
}

#[derive(Debug)]
struct BackwardCall {
    seen: Id,
    gradient: Id,
    edge: Edge,
    activation: Option<Activation>,
}

// SAFETY: writes the source's gradient in the rank's share of blocks only.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let (seen, gradient) =
                (lanes(pass.read(self.seen, block)), lanes(pass.read(self.gradient, block)));
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.edge.id, block) });
            let add = self.edge.add;
            macro_rules! each {
                ($backward:expr) => {
                    pass.job.arch.dispatch(
                        #[inline(always)]
                        || put(to, add, |i, l| $backward(gradient[i][l], seen[i][l])),
                    )
                };
            }
            match self.activation {
                None => each!(math::gelu_backward),
                Some(Activation::Relu) => each!(math::relu_backward),
                Some(Activation::Tanh) => each!(math::tanh_backward),
                Some(Activation::Sigmoid) => each!(math::sigmoid_backward),
            }
        }
    }
}
