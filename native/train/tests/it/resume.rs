//! Going on from a checkpoint equals never having stopped.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use firesteel_error::Kind;
use firesteel_train::params::{HandleInvalid, ModeName, OptimizerName};
use firesteel_train::{Event, Task, TrainConfig};
use safetensors::SafeTensors;

use crate::support::*;

pub fn checkpoints(config: &TrainConfig, parts: &[arrow_array::RecordBatch]) -> Vec<(usize, Bytes)> {
    let mut config = config.clone();
    config.checkpoints = true;
    let outcomes = train_on(Talk::Local, &config, parts, None);
    let of = |events: &[Event]| {
        let one = |e: &Event| match e {
            Event::Checkpoint { epoch, bytes, .. } => Some((*epoch, bytes.clone())),
            _ => None,
        };
        events.iter().filter_map(one).collect::<Vec<_>>()
    };
    assert!(outcomes[1..].iter().all(|o| of(&o.events).is_empty()));
    of(&outcomes[0].events)
}

const PARAMS: &str =
    r#"{"epochs": 6, "batchSize": 32, "validationFraction": 0.2, "schedule": "cosine", "patience": 50}"#;

#[test]
fn at_one_worker_bit_for_bit() {
    for config in [
        flights(PARAMS),
        digits(r#"{"epochs": 4, "optimizer": "sgd", "momentum": 0.9, "checkpointInterval": 2}"#),
    ] {
        let rows = if config.data.label == "late" { tabular(300) } else { images(300) };
        let whole = train(&config, &rows);
        let files = checkpoints(&config, std::slice::from_ref(&rows));
        assert_eq!(files.len(), config.params.epochs / config.params.checkpoint_interval);
        for (epoch, file) in files {
            let outcome = train_on(Talk::Local, &config, std::slice::from_ref(&rows), Some(file)).remove(0);
            let resumed = outcome.model.unwrap();
            assert_eq!(resumed.weights(), whole.weights(), "from epoch {epoch}");
            assert_eq!(losses(&resumed), losses(&whole), "from epoch {epoch}");
            assert!(matches!(outcome.events[0], Event::Started { resumed_at, .. } if resumed_at == epoch));
        }
    }
}

#[test]
fn at_another_number_of_workers() {
    let config = flights(PARAMS);
    let rows = tabular(300);
    let whole = train(&config, &rows);
    let files = checkpoints(&config, &deal(&rows, 3));
    for world in [1, 2, 3] {
        let (_, file) = files[2].clone();
        for outcome in train_on(Talk::Local, &config, &deal(&rows, world), Some(file.clone())) {
            let apart = distance(&losses(&outcome.model.unwrap()), &losses(&whole));
            assert!(apart < 1e-4, "3 workers, then {world}: losses differ by {apart:e}");
        }
    }
}

/// A classification of noise: the best epoch is soon over.
fn noisy(params: &str) -> TrainConfig {
    let network = r#"{"mlp": {"hidden": [64]}}"#;
    let mut config = config("classification", network, "{}", r#"["hour", "weight"]"#, r#""label": "late""#);
    let start = r#"{"batchSize": 16, "learningRate": 0.02, "validationFraction": 0.5"#;
    config.params = serde_json::from_str(&format!("{start}, {params}}}")).unwrap();
    config
}

#[test]
fn with_another_patience() {
    let rows = tabular(200);
    let parts = std::slice::from_ref(&rows);
    let files = checkpoints(&noisy(r#""epochs": 200, "patience": 3"#), parts);
    let (stopped, file) = files.last().unwrap().clone();
    let resumed = |config: &TrainConfig| {
        train_on(Talk::Local, config, parts, Some(file.clone())).remove(0).model.unwrap()
    };
    // Nobody asks for the best epoch any more, so the last one counts.
    for epochs in [stopped, stopped + 2] {
        let config = noisy(&format!(r#""epochs": {epochs}"#));
        assert_eq!(resumed(&config).weights(), train(&config, &rows).weights(), "{epochs} epochs");
    }
    // More patience goes on, and the best epoch may still be the one of the checkpoint.
    let config = noisy(r#""epochs": 200, "patience": 6"#);
    let (model, whole) = (resumed(&config), train(&config, &rows));
    assert_eq!(model.weights(), whole.weights());
    assert_eq!(losses(&model), losses(&whole));
    // A checkpoint without a best epoch: the epochs that follow have one.
    let files = checkpoints(&noisy(r#""epochs": 2"#), parts);
    let config = noisy(r#""epochs": 200, "patience": 3"#);
    let model = train_on(Talk::Local, &config, parts, Some(files[1].1.clone())).remove(0).model.unwrap();
    assert!(model.history().len() > 5);
}

/// What may differ when a training goes on: not what it learns, but when it stops and how it runs.
#[test]
fn with_other_threads_and_buckets() {
    let rows = tabular(300);
    let config = flights(r#"{"epochs": 4, "optimizer": "sgd"}"#);
    let whole = train(&config, &rows);
    let files = checkpoints(&config, &deal(&rows, 2));
    let mut other = config.clone();
    (other.params.threads, other.params.bucket_bytes, other.params.timeout_seconds) = (2, 128, 60.0);
    (other.params.checkpoint_interval, other.params.mode) = (3, ModeName::Wide);
    for outcome in train_on(Talk::Local, &other, &deal(&rows, 3), Some(files[1].1.clone())) {
        let apart = distance(&losses(&outcome.model.unwrap()), &losses(&whole));
        assert!(apart < 1e-4, "losses differ by {apart:e}");
    }
}

/// Why going on from a file is refused, the same on two workers.
fn refused(config: &TrainConfig, file: &Bytes) -> String {
    let outcomes = train_on(Talk::Local, config, &deal(&tabular(100), 2), Some(file.clone()));
    let errors: Vec<_> = outcomes.into_iter().map(|o| o.model.map(|_| ()).unwrap_err()).collect();
    assert!(errors.iter().all(|e| e.kind() == Kind::Corrupt), "{errors:?}");
    assert_eq!(errors[0].to_string(), errors[1].to_string());
    errors[0].to_string()
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let rows = tabular(100);
    let (_, file) = checkpoints(&flights(r#"{"epochs": 1}"#), std::slice::from_ref(&rows)).remove(0);
    type Change = fn(&mut TrainConfig);
    let cases: [(Change, &str); 9] = [
        (|c| c.task = Task::Regression, r#"task is "classification" there and "regression" here"#),
        (|c| c.classes = Some(3), "classes is not given there and 3 here"),
        (
            |c| drop(c.data.features.pop()),
            r#"features is [{"column":"distance"},{"column":"hour"},{"column":"carrier"}] there"#,
        ),
        (|c| c.data.label = "held".into(), r#"label is "late" there and "held" here"#),
        (|c| c.data.weight = Some("weight".into()), r#"weight is not given there and "weight" here"#),
        (|c| c.params.optimizer = OptimizerName::Sgd, r#"optimizer is "adam" there and "sgd" here"#),
        (|c| c.params.learning_rate = 0.5, "learningRate is 0.001 there and 0.5 here"),
        (|c| c.params.batch_size = 7, "batchSize is 256 there and 7 here"),
        (
            |c| c.params.handle_invalid = HandleInvalid::Skip,
            r#"handleInvalid is "error" there and "skip" here"#,
        ),
    ];
    for (change, expected) in cases {
        let mut config = flights("{}");
        change(&mut config);
        let e = refused(&config, &file);
        assert!(e.starts_with("the checkpoint is of another training: ") && e.contains(expected), "{e}");
    }
    let other = r#"{"tabular": {"hidden": [32], "dropout": 0.1}}"#;
    let features = r#"["distance", "hour", "carrier"]"#;
    let e = refused(&config("classification", other, "{}", features, r#""label": "late""#), &file);
    assert!(e.contains("network is") && e.contains("[16]") && e.contains("[32]"), "{e}");
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let rows = tabular(100);
    let of = |network: &str| {
        let features = r#"["distance", "hour", "carrier"]"#;
        config("classification", network, r#"{"epochs": 1}"#, features, r#""label": "late""#)
    };
    let made = |network: &str| checkpoints(&of(network), std::slice::from_ref(&rows)).remove(0).1;
    let plain = r#"{"tabular": {"hidden": [16], "dropout": 0.1}}"#;
    let file = made(plain);
    let e = refused(&flights("{}"), &file.slice(..file.len() - 4));
    assert!(e.starts_with("reading the checkpoint: the file of weights cannot be read"), "{e}");
    let e = refused(&flights("{}"), &Bytes::from_static(b"not a checkpoint"));
    assert!(e.contains("cannot be read"), "{e}");
    // Another network's parameters under the name of the training's.
    let wider = r#"{"tabular": {"hidden": [32], "dropout": 0.1}}"#;
    let deeper = r#"{"tabular": {"hidden": [16, 16], "dropout": 0.1}}"#;
    let cases = [
        (
            wider,
            plain,
            "parameter head.weight has shape [2, 32] in the checkpoint and [2, 16] in the network",
        ),
        (deeper, plain, "the checkpoint has a parameter hidden2.bias, the network has none"),
        (plain, deeper, "the checkpoint has no parameter hidden2.weight, the network has"),
    ];
    for (found, expected, text) in cases {
        let swapped = with_about(&made(found), &about(&made(expected)));
        assert_eq!(refused(&of(expected), &swapped), text);
    }
    let old = with_about(&file, &about(&file).replacen(r#""format":2"#, r#""format":1"#, 1));
    assert_eq!(refused(&flights("{}"), &old), "the checkpoint has format 1, this Firesteel reads 2");
    let e = refused(&flights("{}"), &with_about(&file, r#"{"format": 2}"#));
    assert!(e.starts_with("the checkpoint is damaged: missing field"), "{e}");
}

/// The line about a file.
fn about(file: &Bytes) -> String {
    let (_, metadata) = SafeTensors::read_metadata(file).unwrap();
    metadata.metadata().as_ref().unwrap()["firesteel"].clone()
}

fn with_about(file: &Bytes, about: &str) -> Bytes {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let about = HashMap::from([("firesteel".to_string(), about.to_string())]);
    safetensors::serialize(tensors.iter(), Some(about)).unwrap().into()
}

#[test]
fn a_model_is_a_start() {
    let model = Arc::new(train(&flights(PARAMS), &tabular(300)));
    // Other rows, which do not change what the model knows of its columns; the step is too small to change a weight.
    let still = flights(r#"{"epochs": 1, "batchSize": 32, "optimizer": "sgd", "learningRate": 1e-30}"#);
    let parts = [tabular(90), tabular(40)];
    for outcome in train_from(Talk::Local, &still, &parts, None, Some(model.clone())) {
        let same = outcome.model.unwrap();
        assert_eq!(same.weights(), model.weights());
        assert_eq!(same.preprocessing(), model.preprocessing());
        assert_eq!(same.history().len(), 1);
    }
    let other = digits(r#"{"epochs": 1}"#);
    let mut wider = still.clone();
    wider.network = firesteel_model::Network::from_json(r#"{"tabular": {"hidden": [17]}}"#).unwrap();
    for (config, rows, expected) in [
        (other, images(20), "reads distance, hour, carrier, expected the feature columns image"),
        (wider, tabular(20), "has another network; give it the same layers"),
    ] {
        let start = Some(model.clone());
        let e = train_from(Talk::Local, &config, &[rows], None, start).remove(0).model.unwrap_err();
        assert_eq!(e.to_string(), format!("the model that training is to go on from {expected}"));
    }
}
