//! What passes on a worker's clock.

use std::time::Instant;

use crate::fabric::Fabric;

/// Tells seconds: of the fabric's clock where time is simulated, else of the system's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Seconds from some beginning on, the same for all that one stopwatch tells.
    pub(crate) fn seconds(&self, fabric: &dyn Fabric) -> f64 {
        fabric.time().unwrap_or_else(|| self.0.elapsed().as_secs_f64())
    }
}
