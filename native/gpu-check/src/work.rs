//! Networks and batches, those of the engine's tests.

use std::sync::Arc;

use firesteel_engine::{Gpu, Loss, Mode, PlanConfig, Precision, Replica};
use firesteel_error::Result;
use firesteel_model::Graph;

#[path = "../../engine/tests/it/networks.rs"]
#[allow(dead_code, clippy::unwrap_used)]
pub(crate) mod networks;
#[path = "../../engine/tests/it/presets.rs"]
#[allow(clippy::unwrap_used)]
pub(crate) mod presets;
#[path = "../../engine/tests/it/together.rs"]
#[allow(dead_code)]
pub(crate) mod together;

/// A replica on a device, with the weights of one on the CPU.
pub(crate) fn on_device(
    gpu: &Gpu,
    cpu: &Replica,
    graph: &Arc<Graph>,
    (rows, loss, precision): (usize, Loss, Precision),
) -> Result<Replica> {
    let config = PlanConfig { rows, threads: 1, mode: Mode::Auto, loss, seed: 3, precision };
    let mut device = Replica::on(gpu, graph.clone(), config)?;
    device.weights_mut().copy_from_slice(cpu.weights());
    Ok(device)
}

/// The length of the difference by the length of what was expected, at least 1: where all is nearly 0, rounding is all there is.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::NAN;
    }
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = &mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - f64::from(*e));
    length(difference) / length(&mut expected.iter().map(|e| f64::from(*e))).max(1.0)
}
