//! The serialised form of a network.

use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::json;

/// The version written into every spec; a reader refuses newer ones.
pub const SPEC_VERSION: u32 = 1;

/// A network as data. The last layer is the output.
///
/// ```json
/// {"version": 1,
///  "inputs": [{"name": "image", "kind": {"dense": {"shape": [1, 28, 28]}}}],
///  "layers": [{"name": "flat", "op": "flatten"},
///             {"name": "head", "op": {"linear": {"outputs": 10}}}]}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// [`SPEC_VERSION`] when written by this version.
    pub version: u32,
    /// What a sample consists of, in the order in which a batch presents it.
    pub inputs: Vec<Input>,
    /// Layers in an order in which each follows everything it reads.
    pub layers: Vec<Layer>,
}

/// One named part of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Unique among inputs and layers.
    pub name: String,
    /// What it holds.
    pub kind: InputKind,
}

/// What an input holds for each sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InputKind {
    /// f32 values of this shape, row-major: `[features]` or `[channels, height, width]`.
    Dense {
        /// The shape of one sample.
        shape: Vec<usize>,
    },
    /// One index in `0..cardinality`.
    Index {
        /// The number of distinct indices.
        cardinality: usize,
    },
}

/// One layer: an operation on named sources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Unique among inputs and layers.
    pub name: String,
    /// Names of inputs or earlier layers. Empty means the layer before, or the only input for the first layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What it computes.
    pub op: Op,
}

/// The operations. Shapes are those of one sample, without the batch axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// `(features) -> (outputs)`: x·Wᵀ + b.
    Linear {
        /// The width of the output.
        outputs: usize,
        /// Whether b is there.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// `index -> (dims)`: a row of a learned table, whose gradient stays sparse.
    Embedding {
        /// The width of a row.
        dims: usize,
    },
    /// `(channels, height, width) -> (outputs, height', width')`: cross-correlation, as in PyTorch.
    Conv2d {
        /// Output channels; a multiple of `groups`.
        outputs: usize,
        /// Kernel height and width.
        kernel: [usize; 2],
        /// Stride down and across.
        #[serde(default = "ones")]
        stride: [usize; 2],
        /// Zeros added on both sides, down and across.
        #[serde(default)]
        padding: [usize; 2],
        /// Groups of channels that do not mix; divides the input channels.
        #[serde(default = "one")]
        groups: usize,
        /// Whether a bias a channel is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// The largest value of each window. Padding never wins.
    MaxPool2d {
        /// Window height and width.
        kernel: [usize; 2],
        /// Stride; the kernel when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<[usize; 2]>,
        /// Padding on both sides, at most half the kernel.
        #[serde(default)]
        padding: [usize; 2],
    },
    /// The mean of each window, zeros of the padding counted, as in PyTorch.
    AvgPool2d {
        /// Window height and width.
        kernel: [usize; 2],
        /// Stride; the kernel when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<[usize; 2]>,
        /// Padding on both sides, at most half the kernel.
        #[serde(default)]
        padding: [usize; 2],
    },
    /// Any shape to one axis.
    Flatten,
    /// Sources joined along their first axis; the other axes are equal.
    Concat,
    /// The sum of sources of one shape.
    Add,
    /// max(x, 0).
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1/(1+e⁻ˣ).
    Sigmoid,
    /// x·Φ(x), exactly (by erf), as PyTorch's default.
    Gelu,
    /// In training, zeroes a value with probability `rate` and scales the rest by 1/(1−rate).
    Dropout {
        /// In `0..1`.
        rate: f32,
    },
    /// Standardises each feature or channel over the batch, then scales and shifts (Ioffe & Szegedy 2015).
    BatchNorm {
        /// Added to the variance.
        #[serde(default = "epsilon")]
        epsilon: f32,
        /// The weight of the newest batch in the running statistics.
        #[serde(default = "momentum")]
        momentum: f32,
    },
    /// Standardises each sample over its last axis, then scales and shifts (Ba et al. 2016).
    LayerNorm {
        /// Added to the variance.
        #[serde(default = "epsilon")]
        epsilon: f32,
    },
}

impl InputKind {
    /// The shape of one sample; empty for an index.
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            InputKind::Dense { shape } => shape,
            InputKind::Index { .. } => &[],
        }
    }

    pub(crate) fn is_index(&self) -> bool {
        matches!(self, InputKind::Index { .. })
    }
}

fn yes() -> bool {
    true
}
fn one() -> usize {
    1
}
fn ones() -> [usize; 2] {
    [1, 1]
}
fn epsilon() -> f32 {
    1e-5
}
fn momentum() -> f32 {
    0.1
}

impl Op {
    /// The name a spec uses.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Linear { .. } => "linear",
            Op::Embedding { .. } => "embedding",
            Op::Conv2d { .. } => "conv2d",
            Op::MaxPool2d { .. } => "max_pool2d",
            Op::AvgPool2d { .. } => "avg_pool2d",
            Op::Flatten => "flatten",
            Op::Concat => "concat",
            Op::Add => "add",
            Op::Relu => "relu",
            Op::Tanh => "tanh",
            Op::Sigmoid => "sigmoid",
            Op::Gelu => "gelu",
            Op::Dropout { .. } => "dropout",
            Op::BatchNorm { .. } => "batch_norm",
            Op::LayerNorm { .. } => "layer_norm",
        }
    }
}

impl Spec {
    /// Reads a spec from JSON; [`crate::Graph::new`] checks what it says.
    ///
    /// # Errors
    /// `InvalidArgument` naming the layer and the field, or when the version is newer than ours.
    pub fn from_json(json: &str) -> Result<Spec> {
        let spec: Spec = json::read("the network spec", json)?;
        spec.check_version()?;
        Ok(spec)
    }

    /// Whether this Firesteel can read it.
    pub(crate) fn check_version(&self) -> Result<()> {
        match self.version {
            0 => Err(Error::argument("spec version is 0, expected 1 or more")),
            version if version > SPEC_VERSION => {
                Err(Error::argument(format!("spec version {version} is newer than {SPEC_VERSION}")))
            }
            _ => Ok(()),
        }
    }

    /// The spec as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a spec holds only strings, numbers and lists")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[test]
    fn json_round_trip() {
        let image = Input { name: "image".into(), kind: InputKind::Dense { shape: vec![1, 28, 28] } };
        let spec = Network::Lenet5.build(vec![image], 10).unwrap();
        assert_eq!(Spec::from_json(&spec.to_json()).unwrap(), spec);
    }

    #[test]
    fn defaults_are_filled_in() {
        let op: Op = serde_json::from_str(r#"{"conv2d": {"outputs": 6, "kernel": [5, 5]}}"#).unwrap();
        let expected =
            Op::Conv2d { outputs: 6, kernel: [5, 5], stride: [1, 1], padding: [0, 0], groups: 1, bias: true };
        assert_eq!(op, expected);
    }

    #[test]
    fn unknown_fields_and_versions_are_refused() {
        let e = Spec::from_json(r#"{"version": 1, "inputs": [], "layers": [], "color": 3}"#).unwrap_err();
        assert!(e.to_string().contains("unknown field `color`"), "{e}");
        let e = Spec::from_json(r#"{"version": 9, "inputs": [], "layers": []}"#).unwrap_err();
        assert_eq!(e.to_string(), "spec version 9 is newer than 1");
    }
}
