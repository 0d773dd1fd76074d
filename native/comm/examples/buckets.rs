//! What buckets gain: the gradients of two networks, all-reduced over simulated networks while backward goes on.
//! `cargo run --release -p firesteel-comm --example buckets [WORKERS]`.
//!
//! Vectors are a 32nd as long as the networks', and links as fast, so that times are those of the whole. Computing takes what it is
//! told, two thirds of it backward, each tensor's share half by its number and half by its length.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use firesteel_comm::collective::{Algorithm, Link};
use firesteel_comm::plan::{Cost, Part, Policy, Profile, forward_ends, plan, send};
use firesteel_comm::strategy::{Computed, Layout, Spec, Tensor, Totals, Update};
use firesteel_comm::{Fabric, Network, Options, Simulated, simulated_world};

const SHORTER: usize = 32;
/// Steps until buckets are merged, and those that count.
const STEPS: [u64; 2] = [6, 3];

struct Still;

impl Update for Still {
    fn update(&mut self, _: usize, _: f32, _: &mut [f32], _: &[f32]) {}

    fn rate(&self) -> f32 {
        0.0
    }
}

/// Values of the tensors of ResNet-50, in the order of forward: convolutions without a bias, each with a normalization.
fn resnet() -> Vec<usize> {
    let conv =
        |inputs: usize, outputs: usize, size: usize| [inputs * outputs * size * size, outputs, outputs];
    let mut all = conv(3, 64, 7).to_vec();
    let mut inputs = 64;
    for (blocks, width) in [(3, 64), (4, 128), (6, 256), (3, 512)] {
        for block in 0..blocks {
            all.extend([conv(inputs, width, 1), conv(width, width, 3), conv(width, 4 * width, 1)].concat());
            all.extend((block == 0).then(|| conv(inputs, 4 * width, 1)).into_iter().flatten());
            inputs = 4 * width;
        }
    }
    all.extend([2_048 * 1_000, 1_000]);
    all
}

/// Those of BERT-Base without its embeddings.
fn bert() -> Vec<usize> {
    let linear = |inputs: usize, outputs: usize| [inputs * outputs, outputs];
    let layer = || {
        let attention = [linear(768, 768); 4].concat();
        let rest = [linear(768, 3_072), linear(3_072, 768)].concat();
        [attention, vec![768, 768], rest, vec![768, 768]].concat()
    };
    (0..12).flat_map(|_| layer()).collect()
}

/// Parts in the order of backward, as long as they are trained here.
fn parts(tensors: &[usize], seconds: f64) -> Vec<Part> {
    let (all, count) = (tensors.iter().sum::<usize>() as f64, tensors.len() as f64);
    let mut end = 0;
    let part = |len: &usize| {
        let start = end;
        end += len.div_ceil(SHORTER);
        let share = 0.5 / count + 0.5 * *len as f64 / all;
        Part { range: start..end, backward: seconds * 2.0 / 3.0 * share }
    };
    tensors.iter().rev().map(part).collect()
}

/// Seconds of a step.
fn step(text: &str, workers: usize, network: &Network, parts: &[Part], bucket_len: usize) -> f64 {
    let dense_len = parts[parts.len() - 1].range.end;
    let tensor = |part: &Part| Tensor { range: part.range.clone(), shape: vec![part.range.len()] };
    let tensors = parts.iter().map(tensor).collect();
    let layout = Layout { len: dense_len, dense_len, tensors, tables: Vec::new(), bucket_len };
    let forward = parts.iter().map(|part| part.backward / 2.0).sum::<f64>();
    let train = |fabric: Simulated| {
        let fabric = Arc::new(fabric);
        let mut strategy = text.parse::<Spec>().unwrap().build(fabric.clone(), &layout, 1).unwrap();
        let (mut weights, gradient) = (vec![0.0; dense_len], vec![1.0; dense_len]);
        let mut times = Vec::new();
        for step in 0..STEPS[0] + STEPS[1] {
            times.push(fabric.now());
            fabric.compute(forward);
            strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            for Part { range, backward } in parts {
                fabric.compute(*backward);
                strategy.ready(range.clone(), &gradient[range.clone()]).unwrap();
            }
            let computed = Computed { weights: &mut weights, gradient: &gradient, touched: &[] };
            strategy.finish(computed, &mut Still).unwrap();
        }
        (fabric.time().unwrap() - times[STEPS[0] as usize]) / STEPS[1] as f64
    };
    let fabrics = simulated_world(workers, network, &Options::default()).unwrap();
    std::thread::scope(|scope| {
        let train = &train;
        let threads: Vec<_> = fabrics.into_iter().map(|fabric| scope.spawn(move || train(fabric))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(0.0, f64::max)
    })
}

/// By the model alone, steps whose next forward waits for all, and for what each layer needs.
fn predicted(workers: usize, link: Link, parts: &[Part]) -> [f64; 2] {
    let seconds = |len| Algorithm::TwoPhase.seconds(len, workers, link);
    let each = 2.0 * (workers - 1) as f64 * link.per_message;
    let cost = Cost { each, per_byte: (seconds(1 << 20) - seconds(0)) / f64::from(4 << 20) };
    let profile = Profile { parts: parts.to_vec(), cost };
    let forward = parts.iter().map(|part| part.backward / 2.0).sum::<f64>();
    let merged = profile.ends(&plan(&profile, Policy::Merged)).last().unwrap() + forward;
    // Of ByteScheduler's source: 4 MB, and as many more on their way.
    let pieces = plan(&profile, Policy::Priority(1_000_000 / SHORTER));
    let sent = send(&profile, &pieces, 8_000_000 / SHORTER);
    [merged, forward_ends(&profile, &pieces, &sent)]
}

fn main() {
    let workers: usize = std::env::args().nth(1).map_or(8, |workers| workers.parse().unwrap());
    println!("{workers} workers; ms a step: fixed, tensors, merged; by the model: merged, priority");
    for (name, tensors, seconds) in [("ResNet-50", resnet(), 0.12), ("BERT-Base", bert(), 0.15)] {
        let parts = parts(&tensors, seconds);
        for of in ["25gbit, 0.03ms", "10gbit, 0.1ms", "1gbit, 0.3ms", "10gbit, 0.1ms, message 100us"] {
            let mut network: Network = of.parse().unwrap();
            network.bandwidth /= SHORTER as f64;
            let bucket_len = (1 << 18) / SHORTER;
            let of_buckets = ["fixed", "tensors", "merged"].map(|buckets| {
                step(&format!("all_reduce(buckets={buckets})"), workers, &network, &parts, bucket_len)
            });
            let model = predicted(workers, network.link(0, 1), &parts);
            let ms = |all: &[f64]| all.iter().map(|s| format!("{:8.1}", 1e3 * s)).collect::<String>();
            println!("{name:10} {of:30} {} |{}", ms(&of_buckets), ms(&model));
        }
    }
}
