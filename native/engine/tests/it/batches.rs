//! Batches that do not fit are refused with a message that says what is wrong where.

use firesteel_engine::{Batch, Loss, Mode, PlanConfig, Precision, Replica, Targets, Values};
use firesteel_error::Kind;

use crate::networks::{NETWORKS, graph, replica};

fn refused(inputs: &[Values], targets: Targets, weights: Option<&[f32]>, positions: &[u64]) -> String {
    let (_, spec, layers) = NETWORKS[3];
    let mut replica = replica(&graph(spec, layers), 4, 1, Mode::Auto, Loss::SoftmaxCrossEntropy);
    let batch = Batch { rows: 2, inputs, targets, weights, positions };
    let e = replica.step(0, &batch, &mut ()).unwrap_err();
    assert_eq!(e.kind(), Kind::InvalidData);
    e.to_string()
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let x = Values::Dense(&[0.0; 4]);
    let (i, j) = (Values::Index(&[0, 4]), Values::Index(&[39, 0]));
    let good = Targets::Classes(&[0, 2]);
    let check = |inputs: &[Values], expected: &str| {
        let e = refused(inputs, good, None, &[0, 1]);
        assert!(e.contains(expected), "{e} should contain {expected}");
    };
    check(&[x, i], "the batch has 2 inputs, the network reads 3");
    check(&[i, i, j], "input 'x' has indices, expected dense values");
    check(&[x, x, j], "input 'i' has dense values, expected indices");
    check(&[Values::Dense(&[0.0; 5]), i, j], "input 'x' has 5 values, expected 4 for 2 rows of shape [2]");
    check(&[x, Values::Index(&[1]), j], "input 'i' has 1 indices for 2 rows");
    check(&[x, Values::Index(&[4, 5]), j], "input 'i' has index 5 in row 1, expected below 5");

    let all = [x, i, j];
    let e = refused(&all, Targets::Classes(&[0, 3]), None, &[0, 1]);
    assert!(e.contains("row 1") && e.contains('3'), "{e}");
    let e = refused(&all, good, Some(&[1.0]), &[0, 1]);
    assert!(e.contains("weight"), "{e}");
    let e = refused(&all, good, None, &[0]);
    assert_eq!(e, "the batch has 1 positions for 2 rows");
}

#[test]
fn outputs_of_another_length_are_refused() {
    let (_, spec, layers) = NETWORKS[0];
    let mut replica = replica(&graph(spec, layers), 4, 1, Mode::Auto, Loss::SoftmaxCrossEntropy);
    let e = replica.forward(2, &[Values::Dense(&[0.0; 14])], &mut [0.0; 5]).unwrap_err();
    assert_eq!(e.to_string(), "room for 5 outputs, expected 6 for 2 rows of 3");
}

#[test]
fn plans_that_cannot_be_made_are_refused() {
    let (_, spec, layers) = NETWORKS[10];
    let config = PlanConfig {
        rows: 4,
        threads: 2,
        mode: Mode::Tiled,
        loss: Loss::SoftmaxCrossEntropy,
        precision: Precision::F32,
        seed: 0,
    };
    let refused = |config| Replica::new(graph(spec, layers), config).unwrap_err().to_string();
    let e = refused(config);
    assert!(e.contains("layer 'b' (batch_norm) needs the whole batch at once, mode is tiled"), "{e}");
    for threads in [0, usize::MAX] {
        let e = refused(PlanConfig { threads, mode: Mode::Auto, ..config });
        assert_eq!(e, format!("threads is {threads}, expected 1 to 4096"));
    }
    let e = refused(PlanConfig { rows: usize::MAX, mode: Mode::Auto, ..config });
    assert!(e.starts_with("no memory for "), "{e}");
    let e = refused(PlanConfig { loss: Loss::Huber { delta: -1.0 }, mode: Mode::Auto, ..config });
    assert!(e.contains("delta"), "{e}");
    let e = refused(PlanConfig { precision: Precision::Bf16, ..config });
    assert_eq!(e, "precision is bf16, which needs a GPU; expected f32");
}
