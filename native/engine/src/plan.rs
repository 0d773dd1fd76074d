//! The compiled network: a list of kernel calls whose buffers lie in one arena.

use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::{Graph, InputKind, Op, Source};

use crate::fuse::{Purpose, Stage, fuse};
use crate::memory::LANES;
use crate::ops;
use crate::pass::{Id, Kernel, Place};
use crate::place::{Lifetime, place};

/// A compiled network.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The calls of forward; the last has written `output`.
    pub(crate) forward: Vec<Box<dyn Kernel>>,
    pub(crate) places: Vec<Place>,
    /// f32 of arena a block.
    pub(crate) arena: usize,
    /// f32 of scratch a thread.
    pub(crate) scratch: usize,
    pub(crate) output: Id,
}

/// What training does after forward.
#[derive(Debug)]
pub(crate) struct BackwardPlan {
    /// The first may read `output_gradient`.
    pub(crate) calls: Vec<Box<dyn Kernel>>,
    pub(crate) output_gradient: Id,
    /// After that many calls of backward, the dense gradient is finished up to an end. Both rise.
    pub(crate) ready: Vec<(usize, usize)>,
}

/// What an op leaves for later: it emits the calls of its backward.
pub(crate) type Backward = Box<dyn FnOnce(&mut Builder)>;

/// The value of a layer or input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) id: Id,
    /// Values a sample.
    pub(crate) len: usize,
    /// The buffer of its gradient; none where nothing before it is trained.
    pub(crate) gradient: Option<Id>,
}

/// A gradient that a backward call writes, or adds to when another call has written it before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    pub(crate) id: Id,
    pub(crate) add: bool,
}

/// A plan being made.
pub(crate) struct Builder<'g> {
    pub(crate) graph: &'g Graph,
    buffers: Vec<Lifetime>,
    calls: Vec<Box<dyn Kernel>>,
    scratch: usize,
    inputs: Vec<Option<Value>>,
    values: Vec<Option<Value>>,
    written: Vec<bool>,
    /// The call that finishes each parameter's gradient.
    finished: Vec<usize>,
}

impl Plan {
    /// Compiles a network for inference.
    pub(crate) fn new(graph: &Graph) -> Result<Plan> {
        let mut builder = Builder::new(graph);
        builder.forward(Purpose::Inference)?;
        let output = builder.output().id;
        builder.uses(&[output]);
        builder.finish(output)
    }

    /// Compiles a network for training.
    pub(crate) fn with_backward(graph: &Graph) -> Result<(Plan, BackwardPlan)> {
        let mut builder = Builder::new(graph);
        let mut backwards = builder.forward(Purpose::Training)?;
        let output = builder.output();
        let output_gradient = output.gradient.unwrap_or_else(|| builder.buffer(output.len * LANES));
        let loss = builder.calls.len();
        builder.uses(&[output.id, output_gradient]);
        builder.written[output_gradient.0] = true;
        while let Some(backward) = backwards.pop() {
            backward(&mut builder);
        }
        let calls = builder.calls.split_off(loss);
        let ready = ready(graph, &builder.finished, loss);
        Ok((builder.finish(output.id)?, BackwardPlan { calls, output_gradient, ready }))
    }
}

impl<'g> Builder<'g> {
    fn new(graph: &'g Graph) -> Builder<'g> {
        Builder {
            graph,
            buffers: Vec::new(),
            calls: Vec::new(),
            scratch: 0,
            inputs: vec![None; graph.spec().inputs.len()],
            values: vec![None; graph.nodes().len()],
            written: Vec::new(),
            finished: vec![usize::MAX; graph.parameters().len()],
        }
    }

    /// Adds the calls of forward.
    fn forward(&mut self, purpose: Purpose) -> Result<Vec<Backward>> {
        let mut backwards = Vec::new();
        for stage in fuse(self.graph, purpose) {
            backwards.extend(ops::lower(self, &stage)?);
        }
        Ok(backwards)
    }

    /// A buffer of `len` f32 a block.
    pub(crate) fn buffer(&mut self, len: usize) -> Id {
        self.buffers.push(Lifetime { len: len.next_multiple_of(LANES), first: usize::MAX, last: 0 });
        self.written.push(false);
        Id(self.buffers.len() - 1)
    }

    /// A value of `len` a sample, with a gradient if any of `trained`.
    pub(crate) fn value(&mut self, len: usize, trained: bool) -> Value {
        let id = self.buffer(len * LANES);
        let gradient = trained.then(|| self.buffer(len * LANES));
        Value { id, len, gradient }
    }

    /// The value that a stage gives: as many features as its result, and a gradient if it or anything it reads is
    /// trained.
    pub(crate) fn result(&mut self, stage: &Stage, sources: &[Value]) -> Value {
        let node = &self.graph.nodes()[stage.result];
        let trained = !self.graph.nodes()[stage.node].parameters.is_empty();
        let value =
            self.value(node.shape.iter().product(), trained || sources.iter().any(|s| s.gradient.is_some()));
        self.set(stage, value);
        value
    }

    /// Makes `value` that of the stage's result.
    pub(crate) fn set(&mut self, stage: &Stage, value: Value) {
        self.values[stage.result] = Some(value);
    }

    /// The values a stage reads.
    pub(crate) fn sources(&mut self, stage: &Stage) -> Vec<Value> {
        self.source_nodes(stage).into_iter().map(|s| self.source(s)).collect()
    }

    /// The first value a stage reads.
    pub(crate) fn only_source(&mut self, stage: &Stage) -> Value {
        let source = self.source_nodes(stage)[0];
        self.source(source)
    }

    /// Where a stage reads. An activation that went behind a pool is passed over.
    pub(crate) fn source_nodes(&self, stage: &Stage) -> Vec<Source> {
        let nodes = self.graph.nodes();
        let skip = |source: &Source| match *source {
            Source::Node(n) if self.values[n].is_none() => nodes[n].sources[0],
            other => other,
        };
        nodes[stage.node].sources.iter().map(skip).collect()
    }

    fn source(&mut self, source: Source) -> Value {
        match source {
            Source::Node(n) => self.values[n].expect("stages follow what they read"),
            Source::Input(i) => match self.inputs[i] {
                Some(value) => value,
                None => {
                    let value = ops::load::lower(self, i, [0, 0]);
                    self.inputs[i] = Some(value);
                    value
                }
            },
        }
    }

    /// The shape of one sample of an input.
    pub(crate) fn input_shape(&self, input: usize) -> &[usize] {
        match &self.graph.spec().inputs[input].kind {
            InputKind::Dense { shape } => shape,
            InputKind::Index { .. } => &[],
        }
    }

    /// The operation of a stage.
    pub(crate) fn op(&self, stage: &Stage) -> &Op {
        &self.graph.nodes()[stage.node].op
    }

    /// The place of a stage's parameter in the flat vectors: 0 is the weight, 1 the bias.
    pub(crate) fn parameter(&self, stage: &Stage, index: usize) -> Option<Range<usize>> {
        let parameter = self.graph.nodes()[stage.node].parameters.get(index)?;
        Some(self.graph.parameters()[*parameter].range.clone())
    }

    /// Adds a call that uses `buffers` and `scratch` f32 of scratch.
    pub(crate) fn call(&mut self, kernel: impl Kernel + 'static, buffers: &[Id], scratch: usize) {
        self.uses(buffers);
        self.scratch = self.scratch.max(scratch);
        self.calls.push(Box::new(kernel));
    }

    /// The call just added finishes the gradients of a stage's parameters.
    pub(crate) fn finishes(&mut self, stage: &Stage) {
        for &parameter in &self.graph.nodes()[stage.node].parameters {
            self.finished[parameter] = self.calls.len() - 1;
        }
    }

    /// The gradient of `value`, to be written by the call that is added next.
    pub(crate) fn edge(&mut self, value: Value) -> Option<Edge> {
        let id = value.gradient?;
        Some(Edge { id, add: std::mem::replace(&mut self.written[id.0], true) })
    }

    fn uses(&mut self, buffers: &[Id]) {
        let now = self.calls.len();
        for id in buffers {
            let life = &mut self.buffers[id.0];
            life.first = life.first.min(now);
            life.last = life.last.max(now);
        }
    }

    fn output(&self) -> Value {
        self.values.last().copied().flatten().expect("the last stage gives the last layer's value")
    }

    fn finish(self, output: Id) -> Result<Plan> {
        let (places, arena) = place(&self.buffers)?;
        Ok(Plan { forward: self.calls, places, arena, scratch: self.scratch, output })
    }
}

/// How far the dense gradient is finished after how many calls of backward.
fn ready(graph: &Graph, finished: &[usize], loss: usize) -> Vec<(usize, usize)> {
    let mut ready: Vec<(usize, usize)> = Vec::new();
    let dense = graph.parameters().iter().zip(finished).filter(|(p, _)| p.range.start < graph.dense_len());
    for (parameter, call) in dense {
        let end = parameter.range.end.next_multiple_of(firesteel_model::graph::ALIGNMENT);
        let after = call + 1 - loss;
        match ready.last_mut() {
            Some((last, until)) if *last >= after => *until = end,
            _ => ready.push((after, end)),
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use firesteel_model::{Input, Network};

    #[test]
    fn a_gradient_is_ready_when_all_before_it_are() {
        let x = Input { name: "x".into(), kind: InputKind::Dense { shape: vec![5] } };
        let network = Network::from_json(
            r#"{"sequential":{"layers":[{"linear":{"outputs":20,"bias":false}},
            {"linear":{"outputs":3,"bias":false}}]}}"#,
        );
        let graph = Graph::new(&network.unwrap().build(vec![x], 2).unwrap()).unwrap();
        // The head's weight and bias, then the others: 6, 2, 60 and 100 values, each up to the end of its line.
        let ends: Vec<usize> =
            graph.parameters().iter().map(|p| p.range.end.next_multiple_of(LANES)).collect();
        assert_eq!(ends, [16, 32, 96, 208]);
        let loss = 7;
        for (calls, expected) in [
            ([1, 1, 2, 3], vec![(1, 32), (2, 96), (3, 208)]),
            ([3, 3, 2, 1], vec![(3, 208)]),
            ([1, 3, 2, 4], vec![(1, 16), (3, 96), (4, 208)]),
            ([2, 1, 4, 3], vec![(2, 32), (4, 208)]),
        ] {
            let finished = calls.map(|call| loss + call - 1);
            assert_eq!(ready(&graph, &finished, loss), expected, "{calls:?}");
        }
    }

    #[test]
    fn inference_keeps_no_activation_longer_than_its_readers() {
        let image = Input { name: "image".into(), kind: InputKind::Dense { shape: vec![1, 28, 28] } };
        let graph = Graph::new(&Network::Lenet5.build(vec![image], 10).unwrap()).unwrap();
        let (training, backward) = Plan::with_backward(&graph).unwrap();
        let inference = Plan::new(&graph).unwrap();
        assert_eq!(training.forward.len(), inference.forward.len());
        assert!(3 * inference.arena < 2 * training.arena, "{} of {}", inference.arena, training.arena);
        assert!(!backward.calls.is_empty());
    }
}
