//! Error feedback: what compression left behind is added to what is compressed next (Seide et al. 2014, Karimireddy et al. 2019).
//!
//! Nothing is lost then, only late: over any number of steps, what was given out and what is left add up to what was put in. It
//! converges for contractions. Around an unbiased compressor of a large variance it diverges.
//!
//! What is left is in the units of what is reduced: of sums over batches whose weights change, or gradients times a learning rate
//! that does, an old rest would count by the new unit. Reduce means.

use std::collections::BTreeMap;

use bytes::Bytes;
use firesteel_error::{Error, Result};

use crate::compress::{Compressor, Law, Place, check_finite};

/// Whether what compression leaves is sent later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// It is lost.
    Off,
    /// It is kept.
    On,
}

/// Whose message left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The worker's own vector, as long as the bucket.
    Worker,
    /// The sum of the slice that it owns.
    Owner,
}

/// Lengths for which a law is looked at before the vectors are known.
const LENGTHS: [usize; 3] = [1, 4_096, 1 << 24];

/// What is left of each bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residuals(BTreeMap<(u32, Side), Vec<f32>>);

impl Residuals {
    /// Buckets in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Side, &[f32])> {
        self.0.iter().map(|((bucket, side), values)| (*bucket, *side, values.as_slice()))
    }

    /// Sets one.
    pub fn set(&mut self, bucket: u32, side: Side, values: Vec<f32>) {
        self.0.insert((bucket, side), values);
    }
}

/// The feedback of one reduction: nothing of a step counts before all of it has been done.
#[derive(Debug)]
pub(super) struct Memory {
    residuals: Option<Residuals>,
    /// Of the step that runs.
    kept: Vec<((u32, Side), Vec<f32>)>,
}

impl Memory {
    /// For some compressors.
    ///
    /// # Errors
    /// `InvalidArgument` for feedback around what is no contraction, naming the compressor and its law.
    pub(super) fn new(feedback: Feedback, compressors: &[&dyn Compressor]) -> Result<Memory> {
        if feedback == Feedback::Off {
            return Ok(Memory { residuals: None, kept: Vec::new() });
        }
        for (compressor, len) in compressors.iter().flat_map(|one| LENGTHS.map(|len| (one, len))) {
            let law = compressor.law(len);
            let what = match law {
                Law::Exact | Law::Contraction { .. } => continue,
                Law::Unbiased { omega } if omega <= 0.0 => continue,
                Law::Unbiased { .. } => "expected a contraction, as Shrink makes of what is unbiased",
                Law::Biased => "expected a contraction",
            };
            return Err(Error::argument(format!(
                "error feedback around {compressor:?}, which is {law:?}, {what}"
            )));
        }
        Ok(Memory { residuals: Some(Residuals::default()), kept: Vec::new() })
    }

    pub(super) fn residuals(&self) -> Option<&Residuals> {
        self.residuals.as_ref()
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// `InvalidArgument` when feedback is off, as what is left would be lost.
    pub(super) fn set(&mut self, residuals: Residuals) -> Result<()> {
        match &mut self.residuals {
            Some(mine) => *mine = residuals,
            None => return Err(Error::argument("residuals for a reduction without error feedback")),
        }
        Ok(())
    }

    /// Begins a step: adds what is left of a bucket to `values`, and forgets what a step that failed kept.
    ///
    /// # Errors
    /// `Internal` when the bucket had another length; `Diverged` for values that would be no numbers for ever.
    pub(super) fn add(&mut self, bucket: u32, side: Side, values: &mut [f32]) -> Result<()> {
        let Some(residuals) = &self.residuals else { return Ok(()) };
        if side == Side::Worker {
            self.kept.clear();
        }
        if let Some(left) = residuals.0.get(&(bucket, side)) {
            if left.len() != values.len() {
                let what = format!("bucket {bucket} has {} values, and had {}", values.len(), left.len());
                return Err(Error::internal(what));
            }
            values.iter_mut().zip(left).for_each(|(value, left)| *value += left);
        }
        check_finite(values)
    }

    /// Encodes some of the values that [`Memory::add`] has seen, those from `first` on of so many, and keeps what that leaves.
    ///
    /// # Errors
    /// Those of the compressor.
    pub(super) fn encode(
        &mut self,
        compressor: &dyn Compressor,
        (values, at): (&[f32], &Place),
        (side, first, len): (Side, usize, usize),
    ) -> Result<Bytes> {
        let part = compressor.encode(values, at)?;
        if self.residuals.is_some() {
            let of = (at.key.bucket, side);
            if self.kept.last().is_none_or(|(last, _)| *last != of) {
                self.kept.push((of, vec![0.0; len]));
            }
            if let Some((_, left)) = self.kept.last_mut() {
                let left = &mut left[first..first + values.len()];
                compressor.decode(&part, at, left)?;
                left.iter_mut().zip(values).for_each(|(left, value)| *left = value - *left);
            }
        }
        Ok(part)
    }

    /// Ends a step that has been done.
    pub(super) fn commit(&mut self) {
        if let Some(residuals) = &mut self.residuals {
            residuals.0.extend(self.kept.drain(..));
        }
    }
}
