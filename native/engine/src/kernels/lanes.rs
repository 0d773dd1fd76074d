//! Loops over lanes, and moves between rows and lanes.
//!
//! Loops are written over arrays of [`LANES`] and run inside `Arch::dispatch`, where the compiler makes them vector
//! code of the machine at hand.

use pulp::Arch;

use crate::fuse::Activation;
use crate::kernels::math;
use crate::memory::LANES;

/// The values of one feature for the samples of a block.
pub(crate) type Lane = [f32; LANES];

/// A buffer as lanes.
#[inline(always)]
pub(crate) fn lanes(values: &[f32]) -> &[Lane] {
    values.as_chunks().0
}

/// A buffer as lanes, to write.
#[inline(always)]
pub(crate) fn lanes_mut(values: &mut [f32]) -> &mut [Lane] {
    values.as_chunks_mut().0
}

/// The sum of all lanes, as a tree: the same for every instruction set.
#[inline(always)]
pub(crate) fn sum(lane: &Lane) -> f32 {
    let mut sums = *lane;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

/// `to[i] (+)= f(i)` on lanes.
#[inline(always)]
pub(crate) fn put(to: &mut [Lane], add: bool, mut f: impl FnMut(usize, usize) -> f32) {
    if add {
        for (i, to) in to.iter_mut().enumerate() {
            for (l, to) in to.iter_mut().enumerate() {
                *to += f(i, l);
            }
        }
    } else {
        for (i, to) in to.iter_mut().enumerate() {
            for (l, to) in to.iter_mut().enumerate() {
                *to = f(i, l);
            }
        }
    }
}

/// The values of the lanes in which `which` is `this`, 0 in the others. Without a branch: which of a pool's values was
/// largest is as good as random, and a quarter of LeNet's time went into wrong guesses of it.
#[inline(always)]
pub(crate) fn taken(values: &Lane, which: &[u16; LANES], this: u16) -> Lane {
    std::array::from_fn(|l| f32::from_bits(values[l].to_bits() & u32::from(which[l] == this).wrapping_neg()))
}

/// `to (+)= from`.
pub(crate) fn copy(arch: Arch, from: &[f32], to: &mut [f32], add: bool) {
    if !add {
        return to.copy_from_slice(from);
    }
    arch.dispatch(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        },
    );
}

/// Applies an activation in place.
pub(crate) fn activate(arch: Arch, activation: Activation, values: &mut [f32]) {
    #[inline(always)]
    fn each(arch: Arch, values: &mut [f32], f: impl Fn(f32) -> f32) {
        arch.dispatch(
            #[inline(always)]
            || values.iter_mut().for_each(|v| *v = f(*v)),
        );
    }
    match activation {
        Activation::Relu => each(arch, values, math::relu),
        Activation::Tanh => each(arch, values, math::tanh),
        Activation::Sigmoid => each(arch, values, math::sigmoid),
    }
}

/// Turns the gradient by an activation's result into the gradient by its operand, in place.
pub(crate) fn activate_backward(arch: Arch, activation: Activation, result: &[f32], gradient: &mut [f32]) {
    #[inline(always)]
    fn each(arch: Arch, result: &[f32], gradient: &mut [f32], f: impl Fn(f32, f32) -> f32) {
        arch.dispatch(
            #[inline(always)]
            || gradient.iter_mut().zip(result).for_each(|(g, y)| *g = f(*g, *y)),
        );
    }
    match activation {
        Activation::Relu => each(arch, result, gradient, math::relu_backward),
        Activation::Tanh => each(arch, result, gradient, math::tanh_backward),
        Activation::Sigmoid => each(arch, result, gradient, math::sigmoid_backward),
    }
}

/// Columns `column..` of rows `(rows, width)` to lanes; lanes beyond the rows become 0.
pub(crate) fn from_rows(arch: Arch, rows: &[f32], width: usize, column: usize, to: &mut [Lane]) {
    let count = rows.len() / width;
    assert!(rows.len() == count * width && count <= LANES && column + to.len() <= width);
    arch.dispatch(
        #[inline(always)]
        || {
            if count < LANES {
                to.as_flattened_mut().fill(0.0);
            }
            for l in 0..count {
                let row = &rows[l * width + column..][..to.len()];
                for (to, value) in to.iter_mut().zip(row) {
                    to[l] = *value;
                }
            }
        },
    );
}

/// Lanes `(width, LANES)` to rows `(rows, width)`; lanes beyond the rows are left out.
pub(crate) fn to_rows(from: &[Lane], width: usize, rows: &mut [f32]) {
    for (l, row) in rows.chunks_exact_mut(width).enumerate() {
        for (to, lane) in row.iter_mut().zip(from) {
            *to = lane[l];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_lanes_are_inverse() {
        for count in [1, 5, 16] {
            let rows: Vec<f32> = (0..count * 3).map(|i| i as f32).collect();
            let mut lanes = vec![[f32::NAN; LANES]; 3];
            from_rows(Arch::new(), &rows, 3, 0, &mut lanes);
            assert_eq!(lanes[2][count - 1], (3 * count - 1) as f32);
            assert!(lanes.iter().all(|lane| lane[count..].iter().all(|v| *v == 0.0)));
            let mut back = vec![0.0; count * 3];
            to_rows(&lanes, 3, &mut back);
            assert_eq!(back, rows);
        }
    }

    #[test]
    fn relu_keeps_nan_and_its_gradient_stops_at_zero() {
        let mut values = [f32::NAN, -1.0, 0.0, 2.0];
        activate(Arch::new(), Activation::Relu, &mut values);
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [0.0, 0.0, 2.0]);
        let mut gradient = [1.0; 4];
        activate_backward(Arch::new(), Activation::Relu, &values, &mut gradient);
        assert_eq!(gradient, [1.0, 0.0, 0.0, 1.0], "as PyTorch, where NaN lets it through");
    }

    #[test]
    fn sums_of_lanes() {
        assert_eq!(sum(&std::array::from_fn(|i| i as f32)), 120.0);
    }
}
