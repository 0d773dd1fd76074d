//! Whole networks against the CPU's.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firesteel_error::{Error, Kind, Result};
use firesteel_model::Graph;

#[path = "../../../tests/it/networks.rs"]
#[allow(dead_code, clippy::module_inception)]
mod networks;
#[path = "../../../tests/it/presets.rs"]
mod presets;
#[path = "../../../tests/it/reference.rs"]
#[allow(dead_code)]
mod reference;

#[path = "../../../tests/it/together.rs"]
mod together;

use presets::{ADAM, MOMENTUM, loss_of, presets, update};
use together::Case;

use crate::batch::Totals;
use crate::cuda::Gpu;
use crate::cuda::emulated::Emulated;
use crate::cuda::memory::Pinned;
use crate::cuda::replica::DeviceReplica;
use crate::loss::Loss;
use crate::optim::Moments;
use crate::precision::{GradientCopy, Precision};
use crate::{Mode, PlanConfig, Replica, Sink, Watch};

/// Relative to the largest.
fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0f32, |most, value| most.max(value.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{name} {i}: {f}, expected {e}");
    }
}

/// The length of the difference by the length of what was expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = &mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - f64::from(*e));
    square(difference) / square(&mut expected.iter().map(|e| f64::from(*e))).max(1e-30)
}

/// A replica on the emulated device, with the weights of one on the CPU.
fn on_device(cpu: &Replica, graph: &Arc<Graph>, rows: usize, loss: Loss, precision: Precision) -> Replica {
    let config = PlanConfig { rows, threads: 1, mode: Mode::Auto, loss, seed: 3, precision };
    let mut device = Replica::on(&Gpu::emulated().unwrap(), graph.clone(), config).unwrap();
    device.weights_mut().copy_from_slice(cpu.weights());
    device
}

#[test]
fn ten_steps_of_every_preset_are_those_of_the_cpu() {
    for (name, graph) in presets() {
        for (optimizer, rate) in [(ADAM, 0.003), (MOMENTUM, 0.01)] {
            let loss = loss_of(&graph);
            // Images take the emulated device a while.
            let most = if name.contains("lenet5") { 3 } else { 24 };
            let mut cpu = networks::replica(&graph, most, 1, Mode::Wide, loss);
            let mut alone = on_device(&cpu, &graph, most, loss, Precision::F32);
            let mut other = on_device(&cpu, &graph, most, loss, Precision::F32);
            assert!(alone.train_with(optimizer, None).unwrap());
            let mut moments = [(); 2].map(|()| Moments::new(optimizer, graph.len()).unwrap());
            let (mut expected, mut found) = (Vec::new(), Vec::new());
            for t in 1..=10 {
                // Full batches, batches that are filled up, and batches that are not.
                let rows = networks::Rows::new(&graph, [most, most - 1, most / 3][t as usize % 3], t);
                let inputs = rows.inputs();
                let batch = rows.batch(&inputs, loss);
                let totals = cpu.step(t, &batch, &mut ()).unwrap();
                expected.push((t, totals));
                update(&mut cpu, &mut moments[0], rate, t, totals);
                found.extend(alone.train(t, &batch, rate, t).unwrap());
                let totals = other.step(t, &batch, &mut ()).unwrap();
                update(&mut other, &mut moments[1], rate, t, totals);
                let touched: Vec<Vec<u32>> =
                    (0..graph.tables().len()).map(|table| cpu.touched(table).to_vec()).collect();
                other.changed_only(&touched).unwrap();
            }
            found.extend(alone.settle().unwrap());
            for ((t, found), (_, expected)) in found.iter().zip(&expected) {
                let apart = (expected.loss - found.loss).abs();
                assert!(apart < 2e-4 * expected.loss.abs(), "{name} {t}: {found:?} {expected:?}");
            }
            assert_eq!(found.len(), expected.len());
            close(name, alone.weights(), cpu.weights(), 3e-4);
            close(name, other.weights(), cpu.weights(), 3e-4);
            let state = alone.optimizer_state().unwrap().unwrap();
            for (found, expected) in state.iter().zip(moments[0].slots()) {
                close(name, found, expected, 3e-4);
            }
        }
    }
}

#[test]
fn whole_networks_are_those_of_the_cpu() {
    for (name, inputs, layers) in networks::NETWORKS {
        let graph = networks::graph(inputs, layers);
        for rows in [1, 33] {
            let loss = Loss::SoftmaxCrossEntropy;
            let mut cpu = networks::replica(&graph, rows, 1, Mode::Wide, loss);
            // Room for fewer rows than come.
            let mut device = on_device(&cpu, &graph, 1, loss, Precision::F32);
            let batch = networks::Rows::new(&graph, rows, 8);
            let inputs = batch.inputs();
            let batch = batch.batch(&inputs, loss);
            let expected = cpu.step(7, &batch, &mut ()).unwrap();
            let found = device.step(7, &batch, &mut ()).unwrap();
            device.settle().unwrap();
            assert!((expected.loss - found.loss).abs() < 1e-4 * expected.loss.abs().max(1.0), "{name}");
            assert!((expected.weight - found.weight).abs() < 1e-6 * expected.weight, "{name}");
            let meant = networks::meant(&graph, &cpu);
            close(name, &only(&meant, device.gradient()), &only(&meant, cpu.gradient()), 2e-5);
            close(name, device.buffers(), cpu.buffers(), 1e-5);
            for table in 0..graph.tables().len() {
                assert_eq!(device.touched(table), cpu.touched(table), "{name}");
            }
            let (mut expected, mut found) = (vec![0.0; rows * 3], vec![f32::NAN; rows * 3]);
            cpu.forward(rows, &inputs, &mut expected).unwrap();
            device.forward(rows, &inputs, &mut found).unwrap();
            close(name, &found, &expected, 1e-5);
        }
    }
}

fn only(meant: &[bool], values: &[f32]) -> Vec<f32> {
    values.iter().zip(meant).filter(|(_, meant)| **meant).map(|(value, _)| *value).collect()
}

/// What a precision may cost: the distance of a gradient from f32's, by its length.
const COSTS: [(Precision, f64); 3] =
    [(Precision::Tf32, 2e-3), (Precision::Bf16, 4e-2), (Precision::F16, 5e-3)];

#[test]
fn precisions_are_as_far_from_f32_as_they_say() {
    for (precision, most) in COSTS {
        for (name, inputs, layers) in networks::NETWORKS {
            let graph = networks::graph(inputs, layers);
            let (loss, rows) = (Loss::SoftmaxCrossEntropy, 9);
            let mut cpu = networks::replica(&graph, rows, 1, Mode::Wide, loss);
            let mut device = on_device(&cpu, &graph, rows, loss, precision);
            let batch = networks::Rows::new(&graph, rows, 8);
            let inputs = batch.inputs();
            let batch = batch.batch(&inputs, loss);
            let expected = cpu.step(7, &batch, &mut ()).unwrap();
            let found = device.step(7, &batch, &mut ()).unwrap();
            let apart = (expected.loss - found.loss).abs() / expected.loss.abs().max(1.0);
            let meant = networks::meant(&graph, &cpu);
            let (found, expected) = (only(&meant, device.gradient()), only(&meant, cpu.gradient()));
            let far = distance(&found, &expected);
            println!("{} {name}: loss {apart:.1e}, gradient {far:.1e}", precision.name());
            // What was nearly the largest of a pool may be it.
            let most = if layers.contains("max_pool") { 8.0 * most } else { most };
            assert!(apart < most && far < most, "{} {name}: {apart} {far}", precision.name());
            // It is another precision.
            let linear = layers.contains("linear") || layers.contains("conv2d");
            assert!(!linear || far > 1e-6, "{} {name}: {far}", precision.name());
        }
    }
}

#[test]
fn gradients_leave_in_pieces_and_in_fewer_bits() {
    let graph = large();
    let (loss, rows) = (Loss::SoftmaxCrossEntropy, 5);
    let mut cpu = networks::replica(&graph, rows, 1, Mode::Wide, loss);
    let batch = networks::Rows::new(&graph, rows, 8);
    let inputs = batch.inputs();
    let batch = batch.batch(&inputs, loss);
    cpu.step(7, &batch, &mut ()).unwrap();
    let meant = networks::meant(&graph, &cpu);
    let expected = only(&meant, cpu.gradient());
    let most = [(GradientCopy::F32, 1e-5), (GradientCopy::Bf16, 3e-3), (GradientCopy::F16, 4e-4)];
    let mut before = 0.0;
    for (copy, most) in most {
        let mut device = on_device(&cpu, &graph, rows, loss, Precision::F32);
        device.copy_gradients_as(copy).unwrap();
        let mut pieces = Pieces::default();
        device.step(7, &batch, &mut pieces).unwrap();
        assert!(pieces.0.len() > 1 && pieces.0.last().unwrap().end == graph.dense_len(), "{:?}", pieces.0);
        let far = distance(&only(&meant, device.gradient()), &expected);
        assert!(far < most && far != before, "{copy:?}: {far}");
        before = far;
    }
}

/// Whose gradient is two pieces, and a table behind them.
fn large() -> Arc<Graph> {
    let inputs =
        r#"{"name":"x","kind":{"dense":{"shape":[1100]}}},{"name":"i","kind":{"index":{"cardinality":9}}}"#;
    let layers = r#"{"name":"a","op":{"linear":{"outputs":1000}},"inputs":["x"]},
        {"name":"e","op":{"embedding":{"dims":1000}},"inputs":["i"]},{"name":"s","op":"add","inputs":["a","e"]},
        {"name":"b","op":{"linear":{"outputs":1000}}},{"name":"c","op":{"linear":{"outputs":3}}}"#;
    networks::graph(inputs, layers)
}

/// The ranges that a step tells of.
#[derive(Default)]
struct Pieces(Vec<Range<usize>>);

impl Sink for Pieces {
    fn forward_done(&mut self, _: Totals) -> Result<()> {
        Ok(())
    }

    fn ready(&mut self, range: Range<usize>, gradient: &[f32]) -> Result<()> {
        assert_eq!(range.start, self.0.last().map_or(0, |last| last.end));
        assert_eq!(range.len(), gradient.len());
        self.0.push(range);
        Ok(())
    }
}

#[test]
fn a_plan_too_large_says_what_takes_most_and_leaves_the_rest() {
    let (_, inputs, layers) = networks::NETWORKS[0];
    let graph = networks::graph(inputs, layers);
    let device = Arc::new(Emulated::new(Precision::F32).unwrap());
    let config = (Loss::SoftmaxCrossEntropy, Precision::F32, 3);
    let mut replica = DeviceReplica::new(device.clone(), graph.clone(), 8, config).unwrap();
    let weights = |replica: &DeviceReplica| {
        let mut weights = Pinned::new(replica.device(), graph.len()).unwrap();
        replica.weights(&mut weights).unwrap();
        weights.to_vec()
    };
    let before = weights(&replica);
    device.limit(1 << 20);
    let e = replica.reserve(1 << 20).unwrap_err().to_string();
    assert!(e.starts_with("the GPU has no 25165824 bytes: ") && e.contains(" are free; "), "{e}");
    let largest = "; the plan's largest: layer 'a' for 1048576 rows 25165824 bytes, weights and their gradient 384 bytes";
    assert!(e.ends_with(largest), "{e}");
    // What there was is there, and smaller batches go on.
    assert_eq!(weights(&replica), before);
    let rows = networks::Rows::new(&graph, 8, 8);
    let inputs = rows.inputs();
    let mut gradient = Pinned::new(replica.device(), graph.len()).unwrap();
    replica.step(1, &rows.batch(&inputs, Loss::SoftmaxCrossEntropy), &mut gradient, &mut ()).unwrap();
    let made = DeviceReplica::new(device.clone(), graph.clone(), 1 << 20, config);
    assert!(made.is_err_and(|e| e.to_string().contains("the plan's largest")));
}

#[test]
fn a_step_of_halves_that_overflows_is_left_out() {
    let (_, inputs, layers) = networks::NETWORKS[1];
    let graph = networks::graph(inputs, layers);
    let (loss, rows) = (Loss::SoftmaxCrossEntropy, 9);
    let cpu = networks::replica(&graph, rows, 1, Mode::Wide, loss);
    let [mut whole, mut without, mut apart] =
        [(); 3].map(|()| on_device(&cpu, &graph, rows, loss, Precision::F16));
    assert!(whole.train_with(ADAM, None).unwrap() && without.train_with(ADAM, None).unwrap());
    let mut t = 0;
    for step in 1..=5 {
        let mut batch = networks::Rows::new(&graph, rows, step);
        // Times the scale, more than a half float can be.
        let over = step == 3;
        if over {
            batch.weights.fill(500.0);
        }
        let inputs = batch.inputs();
        let batch = batch.batch(&inputs, loss);
        assert!(whole.train(step, &batch, 0.01, step).unwrap().is_none());
        let totals = whole.settle().unwrap()[0].1;
        assert!(totals.loss.is_finite() && totals.weight > 0.0);
        if !over {
            t += 1;
            without.train(step, &batch, 0.01, t).unwrap();
            without.settle().unwrap();
        }
        // A worker that is not alone says nothing of such a step.
        let totals = apart.step(step, &batch, &mut ()).unwrap();
        assert_eq!(totals.weight == 0.0, over);
        assert_eq!(apart.gradient().iter().all(|g| *g == 0.0), over);
    }
    // Only the scale differs, by a power of two, and with it what of small gradients is lost.
    close("weights", whole.weights(), without.weights(), 1e-5);
    assert!(distance(whole.weights(), cpu.weights()) > 0.01);
}

/// Workers that add up among themselves on emulated devices.
fn emulated(workers: usize) -> Vec<Gpu> {
    (0..workers).map(|number| Gpu::emulated_among(number).unwrap()).collect()
}

#[test]
fn workers_that_add_up_train_what_the_cpu_does() {
    for (name, graph) in presets() {
        for (optimizer, rate) in [(ADAM, 0.003), (MOMENTUM, 0.01)] {
            // Images take the emulated device a while.
            let (most, workers) = if name.contains("lenet5") { (3, 2) } else { (12, 3) };
            let graph = graph.clone();
            let case =
                Case { graph, precision: Precision::F32, optimizer, rate, steps: 12, most, heavy: None };
            let all = case.on(&emulated(workers)).unwrap();
            let expected = case.on_cpu(workers).unwrap();
            for found in &all {
                assert_eq!(found.weights, all[0].weights, "{name}");
                assert_eq!(found.state, all[0].state, "{name}");
                assert_eq!(found.totals, all[0].totals, "{name}");
            }
            close(name, &all[0].weights, &expected.weights, 3e-4);
            for (found, expected) in all[0].state.iter().zip(&expected.state) {
                close(name, found, expected, 3e-4);
            }
            for ((step, found), (t, expected)) in all[0].totals.iter().zip(&expected.totals) {
                assert_eq!((step, found.weight as f32), (t, expected.weight as f32), "{name}");
                assert!(
                    (found.loss - expected.loss).abs() < 2e-4 * expected.loss.abs().max(1.0),
                    "{name} {t}"
                );
            }
            assert_eq!(all[0].totals.len(), expected.totals.len());
        }
    }
}

#[test]
fn gradients_are_added_up_in_pieces() {
    let (graph, precision) = (large(), Precision::F32);
    let case = Case { graph, precision, optimizer: MOMENTUM, rate: 0.001, steps: 6, most: 4, heavy: None };
    let all = case.on(&emulated(2)).unwrap();
    assert_eq!(all[0].weights, all[1].weights);
    close("large", &all[0].weights, &case.on_cpu(2).unwrap().weights, 3e-4);
}

#[test]
fn workers_that_add_up_halves_stay_alike() {
    let (_, graph) = presets().remove(2);
    let case = |heavy| {
        let (graph, precision) = (graph.clone(), Precision::F16);
        Case { graph, precision, optimizer: MOMENTUM, rate: 0.01, steps: 12, most: 12, heavy }
    };
    let expected = case(None).on_cpu(3).unwrap().weights;
    // A step of all that overflows is left out by all, and tells so: the totals are of rows that weigh 500.
    for (heavy, most) in [(None, 5e-3), (Some(6), 0.3)] {
        let all = case(heavy).on(&emulated(3)).unwrap();
        for found in &all {
            assert_eq!(found.weights, all[0].weights);
        }
        let far = distance(&all[0].weights, &expected);
        assert!(far < most && (heavy.is_none() || far > 1e-3), "{heavy:?}: {far}");
    }
}

/// The watch of a worker whose others are lost after a while.
fn lost_after(span: Duration) -> Watch {
    let started = Instant::now();
    let check = move || match started.elapsed() < span {
        true => Ok(()),
        false => Err(Error::new(Kind::PeerLost, "rank 0 lost rank 1: it panicked")),
    };
    Watch { check: Box::new(check), deadline: Duration::from_secs(60) }
}

#[test]
fn a_worker_whose_peer_is_gone_ends_with_its_name() {
    let gpus = emulated(2);
    let invitation = gpus[0].invitation().unwrap();
    // One that never comes.
    let e = gpus[0].join(&invitation, [0, 2], lost_after(Duration::from_millis(50))).unwrap_err();
    assert_eq!(e.kind(), Kind::PeerLost);
    let deadline = Duration::from_millis(100);
    let late = Watch { check: Box::new(|| Ok(())), deadline };
    let e = gpus[0].join(&gpus[0].invitation().unwrap(), [0, 2], late).unwrap_err();
    assert_eq!(
        (e.kind(), e.to_string().as_str()),
        (Kind::Timeout, "rank 0 waited 0.05 s for the GPUs of the other workers")
    );
    // One that joins, and does no more.
    let (_, graph) = presets().remove(0);
    let invitation = gpus[0].invitation().unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| gpus[1].join(&invitation, [1, 2], lost_after(Duration::MAX)).unwrap());
        let peers = gpus[0].join(&invitation, [0, 2], lost_after(Duration::from_millis(300))).unwrap();
        let _other = other.join().unwrap();
        let loss = loss_of(&graph);
        let cpu = networks::replica(&graph, 8, 1, Mode::Wide, loss);
        let mut replica = on_device(&cpu, &graph, 8, loss, Precision::F32);
        replica.train_with(ADAM, Some(peers)).unwrap();
        let rows = networks::Rows::new(&graph, 8, 1);
        let inputs = rows.inputs();
        let mut step = |t| replica.train(t, &rows.batch(&inputs, loss), 0.01, t);
        let e = (1..4).find_map(|t| step(t).err()).unwrap();
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::PeerLost, "rank 0 lost rank 1: it panicked"));
    });
}

#[test]
fn a_worker_that_ends_amid_a_step_waits_for_nobody() {
    let gpus = emulated(2);
    let (_, graph) = presets().remove(0);
    let (loss, invitation) = (loss_of(&graph), gpus[0].invitation().unwrap());
    let cpu = networks::replica(&graph, 8, 1, Mode::Wide, loss);
    let train = |rank: usize, steps: u64| {
        let peers = gpus[rank].join(&invitation, [rank, 2], lost_after(Duration::MAX)).unwrap();
        let mut replica = on_device(&cpu, &graph, 8, loss, Precision::F32);
        replica.train_with(ADAM, Some(peers)).unwrap();
        let rows = networks::Rows::new(&graph, 8, 1);
        let inputs = rows.inputs();
        for t in 1..=steps {
            replica.train(t, &rows.batch(&inputs, loss), 0.01, t).unwrap();
        }
        replica
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| train(1, 4).settle().unwrap());
        let replica = train(0, 5);
        let started = Instant::now();
        drop(replica);
        assert!(started.elapsed() < Duration::from_secs(20));
        other.join().unwrap();
    });
}
