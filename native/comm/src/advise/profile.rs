//! What compressors take.

use std::collections::BTreeMap;
use std::time::Instant;

use firesteel_error::Result;

use crate::compress::{Compressor, Draw, Place};
use crate::fabric::Key;
use crate::strategy::Spec;

/// Seconds that a compressor takes for a value of a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Coding {
    /// On the way out.
    pub encode: f64,
    /// On the way in.
    pub decode: f64,
}

/// What compressors take on the workers' computers, by their names. Those that it does not have take nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile(BTreeMap<&'static str, Coding>);

/// Values of the vector that is measured.
const LEN: usize = 1 << 18;
/// How often; the fastest counts.
const TIMES: usize = 3;

impl Profile {
    /// Measures on this computer, within a second.
    ///
    /// # Errors
    /// Those of compressors.
    pub fn measure() -> Result<Profile> {
        let mut all = BTreeMap::new();
        for text in MEASURED {
            let spec: Spec = format!("gather({text}, feedback=false)").parse()?;
            for (name, compressor) in spec.compressors()? {
                all.insert(name, measure(compressor.as_ref())?);
            }
        }
        Ok(Profile(all))
    }

    /// With what a compressor takes.
    pub fn with(mut self, name: &'static str, coding: Coding) -> Profile {
        self.0.insert(name, coding);
        self
    }

    /// Seconds that a worker codes in a step, of so many values.
    pub(super) fn seconds(&self, spec: &Spec, values: f64, workers: usize) -> Result<f64> {
        if workers == 1 {
            return Ok(0.0);
        }
        let named = |name: &str| self.0.get(name).copied().unwrap_or_default();
        let (n, coded) = (workers as f64, spec.compressors()?);
        let of = |nth: usize| coded.get(nth).map_or(Coding::default(), |(name, _)| named(name));
        let passes =
            |coding: Coding, out: f64, into: f64| values * (out * coding.encode + into * coding.decode);
        Ok(match spec.name() {
            // Slices of all on the way to an owner; its own slice, and then all, on the way from it.
            "two_phase" => passes(of(0), 1.0, 1.0) + passes(of(1), 1.0 / n, 1.0),
            "one_bit_adam" => passes(named("sign"), 1.0 + 1.0 / n, 2.0),
            "qadam" => passes(named("min_max_u8"), 1.0 + 1.0 / n, 2.0),
            "gather" => passes(of(0), 1.0, n),
            // The largest are found once, and added up as they are.
            "dgc" | "ok_top_k" | "g_top_k" => passes(named("top_k"), 1.0, 1.0),
            // One's own copy, and both neighbours'.
            "choco" | "dcd" => passes(of(0), 1.0, 3.0),
            _ => passes(of(0), 1.0, 1.0),
        })
    }
}

/// With the arguments of the candidates. What shrinks counts as what it shrinks.
const MEASURED: [&str; 6] =
    ["bf16", "min_max_u8", "qsgd(levels=7)", "sign", "top_k(ratio=0.01)", "shrink(random_k)"];

/// Values from −1 to 1.
pub(super) fn drawn(draw: Draw, len: usize) -> Vec<f32> {
    (0..len as u64).map(|i| 2.0 * draw.uniform(i) - 1.0).collect()
}

fn measure(compressor: &dyn Compressor) -> Result<Coding> {
    let place = Place { seed: 1, key: Key::new(0, 0, 0), rank: 0, part: 0 };
    let (values, mut out) = (drawn(place.own(), LEN), vec![0.0; LEN]);
    let mut best = Coding { encode: f64::INFINITY, decode: f64::INFINITY };
    for _ in 0..TIMES {
        let start = Instant::now();
        let payload = compressor.encode(&values, &place)?;
        let encoded = Instant::now();
        compressor.decode(&payload, &place, &mut out)?;
        let each = |seconds: f64| seconds / LEN as f64;
        best.encode = best.encode.min(each((encoded - start).as_secs_f64()));
        best.decode = best.decode.min(each(encoded.elapsed().as_secs_f64()));
    }
    Ok(best)
}
