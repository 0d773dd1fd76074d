//! The presets on small inputs, and their updates, for whoever compares a GPU with the CPU.

use std::sync::Arc;

use firesteel_engine::{Loss, Moments, Optimizer, Replica, Totals};
use firesteel_model::{Graph, Input, InputKind, Network};

pub const ADAM: Optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
pub const MOMENTUM: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.001 };

/// By their JSON.
pub fn presets() -> Vec<(&'static str, Arc<Graph>)> {
    let dense =
        |shape: &[usize]| Input { name: "x".into(), kind: InputKind::Dense { shape: shape.to_vec() } };
    let index = |name: &str, cardinality| Input { name: name.into(), kind: InputKind::Index { cardinality } };
    let columns = || vec![dense(&[5]), index("i", 9), index("j", 40)];
    let all = [
        (r#"{"mlp":{"hidden":[20,12],"dropout":0.2}}"#, vec![dense(&[30])], 4),
        (r#""lenet5""#, vec![dense(&[1, 28, 28])], 10),
        (r#"{"tabular":{"hidden":[16],"dropout":0.1}}"#, columns(), 2),
        (r#"{"wide_and_deep":{"hidden":[16,8]}}"#, columns(), 2),
        (r#"{"autoencoder":{"hidden":[8,3,8]}}"#, vec![dense(&[12])], 12),
    ];
    let graph = |(json, inputs, outputs)| {
        let network: Network = Network::from_json(json).unwrap();
        (json, Arc::new(Graph::new(&network.build(inputs, outputs).unwrap()).unwrap()))
    };
    all.map(graph).into()
}

pub fn loss_of(graph: &Graph) -> Loss {
    if graph.output_len() == 12 { Loss::MeanSquaredError } else { Loss::SoftmaxCrossEntropy }
}

/// An update of weights here, as a worker does it that is not alone.
pub fn update(replica: &mut Replica, moments: &mut Moments, rate: f32, t: u64, totals: Totals) {
    let graph = replica.graph().clone();
    let (dense, scale) = (graph.dense_len(), (1.0 / totals.weight) as f32);
    let parts = replica.parts();
    moments.update(0, rate, t, scale, &mut parts.weights[..dense], &parts.gradient[..dense]);
    for (table, touched) in graph.tables().iter().zip(parts.touched) {
        for row in touched {
            let start = table.range.start + *row as usize * table.dims;
            let range = start..start + table.dims;
            let gradient = &parts.gradient[range.clone()];
            moments.update(start, rate, t, scale, &mut parts.weights[range], gradient);
        }
    }
}
