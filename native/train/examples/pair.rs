//! Our side of `benchmarks/ddp.py`: `pair <rank> <addresses> <file.safetensors> <epochs>`, a worker of one thread.
//!
//! Trains its share of the rows in the file with the workers at the other addresses, and writes a line of JSON after each epoch:
//! the seconds of that epoch and its mean loss.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Instant;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Int32Array, ListArray, RecordBatch};
use firesteel_comm::{Cancel, Listener, Membership, Mesh, Options, Peer, join};
use firesteel_train::{Event, Session, ShardBuilder, TrainConfig, Trainer};
use safetensors::SafeTensors;
use serde_json::json;

/// Rows of the file that are this worker's, in order.
fn rows(file: &SafeTensors<'_>, rank: usize, world: usize) -> RecordBatch {
    let [x, target] = ["x", "target"].map(|name| file.tensor(name).unwrap());
    let rows = target.shape()[0];
    let (first, end) = (rank * rows / world, (rank + 1) * rows / world);
    let words = |bytes: &[u8]| bytes.as_chunks::<4>().0.to_vec();
    let (x, target) = (words(x.data()), words(target.data()));
    let width = x.len() / rows;
    let row = |r: usize| Some(x[r * width..(r + 1) * width].iter().map(|v| Some(f32::from_le_bytes(*v))));
    let images = ListArray::from_iter_primitive::<Float32Type, _, _>((first..end).map(row));
    let labels = Int32Array::from_iter_values(target[first..end].iter().map(|v| i32::from_le_bytes(*v)));
    let columns: [(&str, ArrayRef); 2] = [("x", Arc::new(images)), ("y", Arc::new(labels))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn config(network: &str, learning_rate: f64, epochs: usize) -> TrainConfig {
    let (network, feature) = match network {
        "lenet5" => (json!("lenet5"), json!({"column": "x", "shape": [1, 28, 28]})),
        _ => (json!({"mlp": {"hidden": [512, 256]}}), json!({"column": "x"})),
    };
    let params = json!({"optimizer": "sgd", "momentum": 0.9, "learningRate": learning_rate, "batchSize": 256, "epochs": epochs,
        "threads": 1, "standardization": "none"});
    let data = json!({"features": [feature], "label": "y"});
    let config = json!({"task": "classification", "network": network, "params": params, "data": data, "checkpoints": false});
    TrainConfig::from_json(&config.to_string()).unwrap()
}

/// Meets the other workers, who are at the addresses, by rank.
fn meet(rank: usize, addresses: &str) -> Mesh {
    let peer = |address: &str| Peer { process: address.into(), address: address.into() };
    let peers: Vec<Peer> = addresses.split(',').map(peer).collect();
    let listener = Listener::bind(&peers[rank].address).unwrap();
    let membership = Membership { job: "pair".into(), secret: b"pair".to_vec(), peers };
    join(&membership, rank, Some(listener), &Options::default()).unwrap()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rank, addresses, path, epochs] = &arguments[..] else {
        panic!("expected rank, addresses, file and epochs, found {arguments:?}")
    };
    let rank = rank.parse().unwrap();
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    let rate = metadata["learning_rate"].parse().unwrap();
    let config = config(&metadata["network"], rate, epochs.parse().unwrap());
    let mut builder = ShardBuilder::new(&config, rank).unwrap();
    let world = addresses.split(',').count();
    builder.push(&rows(&SafeTensors::deserialize(&bytes).unwrap(), rank, world)).unwrap();
    let fabric = Arc::new(meet(rank, addresses));
    let session = Session { fabric, threads: 1, cancel: Cancel::new(), resume: None, start: None, gpu: None };
    let mut started = Instant::now();
    let mut hear = |event: Event| match event {
        Event::Started { .. } => started = Instant::now(),
        Event::Epoch(record) => {
            println!("{}", json!({"seconds": started.elapsed().as_secs_f64(), "loss": record.loss}));
            started = Instant::now();
        }
        _ => {}
    };
    Trainer::new(config).unwrap().fit(Ok(builder.finish()), session, &mut hear).unwrap();
}
