//! The sum of sources of one shape.

use firesteel_error::Result;
use firesteel_model::{Op, Source};

use super::{embedding, linear};
use crate::fuse::Stage;
use crate::kernels::lanes::copy;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge};

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    if stage.operands {
        lower_with_operands(builder, stage);
        return Ok(Vec::new());
    }
    let sources = builder.sources(stage);
    let result = builder.result(stage, &sources);
    let ids: Vec<Id> = sources.iter().map(|s| s.id).collect();
    let mut buffers = ids.clone();
    buffers.push(result.id);
    builder.call(Forward { sources: ids, result: result.id }, &buffers, 0);
    Ok(vec![Box::new(move |builder| {
        let Some(gradient) = result.gradient else { return };
        let edges: Vec<Edge> = sources.iter().filter_map(|s| builder.edge(*s)).collect();
        let mut buffers = vec![gradient];
        buffers.extend(edges.iter().map(|e| e.id));
        builder.call(BackwardCall { gradient, edges }, &buffers, 0);
    })])
}

/// Emits the layer together with what it adds up: embeddings, and perhaps a linear layer last. Value for value it is
/// what they give one by one.
fn lower_with_operands(builder: &mut Builder, stage: &Stage) {
    let result = builder.result(stage, &[]);
    let graph = builder.graph;
    let layer = |source: &Source| match source {
        Source::Node(node) => *node,
        Source::Input(_) => unreachable!("operands that are fused are layers"),
    };
    let mut embeddings: Vec<usize> = graph.nodes()[stage.node].sources.iter().map(layer).collect();
    let linear = embeddings.pop_if(|last| matches!(graph.nodes()[*last].op, Op::Linear { .. }));
    let alone = stage.activation.filter(|_| linear.is_none());
    embedding::sum(builder, &embeddings, alone, result);
    if let Some(linear) = linear {
        linear::add_to(builder, linear, stage.activation, result);
    }
}

#[derive(Debug)]
struct Forward {
    sources: Vec<Id>,
    result: Id,
}

// SAFETY: writes the result in the rank's share of blocks only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = unsafe { pass.write(self.result, block) };
            for (i, source) in self.sources.iter().enumerate() {
                copy(pass.job.arch, pass.read(*source, block), to, i > 0);
            }
        }
    }
}

#[derive(Debug)]
struct BackwardCall {
    gradient: Id,
    edges: Vec<Edge>,
}

// SAFETY: writes the sources' gradients in the rank's share of blocks only.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let gradient = pass.read(self.gradient, block);
            for edge in &self.edges {
                // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
                copy(pass.job.arch, gradient, unsafe { pass.write(edge.id, block) }, edge.add);
            }
        }
    }
}
