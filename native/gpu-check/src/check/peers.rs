//! Whether GPUs that add up among themselves train what as many workers on the CPU do.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use firesteel_engine::{Gpu, Precision, Watch};
use firesteel_error::{Error, Kind, Result};

use super::Options;
use crate::device::Device;
use crate::report::{Report, at_most, wrong};
use crate::work::distance;
use crate::work::presets::{ADAM, MOMENTUM, presets};
use crate::work::together::Case;

/// As of trainings.
const ALLOWED: f64 = 3e-4;

/// f16 begins with this much, and a step may be left out while its scale settles.
const ALLOWED_F16: f64 = 2e-2;

/// The longest that it may take to end when another has ended.
const PROMPT: Duration = Duration::from_secs(5);

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
    report.check("a GPU whose peer ends while it goes on", || gone(&gpus));
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

/// One GPU trains for longer than the other: it ends soon after, with the words of the watch.
fn gone(gpus: &[Gpu]) -> Result<String> {
    let (_, graph) = presets().swap_remove(0);
    let case = |steps| {
        let (graph, precision) = (graph.clone(), Precision::F32);
        Case { graph, precision, optimizer: ADAM, rate: 0.003, steps, most: 24, heavy: None }
    };
    let invitation = gpus[0].invitation()?;
    // When each ended.
    let [short_ended, long_ended] = [(); 2].map(|()| Arc::new(OnceLock::<Instant>::new()));
    let now = |of: &OnceLock<Instant>| _ = of.set(Instant::now());
    let watch = |check| Watch { check, deadline: Duration::from_secs(60) };
    std::thread::scope(|scope| {
        let short = scope.spawn(|| {
            let peers = gpus[1].join(&invitation, [1, 2], watch(Box::new(|| Ok(()))))?;
            case(4).train(1, &gpus[1], peers, || now(&short_ended))
        });
        let lost = short_ended.clone();
        let check = move || match lost.get() {
            None => Ok(()),
            Some(_) => Err(Error::new(Kind::PeerLost, LOST)),
        };
        let peers = gpus[0].join(&invitation, [0, 2], watch(Box::new(check)))?;
        let long = case(60).train(0, &gpus[0], peers, || now(&long_ended));
        short.join().map_err(|_| wrong("the worker that ends first panicked"))??;
        let waited = match (short_ended.get(), long_ended.get()) {
            (Some(short), Some(long)) => long.saturating_duration_since(*short),
            _ => Duration::MAX,
        };
        match long {
            Err(e) if e.to_string() == LOST && waited < PROMPT => {
                Ok(format!("{:.1} s later", waited.as_secs_f64()))
            }
            Err(e) => Err(wrong(format!("it ended {:.1} s later with: {e}", waited.as_secs_f64()))),
            Ok(_) => Err(wrong("it went on alone")),
        }
    })
}

/// What a watch says of it.
const LOST: &str = "rank 0 lost rank 1";

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
    let expected = case.on_cpu(gpus.len())?;
    let far = distance(&all[0].weights, &expected.weights);
    let allowed = if case.precision == Precision::F32 { ALLOWED } else { ALLOWED_F16 };
    at_most("the distance of weights", far, allowed)?;
    let pairs = all[0].totals.iter().zip(&expected.totals);
    let loss = pairs
        .map(|((_, found), (_, expected))| (found.loss - expected.loss).abs() / expected.loss.abs().max(1.0));
    let loss = loss.fold(0.0, f64::max);
    at_most("the distance of losses", loss, allowed)?;
    Ok(format!("loss {loss:.1e}, weights {far:.1e}"))
}
