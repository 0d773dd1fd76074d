//! Rows, configurations and workers for the tests.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::types::Float32Type;
use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, ListArray, RecordBatch, StringArray,
};
use bytes::Bytes;
use firesteel_comm::{Cancel, Fabric, Listener, Membership, Options, Peer, join, local_world};
use firesteel_engine::Gpu;
use firesteel_error::Result;
use firesteel_train::{Event, Model, Session, Shard, ShardBuilder, TrainConfig, Trainer};

/// Uniform in 0..1, a function of two numbers.
pub fn noise(row: usize, column: u64) -> f64 {
    let mut x = (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ column.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for _ in 0..3 {
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

pub fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

/// Numbers on different scales, strings with NULLs and rare values, two classes, weights.
pub fn tabular(rows: usize) -> RecordBatch {
    let of = |f: &dyn Fn(usize) -> f64| (0..rows).map(f).collect::<Vec<f64>>();
    let distance = of(&|r| 1e6 + 500.0 * noise(r, 1));
    let hour: Vec<i32> = (0..rows).map(|r| (24.0 * noise(r, 2)) as i32).collect();
    let carrier: Vec<Option<String>> = (0..rows)
        .map(|r| Some((40.0 * noise(r, 3).powi(3)) as u32).filter(|c| c % 7 != 6).map(|c| format!("c{c}")))
        .collect();
    let late = |r: usize| {
        let carrier = carrier[r].as_ref().map_or(0.0, |c| f64::from(c.len() as u32) - 2.0);
        let score = (distance[r] - 1e6) / 500.0 + f64::from(hour[r]) / 24.0 + carrier + 0.5 * noise(r, 4);
        u8::from(score > 1.4)
    };
    let labels = of(&|r| f64::from(late(r)));
    batch(vec![
        ("distance", Arc::new(Float64Array::from(distance.clone()))),
        ("hour", Arc::new(Int32Array::from(hour.clone()))),
        ("carrier", Arc::new(StringArray::from(carrier.clone()))),
        ("late", Arc::new(Float64Array::from(labels))),
        ("delay", Arc::new(Float64Array::from(of(&|r| 100.0 + 30.0 * (noise(r, 1) + noise(r, 2)))))),
        ("weight", Arc::new(Float32Array::from_iter_values((0..rows).map(|r| (r % 4) as f32)))),
        ("held", Arc::new(BooleanArray::from_iter((0..rows).map(|r| Some(r % 5 == 0))))),
    ])
}

/// Images of 2×3×3 in three classes, told apart by where they are bright.
pub fn images(rows: usize) -> RecordBatch {
    let pixel = |r: usize, i: usize| noise(r, 100 + i as u64) + if i / 6 == r % 3 { 1.0 } else { 0.0 };
    let image = |r: usize| Some((0..18).map(|i| Some(pixel(r, i) as f32)).collect::<Vec<_>>());
    batch(vec![
        ("image", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>((0..rows).map(image)))),
        ("digit", Arc::new(Int32Array::from_iter_values((0..rows).map(|r| (r % 3) as i32)))),
    ])
}

/// A configuration over [`tabular`]; `params` overrides.
pub fn flights(params: &str) -> TrainConfig {
    config(
        "classification",
        r#"{"tabular": {"hidden": [16], "dropout": 0.1}}"#,
        params,
        r#"["distance", "hour", "carrier"]"#,
        r#""label": "late""#,
    )
}

/// A configuration over [`images`].
pub fn digits(params: &str) -> TrainConfig {
    let network = r#"{"sequential": {"layers": [
        {"conv2d": {"outputs": 4, "kernel": [2, 2]}}, "relu", "flatten", {"linear": {"outputs": 8}}, "tanh"]}}"#;
    let mut config = config("classification", network, params, r#"["image"]"#, r#""label": "digit""#);
    config.data.features[0].shape = Some(vec![2, 3, 3]);
    config
}

pub fn config(task: &str, network: &str, params: &str, features: &str, rest: &str) -> TrainConfig {
    let names: Vec<String> = serde_json::from_str(features).unwrap();
    let features: Vec<String> = names.iter().map(|n| format!(r#"{{"column": "{n}"}}"#)).collect();
    TrainConfig::from_json(&format!(
        r#"{{"task": "{task}", "network": {network}, "params": {params}, "checkpoints": false,
            "data": {{"features": [{}], {rest}}}}}"#,
        features.join(", ")
    ))
    .unwrap()
}

/// The rows cut into partitions of these lengths; the last takes what is left.
pub fn cut(rows: &RecordBatch, lengths: &[usize]) -> Vec<RecordBatch> {
    let mut start = 0;
    let mut parts: Vec<RecordBatch> = lengths
        .iter()
        .map(|n| {
            let part = rows.slice(start, *n);
            start += n;
            part
        })
        .collect();
    parts.push(rows.slice(start, rows.num_rows() - start));
    parts
}

/// About equal partitions, one a worker.
pub fn deal(rows: &RecordBatch, world: usize) -> Vec<RecordBatch> {
    cut(rows, &vec![rows.num_rows() / world; world - 1])
}

pub fn shard(config: &TrainConfig, rank: usize, rows: &RecordBatch) -> Result<Shard> {
    let mut builder = ShardBuilder::new(config, rank)?;
    // Small pieces, and none at all for an empty partition, as Spark hands them over.
    for start in (0..rows.num_rows()).step_by(37) {
        builder.push(&rows.slice(start, 37.min(rows.num_rows() - start)))?;
    }
    Ok(builder.finish())
}

pub fn options() -> Options {
    Options { deadline: Duration::from_secs(20), ..Options::default() }
}

/// How workers of a test talk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Talk {
    Local,
    Tcp,
}

/// Calls `work` on a thread a worker, by rank.
pub fn together<T: Send>(
    talk: Talk,
    world: usize,
    work: impl Fn(usize, Arc<dyn Fabric>) -> T + Sync,
) -> Vec<T> {
    let outcomes = together_or_dead(talk, world, work);
    outcomes.into_iter().map(|o| o.expect("no worker panics")).collect()
}

/// As [`together`]; none for workers that panicked.
pub fn together_or_dead<T: Send>(
    talk: Talk,
    world: usize,
    work: impl Fn(usize, Arc<dyn Fabric>) -> T + Sync,
) -> Vec<Option<T>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = match talk {
            Talk::Local => local_world(world, &options())
                .unwrap()
                .into_iter()
                .enumerate()
                .map(|(rank, mesh)| scope.spawn(move || work(rank, Arc::new(mesh) as Arc<dyn Fabric>)))
                .collect(),
            Talk::Tcp => {
                let listeners: Vec<Listener> =
                    (0..world).map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
                let peer = |(rank, l): (usize, &Listener)| Peer {
                    process: format!("p{rank}"),
                    address: l.local_addr().unwrap().to_string(),
                };
                let peers = listeners.iter().enumerate().map(peer).collect();
                let membership = Membership { job: "test".into(), secret: b"secret".to_vec(), peers };
                let join_and_work = |(rank, listener)| {
                    let membership = membership.clone();
                    scope.spawn(move || {
                        let mesh = join(&membership, rank, Some(listener), &options()).unwrap();
                        work(rank, Arc::new(mesh) as Arc<dyn Fabric>)
                    })
                };
                listeners.into_iter().enumerate().map(join_and_work).collect()
            }
        };
        threads.into_iter().map(|t| t.join().ok()).collect()
    })
}

/// What one worker says and gives.
#[derive(Debug)]
pub struct Outcome {
    pub model: Result<Model>,
    pub events: Vec<Event>,
}

/// Trains on one partition a worker, on one thread each.
pub fn train_on(
    talk: Talk,
    config: &TrainConfig,
    parts: &[RecordBatch],
    resume: Option<Bytes>,
) -> Vec<Outcome> {
    train_from(talk, config, parts, resume, None)
}

/// As [`train_on`], with a model to begin with.
pub fn train_from(
    talk: Talk,
    config: &TrainConfig,
    parts: &[RecordBatch],
    resume: Option<Bytes>,
    start: Option<Arc<Model>>,
) -> Vec<Outcome> {
    train_where(talk, config, parts, (resume, start), |_| None)
}

/// As [`train_from`], each worker on its GPU.
pub fn train_where(
    talk: Talk,
    config: &TrainConfig,
    parts: &[RecordBatch],
    (resume, start): (Option<Bytes>, Option<Arc<Model>>),
    gpu: impl Fn(usize) -> Option<Gpu> + Sync,
) -> Vec<Outcome> {
    together(talk, parts.len(), |rank, fabric| {
        let mut events = Vec::new();
        let (resume, start, gpu) = (resume.clone(), start.clone(), gpu(rank));
        let session = Session { fabric, threads: 1, cancel: Cancel::new(), resume, start, gpu };
        let shard = shard(config, rank, &parts[rank]);
        let model = Trainer::new(config.clone()).unwrap().fit(shard, session, &mut |e| events.push(e));
        Outcome { model, events }
    })
}

/// Trains with one worker.
pub fn train(config: &TrainConfig, rows: &RecordBatch) -> Model {
    train_on(Talk::Local, config, std::slice::from_ref(rows), None).remove(0).model.unwrap()
}

/// Why training with these partitions fails, the same on every worker.
pub fn refusal(config: &TrainConfig, parts: &[RecordBatch]) -> String {
    let errors: Vec<String> = train_on(Talk::Local, config, parts, None)
        .into_iter()
        .map(|o| o.model.map(|_| ()).unwrap_err().to_string())
        .collect();
    assert!(errors.iter().all(|e| *e == errors[0]), "workers disagree: {errors:?}");
    errors.into_iter().next().unwrap()
}

/// The losses of all epochs.
pub fn losses(model: &Model) -> Vec<f64> {
    model.history().iter().map(|r| r.loss).collect()
}

/// The largest relative difference.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1e-9)).fold(0.0, f64::max)
}
