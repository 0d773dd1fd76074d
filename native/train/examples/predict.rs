//! How fast a trained model scores: `predict [tabular|wide_and_deep] [rounds]`.
//!
//! Each round scores the same batches with [`Predictor`] on one thread; the rate is the median. Time is the calling
//! thread's on its core where the system tells it (Linux), so that other programs disturb less. The sum of what was
//! predicted tells two builds that compute the same from two that do not.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
use firesteel_comm::{Cancel, Options, local_world};
use firesteel_train::{Model, Predictor, Session, ShardBuilder, TrainConfig, Trainer};

const ROWS: usize = 8192;
const BATCHES: usize = 8;
const NUMBERS: usize = 3;
const TEXTS: usize = 2;
const CATEGORIES: usize = 300;

/// In `0..1`, by row and column (SplitMix64).
fn noise(row: usize, column: usize) -> f64 {
    let mut z = (row * 31 + column) as u64;
    z = z.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Numbers, strings and a label.
fn rows(batch: usize) -> RecordBatch {
    let rows = || batch * ROWS..(batch + 1) * ROWS;
    let labels: ArrayRef =
        Arc::new(Int32Array::from_iter_values(rows().map(|r| (noise(r, 30) * 2.0) as i32)));
    let mut columns = vec![("y".to_string(), labels)];
    for c in 0..NUMBERS {
        let values = rows().map(|r| noise(r, c));
        columns.push((format!("n{c}"), Arc::new(Float64Array::from_iter_values(values))));
    }
    for c in 0..TEXTS {
        let values = rows().map(|r| format!("v{}", (noise(r, 10 + c) * CATEGORIES as f64) as usize));
        columns.push((format!("s{c}"), Arc::new(StringArray::from_iter_values(values))));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

fn train(network: &str, rows: &RecordBatch) -> Model {
    let schema = rows.schema();
    let feature = |name: &String| format!(r#"{{"column": "{name}"}}"#);
    let features: Vec<String> = schema.fields()[1..].iter().map(|f| feature(f.name())).collect();
    let config = TrainConfig::from_json(&format!(
        r#"{{"task": "classification", "network": {{"{network}": {{"hidden": [128, 64]}}}},
            "checkpoints": false, "params": {{"epochs": 1}},
            "data": {{"features": [{}], "label": "y"}}}}"#,
        features.join(", ")
    ))
    .unwrap();
    let mut builder = ShardBuilder::new(&config, 0).unwrap();
    builder.push(rows).unwrap();
    let fabric = Arc::new(local_world(1, &Options::default()).unwrap().remove(0));
    let session = Session { fabric, threads: 1, cancel: Cancel::new(), resume: None, start: None, gpu: None };
    Trainer::new(config).unwrap().fit(Ok(builder.finish()), session, &mut |_| {}).unwrap()
}

/// Seconds that this thread has run, or that have passed.
fn seconds(started: Instant) -> f64 {
    let ran = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ran = ran.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    ran.map_or_else(|| started.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |i: usize, default: &str| arguments.get(i).cloned().unwrap_or_else(|| default.into());
    let (network, rounds) = (argument(1, "tabular"), argument(2, "20").parse().unwrap());
    let batches: Vec<RecordBatch> = (0..BATCHES).map(rows).collect();
    let predictor = Predictor::new(Arc::new(train(&network, &batches[0])), 1);
    let started = Instant::now();
    let (mut rates, mut sum) = (Vec::new(), 0.0);
    for _ in 0..rounds {
        let before = seconds(started);
        for batch in &batches {
            let values = predictor.predict(batch).unwrap().values;
            sum += values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        }
        rates.push((BATCHES * ROWS) as f64 / (seconds(started) - before));
    }
    rates.sort_by(f64::total_cmp);
    let mean = sum / (f64::from(rounds) * (BATCHES * ROWS) as f64);
    println!("{network}: {:.0} rows/s, a row's absolute outputs sum to {mean:.9}", rates[rates.len() / 2]);
}
