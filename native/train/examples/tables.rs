//! The workers of `benchmarks/papers/s2.py`: trainings of embedding tables over a simulated network.
//!
//! Each line on the standard input is an [`Experiment`] as JSON; each answer is a line of JSON with the losses of held-out rows and
//! what was sent until then. Workers are threads. Time is what the network would take: computing takes none.
#![allow(clippy::unwrap_used, clippy::panic)]

mod drawn;

use std::io::{BufRead, Write, stdin, stdout};
use std::sync::Arc;
use std::thread;

use arrow_array::{BooleanArray, RecordBatch};
use firesteel_comm::{Cancel, Fabric, Options, Simulated, simulated_world};
use firesteel_train::{Event, Session, ShardBuilder, TrainConfig, Trainer};
use serde::Deserialize;
use serde_json::{Value, json};

use drawn::Strings;

/// Of so many rows one is held out.
const HELD_OUT: usize = 20;

/// What is trained.
#[derive(Deserialize)]
struct Experiment {
    workers: usize,
    /// As `firesteel advise` reads it.
    network: String,
    /// Of strings: rows of all workers, columns, values of each, and whether as Zipf has them.
    rows: usize,
    columns: usize,
    values: usize,
    zipf: bool,
    /// Width of a table's rows.
    width: usize,
    /// Hyper-parameters.
    params: Value,
}

impl Experiment {
    fn strings(&self) -> Strings {
        let Experiment { rows, columns, values, zipf, .. } = *self;
        Strings { rows, columns, values, zipf }
    }

    fn config(&self) -> TrainConfig {
        let features: Vec<Value> =
            (0..self.columns).map(|column| json!({"column": format!("c{column}")})).collect();
        let config = json!({
            "task": "classification",
            "network": {"tabular": {"hidden": [32], "embedding_dims": self.width}},
            "params": self.params,
            "data": {"features": features, "label": "y", "validation": "held"},
            "checkpoints": false,
        });
        TrainConfig::from_json(&config.to_string()).unwrap()
    }
}

/// One worker's part; what it says after each epoch.
fn train(experiment: &Experiment, fabric: Simulated) -> (Vec<Value>, Option<String>) {
    let (fabric, config) = (Arc::new(fabric), experiment.config());
    let mut columns = experiment.strings().part(fabric.rank(), experiment.workers);
    let held = BooleanArray::from_iter((0..columns[0].1.len()).map(|row| Some(row % HELD_OUT == 0)));
    columns.push(("held".into(), Arc::new(held)));
    let mut builder = ShardBuilder::new(&config, fabric.rank()).unwrap();
    builder.push(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    let session = Session {
        fabric: fabric.clone(),
        threads: 1,
        cancel: Cancel::new(),
        resume: None,
        start: None,
        gpu: None,
    };
    let (mut epochs, mut before) = (Vec::new(), (0.0, 0));
    let mut hear = |event: Event| match event {
        Event::Started { weights, .. } => {
            before = (fabric.now(), fabric.sent());
            epochs.push(json!({"weights": weights}));
        }
        Event::Epoch(record) => {
            epochs.push(json!({"steps": record.step, "validation_loss": record.validation_loss,
                "auc": record.validation_metric, "seconds": fabric.now() - before.0, "sent": fabric.sent() - before.1}));
        }
        _ => {}
    };
    let outcome = Trainer::new(config).unwrap().fit(Ok(builder.finish()), session, &mut hear);
    (epochs, outcome.err().map(|e| e.to_string()))
}

/// What rank 0 says of a training, with the bytes of all.
fn run(experiment: &Experiment) -> Value {
    let network = experiment.network.parse().unwrap();
    let fabrics = simulated_world(experiment.workers, &network, &Options::default()).unwrap();
    let said: Vec<_> = thread::scope(|scope| {
        let worker = |fabric| scope.spawn(move || train(experiment, fabric));
        let threads: Vec<_> = fabrics.into_iter().map(worker).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sent = |nth: usize| said.iter().filter_map(move |(epochs, _)| epochs.get(nth)?["sent"].as_u64());
    let mut epochs = said[0].0.clone();
    for (nth, epoch) in epochs.iter_mut().enumerate().skip(1) {
        epoch["sent"] = json!({"all": sent(nth).sum::<u64>(), "most": sent(nth).max()});
    }
    json!({"epochs": epochs, "error": said[0].1})
}

fn main() {
    for line in stdin().lock().lines() {
        let experiment: Experiment = serde_json::from_str(&line.unwrap()).unwrap();
        println!("{}", run(&experiment));
        stdout().flush().unwrap();
    }
}
