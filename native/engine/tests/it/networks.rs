//! Small networks that between them have every operation, and batches for them.

use std::sync::Arc;

use firesteel_engine::{Batch, Loss, Mode, PlanConfig, Precision, Replica, Targets, Values};
use firesteel_model::{Graph, InputKind, Spec};

/// `(name, inputs, layers)` of every network; the output has 3 values.
pub const NETWORKS: [(&str, &str, &str); 18] = [
    ("linear", X7, r#"{"name":"a","op":{"linear":{"outputs":3}}}"#),
    (
        "linear activations",
        X7,
        r#"{"name":"a","op":{"linear":{"outputs":70,"bias":false}}},{"name":"b","op":"relu"},
           {"name":"c","op":{"linear":{"outputs":9}}},{"name":"d","op":"tanh"},
           {"name":"e","op":{"linear":{"outputs":11}}},{"name":"f","op":"sigmoid"},
           {"name":"g","op":{"linear":{"outputs":5}}},{"name":"h","op":"gelu"},
           {"name":"i","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "activations alone",
        X7,
        r#"{"name":"z","op":{"linear":{"outputs":6}}},
           {"name":"a","inputs":["z"],"op":"relu"},{"name":"b","inputs":["z"],"op":"tanh"},
           {"name":"c","inputs":["z"],"op":"sigmoid"},{"name":"d","inputs":["z"],"op":"gelu"},
           {"name":"e","inputs":["a","b","c","d","z","z"],"op":"add"},{"name":"f","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "embeddings",
        r#"{"name":"x","kind":{"dense":{"shape":[2]}}},{"name":"i","kind":{"index":{"cardinality":5}}},
           {"name":"j","kind":{"index":{"cardinality":40}}}"#,
        r#"{"name":"a","inputs":["i"],"op":{"embedding":{"dims":3}}},
           {"name":"b","inputs":["j"],"op":{"embedding":{"dims":17}}},
           {"name":"c","inputs":["a","x","b"],"op":"concat"},{"name":"d","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "convolution",
        IMAGE,
        r#"{"name":"a","op":{"conv2d":{"outputs":7,"kernel":[3,2]}}},{"name":"b","op":"tanh"},
           {"name":"c","op":{"conv2d":{"outputs":3,"kernel":[7,6],"bias":false}}},{"name":"d","op":"flatten"}"#,
    ),
    (
        "convolution with stride, padding and groups",
        IMAGE,
        r#"{"name":"a","op":{"conv2d":{"outputs":6,"kernel":[3,3],"stride":[2,1],"padding":[1,2],"groups":2}}},
           {"name":"b","op":"sigmoid"},
           {"name":"c","op":{"conv2d":{"outputs":6,"kernel":[2,3],"stride":[1,2],"padding":[1,0],"groups":3}}},
           {"name":"d","op":"flatten"},{"name":"e","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "convolution, activation, pool",
        IMAGE,
        r#"{"name":"a","op":{"conv2d":{"outputs":8,"kernel":[2,2]}}},{"name":"b","op":"relu"},
           {"name":"c","op":{"max_pool2d":{"kernel":[2,2]}}},
           {"name":"d","op":{"conv2d":{"outputs":9,"kernel":[3,3],"padding":[1,1]}}},
           {"name":"e","op":{"max_pool2d":{"kernel":[2,2]}}},{"name":"f","op":"tanh"},
           {"name":"g","op":"flatten"},{"name":"h","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "pools of other sizes",
        IMAGE,
        r#"{"name":"a","op":{"conv2d":{"outputs":5,"kernel":[2,2]}}},{"name":"b","op":"tanh"},
           {"name":"c","op":{"max_pool2d":{"kernel":[3,2],"stride":[1,2],"padding":[1,0]}}},
           {"name":"d","op":{"avg_pool2d":{"kernel":[2,3],"stride":[2,1],"padding":[1,1]}}},
           {"name":"e","op":"flatten"},{"name":"f","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "pools of an image that is read twice",
        IMAGE,
        r#"{"name":"a","op":{"conv2d":{"outputs":4,"kernel":[2,2],"padding":[1,1]}}},
           {"name":"b","inputs":["a"],"op":{"max_pool2d":{"kernel":[2,2]}}},
           {"name":"c","inputs":["a"],"op":{"avg_pool2d":{"kernel":[2,2]}}},
           {"name":"d","inputs":["a"],"op":{"conv2d":{"outputs":2,"kernel":[3,3],"stride":[2,2],"padding":[1,1]}}},
           {"name":"d2","op":{"avg_pool2d":{"kernel":[2,2],"stride":[1,1]}}},
           {"name":"e","inputs":["b","c"],"op":"concat"},{"name":"f","op":"flatten"},
           {"name":"g","inputs":["d2"],"op":"flatten"},{"name":"h","inputs":["f","g"],"op":"concat"},
           {"name":"i","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "layer norm",
        IMAGE,
        r#"{"name":"a","op":{"layer_norm":{"epsilon":0.001}}},{"name":"b","op":"flatten"},
           {"name":"c","op":{"linear":{"outputs":21}}},{"name":"d","op":{"layer_norm":{}}},
           {"name":"e","op":"gelu"},{"name":"f","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "batch norm",
        IMAGE,
        r#"{"name":"a","op":{"conv2d":{"outputs":5,"kernel":[3,3]}}},
           {"name":"b","op":{"batch_norm":{"epsilon":0.001,"momentum":0.3}}},{"name":"c","op":"relu"},
           {"name":"d","op":"flatten"},{"name":"e","op":{"linear":{"outputs":13}}},
           {"name":"f","op":{"batch_norm":{}}},{"name":"g","op":"tanh"},
           {"name":"h","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "residual",
        IMAGE,
        r#"{"name":"a","op":{"conv2d":{"outputs":4,"kernel":[3,3],"padding":[1,1]}}},{"name":"r","op":"relu"},
           {"name":"b","op":{"conv2d":{"outputs":4,"kernel":[3,3],"padding":[1,1]}}},
           {"name":"s","inputs":["b","r"],"op":"add"},{"name":"t","op":"relu"},
           {"name":"p","op":{"max_pool2d":{"kernel":[2,2]}}},
           {"name":"f","op":"flatten"},{"name":"g","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "an embedding alone",
        r#"{"name":"i","kind":{"index":{"cardinality":9}}}"#,
        r#"{"name":"a","op":{"embedding":{"dims":3}}}"#,
    ),
    ("no weights", r#"{"name":"x","kind":{"dense":{"shape":[3]}}}"#, r#"{"name":"a","op":"tanh"}"#),
    (
        "an input that is the output's operand too",
        r#"{"name":"x","kind":{"dense":{"shape":[3]}}}"#,
        r#"{"name":"a","op":{"linear":{"outputs":3}}},{"name":"b","inputs":["a","x"],"op":"add"}"#,
    ),
    (
        "wide and deep",
        r#"{"name":"x","kind":{"dense":{"shape":[4]}}},{"name":"i","kind":{"index":{"cardinality":6}}},
           {"name":"j","kind":{"index":{"cardinality":30}}}"#,
        r#"{"name":"a","inputs":["i"],"op":{"embedding":{"dims":5}}},
           {"name":"b","inputs":["j"],"op":{"embedding":{"dims":3}}},
           {"name":"c","inputs":["x","a","b"],"op":"concat"},{"name":"d","op":{"linear":{"outputs":10}}},
           {"name":"e","op":"tanh"},{"name":"f","op":{"linear":{"outputs":3}}},
           {"name":"g","inputs":["x"],"op":{"linear":{"outputs":3,"bias":false}}},
           {"name":"h","inputs":["i"],"op":{"embedding":{"dims":3}}},
           {"name":"k","inputs":["j"],"op":{"embedding":{"dims":3}}},
           {"name":"l","inputs":["f","g","h","k"],"op":"add"}"#,
    ),
    (
        "a sum of embeddings and a linear layer",
        r#"{"name":"x","kind":{"dense":{"shape":[4]}}},{"name":"i","kind":{"index":{"cardinality":6}}},
           {"name":"j","kind":{"index":{"cardinality":30}}}"#,
        r#"{"name":"a","inputs":["i"],"op":{"embedding":{"dims":22}}},
           {"name":"b","inputs":["x"],"op":{"linear":{"outputs":22}}},
           {"name":"c","inputs":["j"],"op":{"embedding":{"dims":22}}},
           {"name":"d","inputs":["a","c","b"],"op":"add"},{"name":"e","op":"tanh"},
           {"name":"f","op":{"linear":{"outputs":3}}}"#,
    ),
    (
        "sums that are fused with all they add, with none of it, and with their activation",
        r#"{"name":"i","kind":{"index":{"cardinality":6}}},{"name":"j","kind":{"index":{"cardinality":30}}}"#,
        r#"{"name":"a","inputs":["i"],"op":{"embedding":{"dims":5}}},
           {"name":"b","inputs":["j"],"op":{"embedding":{"dims":5}}},{"name":"c","inputs":["a","b"],"op":"add"},
           {"name":"d","op":"relu"},{"name":"e","inputs":["i"],"op":{"embedding":{"dims":5}}},
           {"name":"f","inputs":["e","e"],"op":"add"},{"name":"g","inputs":["f","d"],"op":"add"},
           {"name":"h","op":{"linear":{"outputs":3}}}"#,
    ),
];

const X7: &str = r#"{"name":"x","kind":{"dense":{"shape":[7]}}}"#;
const IMAGE: &str = r#"{"name":"x","kind":{"dense":{"shape":[6,9,7]}}}"#;

/// The graph of some inputs and layers.
pub fn graph(inputs: &str, layers: &str) -> Arc<Graph> {
    let json = format!(r#"{{"version":1,"inputs":[{inputs}],"layers":[{layers}]}}"#);
    Arc::new(Graph::new(&Spec::from_json(&json).unwrap()).unwrap())
}

/// A small generator, so that tests depend on nothing.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// Between −1 and 1.
    pub fn value(&mut self) -> f32 {
        self.word() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// Rows for a network, owned.
pub struct Rows {
    pub rows: usize,
    dense: Vec<Vec<f32>>,
    indices: Vec<Vec<u32>>,
    order: Vec<(bool, usize)>,
    pub classes: Vec<u32>,
    pub values: Vec<f32>,
    pub weights: Vec<f32>,
    pub positions: Vec<u64>,
}

impl Rows {
    pub fn new(graph: &Graph, rows: usize, seed: u64) -> Rows {
        let mut random = Random::new(seed);
        let (mut dense, mut indices, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for input in &graph.spec().inputs {
            match &input.kind {
                InputKind::Dense { shape } => {
                    order.push((true, dense.len()));
                    let len = rows * shape.iter().product::<usize>();
                    dense.push((0..len).map(|_| random.value()).collect());
                }
                InputKind::Index { cardinality } => {
                    order.push((false, indices.len()));
                    indices.push((0..rows).map(|_| random.word() % *cardinality as u32).collect());
                }
            }
        }
        let outputs = graph.output_len();
        Rows {
            rows,
            dense,
            indices,
            order,
            classes: (0..rows).map(|_| random.word() % outputs as u32).collect(),
            values: (0..rows * outputs).map(|_| random.value().abs()).collect(),
            weights: (0..rows).map(|_| random.value().abs() * 2.0).collect(),
            positions: (0..rows as u64).map(|p| p * 3 + 1).collect(),
        }
    }

    pub fn inputs(&self) -> Vec<Values<'_>> {
        let one = |&(dense, i): &(bool, usize)| {
            if dense { Values::Dense(&self.dense[i]) } else { Values::Index(&self.indices[i]) }
        };
        self.order.iter().map(one).collect()
    }

    pub fn targets(&self, loss: Loss) -> Targets<'_> {
        match loss {
            Loss::SoftmaxCrossEntropy => Targets::Classes(&self.classes),
            _ => Targets::Values(&self.values),
        }
    }

    pub fn batch<'a>(&'a self, inputs: &'a [Values<'a>], loss: Loss) -> Batch<'a> {
        Batch {
            rows: self.rows,
            inputs,
            targets: self.targets(loss),
            weights: Some(&self.weights),
            positions: &self.positions,
        }
    }
}

/// A replica whose weights are all a little off their start, so that no table row is zero.
pub fn replica(graph: &Arc<Graph>, rows: usize, threads: usize, mode: Mode, loss: Loss) -> Replica {
    let config = PlanConfig { rows, threads, mode, loss, precision: Precision::F32, seed: 3 };
    let mut replica = Replica::new(graph.clone(), config).unwrap();
    let mut random = Random::new(11);
    for parameter in graph.parameters() {
        for weight in &mut replica.weights_mut()[parameter.range.clone()] {
            *weight += 0.2 * random.value();
        }
    }
    replica
}

/// Whether a mode can run a network.
pub fn can(graph: &Graph, mode: Mode) -> bool {
    mode != Mode::Tiled || graph.buffers().is_empty()
}

/// Whether a place in the flat gradient means something after a step: padding and untouched rows do not.
pub fn meant(graph: &Graph, replica: &Replica) -> Vec<bool> {
    let mut meant = vec![false; graph.len()];
    for parameter in graph.parameters() {
        meant[parameter.range.clone()].fill(true);
    }
    for (index, table) in graph.tables().iter().enumerate() {
        for row in 0..table.rows {
            if !replica.touched(index).contains(&(row as u32)) {
                let start = table.range.start + row * table.dims;
                meant[start..start + table.dims].fill(false);
            }
        }
    }
    meant
}
