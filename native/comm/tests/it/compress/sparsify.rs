//! Sparsifiers and sketches.

use firesteel_comm::compress::{
    Bitmap, Compressor, CountSketch, Indices, Law, Qsgd, RandomK, Shrink, SketchMl, Threshold, TopK,
};
use firesteel_error::Kind;

use super::{check_garbage, check_law, check_repeats, normal, place, square, through, vectors};

type Make = Box<dyn Fn() -> Box<dyn Compressor>>;

fn make<C: Compressor + Clone + 'static>(compressor: C) -> Make {
    Box::new(move || Box::new(compressor.clone()))
}

/// All kinds.
fn sparsifiers() -> Vec<Make> {
    let mut all = vec![
        make(RandomK::new(0.3).unwrap()),
        make(RandomK::new(1.0).unwrap()),
        make(SketchMl::new(2).unwrap()),
        make(SketchMl::new(64).unwrap()),
        make(SketchMl::new(255).unwrap()),
    ];
    for indices in [Indices::Fixed, Indices::Shortest] {
        all.extend([1e-9, 0.01, 0.25, 1.0].map(|ratio| make(TopK::new(ratio, indices).unwrap())));
        all.extend([0.0, 0.5, 1e30].map(|least| make(Threshold::new(least, indices).unwrap())));
    }
    all
}

fn decode(compressor: &dyn Compressor, payload: &[u8], len: usize) -> Result<Vec<f32>, String> {
    let mut out = vec![f32::NAN; len];
    match compressor.decode(payload, &place(1, 0), &mut out) {
        Ok(()) => Ok(out),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Corrupt);
            Err(error.to_string())
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn laws_hold() {
    sparsifiers().iter().for_each(check_law);
}

#[test]
fn draws_repeat() {
    sparsifiers().iter().for_each(check_repeats);
}

#[test]
fn garbage_is_refused() {
    sparsifiers().iter().for_each(check_garbage);
    // A changed bit is refused or makes another vector: never a panic.
    for make in sparsifiers() {
        let payload = make().encode(&normal(40, 5), &place(1, 0)).unwrap();
        for (at, bit) in (0..payload.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = payload.to_vec();
            changed[at] ^= 1 << bit;
            _ = decode(make().as_ref(), &changed, 40);
        }
    }
}

#[test]
fn what_is_not_kept_is_zero() {
    // How a value may come out, if not as +0.
    let as_it_was = |found: f32, value: f32| found.to_bits() == value.to_bits();
    let scaled = |found: f32, value: f32| found == 4.0 * value;
    let as_large = |found: f32, value: f32| found * value > 0.0 || value.abs() < 1e-15;
    type Kept<'a> = &'a dyn Fn(f32, f32) -> bool;
    let all: [(Make, Kept, usize); 5] = [
        (make(TopK::new(0.25, Indices::Fixed).unwrap()), &as_it_was, 250),
        (make(TopK::new(0.25, Indices::Shortest).unwrap()), &as_it_was, 250),
        (make(Threshold::new(0.5, Indices::Shortest).unwrap()), &as_it_was, 1000),
        (make(RandomK::new(0.25).unwrap()), &scaled, 250),
        (make(SketchMl::new(20).unwrap()), &as_large, 1000),
    ];
    for (make, kept, most) in all {
        for (name, values) in vectors(1000) {
            let found = through(make().as_ref(), &values, &place(1, 0));
            let mut count = 0;
            for (i, (found, value)) in found.iter().zip(&values).enumerate() {
                let zero = found.to_bits() == 0;
                assert!(zero || *value != 0.0 && kept(*found, *value), "{:?}, {name}, {i}: {found}", make());
                count += usize::from(!zero);
            }
            assert!(count <= most, "{:?}, {name}: {count}", make());
        }
    }
}

#[test]
fn top_k_keeps_the_largest_and_of_equals_the_first() {
    let top = TopK::new(0.375, Indices::Fixed).unwrap();
    let values = [1.0, -3.0, 2.0, 2.0, 0.5, 0.0, -2.0, -7.0];
    assert_eq!(through(&top, &values, &place(1, 0)), [0.0, -3.0, 2.0, 0.0, 0.0, 0.0, 0.0, -7.0]);
    assert_eq!(through(&top, &[1.0; 8], &place(1, 0)), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let payload = top.encode(&values, &place(1, 0)).unwrap();
    let values = [-3.0f32, 2.0, -7.0].map(f32::to_bits);
    assert_eq!(payload, words(&[&[1, 2, 7], &values[..]].concat()));
    assert_eq!((top.bytes(8), top.law(8)), (Some(24), Law::Contraction { delta: 0.375 }));
    assert_eq!((top.bytes(0), top.law(0), top.law(1)), (Some(0), Law::Exact, Law::Exact));
    // The k-th largest by sorting.
    for (name, values) in vectors(1000) {
        let found = through(&TopK::new(0.1, Indices::Shortest).unwrap(), &values, &place(1, 0));
        let mut order: Vec<usize> = (0..1000).collect();
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
        let mut expected = vec![0.0; 1000];
        order[..100].iter().for_each(|i| expected[*i] = values[*i]);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_shortest_indices_are_shorter() {
    let values = normal(100_000, 1);
    let bytes =
        |ratio, indices| TopK::new(ratio, indices).unwrap().encode(&values, &place(1, 0)).unwrap().len();
    assert_eq!(bytes(0.01, Indices::Fixed), 8 * 1000);
    // Gaps of about 100, some of more than 127: less than two bytes each.
    assert!((5001 + 100..6001 - 100).contains(&bytes(0.01, Indices::Shortest)));
    // A bitmap.
    assert_eq!(bytes(0.5, Indices::Shortest), 1 + 12_500 + 4 * 50_000);
}

#[test]
fn random_k_draws_each_set_as_often() {
    // 4 of 7 values: 35 sets.
    let mut seen = std::collections::HashMap::new();
    const DRAWS: u64 = 35_000;
    let random = RandomK::new(0.5).unwrap();
    for step in 0..DRAWS {
        let found = through(&random, &[1.0; 7], &place(step, 0));
        *seen.entry(found.iter().map(|value| u8::from(*value > 0.0)).collect::<Vec<u8>>()).or_insert(0u32) +=
            1;
    }
    assert_eq!(seen.len(), 35);
    let chi: f64 = seen.values().map(|seen| (f64::from(*seen) - 1000.0).powi(2) / 1000.0).sum();
    // A chi-square of 34 degrees: mean 34, deviation 8.2.
    assert!(chi < 34.0 + 5.0 * 8.2, "{chi}");
}

#[test]
fn random_k_draws_alike_on_all_workers_and_adds_up() {
    let random = RandomK::new(0.1).unwrap();
    let whole = |seed| normal(1000, seed).iter().map(|value| (64.0 * value).round()).collect::<Vec<f32>>();
    let (a, b) = (whole(1), whole(2));
    let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    let encode = |values: &[f32], rank| random.encode(values, &place(4, rank)).unwrap();
    let (a, b, both) = (encode(&a, 0), encode(&b, 1), encode(&sum, 2));
    assert_eq!(a.len(), 4 * 100);
    let floats = |payload: &[u8]| {
        payload.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<f32>>()
    };
    let added: Vec<f32> = floats(&a).iter().zip(floats(&b)).map(|(a, b)| a + b).collect();
    assert_eq!(added, floats(&both));

    let found = through(&random, &sum, &place(4, 3));
    let kept: Vec<f32> = found.iter().copied().filter(|value| *value != 0.0).collect();
    let expected: Vec<f32> = added.iter().map(|v| 10.0 * v).filter(|v| *v != 0.0).collect();
    assert_eq!(kept, expected);
    assert_ne!(found, through(&random, &sum, &place(5, 3)));
}

#[test]
fn what_is_shrunk_contracts_in_the_mean() {
    const DRAWS: u64 = 2_000;
    let spike: Vec<f32> = (0..500).map(|i| if i == 7 { 3.0 } else { 0.0 }).collect();
    let makes: [Make; 2] = [make(RandomK::new(0.2).unwrap()), make(Qsgd::new(1, 256).unwrap())];
    for of in makes {
        let shrunk = Shrink::new(of()).unwrap();
        for values in [normal(500, 3), spike.clone()] {
            let Law::Contraction { delta } = shrunk.law(500) else { panic!("{shrunk:?}") };
            let size = square(values.iter().map(|value| f64::from(*value)));
            let far = |step| {
                let found = through(&shrunk, &values, &place(step, 0));
                square(found.iter().zip(&values).map(|(f, v)| f64::from(*f) - f64::from(*v)))
            };
            let mean = (0..DRAWS).map(far).sum::<f64>() / DRAWS as f64;
            assert!(mean <= (1.0 - delta) * size * 1.05, "{shrunk:?}: {mean} of {size}, δ = {delta}");
        }
        assert_eq!(shrunk.bytes(500), of().bytes(500));
    }
    check_repeats(|| Box::new(Shrink::new(Box::new(RandomK::new(0.2).unwrap())).unwrap()));
    check_garbage(|| Box::new(Shrink::new(Box::new(RandomK::new(0.2).unwrap())).unwrap()));
}

#[test]
fn a_threshold_keeps_what_is_above_it() {
    let threshold = Threshold::new(0.5, Indices::Fixed).unwrap();
    let values = [0.5, -0.75, 0.25, 2.0, -0.5];
    assert_eq!(through(&threshold, &values, &place(1, 0)), [0.0, -0.75, 0.0, 2.0, 0.0]);
    assert_eq!(threshold.encode(&values, &place(1, 0)).unwrap().len(), 4 + 8 * 2);
    assert_eq!((threshold.law(5), threshold.bytes(5)), (Law::Biased, None));
}

#[test]
fn sketch_ml_sends_the_mean_of_each_bin() {
    let sketch = SketchMl::new(4).unwrap();
    // Six values in bins of two, none of both signs.
    let values = [0.0, 1.0, -5.0, 3.0, 0.0, -0.5, 7.0, 8.0];
    assert_eq!(through(&sketch, &values, &place(1, 0)), [0.0, 2.0, -2.75, 2.0, 0.0, -2.75, 7.5, 7.5]);
    let payload = sketch.encode(&values, &place(1, 0)).unwrap();
    assert_eq!(payload[..5], [6, 0, 0, 0, 3]);
    assert_eq!(payload[17..], [1, 0, 1, 0, 2, 2, 0, 0b1110_1110]);
    assert_eq!((sketch.law(8), sketch.law(3)), (Law::Contraction { delta: 1.0 / 3.0 }, Law::Exact));
    // Worst cases, with both signs leaving a part of a bin: no more bins than there may be.
    for (bins, negative) in [(2, 3), (3, 1), (7, 5), (255, 500)] {
        let values: Vec<f32> =
            (0..1000).map(|i| if i < negative { -1.0 } else { 1.0 } * (i + 1) as f32).collect();
        assert!(usize::from(SketchMl::new(bins).unwrap().encode(&values, &place(1, 0)).unwrap()[4]) <= bins);
        through(&SketchMl::new(bins).unwrap(), &values, &place(1, 0));
    }
    // Smooth values are hardly changed.
    let values = normal(10_000, 3);
    let found = through(&SketchMl::new(255).unwrap(), &values, &place(1, 0));
    let apart = square(values.iter().zip(&found).map(|(a, b)| f64::from(a - b)));
    assert!(apart < 0.002 * square(values.iter().map(|value| f64::from(*value))), "{apart}");
}

#[test]
fn values_that_spoil_others_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = normal(100, 1);
        values[17] = bad;
        for make in [make(TopK::new(0.1, Indices::Fixed).unwrap()), make(SketchMl::new(9).unwrap())] {
            let error = make().encode(&values, &place(1, 0)).unwrap_err();
            assert_eq!(error.kind(), Kind::Diverged);
            assert!(error.to_string().starts_with("value 17 of 100 "), "{error}");
        }
        // The others send it on, and nothing else is touched.
        for make in [
            make(RandomK::new(1.0).unwrap()),
            make(Threshold::new(0.0, Indices::Fixed).unwrap()),
            make(Threshold::new(0.0, Indices::Shortest).unwrap()),
        ] {
            let payload = make().encode(&values, &place(1, 0)).unwrap();
            let found = decode(make().as_ref(), &payload, 100).unwrap();
            assert!(found.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{:?}", make());
        }
        let mut sketch = CountSketch::new(3, 10, &place(1, 0).shared()).unwrap();
        assert_eq!(sketch.add(17, bad).unwrap_err().kind(), Kind::Diverged);
        assert_eq!(sketch.add_run(0, &values).unwrap_err().kind(), Kind::Diverged);
        assert!(sketch.table().iter().all(|cell| *cell == 0.0));
    }
}

#[test]
fn bad_parameters_are_named() {
    for ratio in [0.0, -0.1, 1.5, f64::NAN, f64::INFINITY] {
        let top = TopK::new(ratio, Indices::Fixed).unwrap_err();
        assert_eq!(top.to_string(), format!("top-k: ratio is {ratio}, expected above 0 and at most 1"));
        let random = format!("random-k: ratio is {ratio}, expected above 0 and at most 1");
        assert_eq!(RandomK::new(ratio).unwrap_err().to_string(), random);
    }
    for least in [-0.1, f32::NAN, f32::INFINITY] {
        let error = Threshold::new(least, Indices::Fixed).unwrap_err().to_string();
        assert_eq!(error, format!("threshold: threshold is {least}, expected a finite one of at least 0"));
    }
    for bins in [0, 1, 256] {
        let error = SketchMl::new(bins).unwrap_err().to_string();
        assert_eq!(error, format!("sketch-ml: bins is {bins}, expected from 2 to 255"));
    }
    let sketch = |rows, columns| CountSketch::new(rows, columns, &place(1, 0).shared());
    let text = |rows, columns| sketch(rows, columns).unwrap_err().to_string();
    assert_eq!(text(0, 9), "count sketch: rows is 0, expected from 1 to 64");
    assert_eq!(text(65, 9), "count sketch: rows is 65, expected from 1 to 64");
    assert_eq!(text(1, 0), "count sketch: columns is 0, expected from 1 to 4294967295");
    let error = sketch(1, 9).unwrap().merge(&sketch(1, 8).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "count sketch: a table of 1 × 8, expected 1 × 9 with the same hashes");
    let other = CountSketch::new(1, 9, &place(2, 0).shared()).unwrap();
    assert!(sketch(1, 9).unwrap().merge(&other).is_err());
    let error = Bitmap::of_blocks(&[0.0; 7], 2).unwrap_err();
    assert_eq!(error.to_string(), "bitmap: width is 2, expected a divisor of 7 values");
    assert_eq!(Bitmap::of_blocks(&[], 0).unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(Bitmap::new(8).or(&Bitmap::new(9)).unwrap_err().kind(), Kind::InvalidArgument);
}

#[test]
fn payloads_that_nobody_encodes_are_refused() {
    let bits = |value: f32| value.to_bits();
    let top = TopK::new(0.25, Indices::Fixed).unwrap();
    let top = |indices: [u32; 2], value: f32| {
        decode(&top, &words(&[indices[0], indices[1], bits(1.0), bits(value)]), 8)
    };
    assert_eq!(top([3, 7], 2.0).unwrap()[7], 2.0);
    assert_eq!(top([7, 3], 2.0).unwrap_err(), "top-k: index 3 after 7, expected a higher one");
    assert_eq!(top([3, 8], 2.0).unwrap_err(), "top-k: index 8, expected below 8");
    assert_eq!(top([3, u32::MAX], 2.0).unwrap_err(), "top-k: index 4294967295, expected below 8");
    assert_eq!(top([3, 7], f32::NAN).unwrap_err(), "top-k: value 7 is NaN, expected a finite one");

    let threshold = Threshold::new(0.5, Indices::Fixed).unwrap();
    let threshold = |all: &[u32]| decode(&threshold, &words(all), 2);
    assert_eq!(threshold(&[1, 1, bits(2.0)]).unwrap(), [0.0, 2.0]);
    assert_eq!(threshold(&[3, 0, 1, 2, 9, 9, 9]).unwrap_err(), "threshold: 3 values, expected at most 2");
    let most = "threshold: 4294967295 values, expected at most 2";
    assert_eq!(threshold(&[u32::MAX]).unwrap_err(), most);
    let small = "threshold: value 1 is 0.5, expected more than 0.5";
    assert_eq!(threshold(&[1, 1, bits(0.5)]).unwrap_err(), small);
    let longer = "threshold: a payload of 16 bytes, expected 12";
    assert_eq!(threshold(&[1, 1, bits(2.0), 0]).unwrap_err(), longer);
    let shorter = "threshold: a payload of 8 bytes, expected at least 12";
    assert_eq!(threshold(&[1, 1]).unwrap_err(), shorter);

    // Two values of three, in two of at most three bins of one each.
    let sketch = SketchMl::new(3).unwrap();
    let sketch = |count: u32, means: &[f32], tail: &[u8]| {
        let means: Vec<u32> = means.iter().copied().map(bits).collect();
        let all = [&words(&[count])[..], &[means.len() as u8], &words(&means), tail].concat();
        decode(&sketch, &all, 3)
    };
    assert_eq!(sketch(2, &[-1.0, 2.0], &[1, 0, 0, 0b101]).unwrap(), [2.0, 0.0, -1.0]);
    let refused = |count, means: &[f32], tail: &[u8]| sketch(count, means, tail).unwrap_err();
    assert_eq!(refused(4, &[-1.0], &[0; 9]), "sketch-ml: 4 values, expected at most 3");
    assert_eq!(refused(2, &[1.0; 4], &[1, 0, 0, 0b101]), "sketch-ml: 4 bins, expected at most 3");
    assert_eq!(refused(2, &[2.0, -1.0], &[1, 0, 0, 0b101]), "sketch-ml: the bins' means do not rise");
    let mean = "sketch-ml: a bin's mean is NaN, expected a finite one other than 0";
    assert_eq!(refused(2, &[-1.0, f32::NAN], &[1, 0, 0, 0b101]), mean);
    assert_eq!(refused(2, &[-1.0, 2.0], &[1, 2, 0, 0b101]), "sketch-ml: a value in none of 2 bins");
    let size = |size| format!("sketch-ml: {size} values in a bin, expected from 1 to 1");
    assert_eq!(refused(2, &[-1.0, 2.0], &[0, 0, 0, 0b101]), size(2));
    assert_eq!(refused(1, &[-1.0, 2.0], &[0, 0, 0b100]), size(0));

    let error = Bitmap::decode(&[0, 0], 17).unwrap_err();
    assert_eq!(error.to_string(), "bitmap: a payload of 2 bytes, expected 3");
}

#[test]
fn bitmaps_unite() {
    let values = [0.0, 0.0, 0.0, -1.0, 0.0, 0.0, f32::NAN, 0.0];
    let mut rows = Bitmap::of_blocks(&values, 2).unwrap();
    assert_eq!(rows.indices().collect::<Vec<usize>>(), [1, 3]);
    let mut other = Bitmap::new(4);
    other.set(0);
    other.set(3);
    rows.or(&other).unwrap();
    assert_eq!((rows.indices().collect::<Vec<usize>>(), rows.count(), rows.len()), (vec![0, 1, 3], 3, 4));
    assert_eq!(rows.encode()[..], [0b1011]);
    assert!(Bitmap::decode(&[0b1_1011], 4).is_err());
    for len in [0, 1, 7, 8, 9, 63, 64, 65, 128, 1000] {
        let mut some = Bitmap::new(len);
        (0..len).filter(|i| i % 7 == 0 || i + 1 == len).for_each(|i| some.set(i));
        let expected: Vec<usize> = (0..len).filter(|i| i % 7 == 0 || i + 1 == len).collect();
        assert_eq!(
            (some.indices().collect::<Vec<usize>>(), some.count()),
            (expected.clone(), expected.len())
        );
        let payload = some.encode();
        assert_eq!(payload.len(), len.div_ceil(8));
        assert_eq!(Bitmap::decode(&payload, len).unwrap(), some);
        assert!((0..2 * len + 100).all(|i| some.get(i) == expected.contains(&i)));
    }
}

#[test]
#[should_panic(expected = "index 4 of a bitmap of 4")]
fn a_bitmap_ends_where_it_was_said_to() {
    Bitmap::new(4).set(4);
}

fn sketch(rows: usize, columns: usize, seed: u64) -> CountSketch {
    CountSketch::new(rows, columns, &place(seed, 0).shared()).unwrap()
}

#[test]
fn sketches_add_up() {
    let (u, v) = (normal(3000, 1), normal(3000, 2));
    let (mut a, mut b, mut both) = (sketch(5, 101, 9), sketch(5, 101, 9), sketch(5, 101, 9));
    a.add_run(7, &u).unwrap();
    b.add_run(100, &v).unwrap();
    // By runs and one by one is the same.
    for (i, (u, v)) in u.iter().zip(&v).enumerate() {
        both.add(7 + i, *u).unwrap();
        both.add(100 + i, *v).unwrap();
    }
    a.merge(&b).unwrap();
    let apart = square(a.table().iter().zip(both.table()).map(|(a, b)| f64::from(a - b))).sqrt();
    let size = square(both.table().iter().map(|cell| f64::from(*cell))).sqrt();
    assert!(apart <= 1e-6 * size, "{apart} of {size}");

    for rows in [1, 2, 3, 4, 5, 8] {
        let mut some = sketch(rows, 500, 9);
        some.add_run(3, &u[..800]).unwrap();
        let mut run = vec![0.0; 1000];
        some.estimate_run(50, &mut run);
        assert!(run.iter().enumerate().all(|(i, run)| *run == some.estimate(50 + i)), "{rows}");
        some.clear();
        assert!(some.table().iter().all(|cell| *cell == 0.0) && some.estimate(5) == 0.0);
    }
    // What is summed elsewhere is put back.
    let sum = a.table().iter().map(|cell| cell / 2.0).collect::<Vec<f32>>();
    let before = a.estimate(500);
    a.table_mut().copy_from_slice(&sum);
    assert_eq!(a.estimate(500), before / 2.0);
}

#[test]
fn one_row_is_unbiased_with_the_stated_variance() {
    const SEEDS: u64 = 4000;
    const COLUMNS: usize = 40;
    let values = normal(200, 1);
    let size = square(values.iter().map(|value| f64::from(*value)));
    let (mut sums, mut squares) = (vec![0.0; 200], vec![0.0; 200]);
    for seed in 0..SEEDS {
        let mut one = sketch(1, COLUMNS, seed);
        one.add_run(0, &values).unwrap();
        for (i, value) in values.iter().enumerate() {
            let apart = f64::from(one.estimate(i) - value);
            sums[i] += apart;
            squares[i] += apart * apart;
        }
    }
    let many = SEEDS as f64;
    let bound = size / COLUMNS as f64;
    for (i, (sum, square)) in sums.iter().zip(&squares).enumerate() {
        let deviation = (bound / many).sqrt();
        assert!((sum / many).abs() < 5.0 * deviation, "{i}: {}", sum / many);
        // Some deviations of a variance measured so.
        assert!(square / many < bound * (1.0 + 6.0 * (2.0 / many).sqrt()), "{i}: {}", square / many);
        assert!(square / many > bound * 0.7, "{i}: {}", square / many);
    }
}

#[test]
fn errors_are_as_measured_elsewhere() {
    // Two vectors of 100 values of 2000, summed; relative errors by cells for each that is not 0.
    for (rows, cells, expected) in [(1, 1, 0.93), (1, 4, 0.45), (3, 4, 0.40), (3, 12, 0.13), (5, 20, 0.05)] {
        const SEEDS: u64 = 200;
        let mut total = 0.0;
        for seed in 0..SEEDS {
            let mut sum = vec![0.0f32; 2000];
            let mut union = Bitmap::new(2000);
            for part in 0..2 {
                let draw = place(seed, part).own();
                let values = normal(100, 1000 + 2 * seed + part as u64);
                for (i, value) in values.into_iter().enumerate() {
                    let index = draw.word(i as u64) as usize % 2000;
                    sum[index] += value;
                    union.set(index);
                }
            }
            let mut table = sketch(rows, union.count() * cells / rows, seed);
            union.indices().for_each(|index| table.add(index, sum[index]).unwrap());
            let apart = square(union.indices().map(|i| f64::from(table.estimate(i)) - f64::from(sum[i])));
            total += (apart / square(sum.iter().map(|value| f64::from(*value)))).sqrt();
        }
        let found = total / SEEDS as f64;
        assert!((found / expected - 1.0).abs() < 0.25, "{rows} × {cells}: {found}, expected {expected}");
    }
}
