//! What compressors take of a million values: `cargo bench -p firesteel-comm --bench compress`. Bytes are those of f32.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use firesteel_comm::Key;
use firesteel_comm::compress::{
    Bf16, Compressor, CountSketch, Fp16, MinMaxU8, Natural, OneBit, Place, Qsgd, Sign, SignVote, TernGrad,
};

const LEN: usize = 1_000_000;

fn compressors() -> Vec<(&'static str, Box<dyn Compressor>)> {
    vec![
        ("fp16", Box::new(Fp16)),
        ("bf16", Box::new(Bf16)),
        ("min_max_u8", Box::new(MinMaxU8)),
        ("natural", Box::new(Natural)),
        ("qsgd of 127 levels", Box::new(Qsgd::new(127, Qsgd::BUCKET).unwrap())),
        ("qsgd of 7 levels", Box::new(Qsgd::new(7, Qsgd::BUCKET).unwrap())),
        ("tern_grad", Box::new(TernGrad::new(None).unwrap())),
        ("tern_grad, clipped", Box::new(TernGrad::new(Some(TernGrad::CLIP)).unwrap())),
        ("sign", Box::new(Sign)),
        ("sign_vote", Box::new(SignVote)),
        ("one_bit", Box::new(OneBit)),
    ]
}

fn compress(c: &mut Criterion) {
    let at = Place { seed: 1, key: Key::new(1, 0, 0), rank: 0, part: 0 };
    let draw = at.shared();
    // Of both signs, without an order that branches could be foreseen by.
    let values: Vec<f32> = (0..LEN as u64).map(|i| draw.uniform(i) + draw.uniform(i + 7) - 1.0).collect();
    let mut out = vec![0.0; LEN];
    let mut group = c.benchmark_group("compress");
    group.sample_size(20).throughput(Throughput::Bytes(4 * LEN as u64));
    for (name, compressor) in compressors() {
        let payload = compressor.encode(&values, &at).unwrap();
        group.bench_function(format!("{name}/encode"), |b| {
            b.iter(|| compressor.encode(black_box(&values), &at).unwrap());
        });
        group.bench_function(format!("{name}/decode"), |b| {
            b.iter(|| compressor.decode(black_box(&payload), &at, black_box(&mut out)).unwrap());
        });
    }
    group.finish();
}

/// A million values at consecutive indices, in a quarter as many cells.
fn count_sketch(c: &mut Criterion) {
    let draw = Place { seed: 1, key: Key::new(1, 0, 0), rank: 0, part: 0 }.shared();
    let values: Vec<f32> = (0..LEN as u64).map(|i| draw.uniform(i) - 0.5).collect();
    let mut out = vec![0.0; LEN];
    let mut group = c.benchmark_group("count_sketch");
    group.sample_size(20).throughput(Throughput::Bytes(4 * LEN as u64));
    for rows in [1, 3, 5] {
        let mut sketch = CountSketch::new(rows, LEN / 4 / rows, &draw).unwrap();
        group.bench_function(format!("{rows} rows/encode"), |b| {
            b.iter(|| sketch.add_run(0, black_box(&values)).unwrap());
        });
        group.bench_function(format!("{rows} rows/decode"), |b| {
            b.iter(|| sketch.estimate_run(0, black_box(&mut out)));
        });
    }
    group.finish();
}

criterion_group!(benches, compress, count_sketch);
criterion_main!(benches);
