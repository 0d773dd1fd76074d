//! Tiled and wide, few threads and many, full batches and empty ones: the same numbers.

use std::ops::Range;

use firesteel_engine::{Batch, Loss, Mode, PlanConfig, Precision, Replica, Sink, Targets, Totals, Values};
use firesteel_error::{Error, Result};

use crate::networks::{NETWORKS, Rows, can, graph, meant, replica};

const SOFTMAX: Loss = Loss::SoftmaxCrossEntropy;

/// Remembers what it hears.
#[derive(Default)]
struct Ears {
    totals: Option<Totals>,
    heard: Vec<f32>,
    calls: usize,
}

impl Sink for Ears {
    fn forward_done(&mut self, totals: Totals) -> Result<()> {
        self.totals = Some(totals);
        Ok(())
    }

    fn ready(&mut self, range: Range<usize>, gradient: &[f32]) -> Result<()> {
        assert_eq!((range.start, range.len()), (self.heard.len(), gradient.len()));
        assert!(self.totals.is_some());
        self.heard.extend_from_slice(gradient);
        self.calls += 1;
        Ok(())
    }
}

fn gradient(replica: &mut Replica, rows: &Rows) -> (Totals, Vec<f32>) {
    let inputs = rows.inputs();
    let mut ears = Ears::default();
    let totals = replica.step(7, &rows.batch(&inputs, SOFTMAX), &mut ears).unwrap();
    assert_eq!(ears.totals, Some(totals));
    let dense = replica.graph().dense_len();
    assert_eq!(ears.heard, replica.gradient()[..dense]);
    let meant = meant(replica.graph(), replica);
    let gradient = replica.gradient().iter().zip(meant).map(|(g, meant)| if meant { *g } else { 0.0 });
    (totals, gradient.collect())
}

#[test]
fn modes_and_threads_agree() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        for count in [1, 33, 97] {
            let rows = Rows::new(&graph, count, 8);
            let (totals, expected) = gradient(&mut replica(&graph, count, 1, Mode::Wide, SOFTMAX), &rows);
            for mode in [Mode::Tiled, Mode::Wide].into_iter().filter(|m| can(&graph, *m)) {
                for threads in [1, 2, 3, 5] {
                    let mut replica = replica(&graph, count, threads, mode, SOFTMAX);
                    let (again, found) = gradient(&mut replica, &rows);
                    assert!((totals.loss - again.loss).abs() < 1e-4 * totals.loss.abs());
                    for (f, e) in found.iter().zip(&expected) {
                        assert!((f - e).abs() < 1e-4 * (1.0 + e.abs()), "{name} {mode:?} {threads}: {f} {e}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        let rows = Rows::new(&graph, 97, 8);
        for mode in [Mode::Tiled, Mode::Wide].into_iter().filter(|m| can(&graph, *m)) {
            let run = || gradient(&mut replica(&graph, 97, 3, mode, SOFTMAX), &rows);
            let (first, second) = (run(), run());
            assert_eq!(first.0, second.0, "{name}");
            assert_eq!(bits(&first.1), bits(&second.1), "{name}");
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_batch_without_rows_has_gradient_zero() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        for mode in [Mode::Tiled, Mode::Wide].into_iter().filter(|m| can(&graph, *m)) {
            for capacity in [0, 40] {
                let mut replica = replica(&graph, capacity, 2, mode, SOFTMAX);
                if capacity > 0 {
                    gradient(&mut replica, &Rows::new(&graph, 40, 1));
                }
                let before = replica.buffers().to_vec();
                let (totals, gradient) = gradient(&mut replica, &Rows::new(&graph, 0, 1));
                assert_eq!(totals, Totals::default(), "{name}");
                assert!(gradient.iter().all(|g| *g == 0.0), "{name} {mode:?}");
                assert_eq!(replica.buffers(), before);
                replica.forward(0, &Rows::new(&graph, 0, 1).inputs(), &mut []).unwrap();
            }
        }
    }
}

#[test]
fn a_wide_plan_tells_of_each_layer_as_it_is_finished() {
    let (_, inputs, layers) = NETWORKS[1];
    let graph = graph(inputs, layers);
    let rows = Rows::new(&graph, 20, 8);
    let inputs = rows.inputs();
    for (mode, calls) in [(Mode::Wide, 5), (Mode::Tiled, 1)] {
        let mut ears = Ears::default();
        replica(&graph, 20, 2, mode, SOFTMAX).step(0, &rows.batch(&inputs, SOFTMAX), &mut ears).unwrap();
        assert_eq!(ears.calls, calls);
    }
}

struct Deaf;

impl Sink for Deaf {
    fn forward_done(&mut self, _: Totals) -> Result<()> {
        Err(Error::argument("deaf"))
    }

    fn ready(&mut self, _: Range<usize>, _: &[f32]) -> Result<()> {
        panic!("a sink that has failed hears nothing more")
    }
}

#[test]
fn a_small_batch_is_not_touched_by_the_large_one_before() {
    for (name, inputs, layers) in NETWORKS {
        let graph = graph(inputs, layers);
        for mode in [Mode::Tiled, Mode::Wide].into_iter().filter(|m| can(&graph, *m)) {
            let small = Rows::new(&graph, 3, 4);
            let expected = gradient(&mut replica(&graph, 70, 3, mode, SOFTMAX), &small);
            let mut replica = replica(&graph, 70, 3, mode, SOFTMAX);
            gradient(&mut replica, &Rows::new(&graph, 70, 5));
            assert_eq!(gradient(&mut replica, &small).1, expected.1, "{name} {mode:?}");
        }
    }
}

#[test]
fn large_batches_are_summed_in_pieces() {
    let (_, inputs, layers) = NETWORKS[1];
    let graph = graph(inputs, layers);
    let rows = Rows::new(&graph, 1_100, 8);
    let (_, tiled) = gradient(&mut replica(&graph, 1_100, 1, Mode::Tiled, SOFTMAX), &rows);
    let (_, wide) = gradient(&mut replica(&graph, 1_100, 2, Mode::Wide, SOFTMAX), &rows);
    for (t, w) in tiled.iter().zip(&wide) {
        assert!((t - w).abs() < 1e-4 * (1.0 + w.abs()), "{t} {w}");
    }
}

#[test]
fn the_first_of_equals_takes_the_gradient_of_a_max_pool() {
    // All values of the image are equal, so the gradient of the weight of tap (0, 0) says where it went.
    let input = r#"{"name":"x","kind":{"dense":{"shape":[1,3,3]}}}"#;
    let layers = |pool: &str| {
        format!(
            r#"{{"name":"a","op":{{"conv2d":{{"outputs":1,"kernel":[2,2],"bias":false}}}}}},
               {{"name":"b","op":{{"max_pool2d":{pool}}}}},{{"name":"c","op":"flatten"}}"#
        )
    };
    for pool in [r#"{"kernel":[2,2]}"#, r#"{"kernel":[2,2],"padding":[0,0],"stride":[3,3]}"#] {
        let graph = graph(input, &layers(pool));
        let loss = Loss::MeanSquaredError;
        let mut replica = replica(&graph, 1, 1, Mode::Auto, loss);
        replica.weights_mut()[..4].fill(0.0);
        let inputs = [Values::Dense(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])];
        let targets = Targets::Values(&[-0.5]);
        let batch = Batch { rows: 1, inputs: &inputs, targets, weights: None, positions: &[0] };
        replica.step(0, &batch, &mut ()).unwrap();
        assert_eq!(replica.gradient()[..4], [1.0, 2.0, 4.0, 5.0]);
    }
}

#[test]
fn equals_in_a_padded_window_give_the_gradient_to_the_first_that_is_there() {
    // The convolution's 3x3 results are all equal. A window of 3 with a padding of 1 and a stride of 2 begins with
    // padding but for the last: the first places are (0, 0), (0, 1), (1, 0) and (1, 1). The gradient of the weight of
    // tap (y, x) is the sum of the image there, moved by the tap.
    let input = r#"{"name":"x","kind":{"dense":{"shape":[1,4,4]}}}"#;
    for value in [0.0, f32::NEG_INFINITY] {
        let layers = r#"{"name":"a","op":{"conv2d":{"outputs":1,"kernel":[2,2],"bias":true}}},
            {"name":"b","op":{"max_pool2d":{"kernel":[3,3],"padding":[1,1],"stride":[2,2]}}},
            {"name":"t","op":"sigmoid"},{"name":"c","op":"flatten"},{"name":"d","op":{"linear":{"outputs":1}}}"#;
        let graph = graph(input, layers);
        let loss = Loss::MeanSquaredError;
        let mut replica = replica(&graph, 1, 1, Mode::Auto, loss);
        let at = |name: &str| graph.parameters().iter().find(|p| p.name == name).unwrap().range.clone();
        replica.weights_mut().fill(0.0);
        replica.weights_mut()[at("d.weight")].copy_from_slice(&[1.0, 10.0, 100.0, 1000.0]);
        // −∞ + 0 is −∞ everywhere; its sigmoid has no slope, so the gradient is looked at before that.
        replica.weights_mut()[at("a.bias")].fill(value);
        let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let inputs = [Values::Dense(&x)];
        let targets = Targets::Values(&[-1.0]);
        let batch = Batch { rows: 1, inputs: &inputs, targets, weights: None, positions: &[0] };
        replica.step(0, &batch, &mut ()).unwrap();
        let found = &replica.gradient()[at("a.weight")];
        let output = if value == 0.0 { 1111.0 * 0.5 } else { 0.0 };
        let slope = if value == 0.0 { 0.25 * 2.0 * (output + 1.0) } else { 0.0 };
        let sum =
            |tap: f32| slope * ((tap) + 10.0 * (1.0 + tap) + 100.0 * (4.0 + tap) + 1000.0 * (5.0 + tap));
        let expected = [sum(0.0), sum(1.0), sum(4.0), sum(5.0)];
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 1e-5 * e, "{found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn more_threads_than_cores_meet_at_every_barrier() {
    // Many small layers: hardly any work between barriers, and all ranks wait for the ones that do not run.
    let layer = |i: usize| {
        format!(
            r#"{{"name":"l{i}","op":{{"linear":{{"outputs":{}}}}}}},{{"name":"n{i}","op":"gelu"}}"#,
            3 + i % 5
        )
    };
    let mut layers: Vec<String> = (0..24).map(layer).collect();
    layers.push(r#"{"name":"head","op":{"linear":{"outputs":3}}}"#.into());
    let graph = graph(r#"{"name":"x","kind":{"dense":{"shape":[7]}}}"#, &layers.join(","));
    let rows = Rows::new(&graph, 50, 8);
    let (totals, expected) = gradient(&mut replica(&graph, 50, 1, Mode::Wide, SOFTMAX), &rows);
    for threads in [2, 7, 16] {
        let mut replica = replica(&graph, 50, threads, Mode::Wide, SOFTMAX);
        for _ in 0..30 {
            let (again, found) = gradient(&mut replica, &rows);
            assert!((totals.loss - again.loss).abs() < 1e-6 * totals.loss);
            assert_eq!(bits(&found), bits(&expected), "{threads} threads");
        }
    }
}

#[test]
fn a_replica_moves_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Replica>();
}

#[test]
fn an_error_of_the_sink_ends_the_step_and_the_replica_lives_on() {
    let (_, inputs, layers) = NETWORKS[1];
    let graph = graph(inputs, layers);
    let rows = Rows::new(&graph, 20, 8);
    for mode in [Mode::Wide, Mode::Tiled] {
        let mut replica = replica(&graph, 20, 2, mode, SOFTMAX);
        let inputs = rows.inputs();
        let e = replica.step(0, &rows.batch(&inputs, SOFTMAX), &mut Deaf).unwrap_err();
        assert_eq!(e.to_string(), "deaf");
        gradient(&mut replica, &rows);
    }
}

#[test]
fn reserve_keeps_the_weights_and_makes_room() {
    let (_, inputs, layers) = NETWORKS[3];
    let graph = graph(inputs, layers);
    for mode in [Mode::Wide, Mode::Tiled] {
        let mut small = replica(&graph, 10, 2, mode, SOFTMAX);
        let rows = Rows::new(&graph, 50, 8);
        let inputs = rows.inputs();
        let e = small.step(0, &rows.batch(&inputs, SOFTMAX), &mut ()).unwrap_err().to_string();
        assert!(e.contains("has 50 rows, the plan was made for 10"), "{e}");
        small.reserve(50).unwrap();
        let mut large = replica(&graph, 50, 2, mode, SOFTMAX);
        assert_eq!(gradient(&mut small, &rows), gradient(&mut large, &rows));
    }
}

#[test]
fn inference_takes_any_number_of_rows() {
    for (name, inputs, layers) in [NETWORKS[3], NETWORKS[6], NETWORKS[10]] {
        let graph = graph(inputs, layers);
        let rows = Rows::new(&graph, 301, 8);
        let inputs: Vec<Values> = rows.inputs();
        let run = |capacity, threads| {
            let mut output = vec![f32::NAN; 301 * 3];
            let mut replica = replica(&graph, capacity, threads, Mode::Auto, SOFTMAX);
            replica.forward(301, &inputs, &mut output).unwrap();
            output
        };
        let expected = run(301, 1);
        assert!(expected.iter().all(|v| v.is_finite()));
        for (capacity, threads) in [(0, 1), (16, 2), (50, 3)] {
            assert_eq!(bits(&run(capacity, threads)), bits(&expected), "{name} {capacity} {threads}");
        }
    }
}

#[test]
fn a_seed_draws_the_same_weights_in_every_plan() {
    let (_, inputs, layers) = NETWORKS[6];
    let graph = graph(inputs, layers);
    let weights = |seed, threads, mode| {
        let config = PlanConfig { rows: 4, threads, mode, loss: SOFTMAX, precision: Precision::F32, seed };
        Replica::new(graph.clone(), config).unwrap().weights().to_vec()
    };
    let first = weights(1, 1, Mode::Tiled);
    assert_eq!(first, weights(1, 3, Mode::Wide));
    assert_ne!(first, weights(2, 1, Mode::Tiled));
}
