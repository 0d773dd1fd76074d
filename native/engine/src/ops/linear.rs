//! `(inputs) -> (outputs)`: x·Wᵀ + b, and an activation.

use std::ops::Range;

use firesteel_error::Result;

use super::activation::split;
use super::bias_gradient;
use crate::fuse::{Activation, Stage};
use crate::kernels::lanes::activate;
use crate::kernels::product::{OUTER_SCRATCH, OuterProduct, Product, packed_len};
use crate::memory::LANES;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge, Value};

#[derive(Clone, Debug)]
struct Linear {
    source: Id,
    result: Id,
    inputs: usize,
    outputs: usize,
    /// `(outputs, inputs)`.
    weight: Range<usize>,
    /// `(outputs)`.
    bias: Option<Range<usize>>,
    activation: Option<Activation>,
    /// Add to the result instead of setting it, before the activation.
    add: bool,
}

impl Linear {
    fn new(builder: &Builder, stage: &Stage, source: Value, result: Value) -> Linear {
        Linear {
            source: source.id,
            result: result.id,
            inputs: source.len,
            outputs: result.len,
            weight: builder.parameter(stage, 0).expect("a linear layer has a weight"),
            bias: builder.parameter(stage, 1),
            activation: stage.activation,
            add: false,
        }
    }
}

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let source = builder.only_source(stage);
    let result = builder.result(stage, &[source]);
    let linear = Linear::new(builder, stage, source, result);
    builder.call(Forward(linear.clone()), &[source.id, result.id], 0);
    let stage = *stage;
    Ok(vec![Box::new(move |builder| {
        let gradient = result.gradient.expect("a layer with weights has a gradient");
        super::activation::emit_backward(builder, stage.activation, result);
        let edge = builder.edge(source);
        let scratch = OUTER_SCRATCH.max(packed_len(linear.outputs));
        let mut buffers = vec![linear.source, gradient];
        buffers.extend(edge.map(|e| e.id));
        builder.call(BackwardCall { linear, gradient, edge }, &buffers, scratch);
        builder.finishes(&stage);
    })])
}

/// Emits the forward of a layer whose value is added to what `result` holds.
pub(super) fn add_to(builder: &mut Builder, node: usize, activation: Option<Activation>, result: Value) {
    let stage = Stage { activation, ..Stage::of(node) };
    let source = builder.only_source(&stage);
    let linear = Linear { add: true, ..Linear::new(builder, &stage, source, result) };
    builder.call(Forward(linear), &[source.id, result.id], 0);
}

/// How a rank's share of a product is cut: by blocks where there are enough for all ranks, else by `features`.
fn cut(pass: &Pass, features: usize) -> (Range<usize>, Range<usize>) {
    if pass.blocks() >= 2 * pass.of || pass.of == 1 {
        (pass.block_share(), 0..features)
    } else {
        (0..pass.blocks(), pass.share(features))
    }
}

#[derive(Debug)]
struct Forward(Linear);

// SAFETY: writes the result in the rank's cut of blocks and outputs only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        let linear = &self.0;
        let (blocks, rows) = cut(pass, linear.outputs);
        if blocks.is_empty() || rows.is_empty() {
            return;
        }
        let (floor, rest) = split(linear.activation);
        let product = Product {
            x: pass.read_all(linear.source),
            y: pass.start(linear.result),
            blocks: blocks.clone(),
            rows: rows.clone(),
            height: linear.outputs,
            depth: linear.inputs,
            a: &pass.job.weights[linear.weight.clone()],
            transposed: false,
            bias: linear.bias.clone().map(|b| &pass.job.weights[b]),
            floor,
            add: linear.add,
            scratch: &mut [],
        };
        // SAFETY: the result has `outputs` for each block, and the cut is this rank's.
        unsafe { product.run(pass.job.arch) };
        if let Some(rest) = rest {
            for block in blocks {
                let part = rows.start * LANES..rows.end * LANES;
                // SAFETY: the part is in this rank's share; nothing else that is in use now lies there.
                activate(pass.job.arch, rest, unsafe { pass.write_part(linear.result, block, part) });
            }
        }
    }
}

#[derive(Debug)]
struct BackwardCall {
    linear: Linear,
    gradient: Id,
    edge: Option<Edge>,
}

// SAFETY: writes the weight's and bias's gradient in the rank's share of outputs, the source's gradient in its cut.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        self.weights(pass);
        if let Some(edge) = self.edge {
            self.source(pass, edge);
        }
    }
}

impl BackwardCall {
    fn weights(&self, pass: &Pass) {
        let linear = &self.linear;
        let rows = pass.share(linear.outputs);
        if rows.is_empty() {
            return;
        }
        let start = linear.weight.start;
        let product = OuterProduct {
            g: pass.read_all(self.gradient),
            x: pass.read_all(linear.source),
            blocks: pass.blocks(),
            height: linear.outputs,
            width: linear.inputs,
            rows: rows.clone(),
            // SAFETY: the range is in this rank's share, and is not read.
            c: unsafe { pass.gradient(start + rows.start * linear.inputs..start + rows.end * linear.inputs) },
            add: pass.add,
            // SAFETY: it is taken once at a time.
            scratch: unsafe { pass.scratch(OUTER_SCRATCH) },
        };
        product.run(pass.job.arch);
        if let Some(bias) = &linear.bias {
            bias_gradient(pass, self.gradient, bias, rows, 1);
        }
    }

    fn source(&self, pass: &Pass, edge: Edge) {
        let linear = &self.linear;
        let (blocks, rows) = cut(pass, linear.inputs);
        if blocks.is_empty() || rows.is_empty() {
            return;
        }
        let product = Product {
            x: pass.read_all(self.gradient),
            y: pass.start(edge.id),
            blocks,
            rows,
            height: linear.inputs,
            depth: linear.outputs,
            a: &pass.job.weights[linear.weight.clone()],
            transposed: true,
            bias: None,
            floor: f32::NEG_INFINITY,
            add: edge.add,
            // SAFETY: it is taken once at a time.
            scratch: unsafe { pass.scratch(packed_len(linear.outputs)) },
        };
        // SAFETY: the source's gradient has `inputs` for each block, and the cut is this rank's.
        unsafe { product.run(pass.job.arch) };
    }
}
