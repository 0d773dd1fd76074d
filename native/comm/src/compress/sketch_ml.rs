//! Values as the bins that they fall into.

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::indices::{self, Indices};
use super::reader::Reader;
use super::{Compressor, Law, Place, check_finite};
use crate::wire;

const NAME: &str = "sketch-ml";

/// Sends for each value that is not 0 its key and the number of its bin, and decodes it to the bin's mean.
///
/// The values, by size, are cut into bins of d = ⌈k/(bins − 1)⌉ each, k of them not 0; none holds both signs, so that a decoded
/// value has the sign that it had. Zeros stay 0.
///
/// A contraction, δ = 1/⌈m/(bins − 1)⌉, as worst case: of d values of one sign, the mean keeps (Σx)²/d ≥ Σx²/d. For smooth values
/// it is close to 1. Exact for m < bins.
///
/// Payload for k values in b bins: k, u32; b, u8; the means, f32; a u8 a value; the keys, as [`Indices::Shortest`] has them:
/// 5 + 4b + k + at most 1 + ⌈m/8⌉ bytes.
///
/// Jiang et al. 2018, SketchML (SIGMOD), <https://doi.org/10.1145/3183713.3196894>. Other than there, quantiles are exact where it
/// takes those of a sketch, and bin numbers are sent as they are, without its min-max sketch, which would shorten them and be wrong
/// for some.
#[derive(Clone, Debug)]
pub struct SketchMl {
    bins: usize,
}

impl SketchMl {
    /// At most `bins`, from 2 to 255.
    ///
    /// # Errors
    /// `InvalidArgument` when the bins are not in their range.
    pub fn new(bins: usize) -> Result<SketchMl> {
        match (2..=255).contains(&bins) {
            true => Ok(SketchMl { bins }),
            false => Err(Error::argument(format!("{NAME}: bins is {bins}, expected from 2 to 255"))),
        }
    }

    /// How many of `count` values share a bin: one bin less than there may be, as the two signs may both leave one part full.
    fn depth(&self, count: usize) -> usize {
        count.div_ceil(self.bins - 1).max(1)
    }
}

impl Compressor for SketchMl {
    fn law(&self, len: usize) -> Law {
        match self.depth(len) {
            1 => Law::Exact,
            depth => Law::Contraction { delta: 1.0 / depth as f64 },
        }
    }

    fn bytes(&self, _: usize) -> Option<usize> {
        None
    }

    fn encode(&self, values: &[f32], _: &Place) -> Result<Bytes> {
        indices::check_len(NAME, values.len())?;
        // A mean of what is infinite or no number spoils its bin.
        check_finite(values)?;
        let mut sorted: Vec<u32> =
            (0..).zip(values).filter(|(_, value)| **value != 0.0).map(|(index, _)| index).collect();
        let keys = sorted.clone();
        let value = |index: u32| values[index as usize];
        sorted.sort_unstable_by(|a, b| value(*a).total_cmp(&value(*b)).then(a.cmp(b)));

        let depth = self.depth(sorted.len());
        let (negative, positive) = sorted.split_at(sorted.partition_point(|index| value(*index) < 0.0));
        let (mut means, mut bin_of) = (Vec::new(), vec![0u8; values.len()]);
        for bin in negative.chunks(depth).chain(positive.chunks(depth)) {
            bin.iter().for_each(|index| bin_of[*index as usize] = means.len() as u8);
            let sum: f64 = bin.iter().map(|index| f64::from(value(*index))).sum();
            means.push((sum / bin.len() as f64) as f32);
        }

        let mut out = BytesMut::with_capacity(6 + 4 * means.len() + keys.len() + values.len().div_ceil(8));
        out.put_u32_le(keys.len() as u32);
        out.put_u8(means.len() as u8);
        wire::put_f32s(&mut out, &means);
        out.extend(keys.iter().map(|key| bin_of[*key as usize]));
        Indices::Shortest.put(&keys, values.len(), &mut out);
        Ok(out.freeze())
    }

    fn decode(&self, payload: &[u8], _: &Place, out: &mut [f32]) -> Result<()> {
        let mut from = Reader::new(NAME, payload);
        let count = from.count(out.len())?;
        let bins = usize::from(from.byte()?);
        let means: Vec<f32> = from.words(bins)?.map(f32::from_le_bytes).collect();
        let bin_of = from.take(count)?;
        check_bins(&means, bin_of, self.depth(count), self.bins, &from)?;
        let keys = Indices::Shortest.take(&mut from, count, out.len())?;
        out.fill(0.0);
        for (key, bin) in keys.into_iter().zip(bin_of) {
            out[key as usize] = means[usize::from(*bin)];
        }
        from.end()
    }
}

/// Refuses bins that no values fall into so.
fn check_bins(means: &[f32], bin_of: &[u8], depth: usize, most: usize, from: &Reader) -> Result<()> {
    if means.len() > most {
        return Err(from.corrupt(format!("{} bins, expected at most {most}", means.len())));
    }
    if let Some(mean) = means.iter().find(|mean| !mean.is_finite() || **mean == 0.0) {
        return Err(from.corrupt(format!("a bin's mean is {mean}, expected a finite one other than 0")));
    }
    if !means.is_sorted() {
        return Err(from.corrupt("the bins' means do not rise".into()));
    }
    let mut sizes = [0; 256];
    bin_of.iter().for_each(|bin| sizes[usize::from(*bin)] += 1);
    let (used, unused) = sizes.split_at(means.len());
    if unused.iter().any(|size| *size != 0) {
        return Err(from.corrupt(format!("a value in none of {} bins", means.len())));
    }
    match used.iter().find(|size| !(1..=depth).contains(*size)) {
        None => Ok(()),
        Some(size) => Err(from.corrupt(format!("{size} values in a bin, expected from 1 to {depth}"))),
    }
}
