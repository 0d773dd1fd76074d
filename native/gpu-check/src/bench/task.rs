//! What is trained: the presets, wide layers and images.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use firesteel_engine::{Batch, Gpu, Loss, Mode, Optimizer, PlanConfig, Precision, Replica, Targets, Values};
use firesteel_error::{Error, Kind, Result};
use firesteel_model::{Graph, Input, InputKind, Network, Source};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::work::networks::Random;

/// Batches that take turns.
const BATCHES: usize = 8;

pub(super) const RATE: f32 = 0.001;
pub(super) const MOMENTUM: f32 = 0.9;

/// A network and its batches.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) name: &'static str,
    pub(super) graph: Arc<Graph>,
    pub(super) rows: usize,
    loss: Loss,
}

fn dense(shape: &[usize]) -> Input {
    Input { name: "x".into(), kind: InputKind::Dense { shape: shape.to_vec() } }
}

impl Task {
    fn new(
        name: &'static str,
        network: &str,
        (inputs, outputs): (Vec<Input>, usize),
        rows: usize,
    ) -> Result<Task> {
        let graph = Arc::new(Graph::new(&Network::from_json(network)?.build(inputs, outputs)?)?);
        let loss = match name.contains("autoencoder") {
            true => Loss::MeanSquaredError,
            false => Loss::SoftmaxCrossEntropy,
        };
        Ok(Task { name, graph, rows, loss })
    }
}

/// Twenty numbers and six columns of words, those of the engine's benchmark.
fn columns() -> Vec<Input> {
    let index = |(nth, cardinality): (usize, usize)| Input {
        name: format!("i{nth}"),
        kind: InputKind::Index { cardinality },
    };
    let words = [16, 105, 4_000, 130, 24, 7].into_iter().enumerate().map(index);
    std::iter::once(dense(&[20])).chain(words).collect()
}

const MLP: &str = r#"{"mlp":{"hidden":[512,256]}}"#;
const TABULAR: &str = r#"{"tabular":{"hidden":[128,64]}}"#;
const IMAGES: &str = r#"{"sequential":{"layers":[
    {"conv2d":{"outputs":64,"kernel":[3,3],"padding":[1,1]}},"relu",
    {"conv2d":{"outputs":64,"kernel":[3,3],"padding":[1,1]}},"relu",{"max_pool2d":{"kernel":[2,2]}},
    {"conv2d":{"outputs":128,"kernel":[3,3],"padding":[1,1]}},"relu",
    {"conv2d":{"outputs":128,"kernel":[3,3],"padding":[1,1]}},"relu",{"max_pool2d":{"kernel":[2,2]}},
    {"conv2d":{"outputs":256,"kernel":[3,3],"padding":[1,1]}},"relu",
    {"conv2d":{"outputs":256,"kernel":[3,3],"padding":[1,1]}},"relu",{"max_pool2d":{"kernel":[2,2]}},
    "flatten",{"linear":{"outputs":256}},"relu"]}}"#;

/// What is measured, or small ones that a slow device ends with too.
pub(super) fn tasks(small: bool) -> Result<Vec<Task>> {
    if small {
        return Ok(vec![
            Task::new("mlp 12-16-10", r#"{"mlp":{"hidden":[16]}}"#, (vec![dense(&[12])], 10), 8)?,
            Task::new("tabular", r#"{"tabular":{"hidden":[8]}}"#, (columns(), 10), 8)?,
        ]);
    }
    let wide = r#"{"mlp":{"hidden":[4096,4096]}}"#;
    let wide_and_deep = r#"{"wide_and_deep":{"hidden":[128,64]}}"#;
    let autoencoder = r#"{"autoencoder":{"hidden":[128,32,128]}}"#;
    Ok(vec![
        Task::new("mlp 784-512-256-10", MLP, (vec![dense(&[784])], 10), 256)?,
        Task::new("mlp 784-512-256-10", MLP, (vec![dense(&[784])], 10), 8192)?,
        Task::new("LeNet-5", r#""lenet5""#, (vec![dense(&[1, 28, 28])], 10), 256)?,
        Task::new("LeNet-5", r#""lenet5""#, (vec![dense(&[1, 28, 28])], 10), 4096)?,
        Task::new("tabular", TABULAR, (columns(), 10), 256)?,
        Task::new("tabular", TABULAR, (columns(), 10), 8192)?,
        Task::new("wide and deep", wide_and_deep, (columns(), 10), 8192)?,
        Task::new("autoencoder 784-128-32-128", autoencoder, (vec![dense(&[784])], 784), 4096)?,
        Task::new("mlp of 4096", wide, (vec![dense(&[4096])], 4096), 4096)?,
        Task::new("3x3 convolutions", IMAGES, (vec![dense(&[3, 32, 32])], 10), 256)?,
    ])
}

/// One whose step is nothing but launches.
pub(super) fn tiny() -> Result<Task> {
    Task::new("tiny", r#"{"mlp":{"hidden":[8]}}"#, (vec![dense(&[8])], 2), 8)
}

/// The values of an input, all batches one after the other.
enum Data {
    Dense(Vec<f32>),
    Index(Vec<u32>),
}

/// The place of a batch among so many values of all.
fn cut(batch: usize, len: usize) -> Range<usize> {
    batch * len / BATCHES..(batch + 1) * len / BATCHES
}

impl Data {
    fn batch(&self, nth: usize) -> Values<'_> {
        match self {
            Data::Dense(values) => Values::Dense(&values[cut(nth, values.len())]),
            Data::Index(values) => Values::Index(&values[cut(nth, values.len())]),
        }
    }
}

/// A task on a device.
pub(super) struct Trainer {
    replica: Replica,
    graph: Arc<Graph>,
    rows: usize,
    loss: Loss,
    inputs: Vec<Data>,
    classes: Vec<u32>,
    positions: Vec<u64>,
    start: Vec<f32>,
    /// Of the first batch, by the first weights.
    pub(super) first_loss: f64,
    step: u64,
}

impl Trainer {
    pub(super) fn new(gpu: &Gpu, task: &Task, precision: Precision) -> Result<Trainer> {
        let (graph, rows, loss) = (task.graph.clone(), task.rows, task.loss);
        let config = PlanConfig { rows, threads: 1, mode: Mode::Auto, loss, seed: 1, precision };
        let mut replica = Replica::on(gpu, graph.clone(), config)?;
        let start = replica.weights().to_vec();
        replica
            .train_with(Optimizer::Sgd { momentum: MOMENTUM, nesterov: false, weight_decay: 0.0 }, None)?;
        let mut random = Random::new(7);
        let mut values = |kind: &InputKind| match kind {
            InputKind::Dense { shape } => {
                let len = BATCHES * rows * shape.iter().product::<usize>();
                Data::Dense((0..len).map(|_| random.value()).collect())
            }
            InputKind::Index { cardinality } => {
                Data::Index((0..BATCHES * rows).map(|_| random.word() % *cardinality as u32).collect())
            }
        };
        let inputs = graph.spec().inputs.iter().map(|input| values(&input.kind)).collect();
        let outputs = graph.output_len() as u32;
        let classes = (0..BATCHES * rows).map(|_| random.word() % outputs).collect();
        let positions = (0..rows as u64).collect();
        let mut trainer = Trainer {
            replica,
            graph,
            rows,
            loss,
            inputs,
            classes,
            positions,
            start,
            first_loss: f64::NAN,
            step: 0,
        };
        let done = trainer.train(1)?;
        let (_, totals) = done.first().ok_or_else(|| Error::internal("a step did not end"))?;
        trainer.first_loss = totals.loss / totals.weight;
        Ok(trainer)
    }

    /// So many steps, to their end.
    fn train(&mut self, steps: u64) -> Result<Vec<(u64, firesteel_engine::Totals)>> {
        let mut done = Vec::new();
        for _ in 0..steps {
            let batch = self.step as usize % BATCHES;
            self.step += 1;
            let inputs: Vec<Values> = self.inputs.iter().map(|data| data.batch(batch)).collect();
            let targets = match (self.loss, &inputs[0]) {
                (Loss::MeanSquaredError, Values::Dense(values)) => Targets::Values(values),
                _ => Targets::Classes(&self.classes[cut(batch, self.classes.len())]),
            };
            let batch = Batch {
                rows: self.rows,
                inputs: &inputs,
                targets,
                weights: None,
                positions: &self.positions,
            };
            done.extend(self.replica.train(self.step, &batch, RATE, self.step)?);
        }
        done.extend(self.replica.settle()?);
        Ok(done)
    }

    /// How many steps take so many seconds, about.
    pub(super) fn steps_of(&mut self, seconds: f64) -> Result<u64> {
        // Launches are kept from here on.
        self.train(6)?;
        let pace = self.round(4)?;
        Ok(((seconds / pace) as u64).clamp(4, 20_000))
    }

    /// Seconds a step.
    pub(super) fn round(&mut self, steps: u64) -> Result<f64> {
        let begin = Instant::now();
        self.train(steps)?;
        Ok(begin.elapsed().as_secs_f64() / steps as f64)
    }

    /// The network, its first weights and the batches in a folder, as a peer reads them: JSON, and beside it words.
    pub(super) fn share(&self) -> Result<TempDir> {
        let io = |e| Error::new(Kind::Io, "cannot write what PyTorch reads").with_source(e);
        let folder = tempfile::tempdir().map_err(io)?;
        let mut words: Vec<u8> = Vec::new();
        let floats = |words: &mut Vec<u8>, values: &[f32]| {
            let at = words.len();
            words.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            at
        };
        let indices = |words: &mut Vec<u8>, values: &[u32]| {
            let at = words.len();
            words.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            at
        };
        let parameter = |words: &mut Vec<u8>, index: usize| {
            let parameter = &self.graph.parameters()[index];
            json!({"at": floats(words, &self.start[parameter.range.clone()]), "shape": parameter.shape})
        };
        let mut nodes = Vec::new();
        for node in self.graph.nodes() {
            let source = |source: &Source| match source {
                Source::Input(input) => json!([true, input]),
                Source::Node(node) => json!([false, node]),
            };
            let parameters: Vec<Value> = node.parameters.iter().map(|p| parameter(&mut words, *p)).collect();
            let sources: Vec<Value> = node.sources.iter().map(source).collect();
            nodes.push(json!({"op": node.op, "sources": sources, "parameters": parameters}));
        }
        let inputs: Vec<Value> = self
            .inputs
            .iter()
            .zip(&self.graph.spec().inputs)
            .map(|(data, input)| match (data, &input.kind) {
                (Data::Dense(values), InputKind::Dense { shape }) => {
                    json!({"at": floats(&mut words, values), "shape": shape})
                }
                (Data::Index(values), _) => json!({"at": indices(&mut words, values), "shape": null}),
                _ => Value::Null,
            })
            .collect();
        let classes = match self.loss {
            Loss::MeanSquaredError => Value::Null,
            _ => json!(indices(&mut words, &self.classes)),
        };
        let all = json!({
            "nodes": nodes, "inputs": inputs, "classes": classes, "rows": self.rows, "batches": BATCHES,
            "rate": RATE, "momentum": MOMENTUM,
        });
        std::fs::write(folder.path().join("words"), &words).map_err(io)?;
        std::fs::write(folder.path().join("json"), all.to_string()).map_err(io)?;
        Ok(folder)
    }
}
