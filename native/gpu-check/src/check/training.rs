//! Trainings of the presets against the CPU's: a lone worker's, whose updates are on the device, and one's whose updates are on
//! the host, as those of several workers are.

use std::sync::Arc;

use firesteel_engine::{Gpu, Mode, Moments, Optimizer, Precision, Replica};
use firesteel_error::Result;
use firesteel_model::Graph;

use super::Options;
use crate::report::{Report, at_most, wrong};
use crate::work::networks::{Rows, replica};
use crate::work::presets::{ADAM, MOMENTUM, loss_of, presets, update};
use crate::work::{distance, on_device};

/// What ten steps may be apart. Rounding grows from step to step.
const ALLOWED: f64 = 3e-4;

/// On one device at a time: while one captures a step, others allocate.
const WORKERS: usize = 4;

pub(super) fn run(gpu: &Gpu, options: &Options, report: &mut Report) {
    if !options.precision.contains(&Precision::F32) {
        return report.skip("trainings", "they are compared in f32");
    }
    // Batches have three sizes, those of the largest two are replayed from the fourth on.
    let steps = if options.quick { 10 } else { 40 };
    for (name, graph) in presets() {
        for (optimizer, rate, called) in [(ADAM, 0.003, "AdamW"), (MOMENTUM, 0.01, "momentum")] {
            // Images take the emulated device a while.
            let small = options.quick || options.device.is_slow();
            let most = if name.contains("lenet5") && small { 3 } else { 24 };
            report.check(&format!("{steps} steps of {name}, {called}"), || {
                Trial::new(gpu, &graph, most, optimizer)?.run(rate, steps)
            });
        }
    }
    report.check(&format!("{WORKERS} workers of one device"), || beside(gpu, steps));
}

/// Trainings on one device at a time, each compared with the CPU's.
fn beside(gpu: &Gpu, steps: u64) -> Result<String> {
    let presets = presets();
    let (_, graph) = presets.last().ok_or_else(|| wrong("there are no presets"))?;
    let train = || Trial::new(gpu, graph, 24, ADAM)?.run(0.003, steps);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..WORKERS).map(|_| scope.spawn(train)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<String>>| {
            worker.join().unwrap_or_else(|_| Err(wrong("a worker panicked")))
        };
        let all = all.into_iter().map(join).collect::<Result<Vec<String>>>()?;
        Ok(all.into_iter().next().unwrap_or_default())
    })
}

struct Trial {
    graph: Arc<Graph>,
    most: usize,
    cpu: Replica,
    /// Updates there.
    alone: Replica,
    /// Updates here.
    other: Replica,
    /// Of `cpu` and `other`.
    moments: [Moments; 2],
}

impl Trial {
    fn new(gpu: &Gpu, graph: &Arc<Graph>, most: usize, optimizer: Optimizer) -> Result<Trial> {
        let loss = loss_of(graph);
        let cpu = replica(graph, most, 1, Mode::Wide, loss);
        let mut alone = on_device(gpu, &cpu, graph, (most, loss, Precision::F32))?;
        let other = on_device(gpu, &cpu, graph, (most, loss, Precision::F32))?;
        if !alone.train_with(optimizer, None)? {
            return Err(wrong("updates do not happen on the device"));
        }
        let moments = || Moments::new(optimizer, graph.len());
        Ok(Trial { graph: graph.clone(), most, cpu, alone, other, moments: [moments()?, moments()?] })
    }

    fn run(mut self, rate: f32, steps: u64) -> Result<String> {
        let loss = loss_of(&self.graph);
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        for t in 1..=steps {
            // Full batches, batches that are filled up, and batches that are not.
            let sizes = [self.most, self.most - 1, self.most / 3];
            let rows = Rows::new(&self.graph, sizes[t as usize % 3], t);
            let inputs = rows.inputs();
            let batch = rows.batch(&inputs, loss);
            let totals = self.cpu.step(t, &batch, &mut ())?;
            expected.push((t, totals));
            update(&mut self.cpu, &mut self.moments[0], rate, t, totals);
            found.extend(self.alone.train(t, &batch, rate, t)?);
            let totals = self.other.step(t, &batch, &mut ())?;
            update(&mut self.other, &mut self.moments[1], rate, t, totals);
            let touched: Vec<Vec<u32>> =
                (0..self.graph.tables().len()).map(|table| self.cpu.touched(table).to_vec()).collect();
            self.other.changed_only(&touched)?;
        }
        found.extend(self.alone.settle()?);
        let mut apart = 0.0f64;
        for ((t, found), (step, expected)) in found.iter().zip(&expected) {
            if t != step {
                return Err(wrong(format!("step {t} ended where step {step} was expected")));
            }
            let far = (expected.loss - found.loss).abs() / expected.loss.abs();
            at_most(&format!("the loss's distance in step {t}"), far, ALLOWED)?;
            apart = apart.max(far);
        }
        if found.len() != expected.len() {
            return Err(wrong(format!("{} steps ended, expected {}", found.len(), expected.len())));
        }
        let weights = [&self.alone, &self.other].map(|on| distance(on.weights(), self.cpu.weights()));
        at_most("the distance of weights that are updated there", weights[0], ALLOWED)?;
        at_most("the distance of weights that are updated here", weights[1], ALLOWED)?;
        let state = self.alone.optimizer_state()?.unwrap_or_default();
        let kept = self.moments[0].slots();
        let state = state.iter().zip(kept).map(|(found, kept)| distance(found, kept)).fold(0.0, f64::max);
        at_most("the distance of the optimizer's state", state, ALLOWED)?;
        let [there, here] = weights;
        Ok(format!("loss {apart:.1e}, weights {there:.1e} there, {here:.1e} here, state {state:.1e}"))
    }
}
