//! A line a check.

use std::fmt;
use std::time::Instant;

use firesteel_error::{Error, Result};

/// What was checked so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// Runs a check, which gives its numbers, or an error that says what is wrong.
    pub(crate) fn check(&mut self, what: &str, check: impl FnOnce() -> Result<String>) {
        let begin = Instant::now();
        match check() {
            Ok(numbers) => {
                self.passed += 1;
                println!("ok      {what}: {numbers} ({:.1} s)", begin.elapsed().as_secs_f64());
            }
            Err(e) => {
                self.failed += 1;
                println!("FAILED  {what}: {e}");
            }
        }
    }

    /// Says what was not checked, and why.
    pub(crate) fn skip(&self, what: &str, why: &str) {
        println!("skipped {what}: {why}");
    }

    /// Says how many passed; whether all did.
    pub(crate) fn end(&self) -> bool {
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

/// A number that is to be at most another. NaN is not.
pub(crate) fn at_most(what: &str, found: f64, most: f64) -> Result<()> {
    if found <= most {
        return Ok(());
    }
    Err(Error::internal(format!("{what} is {found:.1e}, expected at most {most:.1e}")))
}

/// An error of a check.
pub(crate) fn wrong(what: impl fmt::Display) -> Error {
    Error::internal(what.to_string())
}
