//! A network as launches over buffers of a device.
//!
//! A value of `features` is `(rows, features)`. Stages are those of the CPU's plan; a bias and the activation behind it are one
//! launch, a fused pool is one of its own.

use std::fmt;
use std::ops::Range;

use firesteel_error::Result;
use firesteel_model::{Graph, InputKind, Op, Source};

use super::convolution::{Convolution, Pass, Sizes};
use super::device::Device;
use super::product::{Product, Shape};
use super::source::{Arg, Call, Columns, Work};
use crate::fuse::{Activation, Purpose, Stage, fuse};
use crate::pass::Place;
use crate::place::{Lifetime, place};
use crate::precision::Precision;

/// Threads of a block.
pub(crate) const THREADS: u32 = 256;

/// Places of a result, along each axis, that a block of a product makes.
const TILE: u64 = 64;

/// The fewest factors that a block adds up for one place.
const SHARE: u64 = 64;

/// Parts of products that are not yet added up have so much room, and so many counters.
pub(crate) const PARTS: usize = 16 * 1024 * 1024;
pub(crate) const COUNTERS: usize = 4096;

/// Where values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// A buffer with so many values a row.
    Rows(usize),
    /// So many f32 from the start of the plan's memory that does not grow with rows.
    Fixed(usize),
    /// The values of an input.
    Input(usize),
    /// So many f32 from the start of the flat weights.
    Weights(usize),
    /// So many values from the start of the flat weights in the plan's precision.
    Factors(usize),
    /// So many f32 from the start of the flat gradient.
    Gradient(usize),
    /// The same of the running statistics.
    Statistics(usize),
}

/// Where everything is while launches are made.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) places: &'a [Place],
    /// Rows that are computed.
    pub(crate) rows: u64,
    /// Rows that the arena has room for.
    pub(crate) room: u64,
    /// Bytes of a value.
    pub(crate) bytes: u64,
    pub(crate) arena: u64,
    pub(crate) fixed: u64,
    pub(crate) weights: u64,
    pub(crate) factors: u64,
    pub(crate) gradient: u64,
    pub(crate) statistics: u64,
    /// For parts of products, and counters.
    pub(crate) parts: [u64; 2],
    pub(crate) inputs: &'a [u64],
    /// Absent in inference.
    pub(crate) training: Option<Step<'a>>,
}

/// A step of training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// How many of the rows are the batch's; the others fill it up and weigh nothing.
    pub(crate) count: u64,
    /// Of the rows, in the global batch.
    pub(crate) positions: u64,
    /// Two words of each layer that drops.
    pub(crate) keys: u64,
    /// One a table.
    pub(crate) touched: &'a [Touched],
}

/// The rows of a table that a batch reads, on the device.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touched {
    pub(crate) count: u64,
    pub(crate) rows: u64,
    pub(crate) starts: u64,
    pub(crate) order: u64,
}

impl Frame<'_> {
    pub(crate) fn address(&self, at: At) -> u64 {
        let of = |base: u64, values: u64| base + 4 * values;
        match at {
            At::Rows(id) => self.arena + self.places[id].offset as u64 * self.room,
            At::Fixed(offset) => of(self.fixed, offset as u64),
            At::Input(input) => self.inputs[input],
            At::Weights(offset) => of(self.weights, offset as u64),
            At::Factors(offset) => self.factors + self.bytes * offset as u64,
            At::Gradient(offset) => of(self.gradient, offset as u64),
            At::Statistics(offset) => of(self.statistics, offset as u64),
        }
    }

    pub(crate) fn pointer(&self, at: At) -> Arg {
        Arg::Pointer(self.address(at))
    }

    /// Starts a kernel with so many blocks, or as many as the device takes; every kernel does the rest in a loop.
    pub(crate) fn launch(&self, kernel: &'static str, blocks: u64, args: &[Arg]) -> Result<()> {
        let blocks = blocks.clamp(1, u64::from(self.device.blocks())) as u32;
        // SAFETY: the lowering passes what the kernels of `source` take, and the replica made room for what they read and write.
        unsafe { self.device.launch(&Call { kernel, blocks, threads: THREADS, args }) }
    }

    /// One with a thread a value.
    pub(crate) fn each(&self, kernel: &'static str, len: u64, args: &[Arg]) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.launch(kernel, len.div_ceil(u64::from(THREADS)), args)
    }

    /// One that multiplies: so many groups of (m, k) by (k, n). Where there are fewer tiles than multiprocessors, several blocks
    /// share the sums of one.
    fn multiply(&self, kernel: &'static str, groups: u64, [m, n, k]: [u64; 3], args: &[Arg]) -> Result<()> {
        let tiles = groups * m.div_ceil(TILE) * n.div_ceil(TILE);
        let room = (PARTS as u64 / (4 * TILE * TILE)).min(COUNTERS as u64) / tiles.max(1);
        let wanted = (2 * u64::from(self.device.processors())).div_ceil(tiles.max(1));
        let splits = wanted.min(k / SHARE).min(room).max(1);
        let [parts, arrived] = self.parts;
        let work = Work { groups, m, k, n: n as u32, splits: splits as u32, parts, arrived };
        self.launch(kernel, tiles * splits, &[args, &[Arg::Work(work)]].concat())
    }
}

impl Frame<'_> {
    /// One that adds up each column of (rows, width), `sums` sums of it. Where there are fewer columns than multiprocessors want,
    /// several blocks share the rows.
    fn columns(&self, kernel: &'static str, rows: u64, width: usize, sums: u64, args: &[Arg]) -> Result<()> {
        let tiles = (width as u64).div_ceil(32);
        let room = PARTS as u64 / (32 * 8 * sums) / tiles.max(1);
        let processors = u64::from(self.device.processors());
        let wanted = if tiles > COUNTERS as u64 { 1 } else { (2 * processors).div_ceil(tiles.max(1)) };
        let splits = wanted.min(rows / SHARE).min(room).max(1);
        let [parts, arrived] = self.parts;
        let work = Columns { rows, width: width as u32, splits: splits as u32, parts, arrived };
        self.launch(kernel, tiles * splits, &[args, &[Arg::Columns(work)]].concat())
    }
}

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
    /// The most pixels of a row that a convolution reads or writes.
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

/// As the kernels number them.
fn number(activation: Option<Activation>) -> Arg {
    Arg::U32(match activation {
        None => 0,
        Some(Activation::Relu) => 1,
        Some(Activation::Tanh) => 2,
        Some(Activation::Sigmoid) => 3,
    })
}

const GELU: Arg = Arg::U32(4);

fn flag(set: bool) -> Arg {
    Arg::U32(set.into())
}

fn count(len: usize) -> Arg {
    Arg::U32(len as u32)
}

/// One of two matrices: where it is, and the steps along its rows and columns.
type Matrix = (At, usize, usize);

/// What becomes of the sums of a product.
#[derive(Clone, Copy, Debug)]
struct End {
    to: At,
    /// Its place in the flat weights.
    bias: Option<usize>,
    activation: Option<Activation>,
    add: bool,
}

impl End {
    fn at(to: At) -> End {
        End { to, bias: None, activation: None, add: false }
    }
}

/// The product of two matrices, (m, k) and (k, n).
fn multiply(frame: &Frame, a: Matrix, b: Matrix, [m, n, k]: [u64; 3], end: End) -> Result<()> {
    let wide = matches!(end.to, At::Gradient(_));
    // Libraries have no other behind a product.
    if frame.device.has_library() && !matches!(end.activation, None | Some(Activation::Relu)) {
        multiply(frame, a, b, [m, n, k], End { activation: None, ..end })?;
        let (at, len) = (frame.pointer(end.to), m * n);
        return frame.each("activate", len, &[at, at, Arg::U64(len), number(end.activation)]);
    }
    let steps = |of: Matrix| [of.1 as u64, of.2 as u64];
    let shape = Shape {
        m,
        n,
        k,
        a: steps(a),
        b: steps(b),
        wide,
        bias: end.bias.is_some(),
        relu: end.activation == Some(Activation::Relu),
        add: end.add,
    };
    let [left, right] = [a, b].map(|of| frame.address(of.0));
    let factors = end.bias.map_or(0, |bias| frame.address(At::Factors(bias)));
    let product = Product { shape, a: left, b: right, bias: factors, to: frame.address(end.to) };
    let matrices =
        [Arg::Pointer(left), Arg::Pointer(right), Arg::Matrices([a.1, a.2, b.1, b.2].map(|s| s as u64))];
    let bias = optional(frame, end.bias.map(At::Weights));
    let ours = |to: u64| {
        let to = Arg::Pointer(to);
        if wide {
            return frame.multiply("product_weight", 1, [m, n, k], &[&matrices[..], &[to]].concat());
        }
        let rest = [to, bias, number(end.activation), flag(end.add)];
        frame.multiply("product", 1, [m, n, k], &[&matrices[..], &rest].concat())
    };
    if shape.is_empty() {
        return ours(product.to);
    }
    // SAFETY: as of `launch`.
    unsafe { frame.device.multiply(&product, &ours) }
}

/// A pass of a convolution: of images, weights and results it writes one.
fn convolve(frame: &Frame, sizes: Sizes, places: [At; 3], bias: Option<At>) -> Result<()> {
    let sizes = Sizes { rows: frame.rows as u32, ..sizes };
    let [images, weights, results] = places.map(|at| frame.address(at));
    let bias = optional(frame, bias);
    let added = if let Arg::Pointer(at) = bias { at } else { 0 };
    let what = Convolution { sizes, images, weights, results, bias: added };
    let Sizes { groups, channels, outputs, kernel: [down, across], .. } = sizes;
    let of = |axes: [u32; 2]| u64::from(axes[0]) * u64::from(axes[1]);
    let [many, inner, outer] = [groups, channels, outputs].map(u64::from);
    let (positions, pixels) = (frame.rows * of(sizes.result), frame.rows * of(sizes.image));
    let window = u64::from(down) * u64::from(across);
    let head = [sizes.groups, channels, outputs];
    let axes = [sizes.image, sizes.result, sizes.kernel, sizes.stride, sizes.padding];
    let mut numbers = [0; 13];
    let all = head.iter().chain(axes.as_flattened());
    numbers.iter_mut().zip(all).for_each(|(to, size)| *to = *size as i32);
    let shape = Arg::Convolution(numbers);
    let ours = |to: u64| {
        let [images, weights, results, to] = [images, weights, results, to].map(Arg::Pointer);
        match sizes.pass {
            Pass::Results => {
                let args = [images, weights, bias, to, Arg::U32(sizes.activation), shape];
                frame.multiply("convolution", many, [positions, outer, inner * window], &args)
            }
            Pass::Weights => {
                let args = [results, images, to, shape];
                frame.multiply("convolution_weight", many, [outer, inner * window, positions], &args)
            }
            Pass::Images => {
                let args = [results, weights, to, flag(sizes.add), shape];
                frame.multiply("convolution_images", many, [pixels, inner, outer * window], &args)
            }
        }
    };
    // SAFETY: as of `launch`.
    unsafe { frame.device.convolve(&what, &ours) }
}

fn optional(frame: &Frame, at: Option<At>) -> Arg {
    at.map_or(Arg::Pointer(0), |at| frame.pointer(at))
}

/// Windows over images.
#[derive(Clone, Copy, Debug)]
struct Pool {
    channels: usize,
    from: [usize; 2],
    to: [usize; 2],
    window: [[usize; 2]; 3],
}

impl Pool {
    /// Planes and sizes.
    fn args(&self, frame: &Frame) -> [Arg; 6] {
        let int = |value: usize| Arg::I32(value as i32);
        let window = self.window.map(|axes| axes.map(|axis| axis as i32));
        let planes = Arg::U64(frame.rows * self.channels as u64);
        let ([height, width], [out_height, out_width]) = (self.from.map(int), self.to.map(int));
        [planes, height, width, out_height, out_width, Arg::Window(window)]
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
            let args = [from, to, Arg::U64(frame.rows), count(features), count(inner)];
            frame.launch("sum_features", features as u64, &args)
        });
    }

    fn linear(&mut self, stage: &Stage, outputs: usize) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let weight = self.parameter(stage, 0).expect("a linear layer has a weight").start;
        let bias = self.parameter(stage, 1);
        let (inputs, activation, node) = (source.len, stage.activation, stage.node);
        let added = bias.as_ref().map(|bias| bias.start);
        self.call(&[source.at, result.at], move |frame| {
            let (x, w) = ((source.at, inputs, 1), (At::Factors(weight), 1, inputs));
            let end = End { to: result.at, bias: added, activation, add: false };
            multiply(frame, x, w, [frame.rows, outputs as u64, inputs as u64], end)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            lowering.unfinish(result, gradient, activation);
            lowering.call(&[source.at, gradient], move |frame| {
                let (g, x) = ((gradient, 1, outputs), (source.at, inputs, 1));
                let sizes = [outputs as u64, inputs as u64, frame.rows];
                multiply(frame, g, x, sizes, End::at(At::Gradient(weight)))
            });
            lowering.finishes(node, 0);
            if let Some(bias) = bias {
                lowering.bias_gradient(bias, gradient, [outputs, 1]);
                lowering.finishes(node, 1);
            }
            if let Some((to, add)) = lowering.edge(source) {
                lowering.call(&[gradient, to], move |frame| {
                    let (g, w) = ((gradient, outputs, 1), (At::Factors(weight), inputs, 1));
                    let sizes = [frame.rows, inputs as u64, outputs as u64];
                    multiply(frame, g, w, sizes, End { add, ..End::at(to) })
                });
            }
        }));
    }

    fn convolution(&mut self, stage: &Stage, outputs: usize, window: [[usize; 2]; 3], groups: usize) {
        let source = self.sources(stage)[0];
        let &[channels, height, width] = self.shape(self.source_nodes(stage)[0]) else {
            unreachable!("the graph has checked that a convolution reads an image");
        };
        let &[_, out_height, out_width] = self.graph.nodes()[stage.node].shape.as_slice() else {
            unreachable!("a convolution gives an image");
        };
        let positions = out_height * out_width;
        self.pixels = self.pixels.max(positions).max(height * width);
        let whole = match stage.pool {
            true => self.value(outputs * positions, true),
            false => self.result(stage, &[source]),
        };
        let weight = self.parameter(stage, 0).expect("a convolution has a weight").start;
        let bias = self.parameter(stage, 1);
        let int = |size: usize| size as u32;
        let [kernel, stride, padding] = window.map(|axes| axes.map(int));
        let inside = stage.activation.filter(|_| !stage.pool);
        let sizes = Sizes {
            pass: Pass::Results,
            rows: 0,
            groups: int(groups),
            channels: int(channels / groups),
            outputs: int(outputs / groups),
            image: [height, width].map(int),
            result: [out_height, out_width].map(int),
            kernel,
            stride,
            padding,
            activation: inside.map_or(0, |activation| activation as u32 + 1),
            add: false,
        };
        let plain = Sizes { activation: 0, ..sizes };
        let node = stage.node;
        let added = bias.as_ref().map(|bias| At::Weights(bias.start));
        self.call(&[source.at, whole.at], move |frame| {
            convolve(frame, sizes, [source.at, At::Factors(weight), whole.at], added)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = whole.gradient.expect("a layer with weights has a gradient");
            lowering.unfinish(whole, gradient, inside);
            lowering.call(&[source.at, gradient], move |frame| {
                let sizes = Sizes { pass: Pass::Weights, ..plain };
                convolve(frame, sizes, [source.at, At::Gradient(weight), gradient], None)
            });
            lowering.finishes(node, 0);
            if let Some(bias) = bias {
                lowering.bias_gradient(bias, gradient, [outputs, positions]);
                lowering.finishes(node, 1);
            }
            if let Some((to, add)) = lowering.edge(source) {
                lowering.call(&[gradient, to], move |frame| {
                    let sizes = Sizes { pass: Pass::Images, add, ..plain };
                    convolve(frame, sizes, [to, At::Factors(weight), gradient], None)
                });
            }
        }));
        if stage.pool {
            let halves = [[2, 2], [2, 2], [0, 0]];
            let pool = Pool {
                channels: outputs,
                from: [out_height, out_width],
                to: [out_height / 2, out_width / 2],
                window: halves,
            };
            let result = self.result(stage, &[whole]);
            self.max_pool(whole, result, pool, stage.activation);
        }
    }

    fn pool(&mut self, stage: &Stage, window: [[usize; 2]; 3], max: bool) {
        let source = self.sources(stage)[0];
        let &[channels, height, width] = self.shape(self.source_nodes(stage)[0]) else {
            unreachable!("the graph has checked that a pool reads an image");
        };
        let &[_, out_height, out_width] = self.graph.nodes()[stage.node].shape.as_slice() else {
            unreachable!("a pool gives an image");
        };
        let pool = Pool { channels, from: [height, width], to: [out_height, out_width], window };
        let result = self.result(stage, &[source]);
        if max {
            return self.max_pool(source, result, pool, stage.activation);
        }
        self.call(&[source.at, result.at], move |frame| {
            let pointers = [source.at, result.at].map(|at| frame.pointer(at));
            let len = frame.rows * result.len as u64;
            frame.each("avg_pool", len, &[&pointers[..], &pool.args(frame)].concat())
        });
        self.backwards.push(Box::new(move |lowering| {
            let (Some((to, add)), Some(gradient)) = (lowering.edge(source), result.gradient) else { return };
            lowering.call(&[gradient, to], move |frame| {
                let pointers = [gradient, to].map(|at| frame.pointer(at));
                let len = frame.rows * source.len as u64;
                let args = [&pointers[..], &pool.args(frame), &[flag(add)]].concat();
                frame.each("avg_pool_backward", len, &args)
            });
        }));
    }

    fn max_pool(&mut self, source: Value, result: Value, pool: Pool, activation: Option<Activation>) {
        let chosen = self.buffer_of(4 * result.len);
        self.call(&[source.at, result.at, chosen], move |frame| {
            let pointers = [source.at, result.at, chosen].map(|at| frame.pointer(at));
            let len = frame.rows * result.len as u64;
            frame.each("max_pool", len, &[&pointers[..], &pool.args(frame), &[number(activation)]].concat())
        });
        self.backwards.push(Box::new(move |lowering| {
            let Some(gradient) = result.gradient else { return };
            lowering.unfinish(result, gradient, activation);
            let Some((to, add)) = lowering.edge(source) else { return };
            lowering.call(&[gradient, chosen, to], move |frame| {
                let pointers = [gradient, chosen, to].map(|at| frame.pointer(at));
                let len = frame.rows * source.len as u64;
                let args = [&pointers[..], &pool.args(frame), &[flag(add)]].concat();
                frame.each("max_pool_backward", len, &args)
            });
        }));
    }

    fn activation(&mut self, stage: &Stage, activation: Arg) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        self.call(&[source.at, result.at], move |frame| {
            let len = frame.rows * result.len as u64;
            let [from, to] = [source.at, result.at].map(|at| frame.pointer(at));
            frame.each("activate", len, &[from, to, Arg::U64(len), activation])
        });
        let seen = if activation == GELU { source.at } else { result.at };
        self.backwards.push(Box::new(move |lowering| {
            let (Some((to, add)), Some(gradient)) = (lowering.edge(source), result.gradient) else { return };
            lowering.call(&[seen, gradient, to], move |frame| {
                let len = frame.rows * result.len as u64;
                let [g, seen, to] = [gradient, seen, to].map(|at| frame.pointer(at));
                frame.each("activate_backward", len, &[g, seen, to, Arg::U64(len), activation, flag(add)])
            });
        }));
    }

    fn add(&mut self, stage: &Stage) {
        let sources = self.sources(stage);
        let result = self.result(stage, &sources);
        for (place, source) in sources.iter().enumerate() {
            self.accumulate(source.at, result.at, result.len, place > 0);
        }
        self.backwards.push(Box::new(move |lowering| {
            let Some(gradient) = result.gradient else { return };
            for source in sources {
                if let Some((to, add)) = lowering.edge(source) {
                    lowering.accumulate(gradient, to, result.len, add);
                }
            }
        }));
    }

    fn accumulate(&mut self, from: At, to: At, len: usize, add: bool) {
        self.call(&[from, to], move |frame| {
            let len = frame.rows * len as u64;
            let [from, to] = [from, to].map(|at| frame.pointer(at));
            frame.each("accumulate", len, &[from, to, Arg::U64(len), flag(add)])
        });
    }

    fn concat(&mut self, stage: &Stage) {
        let sources = self.sources(stage);
        let result = self.result(stage, &sources);
        let mut first = 0;
        let mut parts = Vec::new();
        for source in sources {
            parts.push((source, first));
            let sizes = [source.len, result.len, first].map(count);
            self.call(&[source.at, result.at], move |frame| {
                let [from, to] = [source.at, result.at].map(|at| frame.pointer(at));
                let args = [&[from, to, Arg::U64(frame.rows)][..], &sizes].concat();
                frame.each("join", frame.rows * source.len as u64, &args)
            });
            first += source.len;
        }
        self.backwards.push(Box::new(move |lowering| {
            let Some(gradient) = result.gradient else { return };
            for (source, first) in parts {
                let Some((to, add)) = lowering.edge(source) else { continue };
                let sizes = [source.len, result.len, first].map(count);
                lowering.call(&[gradient, to], move |frame| {
                    let [from, to] = [gradient, to].map(|at| frame.pointer(at));
                    let args = [&[from, to, Arg::U64(frame.rows)][..], &sizes, &[flag(add)]].concat();
                    frame.each("part", frame.rows * source.len as u64, &args)
                });
            }
        }));
    }

    fn dropout(&mut self, stage: &Stage, rate: f32) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let features = result.len;
        let nth = self.drops.len() as u64;
        self.drops.push(stage.node);
        // A word below it drops: `rate` of all words.
        let bound = Arg::U32((f64::from(rate) * 4_294_967_296.0) as u32);
        let kept = Arg::F32(1.0 / (1.0 - rate));
        let drop = move |frame: &Frame, from: At, to: At, add: bool| {
            let [from, to] = [from, to].map(|at| frame.pointer(at));
            let len = frame.rows * features as u64;
            let Some(step) = &frame.training else {
                return frame.each("accumulate", len, &[from, to, Arg::U64(len), flag(add)]);
            };
            let words = [step.positions, step.keys + 8 * nth].map(Arg::Pointer);
            let sizes = [Arg::U64(frame.rows), count(features), bound, kept, flag(add)];
            frame.each("dropout", len.div_ceil(4), &[&[from, to][..], &words, &sizes].concat())
        };
        self.call(&[source.at, result.at], move |frame| drop(frame, source.at, result.at, false));
        self.backwards.push(Box::new(move |lowering| {
            let (Some((to, add)), Some(gradient)) = (lowering.edge(source), result.gradient) else { return };
            lowering.call(&[gradient, to], move |frame| drop(frame, gradient, to, add));
        }));
    }

    fn batch_norm(&mut self, stage: &Stage, epsilon: f32, momentum: f32) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let weight = self.parameter(stage, 0).expect("a batch norm has a weight");
        let bias = self.parameter(stage, 1).expect("a batch norm has a bias").start;
        let (features, weight) = (weight.len(), weight.start);
        let (inner, node) = (result.len / features, stage.node);
        let statistics = self.fixed(2 * features);
        let buffers = &self.graph.nodes()[stage.node].buffers;
        let running = [0, 1].map(|i| At::Statistics(self.graph.buffers()[buffers[i]].range.start));
        let epsilon = Arg::F32(epsilon);
        self.call(&[source.at], move |frame| {
            let [mean, variance] = running.map(|at| frame.pointer(at));
            let statistics = frame.pointer(statistics);
            let Some(step) = &frame.training else {
                let args = [mean, variance, statistics, count(features), epsilon];
                return frame.each("batch_norm_recall", features as u64, &args);
            };
            let sizes = [Arg::Pointer(step.count), count(features), count(inner)];
            let pointers = [frame.pointer(source.at), statistics, mean, variance];
            let args = [&pointers[..], &sizes, &[epsilon, Arg::F32(momentum)]].concat();
            frame.launch("batch_norm_measure", features as u64, &args)
        });
        self.call(&[source.at, result.at], move |frame| {
            let len = frame.rows * result.len as u64;
            let pointers = [source.at, statistics, At::Weights(weight), At::Weights(bias), result.at];
            let sizes = [Arg::U64(len), count(features), count(inner)];
            frame.each("batch_norm", len, &[&pointers.map(|at| frame.pointer(at))[..], &sizes].concat())
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            let edge = lowering.edge(source);
            let mut uses = vec![gradient, source.at];
            uses.extend(edge.map(|(to, _)| to));
            lowering.call(&uses, move |frame| {
                let pointers = [gradient, source.at, statistics, At::Weights(weight)];
                let results = [At::Gradient(weight), At::Gradient(bias)];
                let to = optional(frame, edge.map(|(to, _)| to));
                let rows = [Arg::Pointer(frame.training.map_or(0, |step| step.count)), Arg::U64(frame.rows)];
                let sizes = [rows[0], rows[1], count(features), count(inner)];
                let add = flag(edge.is_some_and(|(_, add)| add));
                let pointers = pointers.map(|at| frame.pointer(at));
                let results = results.map(|at| frame.pointer(at));
                let args = [&pointers[..], &results, &[to], &sizes, &[add]].concat();
                frame.launch("batch_norm_backward", features as u64, &args)
            });
            [0, 1].into_iter().for_each(|index| lowering.finishes(node, index));
        }));
    }

    fn layer_norm(&mut self, stage: &Stage, epsilon: f32) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let weight = self.parameter(stage, 0).expect("a layer norm has a weight");
        let bias = self.parameter(stage, 1).expect("a layer norm has a bias").start;
        let (width, weight) = (weight.len(), weight.start);
        // Of each row.
        let lines = result.len / width;
        let statistics = self.buffer_of(8 * lines);
        let node = stage.node;
        let warps = u64::from(THREADS / 32);
        self.call(&[source.at, result.at, statistics], move |frame| {
            let rows = frame.rows * lines as u64;
            let pointers = [source.at, At::Weights(weight), At::Weights(bias), result.at, statistics];
            let sizes = [Arg::U64(rows), count(width), Arg::F32(epsilon)];
            let args = [&pointers.map(|at| frame.pointer(at))[..], &sizes].concat();
            frame.launch("layer_norm", rows.div_ceil(warps), &args)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            lowering.call(&[gradient, source.at, statistics], move |frame| {
                let pointers = [gradient, source.at, statistics, At::Gradient(weight), At::Gradient(bias)];
                let args = pointers.map(|at| frame.pointer(at));
                frame.columns("layer_norm_parameters", frame.rows * lines as u64, width, 2, &args)
            });
            [0, 1].into_iter().for_each(|index| lowering.finishes(node, index));
            let Some((to, add)) = lowering.edge(source) else { return };
            lowering.call(&[gradient, source.at, statistics, to], move |frame| {
                let rows = frame.rows * lines as u64;
                let pointers = [gradient, source.at, At::Weights(weight), statistics, to];
                let sizes = [Arg::U64(rows), count(width), flag(add)];
                let args = [&pointers.map(|at| frame.pointer(at))[..], &sizes].concat();
                frame.launch("layer_norm_backward", rows.div_ceil(warps), &args)
            });
        }));
    }

    fn embedding(&mut self, stage: &Stage, dims: usize) {
        let result = self.result(stage, &[]);
        let Source::Input(input) = self.source_nodes(stage)[0] else {
            unreachable!("the graph has checked that an embedding reads an input");
        };
        let weight = self.parameter(stage, 0).expect("an embedding has a weight").start;
        let parameter = self.graph.nodes()[stage.node].parameters[0];
        let table = self.graph.tables().iter().position(|t| t.parameter == parameter);
        let table = table.expect("an embedding's weight is a table");
        self.call(&[result.at], move |frame| {
            let [table, indices, to] =
                [At::Weights(weight), At::Input(input), result.at].map(|at| frame.pointer(at));
            let args = [table, indices, to, Arg::U64(frame.rows), count(dims)];
            frame.each("gather", frame.rows * dims as u64, &args)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            lowering.call(&[gradient], move |frame| {
                let touched = frame.training.map(|step| step.touched[table]).unwrap_or_default();
                let [g, to] = [gradient, At::Gradient(weight)].map(|at| frame.pointer(at));
                let lists = [touched.rows, touched.starts, touched.order].map(Arg::Pointer);
                let args = [&[g][..], &lists, &[to, Arg::Pointer(touched.count), count(dims)]].concat();
                frame.launch("scatter", frame.rows.div_ceil(u64::from(THREADS / 32)), &args)
            });
        }));
    }
}
