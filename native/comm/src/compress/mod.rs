//! What a vector looks like on the wire, where it need not be what it was.
//!
//! A [`Compressor`] turns f32 into bytes and back, and says by its [`Law`] how far it may be off. It keeps nothing from one step
//! to the next that a vector's values went into: what compression lost, and is to be sent later, is kept by whoever reduces, in
//! one place, where checkpoints find it.
//!
//! Randomness has no state either: what a worker draws follows from the [`Place`] that it compresses at.
//!
//! | module | compressors |
//! | --- | --- |
//! | `plain` | [`Plain`]: values as they are |
//! | `half_floats` | [`Fp16`], [`Bf16`]: 16 bits a value |
//! | `min_max_u8` | [`MinMaxU8`]: 8 bits, even levels between the least and the greatest |
//! | `natural` | [`Natural`]: 9 bits, powers of two |
//! | `qsgd` | [`Qsgd`]: 2 to 16 bits, even levels of a bucket's norm |
//! | `tern_grad` | [`TernGrad`]: 2 bits, 0 and both signs of the largest |
//! | `sign` | [`Sign`], [`SignVote`]: 1 bit, with and without a magnitude |
//! | `one_bit` | [`OneBit`]: 1 bit, two means |
//! | `top_k`, `random_k`, `threshold` | [`TopK`], [`RandomK`], [`Threshold`]: some values, as they are; [`Indices`] says which |
//! | `sketch_ml` | [`SketchMl`]: which values are not 0, and a bin for each |
//! | `shrink` | [`Shrink`]: a contraction of what is unbiased |
//!
//! Parts of reductions that are no compressors, as sums of payloads are taken: [`CountSketch`], [`Bitmap`]. `bits` packs codes, `sparse` some
//! values;
//! `draw` has the [`Place`] and what is drawn there.

mod bitmap;
mod bits;
pub(crate) mod count_sketch;
mod draw;
mod half_floats;
mod indices;
mod min_max_u8;
mod natural;
mod one_bit;
mod plain;
mod qsgd;
mod random_k;
pub(crate) mod ratio;
mod reader;
mod shrink;
mod sign;
mod sketch_ml;
mod sparse;
mod tern_grad;
mod threshold;
mod top_k;

use std::fmt;

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};

pub use bitmap::Bitmap;
pub use count_sketch::CountSketch;
pub use draw::{Draw, Place};
pub use half_floats::{Bf16, Fp16};
pub use indices::Indices;
pub(crate) use indices::check_len;
pub use min_max_u8::MinMaxU8;
pub use natural::Natural;
pub use one_bit::OneBit;
pub use plain::Plain;
pub use qsgd::Qsgd;
pub use random_k::RandomK;
pub(crate) use ratio::Ratio;
pub use shrink::Shrink;
pub use sign::{Sign, SignVote};
pub use sketch_ml::SketchMl;
pub(crate) use sparse::{Sparse, largest};
pub use tern_grad::TernGrad;
pub use threshold::Threshold;
pub use top_k::TopK;

/// How far a decoded vector C(x) may be from x, in Euclidean norms, beside roundings of f32; of an x without denormal values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// C(x) = x.
    Exact,
    /// E‖C(x) − x‖² ≤ (1 − δ)·‖x‖² over what is drawn, if anything is, 0 < δ ≤ 1. Error feedback converges.
    Contraction {
        /// How much of x is kept at least.
        delta: f64,
    },
    /// E C(x) = x and E‖C(x) − x‖² ≤ ω·‖x‖². Error feedback diverges for large ω, unless C(x) is scaled by 1/(1 + ω), which makes
    /// a contraction of it, δ = 1/(1 + ω).
    Unbiased {
        /// The variance.
        omega: f64,
    },
    /// Neither.
    Biased,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Law::Exact => "exact",
            Law::Contraction { .. } => "a contraction",
            Law::Unbiased { .. } => "unbiased and no contraction",
            Law::Biased => "biased and no contraction",
        })
    }
}

/// A way to encode vectors. The same on all workers.
pub trait Compressor: fmt::Debug + Send {
    /// What it promises of vectors of `len` values.
    fn law(&self, len: usize) -> Law;

    /// The payload's length for `len` values, in bytes; none where it depends on the values.
    fn bytes(&self, len: usize) -> Option<usize>;

    /// Whether payloads of one key are f32 that may be added up undecoded: decode(Σ encode(x)) = Σ decode(encode(x)).
    fn is_linear(&self) -> bool {
        false
    }

    /// Encodes a vector.
    ///
    /// # Errors
    /// `Diverged` when a value is infinite or no number, and that would spoil more than itself.
    fn encode(&self, values: &[f32], at: &Place) -> Result<Bytes>;

    /// Decodes what was encoded at the same place, that of whoever sent it; every value of `out` is overwritten.
    ///
    /// # Errors
    /// `Corrupt` saying what was found and expected, for a payload that no [`Compressor::encode`] makes of so many values.
    fn decode(&self, payload: &[u8], at: &Place, out: &mut [f32]) -> Result<()>;
}

/// Refuses values that would spoil all others.
pub(crate) fn check_finite(values: &[f32]) -> Result<()> {
    // A search that may end at every value is not vectorised.
    let finite = values.iter().fold(true, |finite, value| finite & value.is_finite());
    match values.iter().position(|value| !finite && !value.is_finite()) {
        None => Ok(()),
        Some(place) => {
            let text = format!("value {place} of {} to be compressed is {}", values.len(), values[place]);
            Err(Error::new(Kind::Diverged, text))
        }
    }
}

/// Refuses a payload of another length.
fn check_payload(name: &str, payload: &[u8], expected: usize) -> Result<()> {
    match payload.len() == expected {
        true => Ok(()),
        false => {
            Err(Error::corrupt(format!("{name}: a payload of {} bytes, expected {expected}", payload.len())))
        }
    }
}
