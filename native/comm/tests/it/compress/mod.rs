//! What every compressor promises, held to it.

mod quantize;
mod sparsify;

use firesteel_comm::Key;
use firesteel_comm::compress::{Compressor, Law, Place};
use firesteel_error::Kind as ErrorKind;

/// Lengths at and around where codes have their edges.
pub const LENGTHS: [usize; 9] = [0, 1, 2, 31, 32, 33, 257, 1000, 4099];

pub fn place(step: u64, rank: usize) -> Place {
    Place { seed: 42, key: Key::new(step, 3, 0), rank, part: 0 }
}

/// Normal numbers (Box and Muller 1958).
pub fn normal(len: usize, seed: u64) -> Vec<f32> {
    let draw = place(seed, 99).own();
    let one = |i: u64| {
        let (u, v) = (1.0 - f64::from(draw.uniform(2 * i)), f64::from(draw.uniform(2 * i + 1)));
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    (0..len as u64).map(one).collect()
}

/// Vectors of all kinds, by name.
pub fn vectors(len: usize) -> Vec<(&'static str, Vec<f32>)> {
    let spike = |i: usize| if i == len / 2 { 3.0 } else { 0.0 };
    let scarce = |i: usize, value: f32| if i % 97 == 5 { value } else { 0.0 };
    let mixed = |i: usize, value: f32| value * [1e-18, 1.0, 1e15][i % 3];
    let normal = || normal(len, 1).into_iter().enumerate();
    vec![
        ("normal", normal().map(|(_, value)| value).collect()),
        ("a spike", (0..len).map(spike).collect()),
        ("all equal", vec![0.7; len]),
        ("all equal and negative", vec![-0.7; len]),
        ("mostly zero", normal().map(|(i, value)| scarce(i, value)).collect()),
        ("huge and tiny", normal().map(|(i, value)| mixed(i, value)).collect()),
        ("far from zero", normal().map(|(_, value)| 1000.0 + value).collect()),
        ("all zero", vec![0.0; len]),
    ]
}

pub fn square(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum()
}

/// Encodes and decodes, and sees that all was written and the payload is as long as was said.
pub fn through(compressor: &dyn Compressor, values: &[f32], at: &Place) -> Vec<f32> {
    let payload = compressor.encode(values, at).unwrap();
    if let Some(bytes) = compressor.bytes(values.len()) {
        assert_eq!(payload.len(), bytes, "{compressor:?} of {}", values.len());
    }
    let mut out = vec![f32::NAN; values.len()];
    compressor.decode(&payload, at, &mut out).unwrap();
    assert!(out.iter().all(|value| value.is_finite()), "{compressor:?} of {}", values.len());
    out
}

/// Holds a compressor to its law, on all vectors and lengths.
pub fn check_law(make: impl Fn() -> Box<dyn Compressor>) {
    for len in LENGTHS {
        for (name, values) in vectors(len) {
            let law = make().law(len);
            let size = square(values.iter().map(|value| f64::from(*value)));
            let apart = |found: &[f32]| {
                square(found.iter().zip(&values).map(|(found, value)| f64::from(*found) - f64::from(*value)))
            };
            let context = || format!("{:?}, {name}, {len}: {law:?}", make());
            match law {
                Law::Exact => {
                    assert_eq!(through(make().as_ref(), &values, &place(1, 0)), values, "{}", context())
                }
                Law::Contraction { delta } => {
                    assert!(delta > 0.0 && delta <= 1.0, "{}", context());
                    let far = apart(&through(make().as_ref(), &values, &place(1, 0)));
                    assert!(
                        far <= (1.0 - delta) * size * (1.0 + 1e-5) + 1e-30,
                        "{}: {far} of {size}",
                        context()
                    );
                }
                Law::Unbiased { omega } => check_unbiased(make().as_ref(), &values, omega, &context()),
                Law::Biased => drop(through(make().as_ref(), &values, &place(1, 0))),
            }
        }
    }
}

/// Over many draws: the mean is what was encoded, the variance at most ω‖x‖².
fn check_unbiased(compressor: &dyn Compressor, values: &[f32], omega: f64, context: &str) {
    const DRAWS: u64 = 400;
    let size = square(values.iter().map(|value| f64::from(*value)));
    let (mut sum, mut apart) = (vec![0.0f64; values.len()], vec![0.0f64; values.len()]);
    for step in 0..DRAWS {
        let found = through(compressor, values, &place(step, 0));
        for (i, (found, value)) in found.iter().zip(values).enumerate() {
            let error = f64::from(*found) - f64::from(*value);
            sum[i] += error;
            apart[i] += error * error;
        }
    }
    let variance = apart.iter().sum::<f64>() / DRAWS as f64;
    // Its mean over draws is itself random: a few of its own deviations.
    assert!(variance <= omega * size * 1.3 + 1e-30, "{context}: {variance} of {size}");
    let bias = square(sum.iter().map(|sum| sum / DRAWS as f64));
    // What a mean of so many has: a sum of squares with these weights, beyond the bound once in e¹⁰ (Laurent and Massart 2000).
    // By weights and not by the length, since of some vectors only few values vary.
    let weights: Vec<f64> = apart.iter().map(|apart| apart / (DRAWS * DRAWS) as f64).collect();
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let spread = 2.0 * (10.0 * square(weights.iter().copied())).sqrt() + 20.0 * largest;
    // What comes less than ten times in so many draws may not have come, and was not measured then.
    let rare =
        10.0 / DRAWS as f64 * values.iter().fold(0.0, |most: f64, value| most.max(f64::from(value.abs())));
    let most = variance / DRAWS as f64 + spread + rare * rare;
    assert!(bias <= most + size * 1e-12 + 1e-30, "{context}: bias {bias}, at most {most}");
}

/// What is drawn at a place is drawn again.
pub fn check_repeats(make: impl Fn() -> Box<dyn Compressor>) {
    let values = normal(1000, 5);
    let once = make().encode(&values, &place(3, 1)).unwrap();
    let used = make();
    used.encode(&normal(1000, 6), &place(2, 1)).unwrap();
    assert_eq!(used.encode(&values, &place(3, 1)).unwrap(), once, "{used:?}");
}

/// Payloads that are cut, or longer than they are, are refused, and none panics.
pub fn check_garbage(make: impl Fn() -> Box<dyn Compressor>) {
    let values = normal(300, 5);
    let payload = make().encode(&values, &place(3, 1)).unwrap();
    let mut out = vec![0.0; values.len()];
    for end in 0..payload.len() {
        // A cut may be another payload where lengths depend on the values; it is never a panic.
        let cut = make().decode(&payload[..end], &place(3, 1), &mut out);
        match cut {
            Ok(()) => assert!(make().bytes(values.len()).is_none(), "{:?}: {end}", make()),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{:?}: {end}", make()),
        }
    }
    let longer = [&payload[..], b"x"].concat();
    assert!(make().decode(&longer, &place(3, 1), &mut out).is_err(), "{:?}", make());
    for seed in 0..50u64 {
        let draw = place(seed, 7).own();
        let noise: Vec<u8> = (0..payload.len() as u64).map(|i| draw.word(i) as u8).collect();
        _ = make().decode(&noise, &place(3, 1), &mut out);
    }
}
