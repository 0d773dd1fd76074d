//! Quantizers: a few bits a value.

use firesteel_comm::compress::{
    Bf16, Compressor, Fp16, Law, MinMaxU8, Natural, OneBit, Qsgd, Sign, SignVote, TernGrad,
};
use firesteel_error::Kind;

use super::{check_garbage, check_law, check_repeats, normal, place, square, through};

fn check(make: impl Fn() -> Box<dyn Compressor>) {
    check_law(&make);
    check_repeats(&make);
    check_garbage(&make);
}

/// Encodes one by one what is not finite, amid other values, and expects it to be refused by its place.
fn check_refuses_what_is_not_finite(compressor: Box<dyn Compressor>) {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = normal(100, 1);
        values[17] = bad;
        let error = compressor.encode(&values, &place(1, 0)).unwrap_err();
        assert_eq!(error.kind(), Kind::Diverged, "{compressor:?}");
        assert!(error.message().contains("value 17 of 100"), "{error}");
    }
}

/// Decodes a payload that differs from what was made of `values` in some bytes, and expects it to be refused.
fn check_corrupt(compressor: Box<dyn Compressor>, values: &[f32], changes: &[(usize, &[u8])]) {
    let payload = compressor.encode(values, &place(1, 0)).unwrap();
    for (at, bytes) in changes {
        let mut payload = payload.to_vec();
        payload[*at..at + bytes.len()].copy_from_slice(bytes);
        let error = compressor.decode(&payload, &place(1, 0), &mut vec![0.0; values.len()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{compressor:?}");
        assert!(error.message().contains("expected"), "{error}");
    }
}

fn check_argument<T: std::fmt::Debug>(made: firesteel_error::Result<T>, parts: [&str; 2]) {
    let error = made.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    square(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)))
}

#[test]
fn fp16() {
    check(|| Box::new(Fp16));
    let values = [1.0, -0.0, 65_504.0, 65_520.0, -1e30, 2f32.powi(-25), 2f32.powi(-24), 1.0 + 2f32.powi(-11)];
    let found = through(&Fp16, &values, &place(1, 0));
    assert_eq!(found, [1.0, 0.0, 65_504.0, 65_504.0, -65_504.0, 0.0, 2f32.powi(-24), 1.0]);
    let payload = Fp16.encode(&[1.0, -2.0, 0.1], &place(1, 0)).unwrap();
    assert_eq!(payload[..], [0x00, 0x3c, 0x00, 0xc0, 0x66, 0x2e]);
    // Where nothing is lost to either end.
    let values: Vec<f32> =
        normal(4099, 1).iter().map(|value| value.signum() * value.abs().max(1e-4)).collect();
    let found = through(&Fp16, &values, &place(1, 0));
    let size = square(values.iter().map(|value| f64::from(*value)));
    assert!(distance(&found, &values) <= 2f64.powi(-22) * size);
}

#[test]
fn bf16() {
    check(|| Box::new(Bf16));
    let payload = Bf16.encode(&[1.0, -2.0, 0.1, f32::MAX, f32::MIN], &place(1, 0)).unwrap();
    assert_eq!(payload[..], [0x80, 0x3f, 0x00, 0xc0, 0xcd, 0x3d, 0x7f, 0x7f, 0x7f, 0xff]);
    // Just off a tie: almost all of the error that the law allows.
    let values = vec![1.0 + 2f32.powi(-8); 100];
    let lost = distance(&through(&Bf16, &values, &place(1, 0)), &values);
    assert!(lost > 0.99 * 2f64.powi(-16) * 100.0);
}

#[test]
fn what_is_not_finite_spoils_only_itself_in_floats() {
    let compressors: [Box<dyn Compressor>; 3] = [Box::new(Fp16), Box::new(Bf16), Box::new(Natural)];
    for compressor in compressors {
        let values = [1.0, f32::NAN, 2.0, f32::INFINITY, f32::NEG_INFINITY, -4.0];
        let payload = compressor.encode(&values, &place(1, 0)).unwrap();
        let mut out = [0.0; 6];
        compressor.decode(&payload, &place(1, 0), &mut out).unwrap();
        assert!(!out[1].is_finite(), "{compressor:?}");
        assert_eq!(
            [out[0], out[2], out[3], out[4], out[5]],
            [1.0, 2.0, f32::INFINITY, f32::NEG_INFINITY, -4.0]
        );
    }
}

#[test]
fn min_max_u8() {
    check(|| Box::new(MinMaxU8));
    check_refuses_what_is_not_finite(Box::new(MinMaxU8));
    let nan = f32::NAN.to_le_bytes();
    let changes: [(usize, &[u8]); 5] =
        [(0, &nan), (4, &nan), (0, &3f32.to_le_bytes()), (8, &[1]), (36, &[1])];
    check_corrupt(Box::new(MinMaxU8), &[-1.0, 0.0, 0.5, 2.0], &changes);
}

#[test]
fn min_max_u8_is_that_of_bagua() {
    let values = [-1.0, 0.0, 0.5, 2.0];
    let payload = MinMaxU8.encode(&values, &place(1, 0)).unwrap();
    assert_eq!(payload.len(), 64);
    assert_eq!(payload[..8], [(-1f32).to_le_bytes(), 2f32.to_le_bytes()].concat());
    assert_eq!(payload[32..36], [0, 85, 127, 255]);
    assert_eq!(through(&MinMaxU8, &values, &place(1, 0)), [-1.0, 0.0, 0.494_117_65, 2.0]);
    assert_eq!([0, 1, 32, 33].map(|len| MinMaxU8.bytes(len).unwrap()), [32, 64, 64, 96]);
}

/// Ranges at which both ends are ties, so that they round to 256 levels apart, and such as are lost in roundings.
#[test]
fn codes_of_min_max_u8_do_not_wrap() {
    let mut most: f64 = 0.0;
    for i in 0..60_000u64 {
        let draw = place(i, 0).own();
        let width = 2f32.powi((draw.word(0) % 40) as i32 - 25) * (0.5 + draw.uniform(1));
        // About half of all: an odd number of half steps from 0.
        let level =
            (draw.word(2) % 600) as f32 - 300.0 + if draw.word(3) & 1 == 0 { 0.5 } else { draw.uniform(4) };
        let max = if draw.word(5).is_multiple_of(4) { 1000.0 } else { level * width / 255.0 };
        let values = [max - width, max, max - width * draw.uniform(6), max - width * draw.uniform(7)];
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
        let largest = f64::from(low.abs().max(high.abs()));
        let bound = 0.51 * (f64::from(high - low) + 1e-7) / 255.0 + largest * 2f64.powi(-22);
        for (found, value) in through(&MinMaxU8, &values, &place(1, 0)).iter().zip(values) {
            most = most.max((f64::from(*found) - f64::from(value)).abs() / bound);
        }
    }
    assert!(most <= 1.0, "{most} of the bound");
    // Ties at both ends: a code of −1, were it not held.
    let found = through(&MinMaxU8, &[-127.5, 127.5, 0.0, 1.0], &place(1, 0));
    assert_eq!(found, [-127.0, 128.0, 0.0, 1.0]);
}

/// All that the law allows is lost: small values of a long vector.
#[test]
fn min_max_u8_loses_what_is_below_half_a_level() {
    for len in [100, 10_000, 200_000] {
        let mut values = vec![0.99 / 255.0; len];
        (values[0], values[1]) = (1.0, -1.0);
        let found = through(&MinMaxU8, &values, &place(1, 0));
        assert_eq!(found[2..], vec![0.0; len - 2]);
        let size = square(values.iter().map(|value| f64::from(*value)));
        let Law::Contraction { delta } = MinMaxU8.law(len) else { panic!() };
        assert!(distance(&found, &values) <= (1.0 - delta) * size);
    }
}

#[test]
fn min_max_u8_refuses_what_it_would_make_infinite() {
    for values in [[1e30, 1e30], [f32::MIN, f32::MAX], [-3e38, -3e38]] {
        assert_eq!(MinMaxU8.encode(&values, &place(1, 0)).unwrap_err().kind(), Kind::Diverged);
    }
    assert_eq!(through(&MinMaxU8, &[0.0, 3e38], &place(1, 0))[0], 0.0);
}

#[test]
fn qsgd() {
    for (levels, bucket) in [(1, 512), (2, 100), (7, 512), (15, 7), (127, 64), (Qsgd::MOST_LEVELS, 1000)] {
        check(|| Box::new(Qsgd::new(levels, bucket).unwrap()));
    }
    check_refuses_what_is_not_finite(Box::new(Qsgd::new(4, 8).unwrap()));
    check_argument(Qsgd::new(0, 512), ["levels is 0", "from 1 to 32767"]);
    check_argument(Qsgd::new(32_768, 512), ["levels is 32768", "from 1 to 32767"]);
    check_argument(Qsgd::new(4, 0), ["bucket is 0", "from 1 to"]);
    check_argument(Qsgd::new(4, usize::MAX), ["bucket is 1844", "from 1 to"]);
}

#[test]
fn qsgd_of_whole_levels_is_exact() {
    // A norm of 5, and 0s for both of the second bucket.
    let values = [3.0, -4.0, 0.0, -0.0, 5.0];
    let qsgd = Qsgd::new(5, 2).unwrap();
    let payload = qsgd.encode(&values, &place(1, 0)).unwrap();
    let (norm, zero) = (5f32.to_le_bytes(), [0; 4]);
    // 4 bits: 8 and 1, 5 and 5, 10.
    assert_eq!(payload[..], [&norm[..], &[0x18], &zero, &[0x55], &norm, &[0x0a]].concat());
    assert_eq!(through(&qsgd, &values, &place(1, 0)), values);
    let nan = f32::NAN.to_le_bytes();
    let changes: [(usize, &[u8]); 5] =
        [(0, &nan), (0, &(-1f32).to_le_bytes()), (10, &[0, 0, 128, 127]), (4, &[0xb1]), (14, &[0x1a])];
    check_corrupt(Box::new(qsgd), &values, &changes);
}

#[test]
fn buckets_of_qsgd_draw_apart() {
    for bucket in [33, 64] {
        let found = through(&Qsgd::new(1, bucket).unwrap(), &vec![1.0; 2 * bucket], &place(1, 0));
        assert_ne!(found[..bucket], found[bucket..]);
    }
}

#[test]
fn codes_of_qsgd_have_as_few_bits_as_hold_them() {
    for (levels, bits) in
        [(1, 2), (2, 3), (3, 3), (4, 4), (7, 4), (8, 5), (127, 8), (128, 9), (Qsgd::MOST_LEVELS, 16)]
    {
        let qsgd = Qsgd::new(levels, 512).unwrap();
        assert_eq!(qsgd.bytes(512), Some(4 + 64 * bits));
        assert_eq!(qsgd.bytes(515), Some(4 + 64 * bits + 4 + (3 * bits).div_ceil(8)));
        assert_eq!(qsgd.bytes(0), Some(0));
    }
}

/// Squares of them are not f32.
#[test]
fn norms_of_huge_and_tiny_vectors_are_found() {
    for size in [2e-38, 1e-30, 1e30, 1e38] {
        let values = [size, -size, 0.0, size];
        let found = through(&Qsgd::new(32_767, 512).unwrap(), &values, &place(1, 0));
        assert!(distance(&found, &values).sqrt() <= f64::from(size) * 1e-4, "{size}: {found:?}");
    }
    let error = Qsgd::new(4, 512).unwrap().encode(&[3e38, 3e38], &place(1, 0)).unwrap_err();
    assert_eq!(error.kind(), Kind::Diverged);
}

#[test]
fn tern_grad() {
    for clip in [None, Some(1.0), Some(TernGrad::CLIP)] {
        check(|| Box::new(TernGrad::new(clip).unwrap()));
        check_refuses_what_is_not_finite(Box::new(TernGrad::new(clip).unwrap()));
    }
    for clip in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        check_argument(TernGrad::new(Some(clip)), ["clip is", "above 0"]);
    }
    let tern_grad = TernGrad::new(None).unwrap();
    let values = [2.0, -2.0, 0.0, 2.0, -0.0];
    let payload = tern_grad.encode(&values, &place(1, 0)).unwrap();
    assert_eq!(payload[..], [&2f32.to_le_bytes()[..], &[0b01_00_11_01, 0]].concat());
    assert_eq!(through(&tern_grad, &values, &place(1, 0)), values);
    let changes: [(usize, &[u8]); 4] =
        [(0, &[0, 0, 128, 127]), (0, &(-1f32).to_le_bytes()), (4, &[2]), (5, &[4])];
    check_corrupt(Box::new(tern_grad), &values, &changes);
}

/// The law is no larger than it must be: a vector that has all of the variance.
#[test]
fn tern_grad_varies_as_much_as_its_law() {
    const DRAWS: u64 = 20_000;
    let tern_grad = TernGrad::new(None).unwrap();
    let mut values = vec![-1.0 / 11.0; 100];
    values[50] = 1.0;
    let apart = |step| distance(&through(&tern_grad, &values, &place(step, 0)), &values);
    let variance = (0..DRAWS).map(apart).sum::<f64>() / DRAWS as f64;
    let Law::Unbiased { omega } = TernGrad::new(None).unwrap().law(100) else { panic!() };
    let ratio = variance / square(values.iter().map(|value| f64::from(*value)));
    assert_eq!(omega, 4.5);
    assert!((ratio / omega - 1.0).abs() < 0.02, "{ratio}");
}

#[test]
fn tern_grad_clips_at_deviations_about_0() {
    let mut values = vec![1.0; 99];
    values.push(10.0);
    let sigma = (199.0f32 / 100.0).sqrt();
    let payload = TernGrad::new(Some(2.0)).unwrap().encode(&values, &place(1, 0)).unwrap();
    assert_eq!(payload[..4], (2.0 * sigma).to_le_bytes());
    // Equal values have no deviation about their mean.
    assert_eq!(through(&TernGrad::new(Some(1.0)).unwrap(), &[3.0; 40], &place(1, 0)), [3.0; 40]);
}

#[test]
fn natural() {
    check(|| Box::new(Natural));
    let values = [1.0, -0.5, 0.0, 2f32.powi(-126), 2f32.powi(127), f32::MAX, -f32::MAX, 4.0, -8.0];
    let payload = Natural.encode(&values, &place(1, 0)).unwrap();
    assert_eq!(payload[..], [127, 126, 0, 1, 254, 254, 254, 129, 130, 0b0100_0010, 1]);
    let found = through(&Natural, &values, &place(1, 0));
    assert_eq!(found[..5], values[..5]);
    assert_eq!(found[5..], [2f32.powi(127), -2f32.powi(127), 4.0, -8.0]);
    check_corrupt(Box::new(Natural), &values, &[(10, &[2])]);
}

/// The worst that there is reaches the law; denormals have the right mean.
#[test]
fn natural_varies_as_much_as_its_law() {
    const LEN: usize = 400_000;
    let values = vec![-4.0 / 3.0; LEN];
    let found = through(&Natural, &values, &place(1, 0));
    let size = square(values.iter().map(|value| f64::from(*value)));
    let ratio = distance(&found, &values) / size;
    assert!((ratio - 0.125).abs() < 0.001, "{ratio}");
    let denormal = f32::MIN_POSITIVE / 4.0;
    let found = through(&Natural, &vec![denormal; LEN], &place(1, 0));
    assert!(found.iter().all(|value| [0.0, f32::MIN_POSITIVE].contains(value)));
    let mean = found.iter().map(|value| f64::from(*value)).sum::<f64>() / LEN as f64;
    assert!((mean / f64::from(denormal) - 1.0).abs() < 0.02, "{mean}");
}

#[test]
fn sign() {
    check(|| Box::new(Sign));
    check_refuses_what_is_not_finite(Box::new(Sign));
    let values = [1.0, -2.0, 0.0, -0.0, 2.0];
    let payload = Sign.encode(&values, &place(1, 0)).unwrap();
    assert_eq!(payload[..], [&1f32.to_le_bytes()[..], &[0b0000_0010]].concat());
    assert_eq!(through(&Sign, &values, &place(1, 0)), [1.0, -1.0, 1.0, 1.0, 1.0]);
    let changes: [(usize, &[u8]); 3] = [(0, &[0, 0, 128, 127]), (0, &(-1f32).to_le_bytes()), (4, &[0x20])];
    check_corrupt(Box::new(Sign), &values, &changes);
}

#[test]
fn sign_vote() {
    check(|| Box::new(SignVote));
    check_refuses_what_is_not_finite(Box::new(SignVote));
    let values = [1e-30, -1e30, 0.0, -0.0, 2.0, -1.0, 1.0, 1.0, -5.0];
    assert_eq!(SignVote.encode(&values, &place(1, 0)).unwrap()[..], [0b0010_0010, 1]);
    let found = through(&SignVote, &values, &place(1, 0));
    assert_eq!(found, [1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0]);
    check_corrupt(Box::new(SignVote), &values, &[(1, &[3])]);
}

#[test]
fn one_bit() {
    check(|| Box::new(OneBit));
    check_refuses_what_is_not_finite(Box::new(OneBit));
    let values = [1.0, -2.0, 0.0, -0.0, 3.0, -4.0];
    let payload = OneBit.encode(&values, &place(1, 0)).unwrap();
    assert_eq!(payload[..], [&(-3f32).to_le_bytes()[..], &1f32.to_le_bytes(), &[0b0010_0010]].concat());
    assert_eq!(through(&OneBit, &values, &place(1, 0)), [1.0, -3.0, 1.0, 1.0, 1.0, -3.0]);
    let changes: [(usize, &[u8]); 4] =
        [(0, &1f32.to_le_bytes()), (4, &(-1f32).to_le_bytes()), (4, &[0, 0, 128, 127]), (8, &[0x40])];
    check_corrupt(Box::new(OneBit), &values, &changes);
    // One side alone.
    assert_eq!(through(&OneBit, &[-1.0, -3.0], &place(1, 0)), [-2.0, -2.0]);
}
