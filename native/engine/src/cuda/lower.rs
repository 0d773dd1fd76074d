//! A network as launches over buffers of a device.
//!
//! A value of `features` is `(rows, features)`. Stages are those of the CPU's plan; a bias and the activation behind it are one
//! launch, a fused pool is one of its own.

mod layers;

use std::fmt;
use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::{Graph, InputKind, Op, Source};

use super::frame::{At, Frame};
use super::source::Arg;
use crate::fuse::{Activation, Purpose, Stage, fuse};
use crate::pass::Place;
use crate::place::{Lifetime, place};
use crate::precision::Precision;
use layers::{GELU, count, flag, number};

/// Some launches.
pub(crate) type Launch = Box<dyn Fn(&Frame) -> Result<()> + Send + Sync>;

impl fmt::Debug for Lowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let launches = [self.forward.len(), self.backward.len()];
        f.debug_struct("Lowered").field("launches", &launches).finish_non_exhaustive()
    }
}

/// A network that was lowered.
pub(crate) struct Lowered {
    pub(crate) forward: Vec<Launch>,
    /// The loss comes between, which writes `output_gradient`.
    pub(crate) backward: Vec<Launch>,
    pub(crate) places: Vec<Place>,
    /// Bytes a row.
    pub(crate) arena: usize,
    /// Values.
    pub(crate) fixed: usize,
    pub(crate) output: At,
    pub(crate) output_gradient: At,
    /// The layers that drop, in the order of their keys.
    pub(crate) drops: Vec<usize>,
    /// After that many launches of backward, the dense gradient is finished up to an end. Both rise.
    pub(crate) ready: Vec<(usize, usize)>,
    /// Bytes a row of each layer's values and their gradients, the largest first.
    pub(crate) largest: Vec<(usize, usize)>,
    /// The most pixels of a row that a convolution or a batch norm reads or writes.
    pub(crate) pixels: usize,
}

/// The value of a layer or input.
#[derive(Clone, Copy, Debug)]
struct Value {
    at: At,
    /// Values a row.
    len: usize,
    /// None where nothing before it is trained.
    gradient: Option<At>,
}

/// What an op leaves for later: it emits the launches of its backward.
type Backward = Box<dyn FnOnce(&mut Lowering)>;

struct Lowering<'g> {
    graph: &'g Graph,
    precision: Precision,
    drops: Vec<usize>,
    pixels: usize,
    /// The launch that finishes each parameter's gradient.
    finished: Vec<usize>,
    buffers: Vec<Lifetime>,
    /// Which gradients some launch has written.
    written: Vec<bool>,
    fixed: usize,
    calls: Vec<Launch>,
    values: Vec<Option<Value>>,
    backwards: Vec<Backward>,
}

impl Lowered {
    /// For training, and for inference with the weights that it trains.
    ///
    /// # Errors
    /// `Io` when the values of a row are more than can be counted.
    pub(crate) fn new(graph: &Graph, precision: Precision) -> Result<Lowered> {
        let mut lowering = Lowering {
            graph,
            precision,
            drops: Vec::new(),
            pixels: 0,
            finished: vec![0; graph.parameters().len()],
            buffers: Vec::new(),
            written: Vec::new(),
            fixed: 0,
            calls: Vec::new(),
            values: vec![None; graph.nodes().len()],
            backwards: Vec::new(),
        };
        for stage in fuse(graph, Purpose::Training) {
            lowering.stage(&stage);
        }
        let output = lowering.values.last().copied().flatten();
        let output = output.expect("the last stage gives the last layer's value");
        let output_gradient = output.gradient.unwrap_or_else(|| lowering.buffer(output.len));
        let loss = lowering.calls.len();
        lowering.uses(&[output.at, output_gradient]);
        lowering.edge(Value { gradient: Some(output_gradient), ..output });
        for backward in std::mem::take(&mut lowering.backwards).into_iter().rev() {
            backward(&mut lowering);
        }
        let (places, arena) = place(&lowering.buffers)?;
        let (ready, largest) = (lowering.ready(loss), lowering.largest());
        let Lowering { calls: mut forward, fixed, drops, pixels, .. } = lowering;
        let backward = forward.split_off(loss);
        let output = output.at;
        Ok(Lowered {
            forward,
            backward,
            places,
            arena,
            fixed,
            output,
            output_gradient,
            drops,
            ready,
            largest,
            pixels,
        })
    }
}

impl<'g> Lowering<'g> {
    /// Some values a row.
    fn buffer(&mut self, len: usize) -> At {
        self.buffer_of(len * self.precision.bytes())
    }

    /// So many bytes a row.
    fn buffer_of(&mut self, bytes: usize) -> At {
        self.buffers.push(Lifetime { len: bytes, first: usize::MAX, last: 0 });
        self.written.push(false);
        At::Rows(self.buffers.len() - 1)
    }

    fn fixed(&mut self, len: usize) -> At {
        let offset = self.fixed;
        self.fixed += len;
        At::Fixed(offset)
    }

    fn value(&mut self, len: usize, trained: bool) -> Value {
        let at = self.buffer(len);
        let gradient = trained.then(|| self.buffer(len));
        Value { at, len, gradient }
    }

    /// The value of a stage's result, with a gradient if it or anything it reads is trained.
    fn result(&mut self, stage: &Stage, sources: &[Value]) -> Value {
        let len = self.graph.nodes()[stage.result].shape.iter().product();
        let value = self.value(len, self.is_trained(stage, sources));
        self.values[stage.result] = Some(value);
        value
    }

    fn is_trained(&self, stage: &Stage, sources: &[Value]) -> bool {
        !self.graph.nodes()[stage.node].parameters.is_empty() || sources.iter().any(|s| s.gradient.is_some())
    }

    fn uses(&mut self, places: &[At]) {
        let now = self.calls.len();
        for at in places {
            if let At::Rows(id) = at {
                let life = &mut self.buffers[*id];
                (life.first, life.last) = (life.first.min(now), life.last.max(now));
            }
        }
    }

    fn call(&mut self, uses: &[At], launch: impl Fn(&Frame) -> Result<()> + Send + Sync + 'static) {
        self.uses(uses);
        self.calls.push(Box::new(launch));
    }

    /// The gradient of `value`, to be written by the launch that is added next, or added to when another has.
    fn edge(&mut self, value: Value) -> Option<(At, bool)> {
        let at = value.gradient?;
        let At::Rows(id) = at else { return None };
        Some((at, std::mem::replace(&mut self.written[id], true)))
    }

    /// Where a stage reads. An activation that went behind a pool is passed over.
    fn source_nodes(&self, stage: &Stage) -> Vec<Source> {
        let nodes = self.graph.nodes();
        let skip = |source: &Source| match *source {
            Source::Node(n) if self.values[n].is_none() => nodes[n].sources[0],
            other => other,
        };
        nodes[stage.node].sources.iter().map(skip).collect()
    }

    fn sources(&self, stage: &Stage) -> Vec<Value> {
        let value = |source: Source| match source {
            Source::Node(n) => self.values[n].expect("stages follow what they read"),
            Source::Input(i) => {
                Value { at: At::Input(i), len: self.shape(source).iter().product(), gradient: None }
            }
        };
        self.source_nodes(stage).into_iter().map(value).collect()
    }

    fn shape(&self, source: Source) -> &'g [usize] {
        match source {
            Source::Node(n) => &self.graph.nodes()[n].shape,
            Source::Input(i) => match &self.graph.spec().inputs[i].kind {
                InputKind::Dense { shape } => shape,
                InputKind::Index { .. } => &[],
            },
        }
    }

    /// The place of a stage's parameter in the flat vectors: 0 is the weight, 1 the bias.
    fn parameter(&self, stage: &Stage, index: usize) -> Option<Range<usize>> {
        let parameter = self.graph.nodes()[stage.node].parameters.get(index)?;
        Some(self.graph.parameters()[*parameter].range.clone())
    }

    fn stage(&mut self, stage: &Stage) {
        let node = stage.node;
        match self.graph.nodes()[node].op {
            Op::Linear { outputs, .. } => self.linear(stage, outputs),
            Op::Embedding { dims } => self.embedding(stage, dims),
            Op::Conv2d { outputs, kernel, stride, padding, groups, .. } => {
                self.convolution(stage, outputs, [kernel, stride, padding], groups);
            }
            Op::MaxPool2d { kernel, stride, padding } => {
                self.pool(stage, [kernel, stride.unwrap_or(kernel), padding], true);
            }
            Op::AvgPool2d { kernel, stride, padding } => {
                self.pool(stage, [kernel, stride.unwrap_or(kernel), padding], false);
            }
            Op::Flatten => self.values[node] = Some(self.sources(stage)[0]),
            Op::Concat => self.concat(stage),
            Op::Add => self.add(stage),
            Op::Relu => self.activation(stage, number(Some(Activation::Relu))),
            Op::Tanh => self.activation(stage, number(Some(Activation::Tanh))),
            Op::Sigmoid => self.activation(stage, number(Some(Activation::Sigmoid))),
            Op::Gelu => self.activation(stage, GELU),
            Op::Dropout { rate } => self.dropout(stage, rate),
            Op::BatchNorm { epsilon, momentum } => self.batch_norm(stage, epsilon, momentum),
            Op::LayerNorm { epsilon } => self.layer_norm(stage, epsilon),
        }
    }

    /// Makes the gradient of a result one of what the activation read.
    fn unfinish(&mut self, value: Value, gradient: At, activation: Option<Activation>) {
        if activation.is_none() {
            return;
        }
        self.call(&[value.at, gradient], move |frame| {
            let (g, len) = (frame.pointer(gradient), frame.rows * value.len as u64);
            let args = [g, frame.pointer(value.at), g, Arg::U64(len), number(activation), flag(false)];
            frame.each("activate_backward", len, &args)
        });
    }

    /// Notes that the launch that was added last finishes the gradient of a stage's parameter.
    fn finishes(&mut self, node: usize, index: usize) {
        self.finished[self.graph.nodes()[node].parameters[index]] = self.calls.len();
    }

    /// How far the dense gradient is finished after how many launches of backward.
    fn ready(&self, forward: usize) -> Vec<(usize, usize)> {
        let mut order: Vec<usize> = (0..self.graph.parameters().len()).collect();
        order.sort_by_key(|p| self.graph.parameters()[*p].range.start);
        let dense = self.graph.dense_len();
        let mut after = 0;
        let mut ready = Vec::new();
        for (nth, parameter) in order.iter().enumerate() {
            let start = self.graph.parameters()[*parameter].range.start;
            if start >= dense {
                break;
            }
            after = after.max(self.finished[*parameter] - forward);
            let next = order.get(nth + 1).map_or(dense, |p| self.graph.parameters()[*p].range.start);
            ready.push((after, next.min(dense)));
        }
        ready
    }

    /// Bytes a row of each layer's values and their gradients.
    fn largest(&self) -> Vec<(usize, usize)> {
        let bytes = |at: Option<At>| match at {
            Some(At::Rows(id)) => self.buffers[id].len,
            _ => 0,
        };
        let of = |(node, value): (usize, &Option<Value>)| {
            value.map(|value| (bytes(Some(value.at)) + bytes(value.gradient), node))
        };
        let mut all: Vec<_> = self.values.iter().enumerate().filter_map(of).collect();
        all.sort_by_key(|(bytes, node)| (std::cmp::Reverse(*bytes), *node));
        all
    }

    /// The gradient of a bias.
    fn bias_gradient(&mut self, bias: Range<usize>, gradient: At, [features, inner]: [usize; 2]) {
        self.call(&[gradient], move |frame| {
            let [from, to] = [gradient, At::Gradient(bias.start)].map(|at| frame.pointer(at));
            if inner == 1 {
                return frame.columns("sum_columns", frame.rows, features, 1, &[from, to]);
            }
            frame.features("sum_features", [features, inner], 1, &[from, to, count(inner)])
        });
    }
}
