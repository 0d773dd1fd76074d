//! Error feedback: what compression left behind is added to what is compressed next (Seide et al. 2014, Karimireddy et al. 2019).
//!
//! Nothing is lost then, only late: over any number of steps, what was given out and what is left add up to what was put in. It
//! converges for contractions. Around an unbiased compressor of a large variance it diverges.

use std::collections::BTreeMap;

use firesteel_error::{Error, Result};

use crate::compress::{Compressor, Law};

/// Whether what compression leaves is sent later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// It is lost.
    Off,
    /// It is kept.
    On,
}

/// Lengths for which a law is looked at before the vectors are known.
const LENGTHS: [usize; 3] = [1, 4_096, 1 << 24];

impl Feedback {
    /// Refuses error feedback around what is no contraction.
    ///
    /// # Errors
    /// `InvalidArgument` naming the compressor and its law.
    pub(super) fn check(self, compressor: &dyn Compressor) -> Result<()> {
        let diverges = |len: &usize| match compressor.law(*len) {
            Law::Exact | Law::Contraction { .. } => false,
            Law::Unbiased { omega } => omega > 0.0,
            Law::Biased => true,
        };
        match LENGTHS.iter().find(|len| self == Feedback::On && diverges(len)) {
            None => Ok(()),
            Some(len) => Err(Error::argument(format!(
                "error feedback around {compressor:?}, which is {:?}, expected a contraction; shrink(…) makes one of what is unbiased",
                compressor.law(*len)
            ))),
        }
    }
}

/// What is left of each bucket: of what this worker sent, and of what it owns. Each is as long as what it is added to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residuals {
    /// By bucket, and whether it is of what it owns.
    left: BTreeMap<(u32, bool), Vec<f32>>,
}

impl Residuals {
    /// Buckets in their order: the number, whether it is the owner's, the values.
    pub fn iter(&self) -> impl Iterator<Item = (u32, bool, &[f32])> {
        self.left.iter().map(|((bucket, owned), values)| (*bucket, *owned, values.as_slice()))
    }

    /// Sets one.
    pub fn set(&mut self, bucket: u32, owned: bool, values: Vec<f32>) {
        self.left.insert((bucket, owned), values);
    }

    /// Adds what is left of a bucket to `values`, which stand for it from now on until [`Residuals::keep`].
    ///
    /// # Errors
    /// `Internal` when a bucket has another length than before.
    pub(super) fn add_to(&mut self, bucket: u32, owned: bool, values: &mut [f32]) -> Result<()> {
        let left = self.left.entry((bucket, owned)).or_insert_with(|| vec![0.0; values.len()]);
        if left.len() != values.len() {
            let what = format!("bucket {bucket} has {} values, and had {}", values.len(), left.len());
            return Err(Error::internal(what));
        }
        values.iter_mut().zip(left).for_each(|(value, left)| *value += *left);
        Ok(())
    }

    /// Keeps what a decoded vector lacks of `values`.
    pub(super) fn keep(&mut self, bucket: u32, owned: bool, first: usize, values: &[f32], decoded: &[f32]) {
        if let Some(left) = self.left.get_mut(&(bucket, owned)) {
            let left = &mut left[first..first + values.len()];
            left.iter_mut()
                .zip(values.iter().zip(decoded))
                .for_each(|(left, (value, decoded))| *left = value - decoded);
        }
    }
}
