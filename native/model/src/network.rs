//! Networks that become a spec once the inputs and the number of outputs are known.

use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::json;
use crate::spec::{Input, InputKind, Layer, Op, SPEC_VERSION, Spec};

/// What a user asks for. The inputs come from the data, the number of outputs from the task, so neither is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Network {
    /// Hidden linear layers with an activation behind each, then the head.
    Mlp {
        /// Widths of the hidden layers.
        hidden: Vec<usize>,
        /// Behind each hidden layer.
        #[serde(default)]
        activation: Activation,
        /// Dropout rate behind each activation.
        #[serde(default)]
        dropout: f32,
    },
    /// LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling, for one image of 28×28 or 32×32.
    Lenet5,
    /// An embedding for each index input, joined with all dense inputs, then an MLP.
    Tabular {
        /// Widths of the hidden layers.
        hidden: Vec<usize>,
        /// Width of every embedding; 0 chooses by cardinality: min(50, ⌈1.6·cardinality^0.56⌉).
        #[serde(default)]
        embedding_dims: usize,
        /// Dropout rate behind each activation.
        #[serde(default)]
        dropout: f32,
        /// Behind each hidden layer.
        #[serde(default)]
        activation: Activation,
    },
    /// The sum of a deep part, as `tabular`, and a wide one: a linear layer on each dense input and a weight for each
    /// category and output (Cheng et al. 2016). The wide part remembers, the deep one generalises.
    WideAndDeep {
        /// Widths of the deep part's hidden layers.
        hidden: Vec<usize>,
        /// Behind each hidden layer.
        #[serde(default)]
        activation: Activation,
        /// Dropout rate behind each activation.
        #[serde(default)]
        dropout: f32,
        /// Width of every embedding of the deep part; 0 chooses by cardinality, as for `tabular`.
        #[serde(default)]
        embedding_dims: usize,
    },
    /// Hidden linear layers with an activation behind each, narrow in the middle, then the head: it learns to give back
    /// what it reads (Hinton & Salakhutdinov 2006). All inputs are dense.
    Autoencoder {
        /// Widths of the hidden layers, at least one; the narrowest decides what is kept.
        hidden: Vec<usize>,
        /// Behind each hidden layer.
        #[serde(default)]
        activation: Activation,
        /// Dropout rate behind each activation.
        #[serde(default)]
        dropout: f32,
    },
    /// Layers one behind the other; the head, a linear layer to the number of outputs, is added.
    Sequential {
        /// The operations, first to last.
        layers: Vec<Op>,
    },
    /// A whole spec; its inputs must match the data's.
    Spec(Spec),
}

/// Which elementwise function follows a hidden layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(x, 0).
    #[default]
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
    /// x·Φ(x).
    Gelu,
}

impl Activation {
    fn op(self) -> Op {
        match self {
            Activation::Relu => Op::Relu,
            Activation::Tanh => Op::Tanh,
            Activation::Sigmoid => Op::Sigmoid,
            Activation::Gelu => Op::Gelu,
        }
    }
}

impl Network {
    /// Reads a network from JSON, for example `{"mlp": {"hidden": [128, 64]}}` or `"lenet5"`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the preset and the field, what was found and what was expected.
    pub fn from_json(json: &str) -> Result<Network> {
        json::read("the network", json)
    }

    /// The spec for these inputs and this many outputs.
    ///
    /// # Errors
    /// `InvalidArgument` when the inputs do not suit the network. Shapes inside are [`crate::Graph`]'s to check.
    pub fn build(&self, inputs: Vec<Input>, outputs: usize) -> Result<Spec> {
        if inputs.is_empty() {
            return Err(Error::argument("the network has no inputs"));
        }
        match self {
            Network::Spec(spec) if spec.inputs == inputs => Ok(spec.clone()),
            Network::Spec(spec) => Err(Error::argument(format!(
                "the spec's inputs are {}, the data's are {}",
                describe(&spec.inputs),
                describe(&inputs)
            ))),
            Network::Mlp { hidden, activation, dropout } => {
                let mut chain = Chain::new(inputs);
                chain.join(0);
                chain.mlp(hidden, *activation, *dropout);
                Ok(chain.finish(outputs))
            }
            Network::Tabular { hidden, embedding_dims, dropout, activation } => {
                let mut chain = Chain::new(inputs);
                chain.join(*embedding_dims);
                chain.mlp(hidden, *activation, *dropout);
                Ok(chain.finish(outputs))
            }
            Network::WideAndDeep { hidden, activation, dropout, embedding_dims } => {
                let mut chain = Chain::new(inputs);
                let parts = chain.join(*embedding_dims);
                chain.mlp(hidden, *activation, *dropout);
                Ok(chain.finish_wide(&parts, outputs))
            }
            Network::Autoencoder { hidden, activation, dropout } => {
                check_autoencoder(&inputs, hidden)?;
                let mut chain = Chain::new(inputs);
                chain.join(0);
                chain.mlp(hidden, *activation, *dropout);
                Ok(chain.finish(outputs))
            }
            Network::Lenet5 => lenet5(inputs, outputs),
            Network::Sequential { layers } => {
                let mut chain = Chain::new(inputs);
                if chain.spec.inputs.len() > 1 || chain.spec.inputs.iter().any(|i| i.kind.is_index()) {
                    chain.join(0);
                }
                for op in layers {
                    chain.push_counted(op.clone());
                }
                Ok(chain.finish(outputs))
            }
        }
    }
}

fn describe(inputs: &[Input]) -> String {
    let one = |i: &Input| match &i.kind {
        InputKind::Dense { shape } => format!("{}: dense {shape:?}", i.name),
        InputKind::Index { cardinality } => format!("{}: index of {cardinality}", i.name),
    };
    let all: Vec<String> = inputs.iter().map(one).collect();
    format!("[{}]", all.join(", "))
}

fn check_autoencoder(inputs: &[Input], hidden: &[usize]) -> Result<()> {
    if hidden.is_empty() {
        return Err(Error::argument("the autoencoder has no hidden layers, expected at least one"));
    }
    match inputs.iter().find(|i| i.kind.is_index()) {
        None => Ok(()),
        Some(input) => Err(Error::argument(format!(
            "an autoencoder reads dense inputs, '{}' holds indices, which it cannot give back",
            input.name
        ))),
    }
}

fn lenet5(inputs: Vec<Input>, outputs: usize) -> Result<Spec> {
    let [Input { kind: InputKind::Dense { shape }, .. }] = inputs.as_slice() else {
        return Err(Error::argument(format!("lenet5 reads one image, the data has {}", describe(&inputs))));
    };
    // (padding of the first convolution): 28×28 is padded to the 32×32 of the paper.
    let padding = match shape.as_slice() {
        [_, 28, 28] => 2,
        [_, 32, 32] => 0,
        _ => {
            return Err(Error::argument(format!(
                "lenet5 reads an image of [channels, 28, 28] or [channels, 32, 32], the data has {}",
                describe(&inputs)
            )));
        }
    };
    let conv = |outputs, padding| Op::Conv2d {
        outputs,
        kernel: [5, 5],
        stride: [1, 1],
        padding: [padding, padding],
        groups: 1,
        bias: true,
    };
    let pool = || Op::MaxPool2d { kernel: [2, 2], stride: None, padding: [0, 0] };
    let mut chain = Chain::new(inputs);
    for (name, op) in [
        ("conv1", conv(6, padding)),
        ("relu1", Op::Relu),
        ("pool1", pool()),
        ("conv2", conv(16, 0)),
        ("relu2", Op::Relu),
        ("pool2", pool()),
        ("flat", Op::Flatten),
        ("linear1", Op::Linear { outputs: 120, bias: true }),
        ("relu3", Op::Relu),
        ("linear2", Op::Linear { outputs: 84, bias: true }),
        ("relu4", Op::Relu),
    ] {
        chain.push(name, op);
    }
    Ok(chain.finish(outputs))
}

/// Layers being put one behind the other.
struct Chain {
    spec: Spec,
}

impl Chain {
    fn new(inputs: Vec<Input>) -> Chain {
        Chain { spec: Spec { version: SPEC_VERSION, inputs, layers: Vec::new() } }
    }

    fn push(&mut self, name: &str, op: Op) -> String {
        self.push_on(name, Vec::new(), op)
    }

    /// Adds a layer and gives its name, which has a `_` behind it when an input is called so.
    fn push_on(&mut self, name: &str, inputs: Vec<String>, op: Op) -> String {
        let mut name = name.to_owned();
        let Spec { inputs: columns, layers, .. } = &self.spec;
        while columns.iter().any(|i| i.name == name) || layers.iter().any(|l| l.name == name) {
            name.push('_');
        }
        self.spec.layers.push(Layer { name: name.clone(), inputs, op });
        name
    }

    /// Names the layer by its operation and place: `linear1`, `relu2`.
    fn push_counted(&mut self, op: Op) {
        let name = format!("{}{}", op.name(), self.spec.layers.len() + 1);
        self.push(&name, op);
    }

    /// Embeds index inputs, flattens images, and joins all into one vector when there are several. Gives the vector of
    /// each input.
    fn join(&mut self, embedding_dims: usize) -> Vec<String> {
        let inputs = self.spec.inputs.clone();
        let mut parts = Vec::new();
        for input in &inputs {
            match &input.kind {
                InputKind::Index { cardinality } => {
                    let dims =
                        if embedding_dims > 0 { embedding_dims } else { embedding_width(*cardinality) };
                    let name = format!("{}_embedding", input.name);
                    parts.push(self.push_on(&name, vec![input.name.clone()], Op::Embedding { dims }));
                }
                InputKind::Dense { shape } if shape.len() > 1 => {
                    let name = format!("{}_flat", input.name);
                    parts.push(self.push_on(&name, vec![input.name.clone()], Op::Flatten));
                }
                InputKind::Dense { .. } => parts.push(input.name.clone()),
            }
        }
        if parts.len() > 1 {
            self.push_on("features_joined", parts.clone(), Op::Concat);
        }
        parts
    }

    fn mlp(&mut self, hidden: &[usize], activation: Activation, dropout: f32) {
        for (i, outputs) in hidden.iter().enumerate() {
            let place = i + 1;
            self.push(&format!("hidden{place}"), Op::Linear { outputs: *outputs, bias: true });
            self.push(&format!("activation{place}"), activation.op());
            // Any other rate is a layer, so that the graph refuses one that makes no sense.
            if dropout != 0.0 {
                self.push(&format!("dropout{place}"), Op::Dropout { rate: dropout });
            }
        }
    }

    fn finish(mut self, outputs: usize) -> Spec {
        self.push("head", Op::Linear { outputs, bias: true });
        self.spec
    }

    /// As [`Chain::finish`], and adds what the inputs alone say; `parts` is what [`Chain::join`] gave.
    fn finish_wide(mut self, parts: &[String], outputs: usize) -> Spec {
        let mut sources = vec![self.push("head", Op::Linear { outputs, bias: true })];
        for (input, part) in self.spec.inputs.clone().into_iter().zip(parts) {
            let (source, op) = match &input.kind {
                InputKind::Index { .. } => (&input.name, Op::Embedding { dims: outputs }),
                // The head has the bias.
                InputKind::Dense { .. } => (part, Op::Linear { outputs, bias: false }),
            };
            sources.push(self.push_on(&format!("{}_wide", input.name), vec![source.clone()], op));
        }
        self.push_on("sum", sources, Op::Add);
        self.spec
    }
}

/// The width of an embedding for a cardinality: min(50, ⌈1.6·c^0.56⌉), the rule of fast.ai.
fn embedding_width(cardinality: usize) -> usize {
    ((1.6 * (cardinality as f64).powf(0.56)).ceil() as usize).min(50)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    fn dense(shape: &[usize]) -> Input {
        Input { name: "x".into(), kind: InputKind::Dense { shape: shape.to_vec() } }
    }

    fn index(name: &str, cardinality: usize) -> Input {
        Input { name: name.into(), kind: InputKind::Index { cardinality } }
    }

    #[test]
    fn lenet5_has_the_weights_of_its_paper() {
        for shape in [[1, 28, 28], [1, 32, 32]] {
            let graph = Graph::new(&Network::Lenet5.build(vec![dense(&shape)], 10).unwrap()).unwrap();
            assert_eq!(graph.weight_count(), 61_706);
        }
        let e = Network::Lenet5.build(vec![dense(&[784])], 10).unwrap_err().to_string();
        assert!(e.contains("lenet5 reads an image of [channels, 28, 28]"), "{e}");
    }

    #[test]
    fn mlp_counts_its_weights() {
        let mlp = Network::from_json(r#"{"mlp": {"hidden": [512, 256]}}"#).unwrap();
        let graph = Graph::new(&mlp.build(vec![dense(&[784])], 10).unwrap()).unwrap();
        assert_eq!(graph.weight_count(), 535_818);
    }

    #[test]
    fn tabular_embeds_each_index_input() {
        let tabular = Network::from_json(r#"{"tabular": {"hidden": [32], "dropout": 0.1}}"#).unwrap();
        let spec = tabular.build(vec![dense(&[4]), index("carrier", 18), index("tail", 4000)], 2).unwrap();
        let graph = Graph::new(&spec).unwrap();
        let widths: Vec<usize> = graph.tables().iter().map(|t| t.dims).collect();
        assert_eq!(widths, [50, 9]);
        assert_eq!(graph.output_shape(), [2]);
    }

    #[test]
    fn wide_and_deep_adds_a_weight_for_each_category_and_output() {
        let json = r#"{"wide_and_deep": {"hidden": [8], "activation": "tanh", "embedding_dims": 3}}"#;
        let image = Input { name: "image".into(), kind: InputKind::Dense { shape: vec![1, 2, 2] } };
        let inputs = vec![dense(&[4]), index("carrier", 18), image];
        let spec = Network::from_json(json).unwrap().build(inputs, 5).unwrap();
        let graph = Graph::new(&spec).unwrap();
        let deep = 18 * 3 + (4 + 3 + 4 + 1) * 8 + 9 * 5;
        assert_eq!(graph.weight_count(), deep + 5 * (4 + 18 + 4));
        let last = spec.layers.last().unwrap();
        assert_eq!((&last.op, graph.output_shape()), (&Op::Add, &[5][..]));
        assert_eq!(last.inputs, ["head", "x_wide", "carrier_wide", "image_wide"]);
        assert_eq!(spec.layers.iter().find(|l| l.name == "image_wide").unwrap().inputs, ["image_flat"]);
    }

    #[test]
    fn an_autoencoder_gives_as_many_values_as_it_reads() {
        let json = r#"{"autoencoder": {"hidden": [5, 2, 5], "activation": "tanh"}}"#;
        let image = Input { name: "image".into(), kind: InputKind::Dense { shape: vec![1, 2, 2] } };
        let autoencoder = Network::from_json(json).unwrap();
        let graph = Graph::new(&autoencoder.build(vec![dense(&[3]), image], 7).unwrap()).unwrap();
        assert_eq!((graph.output_shape(), graph.weight_count()), (&[7][..], 40 + 12 + 15 + 42));
        let e = autoencoder.build(vec![index("carrier", 3)], 3).unwrap_err().to_string();
        assert!(e.contains("dense inputs, 'carrier' holds indices"), "{e}");
        let none = Network::from_json(r#"{"autoencoder": {"hidden": []}}"#).unwrap();
        let e = none.build(vec![dense(&[3])], 3).unwrap_err().to_string();
        assert_eq!(e, "the autoencoder has no hidden layers, expected at least one");
    }

    #[test]
    fn columns_may_be_called_as_layers() {
        let tabular = Network::from_json(r#"{"tabular": {"hidden": [4]}}"#).unwrap();
        let inputs = ["head", "head_embedding", "hidden1", "features_joined"].map(|name| index(name, 3));
        let spec = tabular.build(inputs.to_vec(), 2).unwrap();
        assert_eq!(Graph::new(&spec).unwrap().tables().len(), 4);
        assert_eq!(spec.layers.last().unwrap().name, "head_");
    }

    #[test]
    fn sequential_adds_the_head() {
        let json = r#"{"sequential": {"layers": [{"linear": {"outputs": 8}}, "relu"]}}"#;
        let spec = Network::from_json(json).unwrap().build(vec![dense(&[3])], 2).unwrap();
        let names: Vec<&str> = spec.layers.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, ["linear1", "relu2", "head"]);
    }

    #[test]
    fn a_dropout_that_makes_no_sense_is_refused() {
        for json in
            [r#"{"mlp":{"hidden":[4],"dropout":DROPOUT}}"#, r#"{"tabular":{"hidden":[4],"dropout":DROPOUT}}"#]
        {
            let graph = |dropout: &str| {
                let network = Network::from_json(&json.replace("DROPOUT", dropout)).unwrap();
                Graph::new(&network.build(vec![dense(&[3])], 2).unwrap())
            };
            let e = graph("-0.5").unwrap_err().to_string();
            assert!(e.contains("layer 'dropout1' (dropout): rate is -0.5"), "{e}");
            assert_eq!(graph("0.0").unwrap().nodes().len(), 3);
        }
        let network = Network::Mlp { hidden: vec![4], activation: Activation::Relu, dropout: f32::NAN };
        assert!(Graph::new(&network.build(vec![dense(&[3])], 2).unwrap()).is_err());
    }

    #[test]
    fn a_network_needs_an_input() {
        for json in [r#""lenet5""#, r#"{"mlp":{"hidden":[]}}"#, r#"{"sequential":{"layers":["relu"]}}"#] {
            let e = Network::from_json(json).unwrap().build(vec![], 2).unwrap_err();
            assert_eq!(e.to_string(), "the network has no inputs");
        }
    }

    #[test]
    fn a_spec_must_fit_the_data() {
        let spec = Network::Sequential { layers: vec![Op::Relu] }.build(vec![dense(&[3])], 2).unwrap();
        let e = Network::Spec(spec).build(vec![dense(&[4])], 2).unwrap_err().to_string();
        assert_eq!(e, "the spec's inputs are [x: dense [3]], the data's are [x: dense [4]]");
    }
}
