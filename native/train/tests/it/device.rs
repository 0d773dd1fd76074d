//! Trainings on the kernels of a GPU, which the CPU runs thread by thread.

use arrow_array::RecordBatch;
use bytes::Bytes;
use firesteel_engine::Gpu;
use firesteel_train::{Event, Model, TrainConfig};

use crate::rounds::by_rounds_on;
use crate::support::*;

/// Trains with some workers on one emulated GPU, from a checkpoint where there is one; the model, and rank 0's checkpoints.
fn train_on_gpu(
    config: &TrainConfig,
    rows: &RecordBatch,
    world: usize,
    resume: Option<Bytes>,
) -> (Model, Vec<Bytes>) {
    let gpu = Gpu::emulated().unwrap();
    let mut outcomes = train_where(Talk::Local, config, &deal(rows, world), (resume, None), Some(&gpu));
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
    for world in [1, 2] {
        let (gpu, _) = train_on_gpu(&config, &rows, world, None);
        assert!(
            distance(&losses(&gpu), &losses(&cpu)) < 1e-3,
            "{world}: {:?} {:?}",
            losses(&gpu),
            losses(&cpu)
        );
        let metric = |model: &Model| model.history()[2].validation_metric.unwrap();
        assert!((metric(&gpu) - metric(&cpu)).abs() < 0.01);
    }
    let config = digits(r#"{"epochs": 2, "batchSize": 16}"#);
    let rows = images(48);
    let apart = distance(&losses(&train_on_gpu(&config, &rows, 1, None).0), &losses(&train(&config, &rows)));
    assert!(apart < 1e-3, "{apart}");
}

#[test]
fn a_gpu_goes_on_where_a_checkpoint_stopped() {
    let mut config = flights(r#"{"epochs": 4, "batchSize": 32, "learningRate": 0.01}"#);
    config.checkpoints = true;
    let rows = tabular(100);
    for world in [1, 2] {
        let (whole, checkpoints) = train_on_gpu(&config, &rows, world, None);
        let resume = Some(checkpoints[1].clone());
        let (resumed, _) = train_on_gpu(&config, &rows, world, resume.clone());
        assert_eq!(resumed.weights(), whole.weights(), "{world}");
        // The CPU goes on from there too.
        let cpu = train_on(Talk::Local, &config, &deal(&rows, world), resume).remove(0).model.unwrap();
        assert!(distance(&losses(&cpu), &losses(&whole)) < 1e-3, "{world}");
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
