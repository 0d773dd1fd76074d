//! Training steps of the networks that we compare: `cargo bench -p firesteel-engine`, or with a part of a name, as
//! `cargo bench -p firesteel-engine -- lenet5/tiled`. Elements are samples.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use firesteel_engine::{
    Batch, Loss, Mode, Moments, Optimizer, PlanConfig, Precision, Replica, Targets, Values,
};
use firesteel_model::{Graph, Input, InputKind, Network};

const ROWS: usize = 256;

/// A network and batches for it. Several: what a processor learns of one batch does not help it in training.
struct Work {
    graph: Arc<Graph>,
    /// A list a batch.
    inputs: Vec<Vec<Data>>,
    classes: Vec<u32>,
    positions: Vec<u64>,
}

enum Data {
    Dense(Vec<f32>),
    Index(Vec<u32>),
}

const BATCHES: usize = 32;

fn word(at: usize) -> u32 {
    ((at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

impl Data {
    fn new(kind: &InputKind, batch: usize) -> Data {
        match kind {
            InputKind::Dense { shape } => {
                let len = ROWS * shape.iter().product::<usize>();
                Data::Dense((0..len).map(|i| word(batch * len + i) as f32 / u32::MAX as f32 - 0.5).collect())
            }
            InputKind::Index { cardinality } => {
                Data::Index((0..ROWS).map(|i| word(batch * ROWS + i) % *cardinality as u32).collect())
            }
        }
    }

    fn view(&self) -> Values<'_> {
        match self {
            Data::Dense(values) => Values::Dense(values),
            Data::Index(indices) => Values::Index(indices),
        }
    }
}

impl Work {
    fn new(network: &str, inputs: Vec<Input>) -> Work {
        let network = Network::from_json(network).unwrap();
        let graph = Arc::new(Graph::new(&network.build(inputs, 10).unwrap()).unwrap());
        let batch = |b| graph.spec().inputs.iter().map(|i| Data::new(&i.kind, b)).collect();
        Work {
            inputs: (0..BATCHES).map(batch).collect(),
            classes: (0..ROWS).map(|i| word(i) % 10).collect(),
            positions: (0..ROWS as u64).collect(),
            graph,
        }
    }

    fn run(&self, c: &mut Criterion, name: &str, mode: Mode, threads: usize) {
        let config = PlanConfig {
            rows: ROWS,
            threads,
            mode,
            loss: Loss::SoftmaxCrossEntropy,
            precision: Precision::F32,
            seed: 1,
        };
        let mut replica = Replica::new(self.graph.clone(), config).unwrap();
        let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let mut moments = Moments::new(sgd, self.graph.dense_len()).unwrap();
        let mut step = 0;
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(ROWS as u64)).sample_size(20);
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
        let mode = serde_json::to_value(mode).unwrap();
        group.bench_function(format!("{}/{threads}", mode.as_str().unwrap()), |b| {
            b.iter(|| {
                step += 1;
                let inputs: Vec<Values> =
                    self.inputs[step as usize % BATCHES].iter().map(Data::view).collect();
                let targets = Targets::Classes(&self.classes);
                let batch =
                    Batch { rows: ROWS, inputs: &inputs, targets, weights: None, positions: &self.positions };
                replica.step(step, &batch, &mut ()).unwrap();
                let (parts, dense) = (replica.parts(), self.graph.dense_len());
                let scale = 1.0 / ROWS as f32;
                moments.update(0, 0.01, step, scale, &mut parts.weights[..dense], &parts.gradient[..dense]);
            });
        });
    }
}

fn dense(shape: &[usize]) -> Input {
    Input { name: "x".into(), kind: InputKind::Dense { shape: shape.to_vec() } }
}

fn index((i, cardinality): (usize, usize)) -> Input {
    Input { name: format!("i{i}"), kind: InputKind::Index { cardinality } }
}

fn step(c: &mut Criterion) {
    let images = r#"{"sequential":{"layers":[
        {"conv2d":{"outputs":32,"kernel":[3,3],"padding":[1,1]}},"relu",
        {"conv2d":{"outputs":32,"kernel":[3,3],"padding":[1,1]}},"relu",{"max_pool2d":{"kernel":[2,2]}},
        {"conv2d":{"outputs":64,"kernel":[3,3],"padding":[1,1]}},"relu",{"max_pool2d":{"kernel":[2,2]}},
        "flatten"]}}"#;
    let mut table = vec![dense(&[20])];
    table.extend([16, 105, 4_000, 130, 24, 7].into_iter().enumerate().map(index));
    for (name, network, inputs) in [
        ("lenet5", r#""lenet5""#, vec![dense(&[1, 28, 28])]),
        ("mlp", r#"{"mlp": {"hidden": [512, 256]}}"#, vec![dense(&[784])]),
        ("tabular", r#"{"tabular": {"hidden": [128, 64]}}"#, table),
        ("images", images, vec![dense(&[3, 28, 28])]),
    ] {
        let work = Work::new(network, inputs);
        for (mode, threads) in [(Mode::Auto, 1), (Mode::Tiled, 2), (Mode::Wide, 2)] {
            work.run(c, name, mode, threads);
        }
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
