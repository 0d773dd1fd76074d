//! What the training loop adds to the bare engine: `fit <lenet5|mlp|tabular> [threads] [rounds]`.
//!
//! Each round trains a few epochs through [`Trainer`] and then steps the bare engine over as many rows of the same
//! shapes, in the order in which they lie in memory; the ratio is of the medians. Time is the calling thread's on its core where the system tells it (Linux), so
//! that other programs disturb less.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Float64Array, Int32Array, ListArray, RecordBatch, StringArray};
use firesteel_comm::{Cancel, Options, local_world};
use firesteel_engine::{Batch, Moments, PlanConfig, Precision, Replica, Targets, Values};
use firesteel_model::InputKind;
use firesteel_train::{Event, Model, Session, ShardBuilder, TrainConfig, Trainer};

const ROWS: usize = 40 * BATCH;
const BATCH: usize = 256;
const EPOCHS: usize = 3;

fn noise(i: usize) -> f32 {
    (i.wrapping_mul(2_654_435_761) % 10_007) as f32 / 10_007.0
}

fn rows(name: &str) -> RecordBatch {
    let labels: ArrayRef = Arc::new(Int32Array::from_iter_values((0..ROWS).map(|r| (r * 7 % 10) as i32)));
    let mut columns = vec![("y".to_string(), labels)];
    if name == "tabular" {
        for c in 0..20 {
            let values = (0..ROWS).map(|r| f64::from(noise(r * 31 + c)));
            columns.push((format!("n{c}"), Arc::new(Float64Array::from_iter_values(values))));
        }
        for (c, distinct) in [16, 105, 4_000, 130, 24, 7].into_iter().enumerate() {
            let values = (0..ROWS).map(|r| format!("v{}", r * 31 % distinct));
            columns.push((format!("s{c}"), Arc::new(StringArray::from_iter_values(values))));
        }
    } else {
        let image = |r: usize| Some((0..784).map(move |i| Some(noise(r * 784 + i))).collect::<Vec<_>>());
        let images = ListArray::from_iter_primitive::<Float32Type, _, _>((0..ROWS).map(image));
        columns.push(("image".into(), Arc::new(images)));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

fn config(name: &str, rows: &RecordBatch, threads: usize) -> TrainConfig {
    let network = match name {
        "lenet5" => r#""lenet5""#,
        "tabular" => r#"{"tabular": {"hidden": [128, 64]}}"#,
        _ => r#"{"mlp": {"hidden": [512, 256]}}"#,
    };
    let feature = |column: &String| match name {
        "lenet5" => format!(r#"{{"column": "{column}", "shape": [1, 28, 28]}}"#),
        _ => format!(r#"{{"column": "{column}"}}"#),
    };
    let schema = rows.schema();
    let features: Vec<String> = schema.fields()[1..].iter().map(|f| feature(f.name())).collect();
    TrainConfig::from_json(&format!(
        r#"{{"task": "classification", "network": {network}, "checkpoints": false,
            "params": {{"epochs": {EPOCHS}, "threads": {threads}}},
            "data": {{"features": [{}], "label": "y"}}}}"#,
        features.join(", ")
    ))
    .unwrap()
}

/// Seconds that this thread has run, or that have passed.
fn seconds(started: Instant) -> f64 {
    let ran = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ran = ran.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    ran.map_or_else(|| started.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

/// Samples a second of each epoch.
fn train(config: &TrainConfig, rows: &RecordBatch) -> (Model, Vec<f64>) {
    let mut builder = ShardBuilder::new(config, 0).unwrap();
    builder.push(rows).unwrap();
    let fabric = Arc::new(local_world(1, &Options::default()).unwrap().remove(0));
    let session = Session { fabric, threads: 1, cancel: Cancel::new(), resume: None, start: None, gpu: None };
    let trainer = Trainer::new(config.clone()).unwrap();
    let started = Instant::now();
    let mut times = Vec::new();
    let mut hear = |event| {
        if matches!(event, Event::Started { .. } | Event::Epoch(_)) {
            times.push(seconds(started));
        }
    };
    let model = trainer.fit(Ok(builder.finish()), session, &mut hear).unwrap();
    (model, times.windows(2).map(|w| ROWS as f64 / (w[1] - w[0])).collect())
}

/// All rows of one input, in the order in which they are read: nothing is copied.
enum Input {
    Dense(usize, Vec<f32>),
    Index(Vec<u32>),
}

impl Input {
    fn new(kind: &InputKind) -> Input {
        match kind {
            InputKind::Dense { shape } => {
                let width = shape.iter().product();
                Input::Dense(width, (0..ROWS * width).map(noise).collect())
            }
            InputKind::Index { cardinality } => {
                Input::Index((0..ROWS).map(|r| (r * 7919 % cardinality) as u32).collect())
            }
        }
    }

    fn batch(&self, first: usize) -> Values<'_> {
        match self {
            Input::Dense(width, values) => Values::Dense(&values[first * width..(first + BATCH) * width]),
            Input::Index(indices) => Values::Index(&indices[first..first + BATCH]),
        }
    }
}

/// Samples a second of each of as many epochs of steps.
fn step(config: &TrainConfig, model: &Model, threads: usize) -> Vec<f64> {
    let graph = Arc::new(model.graph().clone());
    let plan = PlanConfig {
        rows: BATCH,
        threads,
        mode: config.mode(),
        loss: config.loss(),
        precision: Precision::F32,
        seed: 1,
    };
    let mut replica = Replica::new(graph.clone(), plan).unwrap();
    let mut moments = Moments::new(config.optimizer(), graph.len()).unwrap();
    let inputs: Vec<Input> = graph.spec().inputs.iter().map(|i| Input::new(&i.kind)).collect();
    let classes: Vec<u32> = (0..ROWS as u32).map(|r| r * 7 % 10).collect();
    let positions: Vec<u64> = (0..BATCH as u64).collect();
    let (mut rates, started) = (Vec::new(), Instant::now());
    let mut t = 0;
    for _ in 0..EPOCHS {
        let before = seconds(started);
        for first in (0..ROWS).step_by(BATCH) {
            t += 1;
            let values: Vec<Values> = inputs.iter().map(|i| i.batch(first)).collect();
            let targets = Targets::Classes(&classes[first..first + BATCH]);
            let batch = Batch { rows: BATCH, inputs: &values, targets, weights: None, positions: &positions };
            replica.step(t, &batch, &mut ()).unwrap();
            let parts = replica.parts();
            let (dense, scale) = (graph.dense_len(), 1.0 / BATCH as f32);
            moments.update(0, 1e-3, t, scale, &mut parts.weights[..dense], &parts.gradient[..dense]);
            for (table, touched) in graph.tables().iter().zip(parts.touched) {
                for row in touched {
                    let start = table.range.start + *row as usize * table.dims;
                    let range = start..start + table.dims;
                    moments.update(
                        start,
                        1e-3,
                        t,
                        scale,
                        &mut parts.weights[range.clone()],
                        &parts.gradient[range],
                    );
                }
            }
        }
        rates.push(ROWS as f64 / (seconds(started) - before));
    }
    rates
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |i: usize, default: &str| arguments.get(i).cloned().unwrap_or_else(|| default.into());
    let (name, threads) = (argument(1, "lenet5"), argument(2, "1").parse().unwrap());
    let rounds: usize = argument(3, "5").parse().unwrap();
    let rows = rows(&name);
    let config = config(&name, &rows, threads);
    let (mut loop_rates, mut bare_rates) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (model, rates) = train(&config, &rows);
        loop_rates.extend(rates);
        bare_rates.extend(step(&config, &model, threads));
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (whole, bare) = (median(&mut loop_rates), median(&mut bare_rates));
    println!(
        "{name} threads {threads}: loop {whole:.0} samples/s, bare step {bare:.0}, ratio {:.3}",
        whole / bare
    );
}
