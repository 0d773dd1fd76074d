//! The network: a layer at a time, as inference computes it.

use firesteel_model::{Graph, Node, Op, Source};

use crate::build::{Builder, Operator, int};

/// Adds the layers of a graph behind `inputs`. Gives the value of the last, `(N, outputs)`.
pub(crate) fn add(
    builder: &mut Builder,
    graph: &Graph,
    weights: &[f32],
    buffers: &[f32],
    inputs: Vec<String>,
) -> String {
    let mut layers = Layers { builder, graph, weights, buffers, inputs, results: Vec::new() };
    for node in graph.nodes() {
        let result = layers.layer(node);
        layers.results.push(result);
    }
    let last = graph.nodes().last().zip(layers.results.last());
    let (node, result) = last.expect("a graph has a layer");
    match node.shape.len() {
        1 => result.clone(),
        _ => layers.builder.node(flatten(), &[result], &format!("{}.flat", node.name)),
    }
}

struct Layers<'a> {
    builder: &'a mut Builder,
    graph: &'a Graph,
    /// Laid out as the graph says, as are the buffers.
    weights: &'a [f32],
    buffers: &'a [f32],
    /// The value of each input, and of each layer so far.
    inputs: Vec<String>,
    results: Vec<String>,
}

impl Layers<'_> {
    fn layer(&mut self, node: &Node) -> String {
        let sources: Vec<String> = node.sources.iter().map(|s| self.value(*s).to_owned()).collect();
        let operator = match &node.op {
            Op::Linear { .. } => Operator::new("Gemm").int("transB", 1),
            Op::Embedding { .. } => return self.embedding(node, &sources[0]),
            Op::Conv2d { kernel, stride, padding, groups, .. } => {
                window("Conv", *kernel, *stride, *padding).int("group", int(*groups))
            }
            Op::MaxPool2d { kernel, stride, padding } => {
                window("MaxPool", *kernel, stride.unwrap_or(*kernel), *padding)
            }
            Op::AvgPool2d { kernel, stride, padding } => {
                let pool = window("AveragePool", *kernel, stride.unwrap_or(*kernel), *padding);
                pool.int("count_include_pad", 1)
            }
            Op::Flatten => flatten(),
            Op::Concat => Operator::new("Concat").int("axis", 1),
            Op::Add => Operator::new("Sum"),
            Op::Relu => Operator::new("Relu"),
            Op::Tanh => Operator::new("Tanh"),
            Op::Sigmoid => Operator::new("Sigmoid"),
            Op::Gelu => return self.gelu(node, &sources[0]),
            // What it drops in training it keeps in inference.
            Op::Dropout { .. } => return sources[0].clone(),
            Op::BatchNorm { epsilon, .. } => Operator::new("BatchNormalization").float("epsilon", *epsilon),
            Op::LayerNorm { epsilon } => {
                Operator::new("LayerNormalization").int("axis", -1).float("epsilon", *epsilon)
            }
        };
        let constants = self.constants(node);
        let operands: Vec<&str> = sources.iter().chain(&constants).map(String::as_str).collect();
        self.builder.node(operator, &operands, &node.name)
    }

    fn value(&self, source: Source) -> &str {
        match source {
            Source::Input(input) => &self.inputs[input],
            Source::Node(node) => &self.results[node],
        }
    }

    /// The layer's weights and running statistics, in the order in which ONNX reads them: ours.
    fn constants(&mut self, node: &Node) -> Vec<String> {
        let graph = self.graph;
        let parameters = node.parameters.iter().map(|p| {
            let p = &graph.parameters()[*p];
            (&p.name, &p.shape, &self.weights[p.range.clone()])
        });
        let buffers = node.buffers.iter().map(|b| {
            let b = &graph.buffers()[*b];
            (&b.name, &b.shape, &self.buffers[b.range.clone()])
        });
        let all = parameters.chain(buffers);
        all.map(|(name, shape, values)| self.builder.constant(name, shape, values)).collect()
    }

    /// Rows of the table: `(N)` to `(N, dims)`.
    fn embedding(&mut self, node: &Node, indices: &str) -> String {
        let table = self.constants(node);
        self.builder.node(Operator::new("Gather").int("axis", 0), &[&table[0], indices], &node.name)
    }

    /// x·½(1 + erf(x/√2)): the operator of that name came with opset 20.
    fn gelu(&mut self, node: &Node, x: &str) -> String {
        let name = |what: &str| format!("{}.{what}", node.name);
        let root = self.builder.constant(&name("root"), &[], &[std::f32::consts::SQRT_2]);
        let one = self.builder.constant(&name("one"), &[], &[1.0f32]);
        let half = self.builder.constant(&name("half"), &[], &[0.5f32]);
        let scaled = self.builder.node(Operator::new("Div"), &[x, &root], &name("scaled"));
        let erf = self.builder.node(Operator::new("Erf"), &[&scaled], &name("erf"));
        let shifted = self.builder.node(Operator::new("Add"), &[&erf, &one], &name("shifted"));
        let doubled = self.builder.node(Operator::new("Mul"), &[x, &shifted], &name("doubled"));
        self.builder.node(Operator::new("Mul"), &[&doubled, &half], &node.name)
    }
}

/// Any shape to `(N, values)`.
pub(crate) fn flatten() -> Operator {
    Operator::new("Flatten").int("axis", 1)
}

fn window(
    name: &'static str,
    kernel: [usize; 2],
    stride: [usize; 2],
    [down, across]: [usize; 2],
) -> Operator {
    Operator::new(name)
        .ints("kernel_shape", kernel.map(int))
        .ints("strides", stride.map(int))
        .ints("pads", [down, across, down, across].map(int))
}
