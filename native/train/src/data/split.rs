//! Which rows are held out for validation.

use crate::order::mix;

/// Marks rows whose id, hashed with the seed, falls below `fraction`. The ids of a worker's rows begin at `first`.
pub(crate) fn hold_out(seed: i64, fraction: f64, first: u64, rows: usize) -> Vec<bool> {
    // 2⁶⁴ as f64; a fraction is below 1, so the product fits.
    let below = (fraction * 18_446_744_073_709_551_616.0) as u64;
    let key = mix(seed as u64 ^ 0x7661_6c69_6461_7465);
    (first..first + rows as u64).map(|id| mix(key ^ id) < below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_fraction_and_the_same_at_any_offset() {
        let all = hold_out(1, 0.2, 0, 10_000);
        let held = all.iter().filter(|h| **h).count();
        assert!((1850..2150).contains(&held), "{held}");
        assert_eq!(all[4000..], hold_out(1, 0.2, 4000, 6000));
        assert_ne!(all, hold_out(2, 0.2, 0, 10_000));
        assert!(hold_out(1, 0.0, 0, 1000).iter().all(|h| !h));
    }
}
