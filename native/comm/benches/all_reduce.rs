//! The time of an all-reduce between two workers: `cargo bench -p firesteel-comm`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use firesteel_comm::collective::all_reduce_sum;
use firesteel_comm::{Key, Listener, Membership, Mesh, Options, Peer, join, local_world};

/// Two workers that meet over loopback.
fn tcp() -> Vec<Mesh> {
    let listeners: Vec<Listener> = (0..2).map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
    let peer = |(rank, listener): (usize, &Listener)| Peer {
        process: format!("process {rank}"),
        address: listener.local_addr().unwrap().to_string(),
    };
    let peers = listeners.iter().enumerate().map(peer).collect();
    let membership = Membership { job: "bench".into(), secret: b"secret".to_vec(), peers };
    std::thread::scope(|scope| {
        let join = |(rank, listener)| {
            let membership = &membership;
            scope.spawn(move || join(membership, rank, Some(listener), &Options::default()).unwrap())
        };
        let workers: Vec<_> = listeners.into_iter().enumerate().map(join).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    })
}

/// The time until the slower of two workers has done this many all-reduces.
fn run(meshes: &[Mesh], first: u64, times: u64, len: usize) -> Duration {
    let work = |mesh: &Mesh| {
        let mut values = vec![1.0_f32; len];
        let start = Instant::now();
        for step in first..first + times {
            values.fill(1.0);
            all_reduce_sum(mesh, Key::new(step, 0, 0), &mut values).unwrap();
            black_box(&values);
        }
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = meshes.iter().map(|mesh| scope.spawn(move || work(mesh))).collect();
        workers.into_iter().map(|w| w.join().unwrap()).max().unwrap()
    })
}

fn all_reduce(c: &mut Criterion) {
    let mut group = c.benchmark_group("all_reduce of two workers");
    group.sample_size(10);
    for (name, meshes) in [("local", local_world(2, &Options::default()).unwrap()), ("tcp", tcp())] {
        let mut step = 0;
        for len in [100_000_usize, 1_000_000, 10_000_000] {
            group.throughput(Throughput::Bytes(4 * len as u64));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter_custom(|times| {
                    step += times;
                    run(&meshes, step - times, times, len)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, all_reduce);
criterion_main!(benches);
