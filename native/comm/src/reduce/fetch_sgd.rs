//! Momentum and error feedback within a sketch.

use firesteel_error::{Error, Result};

use super::residual::alike;
use super::{Reduce, State};
use crate::collective::{Algorithm, all_reduce_sum};
use crate::compress::{CountSketch, Place, Ratio, check_finite, check_len, largest};
use crate::fabric::{Fabric, Key};

const NAME: &str = "fetch-sgd";

/// Names in the state.
const MOMENTUM: &str = "momentum";
const ERROR: &str = "error";

/// FetchSGD (Rothchild et al. 2020, arXiv:2007.07682): workers' gradients become tables of a [`CountSketch`], S, which are summed; the
/// sketch keeps a momentum, U ← ρ·U + ΣS, and what has not been given out, E ← E + U. The result is the k = max(1, ⌈ratio·d⌉) largest
/// values that E is read back as, and where their cells are U and E become 0. It is a direction: whoever applies it has no momentum
/// beside.
///
/// Of `n` workers each sends 2·(n−1)/n·4·rows·columns bytes, however long the vector; reading it back takes d·rows steps. All workers
/// keep U and E, alike, where the paper's clients keep nothing and a server does.
///
/// The paper subtracts the sketch of what is given out from E; its authors' code sets cells to 0, as here, for the other diverges.
/// Nothing is conserved: what shares a cell with a large value is forgotten with it. So gradients need few large values for the sketch's
/// columns, or many columns.
#[derive(Debug)]
pub struct FetchSgd {
    ratio: Ratio,
    momentum: f32,
    /// Used again; its hashes are all workers'.
    sketch: CountSketch,
    /// (rows, columns) each: U and E.
    now: Tables,
    /// Of the step that runs.
    next: Tables,
    /// How many values there were; none before the first step.
    len: Option<usize>,
}

#[derive(Debug, Default)]
struct Tables {
    momentum: Vec<f32>,
    error: Vec<f32>,
}

impl FetchSgd {
    /// With a sketch of (rows, columns), as [`CountSketch`] takes them, whose hashes are drawn by `seed`; gives `ratio` of the values,
    /// 0 < ratio ≤ 1. ρ is `momentum`, 0 ≤ ρ < 1. In the paper 5 × 500,000, of which 50,000 are given, and 0.9.
    ///
    /// # Errors
    /// `InvalidArgument` naming what is not in its range.
    pub fn new([rows, columns]: [usize; 2], ratio: f64, momentum: f32, seed: u64) -> Result<FetchSgd> {
        let ratio = Ratio::new(NAME, ratio)?;
        if !(0.0..1.0).contains(&momentum) {
            let text = format!("{NAME}: momentum is {momentum}, expected at least 0 and below 1");
            return Err(Error::argument(text));
        }
        // The same in every step.
        let draw = Place { seed, key: Key::new(0, 0, 0), rank: 0, part: 0 }.shared();
        let sketch = CountSketch::new(rows, columns, &draw)?;
        let zeros = || vec![0.0; rows * columns];
        let [now, next] = [(); 2].map(|()| Tables { momentum: zeros(), error: zeros() });
        Ok(FetchSgd { ratio, momentum, sketch, now, next, len: None })
    }
}

impl Reduce for FetchSgd {
    fn sum(&mut self, fabric: &dyn Fabric, key: Key, values: &mut [f32]) -> Result<()> {
        let FetchSgd { ratio, momentum: rho, sketch, now, next, len } = self;
        check_len(NAME, values.len())?;
        if let Some(len) = len.filter(|len| *len != values.len()) {
            return Err(Error::internal(format!("{} values, and there were {len}", values.len())));
        }
        sketch.clear();
        sketch.add_run(0, values)?;
        all_reduce_sum(fabric, key, sketch.table_mut())?;
        let Tables { momentum, error } = next;
        for (i, sum) in sketch.table().iter().enumerate() {
            momentum[i] = *rho * now.momentum[i] + sum;
            error[i] = now.error[i] + momentum[i];
        }
        check_finite(error)?;
        sketch.table_mut().copy_from_slice(error);
        sketch.estimate_run(0, values);
        check_finite(values)?;
        let mut given =
            largest(values, ratio.of(values.len())).into_iter().map(|index| index as usize).peekable();
        for (index, value) in values.iter_mut().enumerate() {
            if given.next_if_eq(&index).is_none() {
                *value = 0.0;
            }
            for cell in sketch.cells(index).filter(|_| *value != 0.0) {
                momentum[cell] = 0.0;
                error[cell] = 0.0;
            }
        }
        std::mem::swap(now, next);
        *len = Some(values.len());
        Ok(())
    }

    fn bytes(&self, _: usize, rank: usize, world: usize) -> Option<u64> {
        Some(Algorithm::TwoPhase.bytes(self.now.error.len(), rank, world))
    }

    fn state(&self) -> State {
        let Tables { momentum, error } = &self.now;
        State::from([(MOMENTUM.into(), momentum.clone()), (ERROR.into(), error.clone())])
    }

    fn resume(&mut self, states: &[State], _: usize, _: usize) -> Result<()> {
        // All have the same.
        let (momentum, error) = (alike(states, MOMENTUM), alike(states, ERROR));
        let expected = self.now.error.len();
        if [momentum.len(), error.len()] != [expected; 2] {
            let found = format!("{} cells of {MOMENTUM} and {} of {ERROR}", momentum.len(), error.len());
            return Err(Error::corrupt(format!("{NAME}: {found}, expected {expected} each")));
        }
        self.now = Tables { momentum, error };
        Ok(())
    }
}
