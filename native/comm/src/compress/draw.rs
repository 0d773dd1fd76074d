//! Random numbers that follow from where they are drawn.

use crate::fabric::Key;

/// Where a vector is compressed: no two have the same, so no two draw the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The training's.
    pub seed: u64,
    /// The message's.
    pub key: Key,
    /// Of the worker that encodes.
    pub rank: usize,
    /// Which part of a message that has several.
    pub part: u32,
}

impl Place {
    /// Numbers of this worker alone.
    pub fn own(&self) -> Draw {
        Draw(mix(self.shared().0 ^ mix(self.rank as u64 + 1)))
    }

    /// Numbers that all workers draw alike at this key.
    pub fn shared(&self) -> Draw {
        let Key { step, bucket, phase } = self.key;
        let of_step = u64::from(bucket) << 16 | u64::from(phase);
        Draw(mix(mix(mix(mix(self.seed) ^ step) ^ of_step) ^ u64::from(self.part)))
    }
}

/// A sequence of random numbers, each of which can be had by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(u64);

impl Draw {
    /// Number `i`.
    #[inline(always)]
    pub fn word(&self, i: u64) -> u64 {
        mix(self.0.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Halves of words, from word `first` on: two numbers for the time of one.
    #[inline(always)]
    pub(super) fn halves<const N: usize>(&self, first: u64) -> [u32; N] {
        let mut out = [0; N];
        for (i, pair) in out.as_chunks_mut().0.iter_mut().enumerate() {
            let word = self.word(first + i as u64);
            *pair = [word as u32, (word >> 32) as u32];
        }
        out
    }

    /// The same, even over [0, 1), in steps of 2⁻²⁴.
    #[inline(always)]
    pub fn uniform(&self, i: u64) -> f32 {
        (self.word(i) >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// A half of a word as an even number over [0, 1), in steps of 2⁻²⁴.
#[inline(always)]
pub(super) fn unit(half: u32) -> f32 {
    // By way of i32, which every target converts by one instruction.
    (half >> 8) as i32 as f32 * (1.0 / (1u32 << 24) as f32)
}

/// The finaliser of SplitMix64 (Steele et al. 2014): every bit of the input moves every bit of the output.
#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(step: u64, bucket: u32, phase: u16, rank: usize) -> Place {
        Place { seed: 7, key: Key::new(step, bucket, phase), rank, part: 0 }
    }

    #[test]
    fn every_part_of_a_place_counts() {
        let all =
            [place(1, 2, 3, 4), place(2, 2, 3, 4), place(1, 3, 3, 4), place(1, 2, 4, 4), place(1, 2, 3, 5)];
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                assert_ne!(a.own(), b.own());
                assert_eq!(a.shared() == b.shared(), a.key == b.key);
            }
        }
        assert_ne!(Place { seed: 8, ..all[0] }.shared(), all[0].shared());
        assert_ne!(Place { part: 1, ..all[0] }.shared(), all[0].shared());
        assert_ne!(all[0].own(), all[0].shared());
    }

    #[test]
    fn numbers_are_even() {
        let draw = place(1, 0, 0, 0).own();
        const MANY: u64 = 100_000;
        let mean = (0..MANY).map(|i| f64::from(draw.uniform(i))).sum::<f64>() / MANY as f64;
        // Five deviations.
        assert!((mean - 0.5).abs() < 5.0 * (1.0f64 / 12.0 / MANY as f64).sqrt(), "{mean}");
        let lowest = (0..MANY).map(|i| draw.uniform(i)).fold(1.0, f32::min);
        let highest = (0..MANY).map(|i| draw.uniform(i)).fold(0.0, f32::max);
        assert!((0.0..1e-3).contains(&lowest) && (0.999..1.0).contains(&highest));
    }
}
