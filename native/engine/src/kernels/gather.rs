//! Rows of tables, one a sample, into lanes.
//!
//! A row goes to memory in quads of four values, so that a vector of 16 holds four columns of every fourth sample: what
//! is left is a 4×4 transpose within each quarter of a vector. Value by value, as [`super::lanes::from_rows`] does it,
//! each would be a store of its own.

use pulp::{Arch, Simd, WithSimd};

use super::lanes::Lane;
use super::tile::{load, store};
use crate::memory::LANES;

/// Values of a row that stay together.
const QUAD: usize = 4;

/// Scratch of [`gather`] for rows of `width`, in f32.
pub(crate) fn gather_len(width: usize) -> usize {
    width.div_ceil(QUAD) * QUAD * LANES
}

/// `to(d, s) = Σ_t row(t, s)[d]` for `tables` tables and `samples` samples, at most [`LANES`]; 0 beyond them. `width` is
/// that of `to`, and `scratch` has [`gather_len`] f32.
pub(crate) fn gather<'a>(
    arch: Arch,
    [tables, samples]: [usize; 2],
    row: impl Fn(usize, usize) -> &'a [f32],
    scratch: &mut [f32],
    to: &mut [Lane],
) {
    assert!(samples <= LANES && scratch.len() >= gather_len(to.len()));
    let scratch = &mut scratch[..gather_len(to.len())];
    if samples < LANES {
        scratch.fill(0.0);
    }
    for table in 0..tables {
        for sample in 0..samples {
            spread(row(table, sample), sample, table > 0, scratch);
        }
    }
    arch.dispatch(Turn { from: scratch, to });
}

/// Puts a row into, or adds it to, its place in `(quads, sample % 4, sample / 4, QUAD)`.
#[inline(always)]
fn spread(row: &[f32], sample: usize, add: bool, scratch: &mut [f32]) {
    let at = sample % QUAD * QUAD + sample / QUAD;
    let (quads, rest) = row.as_chunks::<QUAD>();
    let mut places = scratch.as_chunks_mut::<QUAD>().0.as_chunks_mut::<LANES>().0.iter_mut();
    let put = |from: &[f32; QUAD], place: &mut [[f32; QUAD]; LANES]| {
        let to = place[at];
        // All four at once: the compiler knows no more than that they might lie in `from`.
        place[at] = if add { std::array::from_fn(|i| to[i] + from[i]) } else { *from };
    };
    quads.iter().zip(&mut places).for_each(|(quad, place)| put(quad, place));
    if let Some(place) = places.next() {
        put(&std::array::from_fn(|i| rest.get(i).copied().unwrap_or(0.0)), place);
    }
}

/// Quads to lanes.
struct Turn<'a> {
    /// `(quads, sample % 4, sample / 4, QUAD)`.
    from: &'a [f32],
    to: &'a mut [Lane],
}

impl WithSimd for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::F32_LANES < QUAD {
            return self.one_by_one();
        }
        let quads = self.from.chunks_exact(QUAD * LANES);
        for (from, to) in quads.zip(self.to.chunks_mut(QUAD)) {
            for start in (0..LANES).step_by(S::F32_LANES) {
                // SAFETY: `from` has QUAD times LANES values.
                let quads: [S::f32s; QUAD] =
                    std::array::from_fn(|i| unsafe { load::<S>(from.as_ptr().add(i * LANES + start)) });
                let columns = simd.deinterleave_shfl_f32s(quads);
                for (lane, column) in to.iter_mut().zip(columns) {
                    // SAFETY: a lane has LANES values.
                    unsafe { store::<S>(lane.as_mut_ptr().add(start), column) };
                }
            }
        }
    }
}

impl Turn<'_> {
    fn one_by_one(self) {
        for (d, lane) in self.to.iter_mut().enumerate() {
            let quad = &self.from[d / QUAD * QUAD * LANES..];
            for (sample, to) in lane.iter_mut().enumerate() {
                *to = quad[(sample % QUAD * QUAD + sample / QUAD) * QUAD + d % QUAD];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_rows_lie_in_lanes() {
        for width in [1, 3, 4, 7, 16, 39] {
            let value = |table: usize, sample: usize, d: usize| (table * 10_000 + sample * 100 + d) as f32;
            let row = |t: usize, s: usize| (0..width).map(|d| value(t, s, d)).collect::<Vec<f32>>();
            let rows: Vec<Vec<Vec<f32>>> = (0..3).map(|t| (0..LANES).map(|s| row(t, s)).collect()).collect();
            for (tables, samples) in [(1, 16), (3, 16), (2, 5), (1, 0)] {
                let mut scratch = vec![f32::NAN; gather_len(width) + 3];
                let mut lanes = vec![[f32::NAN; LANES]; width];
                let rows = |t: usize, s: usize| rows[t][s].as_slice();
                gather(Arch::new(), [tables, samples], rows, &mut scratch, &mut lanes);
                let mut plain = vec![[f32::NAN; LANES]; width];
                Turn { from: &scratch, to: &mut plain }.one_by_one();
                assert_eq!(lanes, plain);
                #[cfg(target_arch = "x86_64")]
                if let Some(narrow) = pulp::x86::V3::try_new() {
                    plain.fill([f32::NAN; LANES]);
                    Simd::vectorize(narrow, Turn { from: &scratch, to: &mut plain });
                    assert_eq!(lanes, plain);
                }
                for (d, lane) in lanes.iter().enumerate() {
                    let sum = |s| (0..tables).map(|t| value(t, s, d)).sum::<f32>();
                    let expected: Lane = std::array::from_fn(|s| if s < samples { sum(s) } else { 0.0 });
                    assert_eq!(*lane, expected, "{width} {tables} {samples} {d}");
                }
            }
        }
    }
}
