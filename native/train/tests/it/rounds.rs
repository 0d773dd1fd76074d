//! Workers that never meet.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Int32Array, ListArray, RecordBatch};
use bytes::Bytes;
use firesteel_engine::{Gpu, Precision};
use firesteel_error::{Error, Kind, Result};
use firesteel_train::{
    Apart, Event, Model, Round, Shard, ShardBuilder, Statistics, TrainConfig, Trainer, Worker,
};
use safetensors::SafeTensors;

use crate::support::*;

/// Trains by rounds on one partition a worker; the first validates.
fn by_rounds(
    config: &TrainConfig,
    parts: &[RecordBatch],
    resume: Option<Bytes>,
) -> Result<(Model, Vec<Event>)> {
    by_rounds_on(None, config, parts, resume)
}

fn worker(rank: usize) -> Worker {
    Worker { rank, threads: 1, ..Worker::default() }
}

/// As [`by_rounds`], with workers on a GPU.
pub fn by_rounds_on(
    gpu: Option<&Gpu>,
    config: &TrainConfig,
    parts: &[RecordBatch],
    resume: Option<Bytes>,
) -> Result<(Model, Vec<Event>)> {
    let trainer = Trainer::new(config.clone())?;
    let statistics = |(rank, rows): (usize, &RecordBatch)| {
        let told = trainer.statistics(shard(config, rank, rows)?)?;
        // As it travels.
        let json = serde_json::to_string(&told).unwrap();
        Ok::<Statistics, Error>(serde_json::from_str(&json).unwrap())
    };
    let told = parts.iter().enumerate().map(statistics).collect::<Result<Vec<_>>>()?;
    let mut hand_out = |from: Bytes, take: &mut dyn FnMut(Round) -> Result<()>| {
        for (rank, rows) in parts.iter().enumerate() {
            let shard = shard(config, rank, rows)?;
            if let Some(round) =
                trainer.round(shard, from.clone(), &Worker { gpu: gpu.cloned(), ..worker(rank) })?
            {
                take(round)?;
            }
        }
        Ok(())
    };
    let session = Apart { resume, ..Apart::default() };
    let mut events = Vec::new();
    let held = held_out(config, parts)?;
    let model = trainer.fit_by_rounds(told, held, session, &mut hand_out, &mut |e| events.push(e))?;
    Ok((model, events))
}

/// The first checkpoint of a training.
fn checkpoint(events: &[Event]) -> Bytes {
    let found = events.iter().find_map(|e| match e {
        Event::Checkpoint { bytes, .. } => Some(bytes.clone()),
        _ => None,
    });
    found.unwrap()
}

fn held_out(config: &TrainConfig, parts: &[RecordBatch]) -> Result<Shard> {
    let mut builder = ShardBuilder::new(config, 0)?;
    let Some(column) = &config.data.validation else { return Ok(builder.finish()) };
    for rows in parts {
        let held = rows.column_by_name(column).unwrap().as_boolean();
        for row in (0..rows.num_rows()).filter(|row| held.value(*row)) {
            builder.push(&rows.slice(row, 1))?;
        }
    }
    Ok(builder.finish())
}

/// A configuration over [`tabular`], which says which rows are held out.
fn validated(params: &str) -> TrainConfig {
    let network = r#"{"tabular": {"hidden": [16], "dropout": 0.1}}"#;
    let rest = r#""label": "late", "validation": "held""#;
    config("classification", network, params, r#"["distance", "hour", "carrier"]"#, rest)
}

#[test]
fn one_worker_trains_as_ever() {
    let params = r#"{"epochs": 5, "batchSize": 32, "schedule": "cosine", "patience": 4}"#;
    let sgd = r#"{"epochs": 4, "optimizer": "sgd", "momentum": 0.9}"#;
    for (config, rows) in [(validated(params), tabular(300)), (digits(sgd), images(200))] {
        let whole = train(&config, &rows);
        let (model, events) = by_rounds(&config, &[rows], None).unwrap();
        assert_eq!(model.weights(), whole.weights());
        assert_eq!(model.preprocessing(), whole.preprocessing());
        let told = |model: &Model| {
            let told =
                |r: &firesteel_train::EpochRecord| (r.step, r.loss, r.validation_loss, r.validation_metric);
            model.history().iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(told(&model), told(&whole));
        assert!(matches!(events[0], Event::Started { world: 1, .. }));
    }
}

#[test]
fn many_agree_on_what_all_rows_say() {
    let mut config = validated(r#"{"epochs": 12, "batchSize": 16, "learningRate": 0.01}"#);
    config.data.weight = Some("weight".into());
    let rows = tabular(900);
    // The second has no rows.
    let parts = cut(&rows, &[500, 0, 1]);
    let together = train_on(Talk::Local, &config, &parts, None).remove(0).model.unwrap();
    let (model, _) = by_rounds(&config, &parts, None).unwrap();
    assert_eq!(model.preprocessing(), together.preprocessing());
    let auc = |model: &Model| model.history().last().unwrap().validation_metric.unwrap();
    assert!(auc(&model) > 0.9 && auc(&model) > auc(&together) - 0.05, "{} {}", auc(&model), auc(&together));
    // Again, to the bit.
    assert_eq!(by_rounds(&config, &parts, None).unwrap().0.weights(), model.weights());
}

#[test]
fn a_mean_counts_workers_by_their_rows() {
    // One step of SGD a worker from the same weights: the mean of the steps is the step of all.
    let network = r#"{"mlp": {"hidden": []}}"#;
    let params = r#"{"epochs": 1, "batchSize": 1000, "optimizer": "sgd", "learningRate": 0.5}"#;
    let mut config =
        config("classification", network, params, r#"["distance", "hour"]"#, r#""label": "late""#);
    config.data.weight = Some("weight".into());
    let rows = tabular(300);
    let whole = train(&config, &rows);
    let (model, _) = by_rounds(&config, &cut(&rows, &[200]), None).unwrap();
    for (a, b) in model.weights().iter().zip(whole.weights()) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    assert!((losses(&model)[0] - losses(&whole)[0]).abs() < 1e-6);
}

#[test]
fn rows_that_do_not_count_do_not() {
    let network = r#"{"mlp": {"hidden": [8]}}"#;
    let params = r#"{"epochs": 3, "batchSize": 16, "standardization": "none", "handleInvalid": "skip"}"#;
    let rest = r#""label": "late", "weight": "weight""#;
    let config = config("classification", network, params, r#"["hour"]"#, rest);
    let rows = tabular(200);
    // Every fourth row, from the first on, weighs nothing.
    let mut parts = cut(&rows, &[90, 90]);
    let without = by_rounds(&config, &parts[..2], None).unwrap().0;
    parts[2] = rows.slice(0, 1);
    assert_eq!(by_rounds(&config, &parts, None).unwrap().0.weights(), without.weights());
    parts[2] = rows.slice(1, 1);
    assert_ne!(by_rounds(&config, &parts, None).unwrap().0.weights(), without.weights());
}

/// The trained values in a state.
fn weights(state: &Bytes) -> Vec<Vec<u8>> {
    let file = SafeTensors::deserialize(state).unwrap();
    let mut names: Vec<_> = file.names().into_iter().filter(|name| name.starts_with("weights/")).collect();
    names.sort();
    names.into_iter().map(|name| file.tensor(name).unwrap().data().to_vec()).collect()
}

#[test]
fn who_has_few_rows_follows_the_schedule_of_all() {
    let params = r#"{"epochs": 4, "batchSize": 16, "schedule": "linear", "optimizer": "sgd"}"#;
    let config = TrainConfig { checkpoints: true, ..flights(params) };
    // 20 steps an epoch and one.
    let parts = cut(&tabular(336), &[320]);
    let (_, events) = by_rounds(&config, &parts, None).unwrap();
    let from = checkpoint(&events[5..]);
    let trainer = Trainer::new(config.clone()).unwrap();
    let round = trainer.round(shard(&config, 1, &parts[1]).unwrap(), from.clone(), &worker(1));
    assert_ne!(weights(&round.unwrap().unwrap().state), weights(&from), "the fourth epoch is not the end");
}

#[test]
fn a_vector_that_nobody_has_is_its_shape() {
    let mut config = digits(r#"{"epochs": 1, "handleInvalid": "keep"}"#);
    config.data.features[0].shape = Some(vec![2, 3, 3]);
    let (images, none) = (images(60), |rows: usize| {
        let nulls = (0..rows).map(|_| None::<Vec<Option<f32>>>);
        let images = ListArray::from_iter_primitive::<Float32Type, _, _>(nulls);
        let digits = Int32Array::from_iter_values((0..rows as i32).map(|row| row % 3));
        batch(vec![("image", Arc::new(images)), ("digit", Arc::new(digits))])
    });
    for parts in [vec![none(20), images.clone(), none(3)], vec![images, none(20)], vec![none(20), none(10)]] {
        let together = train_on(Talk::Local, &config, &parts, None).remove(0).model.unwrap();
        let (model, _) = by_rounds(&config, &parts, None).unwrap();
        assert_eq!(model.preprocessing(), together.preprocessing());
    }
}

#[test]
fn ranks_draw_by_themselves() {
    let config = TrainConfig { checkpoints: true, ..flights(r#"{"epochs": 1, "batchSize": 16}"#) };
    let rows = tabular(100);
    let (_, events) = by_rounds(&config, std::slice::from_ref(&rows), None).unwrap();
    let trainer = Trainer::new(config.clone()).unwrap();
    let state = |rank| {
        let rows = shard(&config, rank, &rows).unwrap();
        trainer.round(rows, checkpoint(&events), &worker(rank)).unwrap().unwrap().state
    };
    assert_eq!(state(1), state(1));
    assert_ne!(state(0), state(1));
}

#[test]
fn goes_on_from_a_checkpoint() {
    let mut config = validated(r#"{"epochs": 5, "batchSize": 32, "patience": 9}"#);
    config.checkpoints = true;
    let parts = deal(&tabular(400), 3);
    let (whole, events) = by_rounds(&config, &parts, None).unwrap();
    let (_, events) = by_rounds(&config, &parts, Some(checkpoint(&events[..4]))).unwrap();
    assert!(matches!(events[0], Event::Started { resumed_at: 1, world: 3, .. }));
    let (model, _) = by_rounds(&config, &parts, Some(checkpoint(&events[3..]))).unwrap();
    assert_eq!(model.weights(), whole.weights());
    assert_eq!(losses(&model), losses(&whole));
}

#[test]
fn what_cannot_be() {
    let parts = deal(&tabular(100), 2);
    let refused = |config: &TrainConfig, parts: &[RecordBatch]| by_rounds(config, parts, None).unwrap_err();
    let e = refused(&flights(r#"{"validationFraction": 0.2}"#), &parts);
    assert!(
        e.to_string().starts_with("validationFraction is 0.2, expected 0 and a validation column"),
        "{e}"
    );
    let e = refused(&validated(r#"{"patience": 2}"#), &[tabular(1), tabular(1)]);
    assert_eq!(e.to_string(), "all 2 rows are held out for validation, none is left to train on");
    let e = refused(&flights("{}"), &[tabular(0), tabular(0)]);
    assert_eq!(e.to_string(), "there are no rows to train on");
    let e = refused(&flights(r#"{"learningRate": 1e30, "optimizer": "sgd", "epochs": 3}"#), &parts);
    assert_eq!(e.kind(), Kind::Diverged);
    // A state of another training.
    let (_, events) =
        by_rounds(&TrainConfig { checkpoints: true, ..flights(r#"{"epochs": 1}"#) }, &parts, None).unwrap();
    let state = checkpoint(&events);
    let other = flights(r#"{"learningRate": 0.5}"#);
    let rows = shard(&other, 0, &parts[0]).unwrap();
    let e = Trainer::new(other).unwrap().round(rows, state, &worker(0)).unwrap_err();
    assert!(e.to_string().contains("learningRate"), "{e}");
}

/// Who hands the rounds out has no GPU and needs none.
#[test]
fn the_precision_is_that_of_the_workers() {
    let mut config = flights("{}");
    config.params.precision = Precision::Bf16;
    let rows = tabular(50);
    let trainer = Trainer::new(config.clone()).unwrap();
    let part = trainer.statistics(shard(&config, 0, &rows).unwrap()).unwrap();
    let held = ShardBuilder::new(&config, 0).unwrap().finish();
    let mut hand_out = |from: Bytes, _: &mut dyn FnMut(Round) -> Result<()>| {
        let shard = shard(&config, 0, &rows)?;
        trainer.round(shard, from, &worker(0)).map(drop).map_err(|e| e.context("worker 0"))
    };
    let e =
        trainer.fit_by_rounds(vec![part], held, Apart::default(), &mut hand_out, &mut |_| {}).unwrap_err();
    assert_eq!(e.to_string(), "worker 0: precision is bf16, which needs a GPU; expected f32");
}
