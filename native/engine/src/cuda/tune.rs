//! Which of several ways to the same result a card takes: the fastest that computes what our own kernel does.

use std::time::Duration;

use firesteel_error::Result;

use crate::precision::Precision;

/// How often each way is run to be timed.
const RUNS: u32 = 10;

/// How a choice is made.
pub(crate) struct Contest<'a> {
    /// Runs our own kernel.
    pub(crate) ours: &'a dyn Fn() -> Result<()>,
    /// What it has computed since the last call.
    pub(crate) result: &'a dyn Fn() -> Result<Vec<f32>>,
    /// Waits.
    pub(crate) finish: &'a dyn Fn() -> Result<()>,
    /// The time since some moment.
    pub(crate) clock: &'a dyn Fn() -> Duration,
    pub(crate) precision: Precision,
}

impl Contest<'_> {
    /// The fastest of `others` that is faster than ours; one that fails, or computes something else, is none. Nothing can be said
    /// where ours computes nothing but zeros.
    ///
    /// # Errors
    /// Those of our own kernel, and of a device that is lost.
    pub(crate) fn decide<A: Copy>(
        &self,
        others: &dyn Fn() -> Vec<A>,
        run: &dyn Fn(A) -> Result<()>,
    ) -> Result<Option<Option<A>>> {
        (self.ours)()?;
        if (self.result)()?.iter().all(|value| *value == 0.0) {
            return Ok(None);
        }
        let mut best = (self.time(self.ours)?, None);
        let expected = (self.result)()?;
        for other in others() {
            let Ok(time) = self.time(&|| run(other)) else {
                (self.finish)()?;
                continue;
            };
            if time < best.0 && is_near(&(self.result)()?, &expected, self.precision) {
                best = (time, Some(other));
            }
        }
        Ok(Some(best.1))
    }

    fn time(&self, run: &dyn Fn() -> Result<()>) -> Result<Duration> {
        run()?;
        (self.finish)()?;
        let started = (self.clock)();
        (0..RUNS).try_for_each(|_| run())?;
        (self.finish)()?;
        Ok((self.clock)().saturating_sub(started))
    }
}

/// Whether the difference is short beside what was expected: both round their sums in other orders.
fn is_near(found: &[f32], expected: &[f32], precision: Precision) -> bool {
    let most = match precision {
        Precision::F32 => 1e-4,
        Precision::Tf32 | Precision::F16 => 5e-3,
        Precision::Bf16 => 3e-2,
    };
    let square = |value: f32| f64::from(value) * f64::from(value);
    let length: f64 = expected.iter().map(|value| square(*value)).sum();
    let apart: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    // Where both are no numbers, nothing can be said.
    apart.sqrt() <= most * length.sqrt()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use firesteel_error::Error;

    use super::*;

    #[test]
    fn nobody_is_judged_by_zeros() {
        let nothing = || Ok(());
        let (zeros, clock) = (|| Ok(vec![0.0; 3]), || Duration::ZERO);
        let contest = Contest {
            ours: &nothing,
            result: &zeros,
            finish: &nothing,
            clock: &clock,
            precision: Precision::F32,
        };
        // Nobody is even asked.
        let others = || -> Vec<u8> { unreachable!() };
        assert_eq!(contest.decide(&others, &|_| Ok(())).unwrap(), None);
    }

    #[test]
    fn the_fastest_that_is_right_is_taken() {
        let (made, time) = (RefCell::new(Vec::new()), Cell::new(Duration::ZERO));
        let make = |millis, value: f32| {
            time.set(time.get() + Duration::from_millis(millis));
            *made.borrow_mut() = vec![value; 3];
        };
        let contest = Contest {
            ours: &|| {
                make(4, 1.0);
                Ok(())
            },
            result: &|| Ok(made.borrow().clone()),
            finish: &|| Ok(()),
            clock: &|| time.get(),
            precision: Precision::F32,
        };
        let run = |(millis, value): (u64, f32)| {
            make(millis, value);
            if millis == 0 { Err(Error::internal("broken")) } else { Ok(()) }
        };
        let decide = |others: &[(u64, f32)]| contest.decide(&|| others.to_vec(), &run).unwrap().unwrap();
        assert_eq!(decide(&[(3, 1.0), (2, 1.00001), (6, 1.0)]), Some((2, 1.00001)));
        // Wrong, broken, no number, slow.
        assert_eq!(decide(&[(1, 1.1), (0, 1.0), (1, f32::NAN), (8, 1.0)]), None);
    }
}
