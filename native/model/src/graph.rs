//! The checked network: every shape inferred, every parameter placed in one flat vector.

use std::ops::Range;

use firesteel_error::Result;

use crate::build::build;
use crate::spec::{Op, Spec};

/// Parameters start at multiples of this many f32: 64 bytes, a cache line and an AVX-512 register.
pub const ALIGNMENT: usize = 16;

/// The most weights of a network, and the most values that one sample may have anywhere in it: 256 GiB of f32.
/// Everything that is smaller can be multiplied by the lanes and bytes of an engine without overflow.
pub const MOST_VALUES: usize = 1 << 36;

/// A checked, shaped network and the layout of its flat weight vector.
///
/// Parameters lie in the order in which backward finishes their gradients, last layer first, so that a bucket of
/// finished gradients is a range. Embedding tables, whose gradients are sparse, follow all dense parameters:
/// `0..dense_len()` is dense, `dense_len()..len()` is tables.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(crate) spec: Spec,
    pub(crate) nodes: Vec<Node>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) tables: Vec<Table>,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) dense_len: usize,
    pub(crate) len: usize,
    pub(crate) buffers_len: usize,
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
    /// `InvalidArgument` naming the layer, what was found and what was expected, or that the spec is of a newer version.
    pub fn new(spec: &Spec) -> Result<Graph> {
        build(spec)
    }

    /// The network up to a layer, whose output is its own: for inference with the weights of the whole, as inputs and flat
    /// vectors stay what they are. Layers before it that it does not need are computed all the same. None when there
    /// is no such layer.
    pub fn up_to(&self, node: usize) -> Option<Graph> {
        let mut graph = self.clone();
        graph.nodes.truncate(node.checked_add(1)?);
        graph.spec.layers.truncate(graph.nodes.len());
        (graph.nodes.len() == node + 1).then_some(graph)
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
            Source::Input(i) => self.spec.inputs[i].kind.shape(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Input, InputKind, Layer, SPEC_VERSION};

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
    fn sizes_beyond_all_memory_are_refused_with_the_layer() {
        let window = |kernel, padding| Op::AvgPool2d { kernel, stride: Some([1, 1]), padding };
        let one = |kernel, padding, outputs| Op::Conv2d {
            outputs,
            kernel,
            stride: [1, 1],
            padding,
            groups: 1,
            bias: false,
        };
        let most = usize::MAX;
        let cases: [(Input, Vec<Op>, &str); 10] = [
            (dense(&[1, 1 << 32, 1 << 28]), vec![one([1, 1], [0, 0], 1)], "input 'x' has shape"),
            (dense(&[most, most]), vec![Op::Flatten], "input 'x' has shape"),
            (dense(&[1, 4, 4]), vec![one([1, 1], [1 << 63, 0], 1)], "layer 'l0' (conv2d): padding"),
            (dense(&[1, 4, 4]), vec![one([1, 1], [0, most], 1)], "layer 'l0' (conv2d): padding"),
            (dense(&[1, 1 << 18, 1 << 18]), vec![one([1, 1], [0, 0], 2)], "layer 'l0' (conv2d): gives shape"),
            (dense(&[1, 4, 4]), vec![window([most, 4], [1 << 63, 0])], "layer 'l0' (avg_pool2d): padding"),
            (dense(&[1, 1, 1]), vec![window([1 << 63, 1], [1 << 62, 0])], "layer 'l0' (avg_pool2d): padding"),
            (
                dense(&[4]),
                vec![Op::Linear { outputs: 4_000_000_000_000, bias: false }],
                "layer 'l0' (linear): its weight has shape [4000000000000, 4], more than 68719476736 values",
            ),
            (
                dense(&[1 << 20]),
                vec![
                    Op::Linear { outputs: 1 << 15, bias: false },
                    Op::Linear { outputs: 1 << 20, bias: true },
                ],
                "layer 'l0' (linear): the network has more than 68719476736 weights",
            ),
            (
                Input { name: "x".into(), kind: InputKind::Index { cardinality: most } },
                vec![Op::Embedding { dims: 2 }],
                "layer 'l0' (embedding): its weight has shape",
            ),
        ];
        for (input, ops, expected) in cases {
            let e = Graph::new(&sequence(input, ops)).unwrap_err().to_string();
            assert!(e.contains(expected), "{e} should contain {expected}");
        }
    }

    #[test]
    fn joined_axes_may_not_wrap() {
        let mut spec = sequence(dense(&[1 << 35]), vec![Op::Concat]);
        spec.layers[0].inputs = vec!["x".into(); 3];
        let e = Graph::new(&spec).unwrap_err().to_string();
        assert!(e.contains("layer 'l0' (concat): gives shape [103079215104]"), "{e}");
    }

    #[test]
    fn a_newer_spec_is_refused() {
        let mut spec = sequence(dense(&[4]), vec![Op::Relu]);
        for (version, expected) in
            [(2, "spec version 2 is newer than 1"), (0, "spec version is 0, expected 1 or more")]
        {
            spec.version = version;
            assert_eq!(Graph::new(&spec).unwrap_err().to_string(), expected);
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

    #[test]
    fn a_network_up_to_a_layer_keeps_the_layout() {
        let ops =
            vec![Op::Linear { outputs: 3, bias: true }, Op::Relu, Op::Linear { outputs: 2, bias: true }];
        let whole = Graph::new(&sequence(dense(&[5]), ops)).unwrap();
        let cut = whole.up_to(1).unwrap();
        assert_eq!((cut.output_shape(), cut.spec().layers.len()), (&[3][..], 2));
        assert_eq!((cut.len(), cut.dense_len(), cut.parameters().len()), (whole.len(), whole.dense_len(), 4));
        assert!(whole.up_to(3).is_none() && whole.up_to(usize::MAX).is_none());
    }
}
