//! Trainings on the kernels of a GPU, which the CPU runs thread by thread.

use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use bytes::Bytes;
use firesteel_comm::Cancel;
use firesteel_engine::Gpu;
use firesteel_error::Kind;
use firesteel_train::{Event, Model, Session, TrainConfig, Trainer};

use crate::faults::others_end_with_the_rank_that_dies;
use crate::rounds::by_rounds_on;
use crate::support::*;

/// Workers, and whether each has a GPU to itself, which adds up with the others'.
const WORLDS: [(usize, bool); 3] = [(1, false), (2, false), (3, true)];

/// The GPU of a worker.
fn gpu(rank: usize, own: bool) -> Gpu {
    if own { Gpu::emulated_among(rank) } else { Gpu::emulated() }.unwrap()
}

/// Trains with some workers on emulated GPUs, from a checkpoint where there is one; the model, which is that of all workers, and
/// rank 0's checkpoints.
fn train_on_gpu(
    config: &TrainConfig,
    rows: &RecordBatch,
    (world, own): (usize, bool),
    resume: Option<Bytes>,
) -> (Model, Vec<Bytes>) {
    let parts = deal(rows, world);
    let mut outcomes = train_where(Talk::Local, config, &parts, (resume, None), |rank| Some(gpu(rank, own)));
    for Outcome { model, events } in &outcomes[1..] {
        assert_eq!(model.as_ref().unwrap().weights(), outcomes[0].model.as_ref().unwrap().weights());
        assert!(!events.iter().any(|event| matches!(event, Event::Checkpoint { .. })));
    }
    let Outcome { model, events } = outcomes.remove(0);
    assert!(
        matches!(&events[0], Event::Started { device: Some(name), .. } if name == "the emulated GPU"),
        "{:?}",
        events[0]
    );
    let checkpoint = |event| match event {
        Event::Checkpoint { bytes, .. } => Some(bytes),
        _ => None,
    };
    (model.unwrap(), events.into_iter().filter_map(checkpoint).collect())
}

#[test]
fn a_gpu_trains_what_the_cpu_trains() {
    let config =
        flights(r#"{"epochs": 3, "batchSize": 32, "validationFraction": 0.2, "learningRate": 0.01}"#);
    let rows = tabular(200);
    let cpu = train(&config, &rows);
    for world in WORLDS {
        let (gpu, _) = train_on_gpu(&config, &rows, world, None);
        assert!(
            distance(&losses(&gpu), &losses(&cpu)) < 1e-3,
            "{world:?}: {:?} {:?}",
            losses(&gpu),
            losses(&cpu)
        );
        let metric = |model: &Model| model.history()[2].validation_metric.unwrap();
        assert!((metric(&gpu) - metric(&cpu)).abs() < 0.01);
    }
    let config = digits(r#"{"epochs": 2, "batchSize": 16}"#);
    let rows = images(48);
    let apart =
        distance(&losses(&train_on_gpu(&config, &rows, (1, false), None).0), &losses(&train(&config, &rows)));
    assert!(apart < 1e-3, "{apart}");
}

/// Their own GPUs could add up; by another strategy than the default gradients come to the host.
#[test]
fn a_gpu_trains_by_any_strategy_what_the_cpu_trains_by_it() {
    let rows = tabular(120);
    for strategy in ["two_phase(bf16, bf16)", "union", "local(every=2)", "dpsgd", "slow_mo(every=2)"] {
        let config = flights(&format!(
            r#"{{"epochs": 2, "batchSize": 32, "learningRate": 0.01, "strategy": "{strategy}"}}"#
        ));
        let cpu = train_on(Talk::Local, &config, &deal(&rows, 3), None).remove(0).model.unwrap();
        let (gpu, _) = train_on_gpu(&config, &rows, (3, true), None);
        assert!(
            distance(&losses(&gpu), &losses(&cpu)) < 1e-3,
            "{strategy}: {:?} {:?}",
            losses(&gpu),
            losses(&cpu)
        );
    }
}

#[test]
fn a_gpu_goes_on_where_a_checkpoint_stopped() {
    let mut config = flights(r#"{"epochs": 4, "batchSize": 32, "learningRate": 0.01}"#);
    config.checkpoints = true;
    let rows = tabular(100);
    for world in WORLDS {
        let (whole, checkpoints) = train_on_gpu(&config, &rows, world, None);
        let resume = Some(checkpoints[1].clone());
        let (resumed, _) = train_on_gpu(&config, &rows, world, resume.clone());
        assert_eq!(resumed.weights(), whole.weights(), "{world:?}");
        // The CPU goes on from there too.
        let cpu = train_on(Talk::Local, &config, &deal(&rows, world.0), resume).remove(0).model.unwrap();
        assert!(distance(&losses(&cpu), &losses(&whole)) < 1e-3, "{world:?}");
    }
}

#[test]
fn a_round_on_a_gpu_is_that_of_the_cpu() {
    let gpu = Gpu::emulated().unwrap();
    let config = flights(r#"{"epochs": 2, "batchSize": 32, "learningRate": 0.01}"#);
    let parts = deal(&tabular(120), 2);
    let rounds = |gpu| losses(&by_rounds_on(gpu, &config, &parts, None).unwrap().0);
    let (on_gpu, on_cpu) = (rounds(Some(&gpu)), rounds(None));
    assert_ne!(on_gpu, on_cpu, "the rounding is another");
    assert!(distance(&on_gpu, &on_cpu) < 1e-3, "{on_gpu:?} {on_cpu:?}");
}

#[test]
fn when_a_worker_dies_the_others_gpus_do_not_wait_for_its() {
    others_end_with_the_rank_that_dies("sharded", 90, |rank| Some(gpu(rank, true)));
}

#[test]
fn a_worker_that_is_cancelled_while_gpus_add_up_stops_all() {
    let config = flights(r#"{"epochs": 100000, "batchSize": 8}"#);
    let parts = deal(&tabular(160), 2);
    let started = Instant::now();
    let outcomes = together(Talk::Local, 2, |rank, fabric| {
        let cancel = Cancel::new();
        let gpu = Some(gpu(rank, true));
        let session = Session { fabric, threads: 1, cancel: cancel.clone(), resume: None, start: None, gpu };
        if rank == 1 {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(700));
                cancel.cancel();
            });
        }
        let shard = shard(&config, rank, &parts[rank]);
        Trainer::new(config.clone()).unwrap().fit(shard, session, &mut |_| ()).unwrap_err()
    });
    assert_eq!(outcomes[1].kind(), Kind::Cancelled, "{}", outcomes[1]);
    assert_eq!(outcomes[0].kind(), Kind::PeerLost, "{}", outcomes[0]);
    assert!(started.elapsed() < options().deadline / 2);
}
