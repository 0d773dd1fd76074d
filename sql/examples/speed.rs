//! One side of `benchmarks/sql.py`: `speed ROWS.parquet MODELS`, then a command a line on the standard input, each answered
//! with a line of rows a second.
//!
//! | command | what is timed |
//! | --- | --- |
//! | `create` | the median epoch of `CREATE MODEL`, the first left out |
//! | `trainer` | the same of the training loop on the same rows in memory, without SQL |
//! | `predict` | `ML.PREDICT` over the file, from the file to the sum of its predictions |
//! | `engine` | the network alone, on tensors in memory |
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::BufRead;
use std::sync::Arc;
use std::thread::scope;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use firesteel_comm::{Cancel, Options, local_world};
use firesteel_engine::{Inference, InferenceConfig, Mode, Values};
use firesteel_model::InputKind;
use firesteel_sql::{Firesteel, ModelStore};
use firesteel_train::{Event, Model, Session, ShardBuilder, TrainConfig, Trainer};
use futures::StreamExt;

const WORKERS: usize = 2;
const EPOCHS: usize = 4;
const BATCH: usize = 1024;
/// Rows that the network scores at once, as `ML.PREDICT` does.
const SCORED: usize = 8192;
const COLUMNS: &str = "month, hour, distance, origin, destination";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let config = SessionConfig::new().with_target_partitions(WORKERS);
    let context = SessionContext::new_with_config(config);
    context.register_parquet("flights", &arguments[1], ParquetReadOptions::default()).await.unwrap();
    let firesteel =
        Firesteel::register(&context, ModelStore::directory(&arguments[2]).unwrap()).await.unwrap();
    let created = create(&firesteel).await;
    let folder = format!("{}/../model", arguments[2]);
    for (uri, format) in [(folder.clone(), "safetensors"), (format!("{folder}-onnx"), "onnx")] {
        let export = format!("EXPORT MODEL late OPTIONS (uri = '{uri}', format = '{format}')");
        firesteel.sql(&export).await.unwrap();
    }
    let model = Model::load(&folder).unwrap();
    println!("{created}");
    for command in std::io::stdin().lock().lines() {
        let rate = match command.unwrap().as_str() {
            "create" => create(&firesteel).await,
            "trainer" => trainer(&context).await,
            "predict" => predict(&firesteel).await,
            "engine" => engine(&model),
            other => panic!("there is no command {other}"),
        };
        println!("{rate}");
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

async fn create(firesteel: &Firesteel) -> f64 {
    let sql = format!(
        "CREATE OR REPLACE MODEL late OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], \
         hidden_units = [128, 64], max_iterations = {EPOCHS}, batch_size = {BATCH}, data_split_method = 'no_split', \
         on_null = 'impute', workers = {WORKERS}) AS SELECT {COLUMNS}, late FROM flights"
    );
    let statement = firesteel.parse(&sql).unwrap().pop().unwrap();
    let mut epochs = firesteel.plan(statement).await.unwrap().execute_stream().await.unwrap();
    let mut rates = Vec::new();
    while let Some(epoch) = epochs.next().await {
        let epoch = epoch.unwrap();
        rates.push(epoch.column_by_name("rows_per_second").unwrap().as_primitive::<Float64Type>().value(0));
    }
    median(rates.split_off(1))
}

/// The rows of the query, in memory, and the same training.
async fn trainer(context: &SessionContext) -> f64 {
    let query = format!("SELECT {COLUMNS}, CAST(late AS DOUBLE) AS late FROM flights");
    let parts: Vec<Vec<RecordBatch>> =
        context.sql(&query).await.unwrap().collect_partitioned().await.unwrap();
    let features: Vec<String> = COLUMNS.split(", ").map(|c| format!(r#"{{"column": "{c}"}}"#)).collect();
    let config = TrainConfig::from_json(&format!(
        r#"{{"task": "classification", "network": {{"tabular": {{"hidden": [128, 64]}}}}, "checkpoints": false,
            "params": {{"epochs": {EPOCHS}, "batch_size": {BATCH}, "handle_invalid": "keep", "seed": 42}},
            "data": {{"features": [{}], "label": "late"}}}}"#,
        features.join(", ")
    ))
    .unwrap();
    tokio::task::block_in_place(|| train(&config, &parts))
}

fn train(config: &TrainConfig, parts: &[Vec<RecordBatch>]) -> f64 {
    let meshes = local_world(parts.len(), &Options::default()).unwrap();
    let mut rates = scope(|scope| {
        let work = |(rank, mesh): (usize, firesteel_comm::Mesh)| {
            scope.spawn(move || {
                let mut builder = ShardBuilder::new(config, rank).unwrap();
                parts[rank].iter().for_each(|batch| builder.push(batch).unwrap());
                let fabric = Arc::new(mesh);
                let session = Session {
                    fabric,
                    threads: 1,
                    cancel: Cancel::new(),
                    resume: None,
                    start: None,
                    gpu: None,
                };
                let mut rates = Vec::new();
                let mut hear = |event| {
                    if let Event::Epoch(epoch) = event {
                        rates.push(epoch.samples_per_second);
                    }
                };
                let trainer = Trainer::new(config.clone()).unwrap();
                trainer.fit(Ok(builder.finish()), session, &mut hear).unwrap();
                rates
            })
        };
        let workers: Vec<_> = meshes.into_iter().enumerate().map(work).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).next().unwrap()
    });
    median(rates.split_off(1))
}

async fn predict(firesteel: &Firesteel) -> f64 {
    let sql = format!(
        "SELECT count(*) AS n, sum(CASE WHEN predicted_late THEN 1 ELSE 0 END) FROM \
         ML.PREDICT(MODEL late, (SELECT {COLUMNS} FROM flights))"
    );
    let started = Instant::now();
    let batches = firesteel.sql(&sql).await.unwrap().collect().await.unwrap();
    let rows = batches[0].column(0).as_primitive::<Int64Type>().value(0);
    rows as f64 / started.elapsed().as_secs_f64()
}

/// Inputs of the right shapes, which stay in memory.
enum Input {
    Dense(Vec<f32>),
    Index(Vec<u32>),
}

fn engine(model: &Model) -> f64 {
    let graph = Arc::new(model.graph().clone());
    let input = |kind: &InputKind| match kind {
        InputKind::Dense { shape } => {
            let len = SCORED * shape.iter().product::<usize>();
            Input::Dense((0..len).map(|i| (i % 101) as f32 / 50.0 - 1.0).collect())
        }
        InputKind::Index { cardinality } => {
            Input::Index((0..SCORED).map(|i| (i * 7919 % cardinality) as u32).collect())
        }
    };
    let inputs: Vec<Input> = graph.spec().inputs.iter().map(|i| input(&i.kind)).collect();
    let rounds = 200;
    let started = Instant::now();
    scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                // As a predictor plans.
                let config = InferenceConfig { rows: 256, threads: 1, mode: Mode::Auto };
                let mut plan = Inference::new(graph.clone(), config).unwrap();
                let values: Vec<Values> = inputs
                    .iter()
                    .map(|input| match input {
                        Input::Dense(values) => Values::Dense(values),
                        Input::Index(indices) => Values::Index(indices),
                    })
                    .collect();
                let mut outputs = vec![0.0; SCORED * graph.output_len()];
                for _ in 0..rounds {
                    plan.forward(model.weights(), model.buffers(), SCORED, &values, &mut outputs).unwrap();
                }
            });
        }
    });
    (WORKERS * rounds * SCORED) as f64 / started.elapsed().as_secs_f64()
}
