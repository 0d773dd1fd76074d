//! The checked network: every shape inferred, every parameter placed in one flat vector.

use std::collections::HashMap;
use std::ops::Range;

use firesteel_error::{Error, Result};

use crate::spec::{InputKind, Op, Spec};

/// Parameters start at multiples of this many f32: 64 bytes, a cache line and an AVX-512 register.
pub const ALIGNMENT: usize = 16;

/// A checked, shaped network and the layout of its flat weight vector.
///
/// Parameters lie in the order in which backward finishes their gradients, last layer first, so that a bucket of
/// finished gradients is a range. Embedding tables, whose gradients are sparse, follow all dense parameters:
/// `0..dense_len()` is dense, `dense_len()..len()` is tables.
#[derive(Clone, Debug)]
pub struct Graph {
    spec: Spec,
    nodes: Vec<Node>,
    parameters: Vec<Parameter>,
    tables: Vec<Table>,
    buffers: Vec<Buffer>,
    dense_len: usize,
    len: usize,
    buffers_len: usize,
}

/// One layer with its shapes and parameters.
#[derive(Clone, Debug)]
pub struct Node {
    /// The layer's name.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Where its operands come from.
    pub sources: Vec<Source>,
    /// The shape of one sample of its output.
    pub shape: Vec<usize>,
    /// Indices into [`Graph::parameters`], in the order weight, bias.
    pub parameters: Vec<usize>,
    /// Indices into [`Graph::buffers`]: running mean, running variance.
    pub buffers: Vec<usize>,
}

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An index into the spec's inputs.
    Input(usize),
    /// An index into [`Graph::nodes`].
    Node(usize),
}

/// A trained tensor and its place in the flat vector.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// `layer.weight` or `layer.bias`.
    pub name: String,
    /// The node it belongs to.
    pub node: usize,
    /// Row-major; `(outputs, inputs)` for a linear weight, `(rows, dims)` for a table.
    pub shape: Vec<usize>,
    /// Its place in the flat weight and gradient vectors.
    pub range: Range<usize>,
    /// How it starts.
    pub init: Init,
}

/// An embedding table: a parameter whose gradient is non-zero in few rows.
#[derive(Clone, Debug)]
pub struct Table {
    /// An index into [`Graph::parameters`].
    pub parameter: usize,
    /// The cardinality of the index input.
    pub rows: usize,
    /// The width of a row.
    pub dims: usize,
    /// Its place in the flat vector; row `r` starts at `range.start + r * dims`.
    pub range: Range<usize>,
}

/// State that is not trained but belongs to the model: running statistics.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// `layer.running_mean` or `layer.running_var`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its place in the flat buffer vector.
    pub range: Range<usize>,
    /// The value it starts with.
    pub start: f32,
}

/// How a parameter starts. Drawn by the engine from the plan's seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every value the same.
    Constant(f32),
    /// Uniform in `-bound..bound`.
    Uniform {
        /// Half the width.
        bound: f32,
    },
    /// Normal with mean 0; row 0 and row 1 of a table (NULL, out of vocabulary) start at zero.
    Embedding {
        /// The standard deviation.
        std: f32,
    },
}

impl Graph {
    /// Checks a spec and infers every shape.
    ///
    /// # Errors
    /// `InvalidArgument` naming the layer, what was found and what was expected.
    pub fn new(spec: &Spec) -> Result<Graph> {
        Builder::new(spec)?.build()
    }

    /// The spec it was made from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Layers in execution order; the last is the output.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All trained tensors in the order in which they lie in the flat vector.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameters that are embedding tables, in the order in which they lie in the flat vector.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Untrained state, in the order in which it lies in the flat buffer vector.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// The length of the part of the flat vector that is not tables.
    pub fn dense_len(&self) -> usize {
        self.dense_len
    }

    /// The length of the flat vector, padding included.
    #[expect(clippy::len_without_is_empty, reason = "a graph without weights is not a special case")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The length of the flat buffer vector.
    pub fn buffers_len(&self) -> usize {
        self.buffers_len
    }

    /// The number of trained values, padding not counted.
    pub fn weight_count(&self) -> usize {
        self.parameters.iter().map(|p| p.range.len()).sum()
    }

    /// The shape of one sample of the output.
    pub fn output_shape(&self) -> &[usize] {
        &self.nodes[self.nodes.len() - 1].shape
    }

    /// The number of values in one sample of the output.
    pub fn output_len(&self) -> usize {
        self.output_shape().iter().product()
    }

    /// The shape of one sample from `source`; empty for an index.
    pub fn shape(&self, source: Source) -> &[usize] {
        match source {
            Source::Node(n) => &self.nodes[n].shape,
            Source::Input(i) => input_shape(&self.spec.inputs[i].kind),
        }
    }
}

fn input_shape(kind: &InputKind) -> &[usize] {
    match kind {
        InputKind::Dense { shape } => shape,
        InputKind::Index { .. } => &[],
    }
}

/// A parameter before it has a place.
struct Unplaced {
    suffix: &'static str,
    shape: Vec<usize>,
    init: Init,
    table: bool,
}

impl Unplaced {
    fn dense(suffix: &'static str, shape: Vec<usize>, init: Init) -> Unplaced {
        Unplaced { suffix, shape, init, table: false }
    }
}

struct Builder<'a> {
    spec: &'a Spec,
    names: HashMap<&'a str, Source>,
    nodes: Vec<Node>,
    unplaced: Vec<Vec<Unplaced>>,
    buffers: Vec<Buffer>,
    buffers_len: usize,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a Spec) -> Result<Builder<'a>> {
        if spec.inputs.is_empty() {
            return Err(Error::argument("the network has no inputs"));
        }
        if spec.layers.is_empty() {
            return Err(Error::argument("the network has no layers"));
        }
        let mut names = HashMap::new();
        for (i, input) in spec.inputs.iter().enumerate() {
            if names.insert(input.name.as_str(), Source::Input(i)).is_some() {
                return Err(Error::argument(format!("two inputs are named '{}'", input.name)));
            }
            match &input.kind {
                InputKind::Dense { shape } if shape.is_empty() || shape.contains(&0) => {
                    return Err(Error::argument(format!(
                        "input '{}' has shape {shape:?}, expected at least one axis and no empty one",
                        input.name
                    )));
                }
                InputKind::Index { cardinality: 0 } => {
                    return Err(Error::argument(format!("input '{}' has cardinality 0", input.name)));
                }
                _ => {}
            }
        }
        Ok(Builder {
            spec,
            names,
            nodes: Vec::new(),
            unplaced: Vec::new(),
            buffers: Vec::new(),
            buffers_len: 0,
        })
    }

    fn build(mut self) -> Result<Graph> {
        for index in 0..self.spec.layers.len() {
            self.add(index)?;
        }
        self.check_all_used()?;
        let (parameters, tables, dense_len, len) = place(&mut self.nodes, self.unplaced);
        Ok(Graph {
            spec: self.spec.clone(),
            nodes: self.nodes,
            parameters,
            tables,
            buffers: self.buffers,
            dense_len,
            len,
            buffers_len: self.buffers_len,
        })
    }

    fn add(&mut self, index: usize) -> Result<()> {
        let layer = &self.spec.layers[index];
        let sources = self.sources(index)?;
        let (shape, unplaced) = self.infer(&layer.op, &sources).map_err(|found| {
            Error::argument(format!("layer '{}' ({}): {found}", layer.name, layer.op.name()))
        })?;
        let mut node = Node {
            name: layer.name.clone(),
            op: layer.op.clone(),
            sources,
            shape,
            parameters: Vec::new(),
            buffers: Vec::new(),
        };
        if let Op::BatchNorm { .. } = layer.op {
            for (suffix, start) in [("running_mean", 0.0), ("running_var", 1.0)] {
                node.buffers.push(self.buffers.len());
                let features = node.shape[0];
                let range = self.buffers_len..self.buffers_len + features;
                self.buffers_len = align(range.end);
                let name = format!("{}.{suffix}", layer.name);
                self.buffers.push(Buffer { name, shape: vec![features], range, start });
            }
        }
        if self.names.insert(&layer.name, Source::Node(index)).is_some() {
            return Err(Error::argument(format!("two layers or inputs are named '{}'", layer.name)));
        }
        self.nodes.push(node);
        self.unplaced.push(unplaced);
        Ok(())
    }

    fn sources(&self, index: usize) -> Result<Vec<Source>> {
        let layer = &self.spec.layers[index];
        if layer.inputs.is_empty() {
            return match index {
                0 if self.spec.inputs.len() == 1 => Ok(vec![Source::Input(0)]),
                0 => Err(Error::argument(format!(
                    "layer '{}' names no inputs and the network has {}; name the ones it reads",
                    layer.name,
                    self.spec.inputs.len()
                ))),
                _ => Ok(vec![Source::Node(index - 1)]),
            };
        }
        let find = |name: &String| {
            self.names.get(name.as_str()).copied().ok_or_else(|| {
                Error::argument(format!(
                    "layer '{}' reads '{name}', which is no input and no earlier layer",
                    layer.name
                ))
            })
        };
        layer.inputs.iter().map(find).collect()
    }

    fn shape(&self, source: Source) -> &[usize] {
        match source {
            Source::Node(n) => &self.nodes[n].shape,
            Source::Input(i) => input_shape(&self.spec.inputs[i].kind),
        }
    }

    /// The output shape and parameters of `op` on `sources`, or what is wrong with them.
    fn infer(&self, op: &Op, sources: &[Source]) -> std::result::Result<(Vec<usize>, Vec<Unplaced>), String> {
        let wants_one = !matches!(op, Op::Concat | Op::Add);
        if wants_one && sources.len() != 1 {
            return Err(format!("reads {} sources, expected one", sources.len()));
        }
        if let Op::Embedding { dims } = op {
            return self.infer_embedding(*dims, sources[0]);
        }
        if let Some(Source::Input(i)) = sources.iter().find(|s| self.is_index(**s)) {
            return Err(format!(
                "reads the indices of '{}'; put an embedding between",
                self.spec.inputs[*i].name
            ));
        }
        let shapes: Vec<&[usize]> = sources.iter().map(|s| self.shape(*s)).collect();
        infer_dense(op, &shapes)
    }

    fn is_index(&self, source: Source) -> bool {
        matches!(source, Source::Input(i) if matches!(self.spec.inputs[i].kind, InputKind::Index { .. }))
    }

    fn infer_embedding(
        &self,
        dims: usize,
        source: Source,
    ) -> std::result::Result<(Vec<usize>, Vec<Unplaced>), String> {
        let Source::Input(i) = source else {
            return Err("reads a layer, expected an index input".into());
        };
        let InputKind::Index { cardinality } = self.spec.inputs[i].kind else {
            return Err(format!("reads '{}', which holds no indices", self.spec.inputs[i].name));
        };
        if dims == 0 {
            return Err("dims is 0, expected at least 1".into());
        }
        let init = Init::Embedding { std: 0.05 };
        let table = Unplaced { suffix: "weight", shape: vec![cardinality, dims], init, table: true };
        Ok((vec![dims], vec![table]))
    }

    fn check_all_used(&self) -> Result<()> {
        let used = |s: Source| self.nodes.iter().any(|n| n.sources.contains(&s));
        for (i, input) in self.spec.inputs.iter().enumerate() {
            if !used(Source::Input(i)) {
                return Err(Error::argument(format!("no layer reads input '{}'", input.name)));
            }
        }
        for (n, node) in self.nodes.iter().enumerate().take(self.nodes.len() - 1) {
            if !used(Source::Node(n)) {
                return Err(Error::argument(format!("no layer reads layer '{}'", node.name)));
            }
        }
        Ok(())
    }
}

/// The output shape and parameters of an op on dense operands.
fn infer_dense(op: &Op, shapes: &[&[usize]]) -> std::result::Result<(Vec<usize>, Vec<Unplaced>), String> {
    let shape = shapes[0];
    let none = Vec::new();
    match op {
        Op::Linear { outputs, bias } => infer_linear(*outputs, *bias, shape),
        Op::Conv2d { outputs, kernel, stride, padding, groups, bias } => {
            let [channels, _, _] = image(shape)?;
            if *groups == 0 || channels % groups != 0 || outputs % groups != 0 || *outputs == 0 {
                return Err(format!(
                    "{channels} channels to {outputs} in {groups} groups; groups must divide both, and none may be 0"
                ));
            }
            let [h, w] = windows(shape, *kernel, *stride, *padding)?;
            let fan_in = channels / groups * kernel[0] * kernel[1];
            let init = Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() };
            let weight = vec![*outputs, channels / groups, kernel[0], kernel[1]];
            let mut parameters = vec![Unplaced::dense("weight", weight, init)];
            if *bias {
                parameters.push(Unplaced::dense("bias", vec![*outputs], init));
            }
            Ok((vec![*outputs, h, w], parameters))
        }
        Op::MaxPool2d { kernel, stride, padding } | Op::AvgPool2d { kernel, stride, padding } => {
            if padding[0] * 2 > kernel[0] || padding[1] * 2 > kernel[1] {
                return Err(format!("padding {padding:?} is more than half the kernel {kernel:?}"));
            }
            let [channels, _, _] = image(shape)?;
            let [h, w] = windows(shape, *kernel, stride.unwrap_or(*kernel), *padding)?;
            Ok((vec![channels, h, w], none))
        }
        Op::Flatten => Ok((vec![shape.iter().product()], none)),
        Op::Concat => {
            if let Some(other) = shapes.iter().find(|s| s[1..] != shape[1..]) {
                return Err(format!(
                    "joins shapes {shape:?} and {other:?}, which differ beyond the first axis"
                ));
            }
            let mut joined = shape.to_vec();
            joined[0] = shapes.iter().map(|s| s[0]).sum();
            Ok((joined, none))
        }
        Op::Add => {
            if let Some(other) = shapes.iter().find(|s| **s != shape) {
                return Err(format!("adds shapes {shape:?} and {other:?}, expected equal ones"));
            }
            Ok((shape.to_vec(), none))
        }
        Op::Relu | Op::Tanh | Op::Sigmoid | Op::Gelu => Ok((shape.to_vec(), none)),
        Op::Dropout { rate } if !(0.0..1.0).contains(rate) => {
            Err(format!("rate is {rate}, expected at least 0 and below 1"))
        }
        Op::Dropout { .. } => Ok((shape.to_vec(), none)),
        Op::BatchNorm { epsilon, momentum } => {
            if shape.len() != 1 && shape.len() != 3 {
                return Err(format!(
                    "reads shape {shape:?}, expected [features] or [channels, height, width]"
                ));
            }
            check_epsilon(*epsilon)?;
            if !(0.0..=1.0).contains(momentum) {
                return Err(format!("momentum is {momentum}, expected 0 to 1"));
            }
            Ok((shape.to_vec(), scale_and_shift(shape[0])))
        }
        Op::LayerNorm { epsilon } => {
            check_epsilon(*epsilon)?;
            Ok((shape.to_vec(), scale_and_shift(shape[shape.len() - 1])))
        }
        Op::Embedding { .. } => Err("reads dense values, expected an index input".into()),
    }
}

fn infer_linear(
    outputs: usize,
    bias: bool,
    shape: &[usize],
) -> std::result::Result<(Vec<usize>, Vec<Unplaced>), String> {
    let [features] = shape else {
        return Err(format!("reads shape {shape:?}, expected [features]; put a flatten before it"));
    };
    if outputs == 0 {
        return Err("outputs is 0, expected at least 1".into());
    }
    let init = Init::Uniform { bound: 1.0 / (*features as f32).sqrt() };
    let mut parameters = vec![Unplaced::dense("weight", vec![outputs, *features], init)];
    if bias {
        parameters.push(Unplaced::dense("bias", vec![outputs], init));
    }
    Ok((vec![outputs], parameters))
}

fn scale_and_shift(features: usize) -> Vec<Unplaced> {
    vec![
        Unplaced::dense("weight", vec![features], Init::Constant(1.0)),
        Unplaced::dense("bias", vec![features], Init::Constant(0.0)),
    ]
}

fn check_epsilon(epsilon: f32) -> std::result::Result<(), String> {
    if epsilon > 0.0 && epsilon.is_finite() {
        Ok(())
    } else {
        Err(format!("epsilon is {epsilon}, expected above 0"))
    }
}

fn image(shape: &[usize]) -> std::result::Result<[usize; 3], String> {
    <[usize; 3]>::try_from(shape)
        .map_err(|_| format!("reads shape {shape:?}, expected an image [channels, height, width]"))
}

/// Output height and width of a sliding window.
fn windows(
    shape: &[usize],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> std::result::Result<[usize; 2], String> {
    let [_, height, width] = image(shape)?;
    if kernel.contains(&0) || stride.contains(&0) {
        return Err(format!("kernel {kernel:?} and stride {stride:?} must be at least 1"));
    }
    let along = |size: usize, axis: usize| {
        let padded = size + 2 * padding[axis];
        let room = padded.checked_sub(kernel[axis]);
        room.map(|r| r / stride[axis] + 1).ok_or_else(|| {
            format!("a window of {kernel:?} does not fit {height}×{width} with padding {padding:?}")
        })
    };
    Ok([along(height, 0)?, along(width, 1)?])
}

fn align(offset: usize) -> usize {
    offset.next_multiple_of(ALIGNMENT)
}

/// Gives each parameter its place: dense ones in backward order, then tables.
fn place(nodes: &mut [Node], unplaced: Vec<Vec<Unplaced>>) -> (Vec<Parameter>, Vec<Table>, usize, usize) {
    let mut parameters = Vec::new();
    let mut tables = Vec::new();
    let mut dense_len = 0;
    let mut offset = 0;
    for want_tables in [false, true] {
        for (n, unplaced) in unplaced.iter().enumerate().rev() {
            for p in unplaced.iter().filter(|p| p.table == want_tables) {
                let range = offset..offset + p.shape.iter().product::<usize>();
                offset = align(range.end);
                if p.table {
                    let (rows, dims) = (p.shape[0], p.shape[1]);
                    tables.push(Table { parameter: parameters.len(), rows, dims, range: range.clone() });
                }
                nodes[n].parameters.push(parameters.len());
                let name = format!("{}.{}", nodes[n].name, p.suffix);
                parameters.push(Parameter { name, node: n, shape: p.shape.clone(), range, init: p.init });
            }
        }
        if !want_tables {
            dense_len = offset;
        }
    }
    (parameters, tables, dense_len, offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Input, Layer, SPEC_VERSION};

    fn dense(shape: &[usize]) -> Input {
        Input { name: "x".into(), kind: InputKind::Dense { shape: shape.to_vec() } }
    }

    fn sequence(input: Input, ops: Vec<Op>) -> Spec {
        let layer = |(i, op)| Layer { name: format!("l{i}"), inputs: vec![], op };
        Spec {
            version: SPEC_VERSION,
            inputs: vec![input],
            layers: ops.into_iter().enumerate().map(layer).collect(),
        }
    }

    fn conv(outputs: usize, kernel: usize, groups: usize) -> Op {
        let kernel = [kernel, kernel];
        Op::Conv2d { outputs, kernel, stride: [2, 1], padding: [1, 0], groups, bias: true }
    }

    #[test]
    fn shapes_of_a_convolution() {
        let graph = Graph::new(&sequence(dense(&[4, 9, 8]), vec![conv(6, 3, 2)])).unwrap();
        assert_eq!(graph.output_shape(), [6, 5, 6]);
        assert_eq!(graph.parameters()[0].shape, [6, 2, 3, 3]);
    }

    #[test]
    fn parameters_lie_last_layer_first_and_aligned() {
        let ops =
            vec![Op::Linear { outputs: 3, bias: true }, Op::Relu, Op::Linear { outputs: 2, bias: true }];
        let graph = Graph::new(&sequence(dense(&[5]), ops)).unwrap();
        let places: Vec<_> = graph.parameters().iter().map(|p| (p.name.as_str(), p.range.clone())).collect();
        let expected = [("l2.weight", 0..6), ("l2.bias", 16..18), ("l0.weight", 32..47), ("l0.bias", 48..51)];
        assert_eq!(places, expected);
        assert_eq!((graph.len(), graph.dense_len(), graph.weight_count()), (64, 64, 26));
    }

    #[test]
    fn tables_follow_all_dense_parameters() {
        let spec = Spec {
            version: SPEC_VERSION,
            inputs: vec![
                Input { name: "a".into(), kind: InputKind::Index { cardinality: 7 } },
                Input { name: "x".into(), kind: InputKind::Dense { shape: vec![3] } },
            ],
            layers: vec![
                Layer {
                    name: "x_wide".into(),
                    inputs: vec!["x".into()],
                    op: Op::Linear { outputs: 4, bias: false },
                },
                Layer { name: "a_row".into(), inputs: vec!["a".into()], op: Op::Embedding { dims: 2 } },
                Layer { name: "all".into(), inputs: vec!["x_wide".into(), "a_row".into()], op: Op::Concat },
            ],
        };
        let graph = Graph::new(&spec).unwrap();
        assert_eq!(graph.output_shape(), [6]);
        assert_eq!(graph.dense_len(), 16);
        assert_eq!(graph.tables()[0].range, 16..30);
        assert_eq!(graph.parameters()[graph.tables()[0].parameter].name, "a_row.weight");
    }

    #[test]
    fn errors_name_the_layer_and_both_shapes() {
        let cases: [(Input, Vec<Op>, &str); 7] = [
            (
                dense(&[1, 4, 4]),
                vec![Op::Linear { outputs: 2, bias: true }],
                "layer 'l0' (linear): reads shape [1, 4, 4]",
            ),
            (dense(&[4]), vec![conv(2, 3, 1)], "layer 'l0' (conv2d): reads shape [4], expected an image"),
            (dense(&[3, 8, 8]), vec![conv(4, 3, 2)], "3 channels to 4 in 2 groups"),
            (
                dense(&[1, 2, 2]),
                vec![conv(4, 7, 1)],
                "a window of [7, 7] does not fit 2×2 with padding [1, 0]",
            ),
            (dense(&[4]), vec![Op::Dropout { rate: 1.0 }], "rate is 1, expected at least 0 and below 1"),
            (dense(&[0]), vec![Op::Relu], "input 'x' has shape [0]"),
            (dense(&[4]), vec![Op::Embedding { dims: 2 }], "reads 'x', which holds no indices"),
        ];
        for (input, ops, expected) in cases {
            let e = Graph::new(&sequence(input, ops)).unwrap_err().to_string();
            assert!(e.contains(expected), "{e} should contain {expected}");
        }
    }

    #[test]
    fn unknown_and_unused_names_are_refused() {
        let mut spec = sequence(dense(&[4]), vec![Op::Relu, Op::Tanh]);
        spec.layers[1].inputs = vec!["nowhere".into()];
        let e = Graph::new(&spec).unwrap_err().to_string();
        assert_eq!(e, "layer 'l1' reads 'nowhere', which is no input and no earlier layer");
        spec.layers[1].inputs = vec!["x".into()];
        assert_eq!(Graph::new(&spec).unwrap_err().to_string(), "no layer reads layer 'l0'");
    }
}
