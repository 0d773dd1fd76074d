//! The engine's side of `benchmarks/engine.py`: `rounds <file.safetensors> <threads> <mode>`.
//!
//! Each line on the standard input is a number of steps to train, or `reset` for the initial weights; each answer
//! is a line of JSON with the seconds taken and the loss of every step. `benchmarks/pytorch.py` answers alike.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::sync::Arc;
use std::time::Instant;

use firesteel_engine::{
    Batch, Loss, Mode, Moments, Optimizer, PlanConfig, Precision, Replica, Targets, Values,
};
use firesteel_model::{Graph, Spec};
use safetensors::SafeTensors;

/// What is trained, with what.
struct Work {
    replica: Replica,
    moments: Moments,
    start: Vec<f32>,
    learning_rate: f32,
    rows: usize,
    /// `(rows of all batches, features)`
    values: Vec<f32>,
    classes: Vec<u32>,
    positions: Vec<u64>,
    steps: u64,
}

impl Work {
    fn read(path: &str, threads: usize, mode: Mode) -> Result<Work, Box<dyn Error>> {
        let bytes = std::fs::read(path)?;
        let metadata = SafeTensors::read_metadata(&bytes)?.1.metadata().clone().ok_or("no metadata")?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let graph = Arc::new(Graph::new(&Spec::from_json(&metadata["spec"])?)?);
        let optimizer: Optimizer = serde_json::from_str(&metadata["optimizer"])?;
        let rows = metadata["rows"].parse()?;
        let config = PlanConfig {
            rows,
            threads,
            mode,
            loss: Loss::SoftmaxCrossEntropy,
            precision: Precision::F32,
            seed: 0,
        };
        let mut start = vec![0.0; graph.len()];
        for parameter in graph.parameters() {
            let values = floats(tensors.tensor(&parameter.name)?.data());
            start[parameter.range.clone()].copy_from_slice(&values);
        }
        Ok(Work {
            replica: Replica::new(graph.clone(), config)?,
            moments: Moments::new(optimizer, graph.dense_len())?,
            start,
            learning_rate: metadata["learning_rate"].parse()?,
            rows,
            values: floats(tensors.tensor("x")?.data()),
            classes: tensors
                .tensor("target")?
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| u32::from_le_bytes(*b))
                .collect(),
            positions: (0..rows as u64).collect(),
            steps: 0,
        })
    }

    fn reset(&mut self) {
        self.replica.weights_mut().copy_from_slice(&self.start);
        self.moments.slots_mut().iter_mut().for_each(|slot| slot.fill(0.0));
        self.steps = 0;
    }

    /// One step on the next batch; its mean loss.
    fn step(&mut self) -> Result<f64, firesteel_error::Error> {
        let rows = self.rows;
        let width = self.values.len() / self.classes.len();
        let first = self.steps as usize * rows % self.classes.len();
        self.steps += 1;
        let inputs = [Values::Dense(&self.values[first * width..(first + rows) * width])];
        let targets = Targets::Classes(&self.classes[first..first + rows]);
        let batch = Batch { rows, inputs: &inputs, targets, weights: None, positions: &self.positions };
        let totals = self.replica.step(self.steps, &batch, &mut ())?;
        let parts = self.replica.parts();
        let scale = (1.0 / totals.weight) as f32;
        self.moments.update(0, self.learning_rate, self.steps, scale, parts.weights, parts.gradient);
        Ok(totals.loss / totals.weight)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, threads, mode] = arguments.as_slice() else {
        return Err("usage: rounds <file.safetensors> <threads> <auto|tiled|wide>".into());
    };
    let mode: Mode = serde_json::from_str(&format!("{mode:?}"))?;
    let mut work = Work::read(path, threads.parse()?, mode)?;
    work.reset();
    for line in stdin().lock().lines() {
        let line = line?;
        if line == "reset" {
            work.reset();
            continue;
        }
        let mut losses = Vec::with_capacity(line.parse()?);
        let now = Instant::now();
        while losses.len() < losses.capacity() {
            losses.push(work.step()?);
        }
        let seconds = now.elapsed().as_secs_f64();
        println!("{}", serde_json::json!({ "seconds": seconds, "losses": losses }));
        stdout().flush()?;
    }
    Ok(())
}
