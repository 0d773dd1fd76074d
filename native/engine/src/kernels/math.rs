//! Functions of one value without branches or calls, so that the compiler turns a loop over them into vector code.
//! Errors are those against f64, in units in the last place or absolute, and tested.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

const SHIFT: f32 = 12_582_912.0;

/// eˣ within 2 units in the last place; 0 below −87.3, +∞ above 88.7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n·ln 2 + r, |r| ≤ ln 2 / 2; ln 2 in two parts, the first exact in few bits (Cephes expf).
    let bounded = x.clamp(-87.4, 88.8);
    // Adding 1.5·2²³ leaves the nearest integer in the low bits of the sum.
    let shifted = bounded.mul_add(LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = n.mul_add(-0.693_359_4, bounded);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let p = p.mul_add(r * r, r) + 1.0;
    // 2ⁿ in two factors: n may be 128, which one f32 cannot hold.
    let half = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let n = shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32;
    let low = n >> 1;
    let value = p * half(low) * half(n.wrapping_sub(low));
    let value = if x < -87.336_54 { 0.0 } else { value };
    if x.is_nan() { x } else { value }
}

/// max(x, 0), NaN for NaN.
#[inline(always)]
pub(crate) fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// The gradient `g` by max(x, 0) as one by x, from the result `y`.
#[inline(always)]
pub(crate) fn relu_backward(g: f32, y: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { g }
}

/// 1/(1+e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The gradient by the sigmoid as one by x, from the result `y`.
#[inline(always)]
pub(crate) fn sigmoid_backward(g: f32, y: f32) -> f32 {
    g * y * (1.0 - y)
}

/// tanh x within 3 units in the last place: a polynomial near 0, by eˣ elsewhere (Cephes tanhf).
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3_f32;
    for c in [2.063_909e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p.mul_add(z, c);
    }
    let near = (p * z).mul_add(x, x);
    let size = x.abs().min(10.0);
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    let value = if x.abs() < 0.625 { near } else { far };
    if x.is_nan() { x } else { value }
}

/// The gradient by tanh x as one by x, from the result `y`.
#[inline(always)]
pub(crate) fn tanh_backward(g: f32, y: f32) -> f32 {
    g * (1.0 - y * y)
}

/// (Φ(x), φ(x)): the standard normal distribution and density, within 3·10⁻⁷.
/// erf by Abramowitz & Stegun 7.1.26.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1_f32.mul_add(z, 1.0);
    let mut p = 1.061_405_4_f32;
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = p.mul_add(t, c);
    }
    let tail = exp(-z * z);
    let half = 0.5 * p * t * tail;
    let below = if x < 0.0 { half } else { 1.0 - half };
    (below, tail * 0.398_942_3)
}

/// x·Φ(x).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// The gradient by x·Φ(x) as one by x, from the operand: times Φ(x) + x·φ(x).
#[inline(always)]
pub(crate) fn gelu_backward(g: f32, x: f32) -> f32 {
    let (below, density) = normal(x);
    g * x.mul_add(density, below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, range: f32, relative: bool) -> f64 {
        let points = 200_001;
        let at = |i: i32| (i as f32 / (points - 1) as f32 * 2.0 - 1.0) * range;
        let error = |x: f32| {
            let (found, exact) = (f64::from(f(x)), exact(f64::from(x)));
            (found - exact).abs() / if relative { exact.abs().max(1e-37) } else { 1.0 }
        };
        (0..points).map(at).map(error).fold(0.0, f64::max)
    }

    /// By its series and continued fraction; slow and exact.
    fn erf(x: f64) -> f64 {
        let terms = (0..200).scan(x, |term, n| {
            let now = *term;
            *term *= 2.0 * x * x / (2 * n + 3) as f64;
            Some(now)
        });
        (-x * x).exp() * terms.sum::<f64>() * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn errors_are_what_the_docs_say() {
        let ulp = f64::from(f32::EPSILON);
        assert!(worst(exp, f64::exp, 87.0, true) < 2.0 * ulp);
        assert!(worst(tanh, f64::tanh, 12.0, true) < 3.0 * ulp);
        assert!(worst(tanh, f64::tanh, 0.01, true) < 3.0 * ulp);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 80.0, true) < 4.0 * ulp);
        let exact = |x: f64| 0.5 * (1.0 + erf(x / 2f64.sqrt()));
        assert!(worst(|x| normal(x).0, exact, 5.0, false) < 3e-7);
    }

    #[test]
    fn ends_and_nan() {
        assert_eq!((exp(-200.0), exp(200.0), exp(0.0)), (0.0, f32::INFINITY, 1.0));
        assert_eq!((exp(f32::NEG_INFINITY), exp(f32::INFINITY)), (0.0, f32::INFINITY));
        assert_eq!((tanh(50.0), tanh(-50.0), sigmoid(-200.0), sigmoid(200.0)), (1.0, -1.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert!(gelu(f32::NAN).is_nan() && gelu_backward(1.0, f32::NAN).is_nan());
        assert_eq!((gelu(-40.0), gelu(40.0)), (0.0, 40.0));
    }
}
