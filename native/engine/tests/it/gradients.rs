//! Every operation against the plain engine in f64: losses, outputs, and gradients by finite differences.

use std::sync::Arc;

use firesteel_engine::{Loss, Mode, Values};
use firesteel_model::Graph;

use crate::networks::{NETWORKS, Rows, can, graph, meant, replica};
use crate::reference;

const SOFTMAX: Loss = Loss::SoftmaxCrossEntropy;

fn reference_loss(graph: &Graph, weights: &[f64], rows: &Rows, loss: Loss) -> f64 {
    let row_weights: Vec<f64> = rows.weights.iter().map(|w| f64::from(*w)).collect();
    reference::loss(graph, weights, &rows.inputs(), rows.targets(loss), &row_weights, loss)
}

fn close(found: f64, expected: f64, tolerance: f64) -> bool {
    (found - expected).abs() <= tolerance * (1.0 + expected.abs())
}

/// Steps on random rows, and compares the loss and some of each parameter's gradient.
pub fn check_gradient(name: &str, graph: &Arc<Graph>, count: usize, mode: Mode, loss: Loss) {
    if !can(graph, mode) {
        return;
    }
    let mut replica = replica(graph, count, 2, mode, loss);
    let rows = Rows::new(graph, count, 5);
    let inputs = rows.inputs();
    let totals = replica.step(1, &rows.batch(&inputs, loss), &mut ()).unwrap();
    let weights: Vec<f64> = replica.weights().iter().map(|w| f64::from(*w)).collect();
    let expected = reference_loss(graph, &weights, &rows, loss);
    assert!(close(totals.loss, expected, 1e-5), "{name} {mode:?}: loss {} of {expected}", totals.loss);
    assert!(close(totals.weight, rows.weights.iter().map(|w| f64::from(*w)).sum(), 1e-6));
    let meant = meant(graph, &replica);
    for parameter in graph.parameters() {
        // Few of each parameter: the plain engine runs twice for each.
        let step = (parameter.range.len() / 40).max(1);
        for at in parameter.range.clone().step_by(step).filter(|at| meant[*at]) {
            let slope = |size: f64| {
                let mut moved = weights.clone();
                moved[at] += size;
                reference_loss(graph, &moved, &rows, loss)
            };
            let expected = (slope(1e-7) - slope(-1e-7)) / 2e-7;
            let found = f64::from(replica.gradient()[at]);
            let place = at - parameter.range.start;
            assert!(
                close(found, expected, 2e-5),
                "{name} {mode:?} {count} rows: gradient of {}[{place}] is {found}, expected {expected}",
                parameter.name
            );
        }
    }
}

#[test]
fn gradients_of_every_network_equal_finite_differences() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        for mode in [Mode::Tiled, Mode::Wide] {
            check_gradient(name, &graph, 5, mode, SOFTMAX);
        }
        check_gradient(name, &graph, 37, Mode::Auto, SOFTMAX);
    }
}

#[test]
fn gradients_of_every_loss_equal_finite_differences() {
    let (name, inputs, layers) = NETWORKS[1];
    for loss in [Loss::BinaryCrossEntropy, Loss::MeanSquaredError, Loss::Huber { delta: 0.3 }] {
        check_gradient(name, &graph(inputs, layers), 19, Mode::Auto, loss);
    }
}

#[test]
fn losses_and_outputs_are_right_at_odd_sizes() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        for mode in [Mode::Tiled, Mode::Wide].into_iter().filter(|m| can(&graph, *m)) {
            let mut replica = replica(&graph, 131, 3, mode, SOFTMAX);
            for count in [1, 2, 15, 16, 17, 47, 131] {
                let rows = Rows::new(&graph, count, count as u64);
                let inputs = rows.inputs();
                let weights: Vec<f64> = replica.weights().iter().map(|w| f64::from(*w)).collect();
                let totals = replica.step(1, &rows.batch(&inputs, SOFTMAX), &mut ()).unwrap();
                let expected = reference_loss(&graph, &weights, &rows, SOFTMAX);
                assert!(
                    close(totals.loss, expected, 2e-5),
                    "{name} {mode:?} {count}: {} {expected}",
                    totals.loss
                );
                if graph.buffers().is_empty() {
                    let expected = reference::forward(&graph, &weights, &inputs, count);
                    check_outputs(name, &mut replica, count, &inputs, &expected);
                }
            }
        }
    }
}

fn check_outputs(
    name: &str,
    replica: &mut firesteel_engine::Replica,
    rows: usize,
    inputs: &[Values],
    expected: &[Vec<f64>],
) {
    let mut output = vec![f32::NAN; rows * 3];
    replica.forward(rows, inputs, &mut output).unwrap();
    for (found, expected) in output.iter().zip(expected.iter().flatten()) {
        assert!(close(f64::from(*found), *expected, 1e-5), "{name}: output {found}, expected {expected}");
    }
}
