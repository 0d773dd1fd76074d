//! Any number of workers, over any fabric, trains as one worker does.

use firesteel_train::{Predictor, TrainConfig};

use crate::support::*;
use arrow_array::{ArrayRef, Float32Array, RecordBatch};
use std::sync::Arc;

/// How far losses of an epoch may differ from one worker's, relatively: gradients are summed in another order, and
/// f32 has 24 bits. Over the few epochs of these tests differences of 1e-7 grow to about 1e-6.
const BOUND: f64 = 2e-5;

fn check(config: &TrainConfig, rows: &RecordBatch, worlds: &[usize], talks: &[Talk]) {
    let alone = train(config, rows);
    for talk in talks {
        for world in worlds {
            let outcomes = train_on(*talk, config, &deal(rows, *world), None);
            let models: Vec<_> = outcomes.into_iter().map(|o| o.model.unwrap()).collect();
            for model in &models {
                let apart = distance(&losses(model), &losses(&alone));
                assert!(apart < BOUND, "{world} workers over {talk:?}: losses differ by {apart:e}");
                assert_eq!(model.weights(), models[0].weights(), "{world} workers over {talk:?}");
            }
            for (a, b) in models[0].history().iter().zip(alone.history()) {
                let (Some(a), Some(b)) = (a.validation_metric, b.validation_metric) else { continue };
                assert!((a - b).abs() < 1e-3, "{world} workers over {talk:?}: metric {a}, alone {b}");
            }
        }
    }
}

#[test]
fn tables_with_strings_and_nulls_at_any_world() {
    let config = flights(r#"{"epochs": 3, "batchSize": 50, "validationFraction": 0.2, "bucketBytes": 256}"#);
    check(&config, &tabular(613), &[1, 2, 3, 4], &[Talk::Local, Talk::Tcp]);
}

#[test]
fn images_at_any_world() {
    let config = digits(
        r#"{"epochs": 3, "batchSize": 32, "optimizer": "sgd", "momentum": 0.9, "learningRate": 0.05}"#,
    );
    check(&config, &images(301), &[1, 2, 3, 4], &[Talk::Local, Talk::Tcp]);
}

#[test]
fn weights_and_a_validation_column_at_any_world() {
    let mut config = flights(r#"{"epochs": 2, "batchSize": 64, "optimizer": "adamw", "weightDecay": 0.01}"#);
    config.data.weight = Some("weight".into());
    config.data.validation = Some("held".into());
    check(&config, &tabular(500), &[3], &[Talk::Local]);
}

#[test]
fn regression_at_any_world() {
    let network = r#"{"mlp": {"hidden": [8]}}"#;
    let params = r#"{"epochs": 3, "batchSize": 64, "validationFraction": 0.1, "loss": "huber"}"#;
    let config = config("regression", network, params, r#"["distance", "hour"]"#, r#""label": "delay""#);
    check(&config, &tabular(400), &[2, 4], &[Talk::Local]);
}

#[test]
fn wide_and_deep_at_any_world() {
    let network = r#"{"wide_and_deep": {"hidden": [16], "activation": "tanh"}}"#;
    let params = r#"{"epochs": 3, "batchSize": 50, "validationFraction": 0.2}"#;
    let names = r#"["distance", "hour", "carrier"]"#;
    let config = config("classification", network, params, names, r#""label": "late""#);
    check(&config, &tabular(411), &[1, 2, 3], &[Talk::Local, Talk::Tcp]);
}

#[test]
fn a_reconstruction_at_any_world() {
    let network = r#"{"autoencoder": {"hidden": [8, 3, 8], "activation": "tanh", "dropout": 0.1}}"#;
    let params = r#"{"epochs": 3, "batchSize": 50, "validationFraction": 0.2, "bucketBytes": 256}"#;
    let names = r#"["distance", "hour", "carrier"]"#;
    let config = config("reconstruction", network, params, names, r#""weight": "weight""#);
    check(&config, &tabular(411), &[1, 2, 3], &[Talk::Local, Talk::Tcp]);
}

#[test]
fn uneven_and_empty_partitions_and_fewer_rows_than_workers() {
    let config = flights(r#"{"epochs": 2, "batchSize": 16}"#);
    let rows = tabular(200);
    let alone = train(&config, &rows);
    for lengths in [vec![1, 0, 150], vec![0, 0, 0], vec![200, 0]] {
        for outcome in train_on(Talk::Local, &config, &cut(&rows, &lengths), None) {
            let apart = distance(&losses(&outcome.model.unwrap()), &losses(&alone));
            assert!(apart < BOUND, "partitions {lengths:?}: losses differ by {apart:e}");
        }
    }
    let few = tabular(3);
    let alone = train(&config, &few);
    for outcome in train_on(Talk::Local, &config, &cut(&few, &[1, 0, 1, 0, 1]), None) {
        let apart = distance(&losses(&outcome.model.unwrap()), &losses(&alone));
        assert!(apart < BOUND, "3 rows on 6 workers: losses differ by {apart:e}");
    }
}

/// With steps too small to change anything, an epoch's loss is the mean over rows, each exactly once: a row that is
/// missing or visited twice changes it by about a thousandth.
#[test]
fn every_row_exactly_once_an_epoch_at_any_world() {
    let network = r#"{"mlp": {"hidden": [4]}}"#;
    let params = r#"{"epochs": 2, "batchSize": 10, "optimizer": "sgd", "learningRate": 1e-30}"#;
    let config = config("regression", network, params, r#"["distance", "hour"]"#, r#""label": "delay""#);
    let rows = tabular(97);
    for world in [1, 2, 3, 5] {
        for outcome in train_on(Talk::Local, &config, &deal(&rows, world), None) {
            let model = Arc::new(outcome.model.unwrap());
            let predicted = Predictor::new(model.clone(), 1).predict(&rows).unwrap().values;
            let delays = rows.column_by_name("delay").unwrap();
            let delays: &arrow_array::Float64Array = delays.as_any().downcast_ref().unwrap();
            let n = predicted.len() as f64;
            let mean = delays.values().iter().sum::<f64>() / n;
            let variance = delays.values().iter().map(|d| (d - mean).powi(2)).sum::<f64>() / n;
            let squares = predicted.iter().zip(delays.values()).map(|(p, d)| (f64::from(*p) - d).powi(2));
            let expected = squares.sum::<f64>() / n / variance;
            for loss in losses(&model) {
                assert!(
                    (loss - expected).abs() < 1e-5 * expected,
                    "{world} workers: {loss}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_does_not() {
    let rows = tabular(300);
    let of = |seed: i64| train(&flights(&format!(r#"{{"epochs": 2, "seed": {seed}}}"#)), &rows);
    assert_eq!(of(1).weights(), of(1).weights());
    assert_ne!(of(1).weights(), of(2).weights());
}

/// The rows of a table that a step does not touch keep their momentum and stay.
#[test]
fn tables_under_momentum_at_any_world() {
    let params =
        r#"{"epochs": 3, "batchSize": 8, "optimizer": "sgd", "momentum": 0.9, "learningRate": 0.01}"#;
    check(&flights(params), &tabular(101), &[1, 2, 3, 4], &[Talk::Local]);
}

/// A step whose rows have no weight changes nothing and is no reason to stop.
#[test]
fn steps_without_weight_at_any_world() {
    let mut config = flights(r#"{"epochs": 2, "batchSize": 1}"#);
    config.data.weight = Some("weight".into());
    let rows = tabular(41);
    check(&config, &rows, &[1, 2, 3], &[Talk::Local]);
    // One step: what has no weight is as if it were not there.
    let mut once = config.clone();
    (once.params.epochs, once.params.batch_size) = (1, 64);
    let weightless = |n: usize| {
        let weights =
            Float32Array::from_iter_values((0..rows.num_rows()).map(|r| f32::from(u8::from(r >= n))));
        let mut columns: Vec<(&str, ArrayRef)> = vec![("weight", Arc::new(weights))];
        let schema = rows.schema();
        let others = schema.fields().iter().map(|f| f.name().as_str()).filter(|n| *n != "weight");
        columns.extend(others.map(|n| (n, rows.column_by_name(n).unwrap().clone())));
        batch(columns)
    };
    let model = train(&once, &weightless(40));
    assert!(losses(&model)[0].is_finite());
    // All but one row of an epoch of single rows are weightless.
    let model = train(&config, &weightless(40));
    assert!(losses(&model).iter().all(|l| l.is_finite()) && model.weights().iter().all(|w| w.is_finite()));
}

/// Its own rows' statistics say nothing or do not exist; the mean over workers counts each by its rows.
#[test]
fn batch_norm_of_workers_with_no_row_or_one() {
    let network = r#"{"sequential": {"layers": [{"linear": {"outputs": 8}}, {"batch_norm": {}}, "relu"]}}"#;
    let params = r#"{"epochs": 5, "batchSize": 16}"#;
    let config = config("regression", network, params, r#"["distance", "hour"]"#, r#""label": "delay""#);
    let rows = tabular(100);
    for lengths in [vec![0, 1], vec![1, 0, 1, 1]] {
        let outcomes = train_on(Talk::Local, &config, &cut(&rows, &lengths), None);
        let models: Vec<_> = outcomes.into_iter().map(|o| Arc::new(o.model.unwrap())).collect();
        let scores = |model: &Arc<firesteel_train::Model>| {
            Predictor::new(model.clone(), 1).predict(&rows).unwrap().values
        };
        let first = scores(&models[0]);
        assert!(first.iter().all(|v| v.is_finite()), "partitions {lengths:?}: {first:?}");
        assert!(models.iter().all(|m| scores(m) == first), "partitions {lengths:?}");
    }
}
