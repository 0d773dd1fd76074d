//! Sources joined along their first axis.

use firesteel_error::Result;

use crate::fuse::Stage;
use crate::kernels::lanes::copy;
use crate::memory::LANES;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge};

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let sources = builder.sources(stage);
    let result = builder.result(stage, &sources);
    let ids: Vec<Id> = sources.iter().map(|s| s.id).collect();
    let mut buffers = ids.clone();
    buffers.push(result.id);
    builder.call(Forward { sources: ids, result: result.id }, &buffers, 0);
    Ok(vec![Box::new(move |builder| {
        let Some(gradient) = result.gradient else { return };
        let mut edges = Vec::new();
        let mut start = 0;
        for source in &sources {
            edges.extend(builder.edge(*source).map(|edge| (start, edge)));
            start += source.len * LANES;
        }
        let mut buffers = vec![gradient];
        buffers.extend(edges.iter().map(|(_, e)| e.id));
        builder.call(BackwardCall { gradient, edges }, &buffers, 0);
    })])
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
            let mut to = unsafe { pass.write(self.result, block) };
            for source in &self.sources {
                let from = pass.read(*source, block);
                let (part, rest) = to.split_at_mut(from.len());
                part.copy_from_slice(from);
                to = rest;
            }
        }
    }
}

#[derive(Debug)]
struct BackwardCall {
    gradient: Id,
    /// Where each source's part starts.
    edges: Vec<(usize, Edge)>,
}

// SAFETY: writes the sources' gradients in the rank's share of blocks only.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let gradient = pass.read(self.gradient, block);
            for (start, edge) in &self.edges {
                // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
                let to = unsafe { pass.write(edge.id, block) };
                copy(pass.job.arch, &gradient[*start..*start + to.len()], to, edge.add);
            }
        }
    }
}
