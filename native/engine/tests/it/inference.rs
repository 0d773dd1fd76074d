//! Inference on weights that others share says what the replica that trained them says.

use std::sync::Arc;

use firesteel_engine::{Inference, InferenceConfig, Loss, Mode};

use crate::networks::{NETWORKS, Rows, graph, replica};
use crate::reference;

#[test]
fn it_answers_as_the_replica_bit_for_bit() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        let rows = Rows::new(&graph, 101, 8);
        let inputs = rows.inputs();
        let mut trained = replica(&graph, 101, 2, Mode::Auto, Loss::SoftmaxCrossEntropy);
        let mut expected = vec![f32::NAN; 101 * 3];
        trained.step(0, &rows.batch(&inputs, Loss::SoftmaxCrossEntropy), &mut ()).unwrap();
        trained.forward(101, &inputs, &mut expected).unwrap();
        for (mode, rows, threads) in [(Mode::Auto, 256, 1), (Mode::Tiled, 0, 3), (Mode::Wide, 40, 2)] {
            let config = InferenceConfig { rows, threads, mode };
            let mut inference = Inference::new(graph.clone(), config).unwrap();
            let mut found = vec![f32::NAN; 101 * 3];
            inference.forward(trained.weights(), trained.buffers(), 101, &inputs, &mut found).unwrap();
            assert_eq!(found, expected, "{name} {mode:?}");
        }
    }
}

#[test]
fn weights_of_another_network_are_refused() {
    let (_, inputs, layers) = NETWORKS[10];
    let graph = graph(inputs, layers);
    let config = InferenceConfig { rows: 1, threads: 1, mode: Mode::Auto };
    let mut inference = Inference::new(graph.clone(), config).unwrap();
    let (weights, buffers) = (vec![0.0; graph.len()], vec![1.0; graph.buffers_len()]);
    let rows = Rows::new(&graph, 1, 8);
    let mut ask = |weights: &[f32], buffers: &[f32], output: &mut [f32]| {
        inference.forward(weights, buffers, 1, &rows.inputs(), output)
    };
    let e = ask(&weights[1..], &buffers, &mut [0.0; 3]).unwrap_err().to_string();
    assert_eq!(e, format!("{} weights, the network has {}", graph.len() - 1, graph.len()));
    let e = ask(&weights, &[], &mut [0.0; 3]).unwrap_err().to_string();
    assert_eq!(e, format!("0 buffers, the network has {}", graph.buffers_len()));
    assert!(ask(&weights, &buffers, &mut [0.0; 2]).is_err());
    ask(&weights, &buffers, &mut [0.0; 3]).unwrap();
}

/// A network that ends at a layer gives what that layer gives within the whole: its outputs go through the rest by the
/// plain engine.
#[test]
fn a_network_up_to_any_layer_gives_that_layers_values() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        if !graph.buffers().is_empty() {
            continue;
        }
        let rows = Rows::new(&graph, 37, 8);
        let trained = replica(&graph, 37, 1, Mode::Auto, Loss::MeanSquaredError);
        let weights: Vec<f64> = trained.weights().iter().map(|w| f64::from(*w)).collect();
        for node in 0..graph.nodes().len() {
            let cut = Arc::new(graph.up_to(node).unwrap());
            let expected = reference::forward(&cut, &weights, &rows.inputs(), 37);
            for mode in [Mode::Tiled, Mode::Wide] {
                let config = InferenceConfig { rows: 37, threads: 2, mode };
                let mut inference = Inference::new(cut.clone(), config).unwrap();
                let mut found = vec![f32::NAN; 37 * cut.output_len()];
                inference.forward(trained.weights(), &[], 37, &rows.inputs(), &mut found).unwrap();
                for (found, expected) in found.iter().zip(expected.iter().flatten()) {
                    let apart = (f64::from(*found) - expected).abs();
                    assert!(apart < 1e-5 * (1.0 + expected.abs()), "{name} {node}: {found}, {expected}");
                }
            }
        }
    }
}
