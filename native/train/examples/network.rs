//! One worker of `benchmarks/network`: `network <rank> <addresses> <dense|sparse> <parameters> <target> <seconds>`.
//!
//! Makes its part of a data set that follows from the model and the rank alone, trains with the workers at the other
//! addresses, and writes a line of JSON when the first step begins, after each epoch and at the end. Rank 0 ends the training
//! after the epoch whose validation loss is the target or less, or after so many seconds. `parameters` are the hyper-parameters,
//! as JSON.
#![allow(clippy::unwrap_used, clippy::panic)]

mod drawn;

use std::sync::Arc;
use std::time::Instant;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, BooleanArray, Float32Array, ListArray, RecordBatch};
use firesteel_comm::{Cancel, Fabric, Listener, Membership, Options, Peer, join};
use firesteel_train::{Event, Session, ShardBuilder, TrainConfig, Trainer};
use serde_json::{Value, json};

use drawn::{Strings, normal};

/// Of five rows one is held out.
const HELD_OUT: usize = 5;

/// Rows of all workers, and numbers in each.
const DENSE: (usize, usize) = (20_480, 256);

/// Hidden numbers behind those, and units of the network that makes labels of them.
const HIDDEN: usize = 16;
const UNITS: usize = 8;

const SPARSE: Strings = Strings { rows: 81_920, columns: 8, values: 30_000, zipf: true };

/// Projections of a few hidden numbers and some noise, whose label a small network makes of the hidden ones.
fn dense(rank: usize, world: usize) -> Vec<(String, ArrayRef)> {
    let (rows, width) = DENSE;
    let first = rank * rows / world;
    let matrix = |seed: usize, rows: usize| -> Vec<Vec<f32>> {
        (0..rows)
            .map(|r| (0..HIDDEN).map(|c| normal(seed + r, c) / (HIDDEN as f32).sqrt()).collect())
            .collect()
    };
    let (seen, teacher) = (matrix(1_000_000, width), matrix(2_000_000, UNITS));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let row = |r: usize| {
        let hidden: Vec<f32> = (0..HIDDEN).map(|i| normal(r, i)).collect();
        let noise = |i: usize| 0.1 * normal(r, HIDDEN + i);
        let x = seen.iter().enumerate().map(|(i, s)| Some(dot(s, &hidden) + noise(i)));
        (
            Some(x.collect::<Vec<_>>()),
            teacher.iter().map(|unit| (2.0 * dot(unit, &hidden)).tanh()).sum::<f32>(),
        )
    };
    let (features, labels): (Vec<_>, Vec<_>) = (first..first + rows / world).map(row).unzip();
    let features = ListArray::from_iter_primitive::<Float32Type, _, _>(features);
    vec![("x".into(), Arc::new(features)), ("y".into(), Arc::new(Float32Array::from(labels)))]
}

/// What is trained on the columns, and with which parameters where none are given.
fn config(model: &str, columns: &[(String, ArrayRef)], given: Value) -> TrainConfig {
    let (task, network, mut params) = match model {
        "dense" => (
            "regression",
            json!({"mlp": {"hidden": [512, 512]}}),
            json!({"batchSize": 256, "standardization": "none"}),
        ),
        _ => (
            "classification",
            json!({"tabular": {"hidden": [32], "embedding_dims": 8}}),
            json!({"batchSize": 2_048, "loss": "binary_cross_entropy"}),
        ),
    };
    params.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
    params["threads"] = 1.into();
    let names = columns.iter().map(|(name, _)| name).filter(|name| *name != "y");
    let features: Vec<Value> = names.map(|name| json!({"column": name})).collect();
    let data = json!({"features": features, "label": "y", "validation": "held"});
    let config =
        json!({"task": task, "network": network, "params": params, "data": data, "checkpoints": false});
    TrainConfig::from_json(&config.to_string()).unwrap()
}

/// Meets the other workers, who are at the addresses, by rank.
fn meet(rank: usize, addresses: &[&str], cancel: Cancel) -> Arc<dyn Fabric> {
    let peer = |address: &&str| Peer { process: (*address).into(), address: (*address).into() };
    let peers = addresses.iter().map(peer).collect();
    let membership = Membership { job: "network".into(), secret: b"network".to_vec(), peers };
    let listener = Listener::bind(addresses[rank]).unwrap();
    let options = Options { cancel, ..Options::default() };
    Arc::new(join(&membership, rank, Some(listener), &options).unwrap())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rank, addresses, model, parameters, target, seconds] = &arguments[..] else {
        panic!("expected rank, addresses, model, parameters, target and seconds, found {arguments:?}")
    };
    let (rank, target, limit): (usize, f64, f64) =
        (rank.parse().unwrap(), target.parse().unwrap(), seconds.parse().unwrap());
    let addresses: Vec<&str> = addresses.split(',').collect();
    let mut columns = match model.as_str() {
        "dense" => dense(rank, addresses.len()),
        _ => SPARSE.part(rank, addresses.len()),
    };
    let config = config(model, &columns, serde_json::from_str(parameters).unwrap());
    let held = BooleanArray::from_iter((0..columns[0].1.len()).map(|r| Some(r % HELD_OUT == 0)));
    columns.push(("held".into(), Arc::new(held)));
    let mut builder = ShardBuilder::new(&config, rank).unwrap();
    builder.push(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();

    let cancel = Cancel::new();
    let fabric = meet(rank, &addresses, cancel.clone());
    let session = Session {
        fabric: fabric.clone(),
        threads: 1,
        cancel: cancel.clone(),
        resume: None,
        start: None,
        gpu: None,
    };
    let (mut started, mut sent) = (Instant::now(), 0);
    let mut ended = "epochs";
    let mut hear = |event: Event| match event {
        Event::Started { weights, steps_per_epoch, .. } => {
            (started, sent) = (Instant::now(), fabric.sent());
            println!(
                "{}",
                json!({"event": "started", "weights": weights, "steps_per_epoch": steps_per_epoch})
            );
        }
        Event::Epoch(record) => {
            let elapsed = started.elapsed().as_secs_f64();
            println!(
                "{}",
                json!({"event": "epoch", "epoch": record.epoch, "steps": record.step, "seconds": elapsed, "loss": record.loss,
                    "validation_loss": record.validation_loss, "sent": fabric.sent() - sent})
            );
            // All are told the same validation loss, and only the first looks at its watch.
            if record.validation_loss.is_some_and(|loss| loss <= target) {
                ended = "target";
                cancel.cancel();
            } else if rank == 0 && elapsed > limit {
                ended = "seconds";
                cancel.cancel();
            }
        }
        _ => {}
    };
    let outcome = Trainer::new(config).unwrap().fit(Ok(builder.finish()), session, &mut hear);
    let error = outcome.err().filter(|_| ended == "epochs").map(|e| e.to_string());
    println!(
        "{}",
        json!({"event": "ended", "by": error.as_ref().map_or(ended, |_| "error"), "error": error})
    );
}
