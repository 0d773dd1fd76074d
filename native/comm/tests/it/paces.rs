//! Workers with weights of their own, that go at a pace of their own: downpour and timed_average.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use firesteel_comm::strategy::{Computed, Layout, Strategy, Tensor, Totals, Update};
use firesteel_comm::{Fabric, Mesh, Options};
use firesteel_error::Kind as ErrorKind;

use crate::world::{KINDS, Kind, meshes, options, run};

const LEN: usize = 50;
const RATE: f32 = 0.125;

struct Sgd;

impl Update for Sgd {
    fn update(&mut self, _: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]) {
        weights.iter_mut().zip(gradient_sum).for_each(|(weight, g)| *weight -= RATE * scale * g);
    }

    fn rate(&self) -> f32 {
        RATE
    }
}

fn build(text: &str, mesh: Mesh) -> Box<dyn Strategy> {
    build_on(text, Arc::new(mesh))
}

fn build_on(text: &str, mesh: Arc<Mesh>) -> Box<dyn Strategy> {
    let tensor = |range: Range<usize>| Tensor { shape: vec![range.len()], range };
    let tensors = vec![tensor(0..LEN)];
    let layout = Layout { len: LEN, dense_len: LEN, tensors, tables: vec![], bucket_len: 16 };
    let spec: firesteel_comm::strategy::Spec = text.parse().unwrap();
    spec.build(mesh, &layout, 5).unwrap()
}

/// A step by a gradient that is the same everywhere but for its size.
fn step(strategy: &mut dyn Strategy, step: u64, size: f32, weights: &mut [f32]) {
    strategy.begin(step, Totals { loss: 1.0, weight: 2.0 }).unwrap();
    let gradient = [2.0 * size; LEN];
    strategy.finish(Computed { weights, gradient: &gradient, touched: &[] }, &mut Sgd).unwrap();
}

/// However they travel, each gradient counts once, and all end with the same: no push is lost and none comes twice.
#[test]
fn every_gradient_counts_once() {
    const STEPS: u64 = 23;
    for kind in KINDS {
        for (push, fetch) in [(1, 1), (5, 5), (3, 7), (7, 2), (100, 100)] {
            let text = format!("downpour(push={push}, fetch={fetch})");
            let ends = run(meshes(kind, 3, &options()), |mesh| {
                let rank = mesh.rank();
                let mut strategy = build(&text, mesh);
                let mut weights = vec![1.0; LEN];
                for epoch in 0..2 {
                    for nth in 0..STEPS {
                        step(strategy.as_mut(), epoch * STEPS + nth, (1 << rank) as f32, &mut weights);
                        if rank == 1 {
                            thread::sleep(Duration::from_micros(200));
                        }
                    }
                    strategy.settle(&mut weights, &mut Sgd).unwrap();
                    strategy.meet((epoch + 1) * STEPS, &mut [&mut weights]).unwrap();
                }
                weights
            });
            let expected = 1.0 - RATE * 2.0 * STEPS as f32 * (1.0 + 2.0 + 4.0) / 3.0;
            for weights in &ends {
                assert!(*weights == ends[0], "{kind:?} {text}");
                assert!(
                    (weights[0] - expected).abs() < 1e-3,
                    "{kind:?} {text}: {} of {expected}",
                    weights[0]
                );
            }
        }
    }
}

#[test]
fn until_it_fetches_a_worker_goes_its_own_way() {
    run(meshes(Kind::Local, 2, &options()), |mesh| {
        // No sum of what the owners may have by then is what a worker has by itself.
        let size = [1.0, 8.0][mesh.rank()];
        let mut strategy = build("downpour(push=2, fetch=4)", mesh);
        let mut weights = vec![0.0; LEN];
        for nth in 0..3 {
            step(strategy.as_mut(), nth, size, &mut weights);
            assert_eq!(weights, [-RATE * size * (nth + 1) as f32; LEN]);
        }
        step(strategy.as_mut(), 3, size, &mut weights);
        assert!(weights[0] != -RATE * size * 4.0, "the owners' weights were taken");
        strategy.settle(&mut weights, &mut Sgd).unwrap();
        assert_eq!(weights, [-RATE * 4.5 * 4.0; LEN]);
    });
}

/// A peer that sends nothing for the deadline is late, however long others go on.
#[test]
fn who_is_late_is_named() {
    let short = Options { deadline: Duration::from_millis(300), ..options() };
    let errors = run(meshes(Kind::Local, 3, &short), |mesh| {
        let rank = mesh.rank();
        let mut strategy = build("downpour(push=1, fetch=1)", mesh);
        let mut weights = vec![0.0; LEN];
        if rank == 2 {
            thread::sleep(Duration::from_millis(900));
            return None;
        }
        step(strategy.as_mut(), 0, 1.0, &mut weights);
        Some((rank, strategy.settle(&mut weights, &mut Sgd).unwrap_err()))
    });
    for (rank, e) in errors.into_iter().flatten() {
        let late = format!("rank {rank} waited 0.3 s for gradients of rank 2");
        assert!(e.kind() == ErrorKind::Timeout && e.to_string() == late, "{e}");
    }
}

/// One that works and sends is not late, however long it takes altogether.
#[test]
fn who_still_sends_is_waited_for() {
    let short = Options { deadline: Duration::from_millis(500), ..options() };
    for text in ["asp", "downpour(push=1, fetch=1)"] {
        let ends = run(meshes(Kind::Local, 2, &short), |mesh| {
            let slow = mesh.rank() == 1;
            let mut strategy = build(text, mesh);
            let mut weights = vec![0.0; LEN];
            for nth in 0..12 {
                step(strategy.as_mut(), nth, 1.0, &mut weights);
                thread::sleep(Duration::from_millis(if slow { 100 } else { 0 }));
            }
            strategy.settle(&mut weights, &mut Sgd).unwrap();
            weights
        });
        assert_eq!(ends[0], ends[1], "{text}");
    }
}

/// Workers of different speed: what each has at an epoch's end is the mean of what its steps alone would have made of it.
#[test]
fn means_by_a_clock_keep_the_sum_of_all_steps() {
    for (milliseconds, few) in [(1, false), (7, false), (60_000, true)] {
        let text = format!("timed_average(milliseconds={milliseconds})");
        let ends = run(meshes(Kind::Host, 3, &options()), |mesh| {
            let mesh = Arc::new(mesh);
            let rank = mesh.rank();
            let mut strategy = build_on(&text, mesh.clone());
            let mut weights = vec![1.0; LEN];
            for epoch in 0..2 {
                for nth in 0..40 {
                    step(strategy.as_mut(), 1_000 * epoch + nth, (1 << rank) as f32, &mut weights);
                    thread::sleep(Duration::from_micros([100, 300, 1_000][rank]));
                }
                strategy.settle(&mut weights, &mut Sgd).unwrap();
                strategy.meet(1_000 * epoch + 40, &mut [&mut weights]).unwrap();
            }
            (weights, mesh.sent())
        });
        let expected = 1.0 - RATE * 80.0 * (1.0 + 2.0 + 4.0) / 3.0;
        // Twice all weights, and a number to each of the others: the ends of two epochs.
        let least = 2 * (2 * 4 * LEN as u64 * 2 / 3 + 16);
        for (weights, sent) in &ends {
            assert!(*weights == ends[0].0, "{text}");
            assert!((weights[0] - expected).abs() < 1e-3, "{text}: {} of {expected}", weights[0]);
            assert_eq!(*sent < least + 100, few, "{text}: {sent} of {least}");
        }
    }
}
