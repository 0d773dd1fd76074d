//! Products held in registers.
//!
//! A tile of M×N vector accumulators stays in registers while the depth of a product streams by: N vectors of one
//! operand and M broadcast values of the other make M·N fused multiply-adds a step (Goto & van de Geijn 2008).
//! 6×4 fills the 32 registers of AVX-512, 6×2 the 16 of AVX2.

use pulp::Simd;

/// The most rows of a tile.
pub(crate) const ROWS: usize = 6;

/// The most vectors across a tile: what the registers hold next to [`ROWS`] rows.
#[inline(always)]
pub(crate) fn columns<S: Simd>() -> usize {
    if S::F32_LANES == 8 { 2 } else { 4 }
}

/// The most rows of a tile that always has 4 columns.
#[inline(always)]
pub(crate) fn rows_of_four<S: Simd>() -> usize {
    if S::F32_LANES == 8 { 3 } else { ROWS }
}

/// M×N vectors of sums.
pub(crate) type Tile<S, const M: usize, const N: usize> = [[<S as Simd>::f32s; N]; M];

/// A tile of zeros.
#[inline(always)]
pub(crate) fn zeros<S: Simd, const M: usize, const N: usize>(simd: S) -> Tile<S, M, N> {
    [[simd.splat_f32s(0.0); N]; M]
}

/// The vector at `from`.
///
/// # Safety
/// `S::F32_LANES` values can be read there.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    // SAFETY: by the caller; any alignment will do.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// Puts a vector at `to`.
///
/// # Safety
/// `S::F32_LANES` values can be written there.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(to: *mut f32, value: S::f32s) {
    // SAFETY: by the caller; any alignment will do.
    unsafe { to.cast::<S::f32s>().write_unaligned(value) }
}

/// `value`, or `floor` where it is below that: 0 is relu, −∞ nothing. NaN stays NaN, which no maximum promises on all
/// instruction sets.
#[inline(always)]
pub(crate) fn raise<S: Simd>(simd: S, floor: S::f32s, value: S::f32s) -> S::f32s {
    simd.select_f32s(simd.less_than_f32s(value, floor), floor, value)
}

/// A strided operand of scalars: value `(i, d)` is at `start + i·row + d·step`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalars {
    pub(crate) start: *const f32,
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// `sums[i][j] += a(i) · b(j)`. The fewer of the two stay in registers, so that M·N + min(M, N) + 1 are enough.
#[inline(always)]
pub(crate) fn multiply<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut Tile<S, M, N>,
    a: impl Fn(usize) -> S::f32s,
    b: impl Fn(usize) -> S::f32s,
) {
    if M < N {
        let a = std::array::from_fn::<_, M, _>(a);
        for j in 0..N {
            let b = b(j);
            for i in 0..M {
                sums[i][j] = simd.mul_add_e_f32s(a[i], b, sums[i][j]);
            }
        }
    } else {
        let b = std::array::from_fn::<_, N, _>(b);
        for i in 0..M {
            let a = a(i);
            for j in 0..N {
                sums[i][j] = simd.mul_add_e_f32s(a, b[j], sums[i][j]);
            }
        }
    }
}

/// `sums[i][j] += Σ_d a(i, d) · b_j(d)`, b_j(d) being the vector at `b[j] + d·b_step`, for `d` in `0..depth`.
///
/// # Safety
/// All those places can be read.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut Tile<S, M, N>,
    depth: usize,
    a: Scalars,
    b: [*const f32; N],
    b_step: usize,
) {
    // SAFETY: offsets stay in what the caller says can be read.
    unsafe {
        let mut start = a.start;
        let mut b = b;
        for _ in 0..depth {
            multiply(simd, sums, |i| simd.splat_f32s(*start.add(i * a.row)), |j| load::<S>(b[j]));
            b = b.map(|b| b.wrapping_add(b_step));
            start = start.wrapping_add(a.step);
        }
    }
}

/// As [`accumulate`], b_j(d) being the vector at `b[j] + offsets[d]`.
///
/// # Safety
/// All those places can be read.
#[inline(always)]
pub(crate) unsafe fn accumulate_at<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut Tile<S, M, N>,
    offsets: &[usize],
    a: Scalars,
    b: [*const f32; N],
) {
    // SAFETY: offsets stay in what the caller says can be read.
    unsafe {
        let mut start = a.start;
        for &offset in offsets {
            multiply(simd, sums, |i| simd.splat_f32s(*start.add(i * a.row)), |j| load::<S>(b[j].add(offset)));
            start = start.wrapping_add(a.step);
        }
    }
}

/// Calls `$f::<$simd, M, N>` for sizes known at run time, M in 1..=6 and N in 1..=4; `4 columns` leaves N out.
macro_rules! by_size {
    ($m:expr, $n:expr, $f:ident::<$simd:ty> $arguments:tt) => {
        $crate::kernels::tile::by_size!(@rows $m, $n, $f, $simd, $arguments; 1 2 3 4 5 6)
    };
    ($m:expr, 4 columns, $f:ident::<$simd:ty> $arguments:tt) => {
        match $m {
            1 => $f::<$simd, 1> $arguments,
            2 => $f::<$simd, 2> $arguments,
            3 => $f::<$simd, 3> $arguments,
            4 => $f::<$simd, 4> $arguments,
            5 => $f::<$simd, 5> $arguments,
            6 => $f::<$simd, 6> $arguments,
            _ => unreachable!("a tile has at most 6 rows"),
        }
    };
    (@rows $m:expr, $n:expr, $f:ident, $simd:ty, $arguments:tt; $($rows:literal)*) => {
        match $m {
            $($rows => $crate::kernels::tile::by_size!(@columns $n, $f, $simd, $arguments, $rows; 1 2 3 4),)*
            _ => unreachable!("a tile has at most 6 rows"),
        }
    };
    (@columns $n:expr, $f:ident, $simd:ty, $arguments:tt, $rows:literal; $($columns:literal)*) => {
        match $n {
            $($columns => $f::<$simd, $rows, $columns> $arguments,)*
            _ => unreachable!("a tile has at most 4 columns"),
        }
    };
}
pub(crate) use by_size;
