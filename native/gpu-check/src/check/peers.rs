//! Whether GPUs that add up among themselves train what as many workers on the CPU do.

use firesteel_engine::{Gpu, Precision};
use firesteel_error::Result;

use super::Options;
use crate::device::Device;
use crate::report::{Report, at_most, wrong};
use crate::work::distance;
use crate::work::presets::{ADAM, MOMENTUM, presets};
use crate::work::together::Case;

/// As of trainings.
const ALLOWED: f64 = 3e-4;

/// Workers on emulated devices.
#[cfg(feature = "emulated")]
const EMULATED: usize = 3;

pub(super) fn run(options: &Options, report: &mut Report) {
    let gpus = match all(options.device) {
        Ok(gpus) if gpus.len() > 1 => gpus,
        Ok(_) => return report.skip("GPUs that add up", "there is one"),
        Err(e) => return report.check("GPUs that add up", || Err(e)),
    };
    match gpus[0].address() {
        Ok(Some(_)) => {}
        Ok(None) => return report.skip("GPUs that add up", "there is no NCCL"),
        Err(e) => return report.check("GPUs that add up", || Err(e)),
    }
    let steps = if options.quick { 12 } else { 40 };
    for (name, graph) in presets() {
        for (optimizer, rate, called) in [(ADAM, 0.003, "AdamW"), (MOMENTUM, 0.01, "momentum")] {
            // Images take the emulated device a while.
            let small = options.quick || options.device.is_slow();
            let most = if name.contains("lenet5") && small { 3 } else { 24 };
            for &precision in
                options.precision.iter().filter(|one| matches!(one, Precision::F32 | Precision::F16))
            {
                let graph = graph.clone();
                let case = Case { graph, precision, optimizer, rate, steps, most, heavy: None };
                let what =
                    format!("{} GPUs, {steps} steps of {name}, {called}, {}", gpus.len(), precision.name());
                report.check(&what, || compare(&case, &gpus));
            }
        }
    }
}

/// The machine's.
fn all(device: Device) -> Result<Vec<Gpu>> {
    match device {
        Device::Card(_) => (0..Gpu::names()?.len()).map(Gpu::open).collect(),
        #[cfg(feature = "emulated")]
        Device::Emulated => (0..EMULATED).map(Gpu::emulated_among).collect(),
    }
}

fn compare(case: &Case, gpus: &[Gpu]) -> Result<String> {
    let all = case.on(gpus)?;
    if let Some(rank) =
        all.iter().position(|one| one.weights != all[0].weights || one.totals != all[0].totals)
    {
        return Err(wrong(format!("rank {rank} has other weights than rank 0")));
    }
    if case.precision != Precision::F32 {
        return Ok("all alike".to_owned());
    }
    let expected = case.on_cpu(gpus.len())?;
    let far = distance(&all[0].weights, &expected.weights);
    at_most("the distance of weights", far, ALLOWED)?;
    let pairs = all[0].totals.iter().zip(&expected.totals);
    let loss = pairs
        .map(|((_, found), (_, expected))| (found.loss - expected.loss).abs() / expected.loss.abs().max(1.0));
    let loss = loss.fold(0.0, f64::max);
    at_most("the distance of losses", loss, ALLOWED)?;
    Ok(format!("loss {loss:.1e}, weights {far:.1e}"))
}
