//! Counter-based randomness: Philox4x32-10 (Salmon et al. 2011).
//!
//! A number depends only on its key and its place, never on how many were drawn before it: any thread can draw any
//! number, in any order, and the same seed gives the same bits.

use std::f32::consts::TAU;

use firesteel_model::Init;

/// Draws for initial weights.
const INITIAL: u32 = 1;
/// Draws for dropout.
const DROPOUT: u32 = 2;

/// Four random words for a counter and a key.
#[inline(always)]
pub(crate) fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut k, mut l] = key;
    for _ in 0..10 {
        let (x, y) = (u64::from(a) * 0xD251_1F53, u64::from(c) * 0xCD9E_8D57);
        (a, b, c, d) = ((y >> 32) as u32 ^ b ^ k, y as u32, (x >> 32) as u32 ^ d ^ l, x as u32);
        k = k.wrapping_add(0x9E37_79B9);
        l = l.wrapping_add(0xBB67_AE85);
    }
    [a, b, c, d]
}

fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// A stream of its own for each purpose, step and place in the network.
fn derive(seed: u64, purpose: u32, step: u64, index: usize) -> [u32; 2] {
    let [low, high] = words(step);
    let [a, b, ..] = philox([low, high, index as u32, purpose], words(seed));
    [a, b]
}

/// The key of a dropout layer in a step.
pub(crate) fn dropout_key(seed: u64, step: u64, layer: usize) -> [u32; 2] {
    derive(seed, DROPOUT, step, layer)
}

/// Uniform in [0, 1), a multiple of 2⁻²⁴.
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Draws the initial values of parameter `index`. Rows are those of the table, for [`Init::Embedding`].
pub(crate) fn fill(values: &mut [f32], init: Init, row: usize, seed: u64, index: usize) {
    let key = derive(seed, INITIAL, 0, index);
    let draw = |at: usize| {
        let [low, high] = words(at as u64);
        philox([low, high, 0, 0], key)
    };
    match init {
        Init::Constant(value) => values.fill(value),
        Init::Uniform { bound } => {
            for (at, four) in values.chunks_mut(4).enumerate() {
                for (value, word) in four.iter_mut().zip(draw(at)) {
                    *value = (2.0 * unit(word) - 1.0) * bound;
                }
            }
        }
        Init::Embedding { std } => {
            for (at, four) in values.chunks_mut(4).enumerate() {
                for (value, normal) in four.iter_mut().zip(normals(draw(at))) {
                    *value = normal * std;
                }
            }
            let special = values.len().min(2 * row);
            values[..special].fill(0.0);
        }
    }
}

/// Four normal values from four uniform words (Box & Muller 1958).
fn normals(words: [u32; 4]) -> [f32; 4] {
    let pair = |a: u32, b: u32| {
        let radius = (-2.0 * (1.0 - unit(a)).ln()).sqrt();
        let (sine, cosine) = (TAU * unit(b)).sin_cos();
        [radius * cosine, radius * sine]
    };
    let ([a, b], [c, d]) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_words_of_its_paper() {
        // Known answers of the Random123 distribution (kat_vectors).
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]
        );
        let counter = [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344];
        let key = [0xA409_3822, 0x299F_31D0];
        assert_eq!(philox(counter, key), [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]);
    }

    #[test]
    fn uniform_weights_stay_in_bounds_and_have_their_variance() {
        let mut values = vec![0.0; 10_001];
        fill(&mut values, Init::Uniform { bound: 0.5 }, 1, 7, 0);
        assert!(values.iter().all(|v| v.abs() <= 0.5));
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((variance - 0.25 / 3.0).abs() < 2e-3, "{variance}");
        let mut other = vec![0.0; 10_001];
        fill(&mut other, Init::Uniform { bound: 0.5 }, 1, 7, 1);
        assert!(values.iter().zip(&other).filter(|(a, b)| a == b).count() < 10);
    }

    #[test]
    fn tables_start_normal_but_for_the_rows_of_null_and_unknown() {
        let mut values = vec![1.0; 3 * 5_000];
        fill(&mut values, Init::Embedding { std: 0.05 }, 3, 7, 0);
        assert!(values[..6].iter().all(|v| *v == 0.0));
        let deviation = (values[6..].iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((deviation - 0.05).abs() < 1e-3, "{deviation}");
        let mut short = vec![1.0; 3];
        fill(&mut short, Init::Embedding { std: 0.05 }, 3, 7, 0);
        assert_eq!(short, [0.0; 3]);
    }
}
