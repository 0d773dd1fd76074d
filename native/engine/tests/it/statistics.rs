//! Dropout and batch norm: what differs between training and inference.

use firesteel_engine::{Batch, Loss, Mode, PlanConfig, Precision, Replica, Targets, Values};

use crate::networks::graph;

const INPUT: &str = r#"{"name":"x","kind":{"dense":{"shape":[50]}}}"#;
const DROPOUT: &str =
    r#"{"name":"a","op":{"linear":{"outputs":50,"bias":false}}},{"name":"b","op":{"dropout":{"rate":0.3}}}"#;

/// The factors of a dropout layer: with the identity before it and targets that make the gradient of output `i` of
/// row `r` the output itself, the gradient of a diagonal weight is the square of the factor.
fn factors(threads: usize, mode: Mode, seed: u64, step: u64, positions: &[u64]) -> Vec<Vec<bool>> {
    let config =
        PlanConfig { rows: 64, threads, mode, loss: Loss::MeanSquaredError, precision: Precision::F32, seed };
    let mut replica = Replica::new(graph(INPUT, DROPOUT), config).unwrap();
    for i in 0..2500 {
        replica.weights_mut()[i] = f32::from(i % 51 == 0);
    }
    let targets = vec![0.0; 50];
    let x = vec![1.0; 50];
    let one = |position: &u64| {
        let inputs = [Values::Dense(&x)];
        let batch = Batch {
            rows: 1,
            inputs: &inputs,
            targets: Targets::Values(&targets),
            weights: None,
            positions: std::slice::from_ref(position),
        };
        replica.step(step, &batch, &mut ()).unwrap();
        let factor = |i: usize| {
            let gradient = replica.gradient()[i * 51];
            let kept = 2.0 / 50.0 / (0.7f32 * 0.7);
            assert!(gradient == 0.0 || (gradient - kept).abs() < 1e-6, "{gradient}");
            gradient != 0.0
        };
        (0..50).map(factor).collect()
    };
    positions.iter().map(one).collect()
}

#[test]
fn dropout_depends_on_the_row_and_the_step_but_not_on_the_plan() {
    let positions: Vec<u64> = (0..60).chain([1 << 33]).collect();
    let expected = factors(1, Mode::Tiled, 1, 1, &positions);
    assert_eq!(factors(3, Mode::Wide, 1, 1, &positions), expected);
    assert_ne!(factors(1, Mode::Tiled, 2, 1, &positions), expected);
    assert_ne!(factors(1, Mode::Tiled, 1, 2, &positions), expected);
    assert_ne!(expected[0], expected[1]);
    assert_ne!(expected[0], expected[60]);
    let dropped = expected.iter().flatten().filter(|kept| !**kept).count() as f64 / (61.0 * 50.0);
    assert!((dropped - 0.3).abs() < 0.03, "{dropped}");
}

#[test]
fn rows_of_a_batch_drop_what_they_drop_alone() {
    // Σ over rows of the squared factors, from one batch and from its rows one by one.
    let positions: Vec<u64> = (100..300).collect();
    let alone = factors(1, Mode::Tiled, 1, 9, &positions);
    for mode in [Mode::Tiled, Mode::Wide] {
        let config = PlanConfig {
            rows: 200,
            threads: 2,
            mode,
            loss: Loss::MeanSquaredError,
            precision: Precision::F32,
            seed: 1,
        };
        let mut replica = Replica::new(graph(INPUT, DROPOUT), config).unwrap();
        for i in 0..2500 {
            replica.weights_mut()[i] = f32::from(i % 51 == 0);
        }
        let (x, targets) = (vec![1.0; 10_000], vec![0.0; 10_000]);
        let inputs = [Values::Dense(&x)];
        let targets = Targets::Values(&targets);
        let batch = Batch { rows: 200, inputs: &inputs, targets, weights: None, positions: &positions };
        replica.step(9, &batch, &mut ()).unwrap();
        for i in 0..50 {
            let count = alone.iter().filter(|row| row[i]).count() as f32;
            assert!((replica.gradient()[i * 51] - count * 2.0 / 50.0 / (0.7 * 0.7)).abs() < 1e-3);
        }
    }
}

#[test]
fn dropout_is_off_in_inference() {
    let config = PlanConfig {
        rows: 4,
        threads: 1,
        mode: Mode::Auto,
        loss: Loss::MeanSquaredError,
        precision: Precision::F32,
        seed: 1,
    };
    let mut replica = Replica::new(graph(INPUT, DROPOUT), config).unwrap();
    for i in 0..2500 {
        replica.weights_mut()[i] = f32::from(i % 51 == 0);
    }
    let x: Vec<f32> = (0..150).map(|i| i as f32).collect();
    let mut output = vec![0.0; 150];
    replica.forward(3, &[Values::Dense(&x)], &mut output).unwrap();
    assert_eq!(output, x);
}

#[test]
fn running_statistics_follow_the_batch_and_serve_inference() {
    let layers =
        r#"{"name":"a","op":{"batch_norm":{"epsilon":0.5,"momentum":0.25}}},{"name":"b","op":"flatten"}"#;
    let input = r#"{"name":"x","kind":{"dense":{"shape":[2,1,2]}}}"#;
    let graph = graph(input, layers);
    let config = PlanConfig {
        rows: 4,
        threads: 2,
        mode: Mode::Auto,
        loss: Loss::MeanSquaredError,
        precision: Precision::F32,
        seed: 1,
    };
    let mut replica = Replica::new(graph.clone(), config).unwrap();
    // Channel 0 holds 1, 3, 5, 7, channel 1 holds 2, 2, 2, 6.
    let x = [1.0, 3.0, 2.0, 2.0, 5.0, 7.0, 2.0, 6.0];
    let inputs = [Values::Dense(&x)];
    let targets = Targets::Values(&[0.0; 8]);
    let batch = Batch { rows: 2, inputs: &inputs, targets, weights: None, positions: &[0, 1] };
    replica.step(0, &batch, &mut ()).unwrap();
    let buffer = |i: usize| graph.buffers()[i].range.clone();
    assert_eq!(replica.buffers()[buffer(0)], [0.25 * 4.0, 0.25 * 3.0]);
    let expected = [0.75 + 0.25 * 20.0 / 3.0, 0.75 + 0.25 * 12.0 / 3.0];
    for (found, expected) in replica.buffers()[buffer(1)].iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6);
    }
    let mut output = [0.0; 4];
    replica.forward(1, &[Values::Dense(&x[..4])], &mut output).unwrap();
    for (i, (mean, variance)) in [(1.0, expected[0]), (0.75, expected[1])].into_iter().enumerate() {
        let expected = (x[2 * i] - mean) / (variance + 0.5f32).sqrt();
        assert!((output[2 * i] - expected).abs() < 1e-6, "{} {expected}", output[2 * i]);
    }
}
