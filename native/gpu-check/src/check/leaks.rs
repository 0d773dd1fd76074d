//! Whether plans give back what they took.

use std::sync::Arc;

use firesteel_engine::{Gpu, Mode, PlanConfig, Precision, Replica};
use firesteel_error::Result;
use firesteel_model::Graph;

use super::Options;
use crate::report::{Report, wrong};
use crate::work::networks::Rows;
use crate::work::presets::{ADAM, loss_of, presets};

/// The most that the device's memory and the host's may have shrunk: drivers keep some for later. A plan takes more than 16 MiB of
/// the one.
pub(super) const KEPT: u64 = 32 << 20;

/// Plans before the first look: what is made once is there then.
const FIRST: usize = 5;

/// Steps of a plan: both places of a batch keep their launches and replay them.
const STEPS: u64 = 6;

pub(super) fn run(gpu: &Gpu, options: &Options, report: &mut Report) {
    let plans = if options.quick { options.plans.min(20) } else { options.plans };
    report.check(&format!("{plans} plans made and dropped"), || {
        let graphs = presets();
        let graphs: Vec<_> = graphs.iter().filter(|(name, _)| !name.contains("lenet5")).collect();
        let plan = |nth: usize| one(gpu, &graphs[nth % graphs.len()].1);
        (0..FIRST).try_for_each(plan)?;
        let (before, host) = (gpu.memory()?[0], resident());
        (0..plans).try_for_each(plan)?;
        let (after, grown) = (gpu.memory()?[0], resident().saturating_sub(host));
        let lost = before.saturating_sub(after);
        if lost > KEPT || grown > KEPT {
            let what = format!("{lost} bytes of the device and {grown} of the host were not given back");
            return Err(wrong(format!("{what}, expected at most {KEPT}")));
        }
        Ok(format!("{before} bytes of the device were free, {after} are; the host's grew by {grown}"))
    });
}

/// Makes a plan, and uses it both ways.
fn one(gpu: &Gpu, graph: &Arc<Graph>) -> Result<()> {
    let (loss, rows) = (loss_of(graph), 8);
    let config = PlanConfig { rows, threads: 1, mode: Mode::Auto, loss, seed: 3, precision: Precision::F32 };
    let mut replica = Replica::on(gpu, graph.clone(), config)?;
    let rows = Rows::new(graph, rows, 5);
    let inputs = rows.inputs();
    let batch = rows.batch(&inputs, loss);
    replica.step(1, &batch, &mut ())?;
    replica.train_with(ADAM, None)?;
    for t in 1..=STEPS {
        replica.train(t, &batch, 0.01, t)?;
    }
    // The last steps are still queued.
    Ok(())
}

/// Bytes of this process that are in the host's memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
