//! The workers of `benchmarks/papers/quasi_global.py`: `gossip <folder of MNIST>`.
//!
//! Each line on the standard input is an [`Experiment`] as JSON; each answer is a line of JSON with the accuracy of every worker's
//! own weights and that of their mean. Workers are threads that a strategy lets mix. They draw batches of one size from rows of
//! their own, and, other than in [`firesteel_train::Trainer`], do not meet at the ends of epochs unless they are told to.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use firesteel_comm::strategy::{self, Computed, Layout, MEETING, Spec, Strategy, Tensor, Update};
use firesteel_comm::{Fabric, Options, local_world};
use firesteel_engine::{
    Batch, Loss, Mode, Moments, Optimizer, PlanConfig, Precision, Replica, Targets, Values,
};
use firesteel_model::{Graph, Input, InputKind, Network};
use serde::Deserialize;
use serde_json::json;

const SIDE: usize = 28;
const CLASSES: usize = 10;
/// Of all pixels of the training images, from 0 to 1.
const MEAN: f32 = 0.1307;
const DEVIATION: f32 = 0.3081;
const WEIGHT_DECAY: f32 = 1e-4;
/// Rows that are judged at a time.
const PIECE: usize = 500;

/// What is trained.
#[derive(Deserialize)]
struct Experiment {
    strategy: String,
    network: Network,
    /// By worker, the training images that it has.
    shards: Vec<Vec<u32>>,
    /// The training images that accuracy is measured on; the test images where there are none.
    held: Vec<u32>,
    /// At its highest: see [`Experiment::rate_of`].
    rate: f32,
    /// Of each worker's own optimizer, by Nesterov.
    momentum: f32,
    /// Rows that a worker computes a step with.
    batch: usize,
    steps: u64,
    /// Steps between meetings, in which all take the mean of weights and momenta; 0 for none.
    meet: u64,
    seed: u64,
}

impl Experiment {
    /// Rises over the first twentieth, and is divided by 10 after a half and after three quarters, as in the paper.
    fn rate_of(&self, step: u64) -> f32 {
        let share = (step + 1) as f32 / self.steps as f32;
        let factor = match share {
            ..=0.05 => share / 0.05,
            ..=0.5 => 1.0,
            ..=0.75 => 0.1,
            _ => 0.01,
        };
        self.rate * factor
    }

    fn plan(&self) -> PlanConfig {
        PlanConfig {
            rows: self.batch.max(PIECE),
            threads: 1,
            mode: Mode::Auto,
            loss: Loss::SoftmaxCrossEntropy,
            precision: Precision::F32,
            seed: self.seed,
        }
    }
}

/// Images and what is on them.
struct Images {
    /// (rows, side, side).
    pixels: Vec<f32>,
    labels: Vec<u32>,
}

impl Images {
    /// Reads the two files of MNIST that begin with `name`.
    fn read(folder: &Path, name: &str) -> Images {
        let file = |kind: &str| std::fs::read(folder.join(format!("{name}-{kind}-ubyte"))).unwrap();
        let scaled = |pixel: &u8| (f32::from(*pixel) / 255.0 - MEAN) / DEVIATION;
        Images {
            pixels: file("images-idx3")[16..].iter().map(scaled).collect(),
            labels: file("labels-idx1")[8..].iter().map(|label| u32::from(*label)).collect(),
        }
    }

    /// Some rows, one behind the other.
    fn rows(&self, rows: &[u32]) -> (Vec<f32>, Vec<u32>) {
        let image = |row: &u32| &self.pixels[*row as usize * SIDE * SIDE..][..SIDE * SIDE];
        let labels = rows.iter().map(|row| self.labels[*row as usize]).collect();
        (rows.iter().flat_map(image).copied().collect(), labels)
    }
}

/// One worker.
struct Worker<'a> {
    experiment: &'a Experiment,
    images: &'a Images,
    rank: usize,
    replica: Replica,
    strategy: Box<dyn Strategy>,
    moments: Moments,
    /// Rows of the current pass over the shard that are still to come.
    left: Vec<u32>,
    passes: u64,
}

/// The optimizer in a step.
struct Descent<'a> {
    moments: &'a mut Moments,
    rate: f32,
    t: u64,
}

impl Update for Descent<'_> {
    fn update(&mut self, at: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]) {
        self.moments.update(at, self.rate, self.t, scale, weights, gradient_sum);
    }

    fn rate(&self) -> f32 {
        self.rate
    }
}

impl<'a> Worker<'a> {
    fn new(
        experiment: &'a Experiment,
        images: &'a Images,
        graph: &Arc<Graph>,
        fabric: Arc<dyn Fabric>,
    ) -> Worker<'a> {
        let spec: Spec = experiment.strategy.parse().unwrap();
        let optimizer =
            Optimizer::Sgd { momentum: experiment.momentum, nesterov: true, weight_decay: WEIGHT_DECAY };
        Worker {
            rank: fabric.rank(),
            replica: Replica::new(graph.clone(), experiment.plan()).unwrap(),
            strategy: spec.build(fabric, &layout(graph), experiment.seed).unwrap(),
            moments: Moments::new(optimizer, graph.len()).unwrap(),
            left: Vec::new(),
            passes: 0,
            experiment,
            images,
        }
    }

    /// All steps; the weights behind them.
    fn train(mut self) -> Vec<f32> {
        // Meetings use numbers of their own.
        let mut number = 0;
        for step in 0..self.experiment.steps {
            self.step(step, number);
            number += 1;
            if self.experiment.meet > 0 && (step + 1).is_multiple_of(self.experiment.meet) {
                let weights = self.replica.parts().weights;
                let slots = self.moments.slots_mut().iter_mut().map(Vec::as_mut_slice);
                let mut vectors: Vec<&mut [f32]> = std::iter::once(weights).chain(slots).collect();
                self.strategy.meet(number, &mut vectors).unwrap();
                number += MEETING;
            }
        }
        self.replica.weights().to_vec()
    }

    fn step(&mut self, step: u64, number: u64) {
        let rows = self.draw();
        let (pixels, labels) = self.images.rows(&rows);
        let positions: Vec<u64> = (0..rows.len() as u64).collect();
        let inputs = [Values::Dense(&pixels)];
        let targets = Targets::Classes(&labels);
        let batch =
            Batch { rows: rows.len(), inputs: &inputs, targets, weights: None, positions: &positions };
        let totals = self.replica.step(step, &batch, &mut ()).unwrap();
        self.strategy.begin(number, strategy::Totals { loss: totals.loss, weight: totals.weight }).unwrap();
        let rate = self.experiment.rate_of(step);
        let mut update = Descent { moments: &mut self.moments, rate, t: step + 1 };
        let parts = self.replica.parts();
        let computed = Computed { weights: parts.weights, gradient: parts.gradient, touched: parts.touched };
        self.strategy.finish(computed, &mut update).unwrap();
    }

    /// The next rows of this worker's, each once a pass.
    fn draw(&mut self) -> Vec<u32> {
        let shard = &self.experiment.shards[self.rank];
        if self.left.len() < self.experiment.batch {
            self.left.clone_from(shard);
            let (seed, pass) = (self.experiment.seed, self.passes);
            self.left.sort_by_key(|row| mixed(mixed(seed << 32 | pass) ^ u64::from(*row)));
            self.passes += 1;
        }
        self.left.split_off(self.left.len().saturating_sub(self.experiment.batch))
    }
}

/// A number that looks drawn, a function of another.
fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A network's flat vector, as one bucket.
fn layout(graph: &Graph) -> Layout {
    let tensor = |range: &std::ops::Range<usize>, shape: &[usize]| Tensor {
        range: range.clone(),
        shape: shape.to_vec(),
    };
    let mut tensors: Vec<Tensor> = graph.parameters().iter().map(|p| tensor(&p.range, &p.shape)).collect();
    tensors.sort_by_key(|tensor| tensor.range.start);
    Layout {
        len: graph.len(),
        dense_len: graph.dense_len(),
        tensors,
        tables: Vec::new(),
        bucket_len: graph.len(),
    }
}

/// The share of rows that some weights are right about.
fn accuracy(replica: &mut Replica, weights: &[f32], images: &Images, rows: &[u32]) -> f64 {
    replica.weights_mut().copy_from_slice(weights);
    let mut right = 0;
    for rows in rows.chunks(PIECE) {
        let (pixels, labels) = images.rows(rows);
        let mut scores = vec![0.0; rows.len() * CLASSES];
        replica.forward(rows.len(), &[Values::Dense(&pixels)], &mut scores).unwrap();
        let largest = |scores: &[f32]| (0..CLASSES).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let guesses = scores.chunks_exact(CLASSES).map(largest);
        right += guesses.zip(&labels).filter(|(guess, label)| *guess == Some(**label as usize)).count();
    }
    right as f64 / rows.len() as f64
}

/// The mean of all workers' weights.
fn mean(all: &[Vec<f32>]) -> Vec<f32> {
    let sum = |nth: usize| all.iter().map(|weights| f64::from(weights[nth])).sum::<f64>();
    (0..all[0].len()).map(|nth| (sum(nth) / all.len() as f64) as f32).collect()
}

/// Trains all workers, and judges them.
fn run(experiment: &Experiment, training: &Images, test: &Images) -> serde_json::Value {
    let input = Input { name: "image".into(), kind: InputKind::Dense { shape: vec![1, SIDE, SIDE] } };
    let spec = experiment.network.build(vec![input], CLASSES).unwrap();
    let graph = Arc::new(Graph::new(&spec).unwrap());
    let fabrics = local_world(experiment.shards.len(), &Options::default()).unwrap();
    let every_test_row: Vec<u32> = (0..test.labels.len() as u32).collect();
    let (images, rows) = match experiment.held.is_empty() {
        true => (test, &every_test_row),
        false => (training, &experiment.held),
    };
    let worker = |fabric| {
        let weights = Worker::new(experiment, training, &graph, Arc::new(fabric)).train();
        let mut replica = Replica::new(graph.clone(), experiment.plan()).unwrap();
        (accuracy(&mut replica, &weights, images, rows), weights)
    };
    let done: Vec<(f64, Vec<f32>)> = thread::scope(|scope| {
        let worker = &worker;
        let threads: Vec<_> = fabrics.into_iter().map(|fabric| scope.spawn(move || worker(fabric))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (each, weights): (Vec<f64>, Vec<Vec<f32>>) = done.into_iter().unzip();
    let mut replica = Replica::new(graph.clone(), experiment.plan()).unwrap();
    let of_mean = accuracy(&mut replica, &mean(&weights), images, rows);
    json!({"each": each, "of_mean": of_mean})
}

fn main() {
    let folder = std::env::args().nth(1).expect("usage: gossip <folder of MNIST>");
    let (training, test) = (Images::read(folder.as_ref(), "train"), Images::read(folder.as_ref(), "t10k"));
    for line in stdin().lock().lines() {
        let experiment: Experiment = serde_json::from_str(&line.unwrap()).unwrap();
        println!("{}", run(&experiment, &training, &test));
        stdout().flush().unwrap();
    }
}
