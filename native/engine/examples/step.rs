//! Training steps a second of the networks that we compare: `step <lenet5|mlp|images|tabular> [threads] [seconds] [mode]`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use firesteel_engine::{Batch, Loss, Mode, Moments, Optimizer, PlanConfig, Replica, Targets, Values};
use firesteel_model::{Graph, Input, InputKind, Network};

const ROWS: usize = 256;

fn network(name: &str) -> (Network, Vec<Input>) {
    let dense =
        |shape: &[usize]| Input { name: "x".into(), kind: InputKind::Dense { shape: shape.to_vec() } };
    let index =
        |i: usize, cardinality| Input { name: format!("i{i}"), kind: InputKind::Index { cardinality } };
    match name {
        "lenet5" => (Network::Lenet5, vec![dense(&[1, 28, 28])]),
        "images" => {
            let json = r#"{"sequential":{"layers":[
                {"conv2d":{"outputs":32,"kernel":[3,3],"padding":[1,1]}},"relu",
                {"conv2d":{"outputs":32,"kernel":[3,3],"padding":[1,1]}},"relu",{"max_pool2d":{"kernel":[2,2]}},
                {"conv2d":{"outputs":64,"kernel":[3,3],"padding":[1,1]}},"relu",{"max_pool2d":{"kernel":[2,2]}},
                "flatten"]}}"#;
            (Network::from_json(json).unwrap(), vec![dense(&[3, 28, 28])])
        }
        "tabular" => {
            let mut inputs = vec![dense(&[20])];
            inputs.extend([16, 105, 4_000, 130, 24, 7].into_iter().enumerate().map(|(i, c)| index(i, c)));
            (Network::from_json(r#"{"tabular": {"hidden": [128, 64]}}"#).unwrap(), inputs)
        }
        _ => (Network::from_json(r#"{"mlp": {"hidden": [512, 256]}}"#).unwrap(), vec![dense(&[784])]),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |i: usize, default: &str| arguments.get(i).cloned().unwrap_or_else(|| default.into());
    let threads: usize = argument(2, "1").parse().unwrap();
    let seconds: f64 = argument(3, "3").parse().unwrap();
    let mode: Mode = serde_json::from_str(&format!("{:?}", argument(4, "auto"))).unwrap();
    let (network, inputs) = network(&argument(1, "lenet5"));
    let graph = Arc::new(Graph::new(&network.build(inputs, 10).unwrap()).unwrap());
    let config = PlanConfig { rows: ROWS, threads, mode, loss: Loss::SoftmaxCrossEntropy, seed: 1 };
    let mut replica = Replica::new(graph.clone(), config).unwrap();
    let dense: Vec<f32> = (0..ROWS * 3 * 784).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect();
    let indices: Vec<Vec<u32>> = graph
        .spec()
        .inputs
        .iter()
        .filter_map(|i| match i.kind {
            InputKind::Index { cardinality } => {
                Some((0..ROWS as u32).map(|r| r * 31 % cardinality as u32).collect())
            }
            InputKind::Dense { .. } => None,
        })
        .collect();
    let width = match &graph.spec().inputs[0].kind {
        InputKind::Dense { shape } => shape.iter().product(),
        InputKind::Index { .. } => 0,
    };
    let mut values = vec![Values::Dense(&dense[..ROWS * width])];
    values.extend(indices.iter().map(|i| Values::Index(i)));
    let classes: Vec<u32> = (0..ROWS as u32).map(|i| i * 7 % 10).collect();
    let positions: Vec<u64> = (0..ROWS as u64).collect();
    let targets = Targets::Classes(&classes);
    let batch = Batch { rows: ROWS, inputs: &values, targets, weights: None, positions: &positions };
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let mut moments = Moments::new(sgd, graph.dense_len());
    let mut rates = Vec::new();
    let rounds = if argument(1, "") == "images" { 1 } else { 20 };
    let started = Instant::now();
    let mut step = 0;
    let mut loss = 0.0;
    while started.elapsed().as_secs_f64() < seconds {
        let now = Instant::now();
        for _ in 0..rounds {
            step += 1;
            let totals = replica.step(step, &batch, &mut ()).unwrap();
            loss = totals.loss / totals.weight;
            let parts = replica.parts();
            let dense = 0..graph.dense_len();
            moments.update(
                0,
                0.01,
                step,
                1.0 / ROWS as f32,
                &mut parts.weights[dense.clone()],
                &parts.gradient[dense],
            );
        }
        rates.push(rounds as f64 * ROWS as f64 / now.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    println!(
        "{} threads {threads}: median {:.0} samples/s, best {:.0}; loss {loss:.5} after {step} steps",
        argument(1, "lenet5"),
        rates[rates.len() / 2],
        rates[rates.len() - 1]
    );
}
