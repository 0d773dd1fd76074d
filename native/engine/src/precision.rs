//! In how many bits a network is computed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The numbers that a step computes with. Weights, their gradient and the optimizer's state are f32 in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Everything is a 32-bit float: the only one of the CPU.
    #[default]
    F32,
    /// Products of matrices and convolutions round their factors to 10 bits of mantissa, for the GPU's tensor cores.
    Tf32,
    /// Values between layers and the factors of products are bfloat16; sums are f32.
    Bf16,
    /// The same with half floats, and a loss scaled so that small gradients do not vanish.
    F16,
}

impl Precision {
    /// The names in JSON, in the order of the variants.
    pub const NAMES: &'static [&'static str] = &["f32", "tf32", "bf16", "f16"];

    /// The word that a configuration uses.
    pub fn name(self) -> &'static str {
        Precision::NAMES[self as usize]
    }

    /// The bytes of a value between layers.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Precision::F32 | Precision::Tf32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In which numbers gradients leave a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientCopy {
    /// As they are.
    #[default]
    F32,
    /// As bfloat16: half the bytes, 8 bits of mantissa.
    Bf16,
    /// As half floats: half the bytes, 11 bits of mantissa, nothing above 65,504.
    F16,
}

impl GradientCopy {
    /// The names in JSON, in the order of the variants.
    pub const NAMES: &'static [&'static str] = &["f32", "bf16", "f16"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        use Precision::{Bf16, F16, F32, Tf32};
        for (precision, name) in [F32, Tf32, Bf16, F16].into_iter().zip(Precision::NAMES) {
            assert_eq!(serde_json::to_value(precision).unwrap(), *name);
            assert_eq!(precision.to_string(), *name);
        }
    }
}
