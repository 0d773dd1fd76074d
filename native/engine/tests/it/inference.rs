//! Inference on weights that others share says what the replica that trained them says.

use firesteel_engine::{Inference, InferenceConfig, Loss, Mode};

use crate::networks::{NETWORKS, Rows, graph, replica};

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
