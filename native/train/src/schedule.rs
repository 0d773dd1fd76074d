//! The learning rate of a step.

use crate::params::{Params, Schedule};

/// The learning rate of `step`, counted from 0, of `steps` in all.
pub(crate) fn learning_rate(params: &Params, step: u64, steps: u64) -> f32 {
    let warmup = params.warmup_steps as u64;
    if step < warmup {
        return (params.learning_rate * (step + 1) as f64 / warmup as f64) as f32;
    }
    let progress = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    let share = match params.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - progress,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    (params.learning_rate * share.max(0.0)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls() {
        let at = |schedule, step| {
            let params = Params { schedule, warmup_steps: 4, learning_rate: 1.0, ..Params::default() };
            learning_rate(&params, step, 12)
        };
        assert_eq!([0, 1, 3].map(|s| at(Schedule::Linear, s)), [0.25, 0.5, 1.0]);
        assert_eq!([4, 8, 10].map(|s| at(Schedule::Linear, s)), [1.0, 0.5, 0.25]);
        assert_eq!([4, 100].map(|s| at(Schedule::Constant, s)), [1.0, 1.0]);
        assert!((at(Schedule::Cosine, 8) - 0.5).abs() < 1e-6);
        assert_eq!(at(Schedule::Cosine, 12), 0.0);
    }

    /// A training that ends while it warms up rises all the way; the only step after the warm-up has the whole rate.
    #[test]
    fn a_warm_up_of_all_steps_or_more() {
        for (warmup, steps, last) in [(4, 4, 1.0), (100, 4, 0.04), (3, 4, 1.0)] {
            for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
                let params =
                    Params { schedule, warmup_steps: warmup, learning_rate: 1.0, ..Params::default() };
                let rates: Vec<f32> = (0..steps).map(|step| learning_rate(&params, step, steps)).collect();
                assert!(rates.iter().all(|r| *r > 0.0) && rates.is_sorted(), "{schedule:?}: {rates:?}");
                assert_eq!(rates.last(), Some(&last), "{schedule:?}");
            }
        }
    }
}
