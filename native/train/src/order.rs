//! The order in which an epoch visits all rows, the same for any number of workers.
//!
//! Row ids are 0..n over all workers. A keyed Feistel network is a permutation of a power of two that covers n; ids
//! that it sends beyond n are sent on until they land inside (cycle walking, Black & Rogaway 2002). So each worker
//! computes the positions of its own rows alone, and nobody holds a list of all of them.

/// Enough for the order to look random: the quality of each round's mixing is that of SplitMix64.
const ROUNDS: u64 = 6;

/// A permutation of `0..rows`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    rows: u64,
    key: u64,
    /// Bits of the two halves.
    high: u32,
    low: u32,
}

impl Order {
    /// The order of an epoch.
    pub(crate) fn new(rows: u64, seed: i64, epoch: usize) -> Order {
        let bits = (64 - rows.saturating_sub(1).leading_zeros()).max(2);
        let key = mix(mix(seed as u64) ^ (epoch as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        Order { rows, key, high: bits / 2, low: bits - bits / 2 }
    }

    /// The position of a row in the epoch.
    pub(crate) fn position(&self, id: u64) -> u64 {
        let mut position = self.scramble(id);
        while position >= self.rows {
            position = self.scramble(position);
        }
        position
    }

    /// The Feistel network; each round swaps the halves, so their widths alternate and are back after an even number.
    fn scramble(&self, value: u64) -> u64 {
        let (mut left_bits, mut right_bits) = (self.high, self.low);
        let (mut left, mut right) = (value >> self.low, value & mask(self.low));
        for round in 0..ROUNDS {
            let mixed =
                left ^ (mix(self.key ^ right.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round) & mask(left_bits));
            (left, right) = (right, mixed);
            (left_bits, right_bits) = (right_bits, left_bits);
        }
        (left << right_bits) | right
    }

    /// The positions of the rows `first..first + count`, sorted, each with its place in that range.
    pub(crate) fn sorted(&self, first: u64, count: u32, picks: &mut Vec<(u64, u32)>) {
        picks.clear();
        picks.extend((0..count).map(|row| (self.position(first + u64::from(row)), row)));
        picks.sort_unstable();
    }
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// The finaliser of SplitMix64 (Steele et al. 2014): every bit of the input moves every bit of the output.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_a_permutation() {
        for rows in [1, 2, 3, 4, 5, 17, 64, 1000, 4097] {
            let order = Order::new(rows, 7, 1);
            let mut seen = vec![false; rows as usize];
            (0..rows).for_each(|id| seen[order.position(id) as usize] = true);
            assert!(seen.iter().all(|s| *s), "{rows} rows");
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_neighbours_part() {
        let positions = |seed, epoch| {
            let order = Order::new(10_000, seed, epoch);
            (0..10_000).map(|id| order.position(id)).collect::<Vec<_>>()
        };
        let (a, b, c) = (positions(1, 1), positions(1, 2), positions(2, 1));
        assert_eq!(a, positions(1, 1));
        for other in [&b, &c] {
            let same = a.iter().zip(other).filter(|(x, y)| x == y).count();
            assert!(same < 10, "{same} of 10,000 rows have the same position");
        }
        // Of a random order, the mean distance of neighbours is a third of the length.
        let distance: u64 = a.windows(2).map(|w| w[0].abs_diff(w[1])).sum();
        let mean = distance as f64 / 9_999.0;
        assert!((mean - 3333.0).abs() < 100.0, "mean distance {mean}");
    }

    #[test]
    fn a_row_lands_in_each_tenth_equally_often() {
        let mut counts = [0; 10];
        for epoch in 0..5000 {
            counts[(Order::new(1000, 3, epoch).position(123) / 100) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (400..600).contains(c)), "{counts:?}");
    }
}
