//! Going on from a checkpoint equals never having stopped.

use bytes::Bytes;
use firesteel_train::{Event, TrainConfig};

use crate::support::*;

fn checkpoints(config: &TrainConfig, parts: &[arrow_array::RecordBatch]) -> Vec<(usize, Bytes)> {
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

#[test]
fn a_checkpoint_of_another_shape_is_refused() {
    let rows = tabular(100);
    let (_, file) = checkpoints(&flights(r#"{"epochs": 1}"#), std::slice::from_ref(&rows)).remove(0);
    let text = |config: &TrainConfig, file: &Bytes| {
        let outcomes = train_on(Talk::Local, config, &deal(&rows, 2), Some(file.clone()));
        let texts: Vec<String> =
            outcomes.into_iter().map(|o| o.model.map(|_| ()).unwrap_err().to_string()).collect();
        assert_eq!(texts[0], texts[1]);
        texts[0].clone()
    };
    let wider = |network: &str| {
        config("classification", network, "{}", r#"["distance", "hour", "carrier"]"#, r#""label": "late""#)
    };
    let e = text(&wider(r#"{"tabular": {"hidden": [32], "dropout": 0.1}}"#), &file);
    assert_eq!(e, "parameter head.weight has shape [2, 16] in the checkpoint and [2, 32] in the network");
    let e = text(&wider(r#"{"tabular": {"hidden": [16, 16], "dropout": 0.1}}"#), &file);
    assert_eq!(e, "the checkpoint has no parameter hidden2.weight, the network has");
    let e = text(&wider(r#"{"sequential": {"layers": []}}"#), &file);
    assert_eq!(e, "the checkpoint has a parameter hidden1.bias, the network has none");
    let mut columns = flights("{}");
    columns.data.features.pop();
    let e = text(&columns, &file);
    assert_eq!(
        e,
        "the checkpoint learns from columns distance, hour, carrier, this training from distance, hour"
    );
    let e = text(&flights(r#"{"optimizer": "sgd", "momentum": 0.5}"#), &file);
    assert_eq!(e, "the checkpoint has the state of adam, this training's optimizer is sgd");
    let e = text(&flights("{}"), &file.slice(..file.len() - 4));
    assert!(e.starts_with("reading the checkpoint: the file of weights cannot be read"), "{e}");
    let e = text(&flights("{}"), &Bytes::from_static(b"not a checkpoint"));
    assert!(e.contains("cannot be read"), "{e}");
}
