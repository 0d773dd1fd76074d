//! Each kernel against the CPU's, in several orders of its threads.

use std::sync::{Arc, LazyLock};

use crate::batch::Targets;
use crate::cuda::card::Card;
use crate::cuda::device::Device;
use crate::cuda::emulated::Emulated;
use crate::cuda::moments::DeviceMoments;
use crate::cuda::moments::Part;
use crate::cuda::nvrtc;
use crate::cuda::source::{Arg, Call, Columns, SOURCES};
use crate::kernels::math;
use crate::loss::Loss;
use crate::optim::{Moments, Optimizer};
use crate::precision::Precision;
use crate::random::{dropout_key, philox};

static DEVICE: LazyLock<Arc<Emulated>> = LazyLock::new(|| Arc::new(Emulated::new(Precision::F32).unwrap()));

const PRECISIONS: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16];

/// Orders that are tried.
const SEEDS: [u64; 3] = [1, 12_345, 987_654_321];

fn pointer<T>(values: &[T]) -> Arg {
    Arg::Pointer(values.as_ptr() as u64)
}

fn written<T>(values: &mut [T]) -> Arg {
    Arg::Pointer(values.as_mut_ptr() as u64)
}

fn launch(kernel: &'static str, blocks: u32, threads: u32, args: &[Arg]) {
    // SAFETY: the tests pass what the kernels read and write.
    unsafe { DEVICE.launch(&Call { kernel, blocks, threads, args }) }.unwrap();
    DEVICE.finish().unwrap();
}

/// Numbers that are all different, from −2 to 2.
fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| 2.0 * (i as f32 * step).sin()).collect()
}

fn near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{i}: {f}, expected {e}");
    }
}

#[test]
fn optimizers_have_the_bits_of_the_cpu() {
    let device: Arc<dyn Device> = DEVICE.clone();
    let adam = |decay| Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: decay };
    for optimizer in [
        Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.01 },
        Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 },
        Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.01 },
        adam(0.0),
        adam(0.1),
        Optimizer::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-7, weight_decay: 0.1 },
    ] {
        // Four at a time, and one.
        for len in [1003, 1024] {
            let gradient = wave(len, 0.7);
            let mut moments = Moments::new(optimizer, len).unwrap();
            let mut on_device = DeviceMoments::new(&device, optimizer, len).unwrap();
            let mut expected = wave(len, 0.3);
            let found = Lines::of(&expected);
            let gradients = Lines::of(&gradient);
            for (t, weight) in [(1, 4.0f64), (2, 3.0), (3, 0.0), (4, 0.1)] {
                // Rows that weigh nothing change nothing.
                if weight > 0.0 {
                    moments.update(0, 0.05, t, (1.0 / weight) as f32, &mut expected, &gradient);
                }
                let now = on_device.now(0.05, t);
                let totals = [0.0, weight, 0.0, 0.0];
                let at = [found.at(), gradients.at(), now.as_ptr() as u64, totals.as_ptr() as u64];
                on_device.update(Part { start: 0, len, rows: None }, at).unwrap();
                DEVICE.finish().unwrap();
            }
            assert_eq!(found.get(len), expected, "{optimizer:?}");
            assert_eq!(on_device.slots().unwrap(), moments.slots(), "{optimizer:?}");
        }
    }
}

/// Values that begin where memory of a device does.
struct Lines(Vec<[u64; 8]>);

impl Lines {
    fn of(values: &[f32]) -> Lines {
        let mut lines = vec![[0u64; 8]; values.len().div_ceil(16)];
        pulp::bytemuck::cast_slice_mut::<_, f32>(&mut lines)[..values.len()].copy_from_slice(values);
        Lines(lines)
    }

    fn at(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    fn get(&self, len: usize) -> Vec<f32> {
        pulp::bytemuck::cast_slice::<_, f32>(&self.0)[..len].to_vec()
    }
}

#[test]
fn activations_and_their_slopes_are_those_of_the_cpu() {
    const LEN: usize = 777;
    let x: Vec<f32> = wave(LEN, 0.37).iter().map(|x| 3.0 * x).collect();
    let g = wave(LEN, 0.9);
    type Forward = fn(f32) -> f32;
    type Backward = fn(f32, f32) -> f32;
    let all: [(u32, Forward, Backward); 4] = [
        (1, math::relu, math::relu_backward),
        (2, math::tanh, math::tanh_backward),
        (3, math::sigmoid, math::sigmoid_backward),
        (4, math::gelu, math::gelu_backward),
    ];
    for (activation, forward, backward) in all {
        let mut y = vec![f32::NAN; LEN];
        let (len, activation_arg) = (Arg::U64(LEN as u64), Arg::U32(activation));
        launch("activate", 2, 96, &[pointer(&x), written(&mut y), len, activation_arg]);
        near(&y, &x.iter().map(|x| forward(*x)).collect::<Vec<_>>(), 1e-6);
        let seen = if activation == 4 { &x } else { &y };
        let expected: Vec<f32> = g.iter().zip(seen).map(|(g, s)| backward(*g, *s)).collect();
        for add in [0, 1] {
            let mut to = vec![if add == 1 { 1.5 } else { f32::NAN }; LEN];
            let args = [pointer(&g), pointer(seen), written(&mut to), len, activation_arg, Arg::U32(add)];
            launch("activate_backward", 2, 96, &args);
            let expected: Vec<f32> = expected.iter().map(|e| e + 1.5 * add as f32).collect();
            near(&to, &expected, 2e-6);
        }
    }
}

#[test]
fn dropout_drops_what_the_cpu_drops() {
    const ROWS: usize = 9;
    const FEATURES: usize = 7;
    let positions: Vec<u64> = (0..ROWS as u64).map(|row| row * 5_000_000_000 + 3).collect();
    let (from, rate) = (wave(ROWS * FEATURES, 0.21), 0.4f32);
    let key = dropout_key(7, 3, 2);
    let bound = (f64::from(rate) * 4_294_967_296.0) as u32;
    let kept = 1.0 / (1.0 - rate);
    for add in [0, 1] {
        let mut to = vec![if add == 1 { 1.5 } else { f32::NAN }; from.len()];
        let mut args = vec![pointer(&from), written(&mut to), pointer(&positions), pointer(&key)];
        args.extend([Arg::U64(ROWS as u64), Arg::U32(FEATURES as u32)]);
        args.extend([Arg::U32(bound), Arg::F32(kept), Arg::U32(add)]);
        launch("dropout", 2, 32, &args);
        let mut dropped = 0;
        for (row, position) in positions.iter().enumerate() {
            for feature in 0..FEATURES {
                let counter = [*position as u32, (position >> 32) as u32, feature as u32 / 4, 0];
                let factor = if philox(counter, key)[feature % 4] < bound { 0.0 } else { kept };
                dropped += usize::from(factor == 0.0);
                let at = row * FEATURES + feature;
                let expected = from[at] * factor;
                let expected = if add == 1 { 1.5 + expected } else { expected };
                assert_eq!(to[at], expected, "{row} {feature}");
            }
        }
        assert!(dropped > 0 && dropped < from.len());
    }
}

#[test]
fn losses_and_their_gradients_are_those_of_the_cpu() {
    for (rows, outputs) in [(1, 2), (37, 5), (70, 33), (5, 100)] {
        let logits = wave(rows * outputs, 0.83);
        let classes: Vec<u32> = (0..rows).map(|i| (i * 7 % outputs) as u32).collect();
        let values: Vec<f32> = wave(rows * outputs, 1.7).iter().map(|v| 0.5 + 0.25 * v).collect();
        let weights: Vec<f32> = wave(rows, 2.1).iter().map(|w| 2.5 + w).collect();
        let all = [
            Loss::SoftmaxCrossEntropy,
            Loss::BinaryCrossEntropy,
            Loss::MeanSquaredError,
            Loss::Huber { delta: 0.7 },
        ];
        for (loss, weights) in all.into_iter().flat_map(|loss| [(loss, None), (loss, Some(&weights[..]))]) {
            let targets = match loss {
                Loss::SoftmaxCrossEntropy => Targets::Classes(&classes),
                _ => Targets::Values(&values),
            };
            let mut expected = vec![0.0; logits.len()];
            let mut totals = [0.0; 2];
            for row in 0..rows {
                let at = row * outputs..(row + 1) * outputs;
                let part = loss.backward::<1>(
                    &logits[at.clone()],
                    row..row + 1,
                    targets,
                    weights,
                    &mut expected[at],
                );
                let part = part.unwrap();
                totals = [totals[0] + part.loss, totals[1] + part.weight];
            }
            for seed in SEEDS {
                DEVICE.reseed(seed).unwrap();
                let mut found = vec![f32::NAN; logits.len()];
                let (mut parts, mut sum) = (vec![f64::NAN; 6], [f64::NAN; 2]);
                let given = weights.map_or(vec![1.0; rows], <[f32]>::to_vec);
                let (weights, scale) = (pointer(&given), [1.0f32]);
                let shape = [Arg::U64(rows as u64), Arg::U32(outputs as u32)];
                let out = [written(&mut found), written(&mut parts), pointer(&scale)];
                match loss {
                    Loss::SoftmaxCrossEntropy => {
                        let args =
                            [&[pointer(&logits), pointer(&classes), weights], &out[..], &shape].concat();
                        launch("softmax_cross_entropy", 3, 64, &args);
                    }
                    _ => {
                        let (kind, delta) = match loss {
                            Loss::MeanSquaredError => (1, 0.0),
                            Loss::Huber { delta } => (2, delta),
                            _ => (0, 0.0),
                        };
                        let read = [pointer(&logits), pointer(&values), weights];
                        let kind = [Arg::U32(kind), Arg::F32(delta)];
                        let args = [&read[..], &out[..], &shape[..], &kind[..]].concat();
                        launch("loss_by_value", 3, 64, &args);
                    }
                }
                launch("sum_totals", 1, 32, &[pointer(&parts), written(&mut sum), Arg::U32(3)]);
                near(&found, &expected, 2e-6);
                for (found, expected) in sum.iter().zip(totals) {
                    assert!(
                        (found - expected).abs() < 1e-5 * expected.abs().max(1.0),
                        "{loss:?} {sum:?} {totals:?}"
                    );
                }
            }
        }
    }
}

/// The mean and 1/√(variance + ε) of values, in f64.
fn moments(values: &[f32], epsilon: f64) -> (f64, f64) {
    let len = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / len;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / len;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// The gradient through a standardised group, by the gradients before weight and bias.
fn through(values: &[f32], gradient: &[f64], epsilon: f64) -> Vec<f64> {
    let (mean, scale) = moments(values, epsilon);
    let len = values.len() as f64;
    let standard: Vec<f64> = values.iter().map(|v| (f64::from(*v) - mean) * scale).collect();
    let sum = gradient.iter().sum::<f64>() / len;
    let along = gradient.iter().zip(&standard).map(|(g, s)| g * s).sum::<f64>() / len;
    gradient.iter().zip(&standard).map(|(g, s)| scale * (g - sum - s * along)).collect()
}

#[test]
fn layer_norm_is_its_definition_in_every_order() {
    for (rows, width) in [(1, 3), (13, 70), (40, 32)] {
        let (x, g) = (wave(rows * width, 0.61), wave(rows * width, 0.29));
        let (weight, bias) = (wave(width, 0.8), wave(width, 1.9));
        for seed in SEEDS {
            DEVICE.reseed(seed).unwrap();
            let (mut y, mut statistics) = (vec![f32::NAN; x.len()], vec![f32::NAN; 2 * rows]);
            let shape = [Arg::U64(rows as u64), Arg::U32(width as u32)];
            let read = [pointer(&x), pointer(&weight), pointer(&bias)];
            let out = [written(&mut y), written(&mut statistics)];
            launch("layer_norm", 2, 96, &[&read[..], &out, &shape, &[Arg::F32(0.1)]].concat());
            let mut to = vec![0.5; x.len()];
            let read = [pointer(&g), pointer(&x), pointer(&weight), pointer(&statistics)];
            launch(
                "layer_norm_backward",
                2,
                96,
                &[&read[..], &[written(&mut to)], &shape, &[Arg::U32(1)]].concat(),
            );
            let (mut by_weight, mut by_bias) = (vec![f32::NAN; width], vec![f32::NAN; width]);
            let read = [pointer(&g), pointer(&x), pointer(&statistics)];
            let out = [written(&mut by_weight), written(&mut by_bias)];
            // One block a column, and several that share it.
            for splits in [1, 3] {
                let (parts, mut arrived) = (vec![0.0f64; 3 * 64 * 4], vec![0u32; 4]);
                let (parts, arrived) = (parts.as_ptr() as u64, arrived.as_mut_ptr() as u64);
                let work = Columns { rows: rows as u64, width: width as u32, splits, parts, arrived };
                let args = [&read[..], &out, &[Arg::Columns(work)]].concat();
                launch("layer_norm_parameters", 3, 256, &args);
            }
            let (mut weights, mut biases) = (vec![0.0f64; width], vec![0.0f64; width]);
            for row in 0..rows {
                let at = row * width..(row + 1) * width;
                let (mean, scale) = moments(&x[at.clone()], 0.1);
                let before: Vec<f64> =
                    g[at.clone()].iter().zip(&weight).map(|(g, w)| f64::from(*g) * f64::from(*w)).collect();
                let by_x: Vec<f32> =
                    through(&x[at.clone()], &before, 0.1).iter().map(|g| *g as f32 + 0.5).collect();
                near(&to[at.clone()], &by_x, 5e-6);
                for (i, at) in at.enumerate() {
                    let standard = (f64::from(x[at]) - mean) * scale;
                    near(&y[at..=at], &[(standard * f64::from(weight[i]) + f64::from(bias[i])) as f32], 5e-6);
                    weights[i] += f64::from(g[at]) * standard;
                    biases[i] += f64::from(g[at]);
                }
            }
            near(&by_weight, &weights.iter().map(|w| *w as f32).collect::<Vec<_>>(), 1e-5);
            near(&by_bias, &biases.iter().map(|b| *b as f32).collect::<Vec<_>>(), 1e-5);
        }
    }
}

#[test]
fn batch_norm_is_its_definition_in_every_order() {
    // One block a feature, and several.
    for (rows, features, inner, splits) in
        [(9, 5, 1, 1), (6, 3, 35, 1), (6, 3, 35, 4), (11, 2, 7, 3), (3, 2, 1, 5)]
    {
        let len = rows * features * inner;
        // Far from 0.
        let x: Vec<f32> = wave(len, 0.61).iter().map(|x| x + 8.0).collect();
        let g = wave(len, 0.29);
        let (weight, bias) = (wave(features, 0.8), wave(features, 1.9));
        let places = |feature: usize| {
            (0..rows).flat_map(move |row| (0..inner).map(move |i| (row * features + feature) * inner + i))
        };
        for seed in SEEDS {
            DEVICE.reseed(seed).unwrap();
            let (mut parts, mut arrived) = (vec![f64::NAN; features * splits * 2], vec![0u32; features]);
            let work = Arg::Columns(Columns {
                rows: rows as u64,
                width: features as u32,
                splits: splits as u32,
                parts: parts.as_mut_ptr() as u64,
                arrived: arrived.as_mut_ptr() as u64,
            });
            let (mut statistics, mut y) = (vec![f32::NAN; 2 * features], vec![f32::NAN; len]);
            let (mut mean, mut variance) = (vec![0.5; features], vec![2.0; features]);
            let (inner, count) = (Arg::U32(inner as u32), [rows as u32]);
            let sizes = [Arg::U32(features as u32), inner];
            let out = [written(&mut statistics), written(&mut mean), written(&mut variance)];
            let rest = [pointer(&count), inner, Arg::F32(0.2), Arg::F32(0.3), work];
            launch("batch_norm_measure", 4, 64, &[&[pointer(&x)], &out[..], &rest].concat());
            let read = [pointer(&x), pointer(&statistics), pointer(&weight), pointer(&bias)];
            let rest = [Arg::U64(len as u64), sizes[0], inner];
            launch("batch_norm", 2, 64, &[&read[..], &[written(&mut y)], &rest].concat());
            let mut to = vec![f32::NAN; len];
            let (mut by_weight, mut by_bias) = (vec![f32::NAN; features], vec![f32::NAN; features]);
            let mut sums = vec![f32::NAN; features];
            let read = [pointer(&g), pointer(&x), pointer(&statistics)];
            let out = [written(&mut by_weight), written(&mut by_bias), pointer(&count), inner, work];
            launch("batch_norm_parameters", 4, 64, &[&read[..], &out].concat());
            let more =
                [pointer(&weight), pointer(&by_weight), pointer(&by_bias), written(&mut to), pointer(&count)];
            let rest = [Arg::U64(len as u64), sizes[0], inner, Arg::U32(0)];
            launch("batch_norm_backward", 2, 64, &[&read[..], &more, &rest].concat());
            launch("sum_features", 4, 64, &[pointer(&g), written(&mut sums), inner, work]);
            assert!(arrived.iter().all(|arrived| *arrived == 0));
            for feature in 0..features {
                let values: Vec<f32> = places(feature).map(|at| x[at]).collect();
                let gradient: Vec<f64> =
                    places(feature).map(|at| f64::from(g[at]) * f64::from(weight[feature])).collect();
                let by_x = through(&values, &gradient, 0.2);
                let (centre, scale) = moments(&values, 0.2);
                let (mut along, mut sum) = (0.0, 0.0);
                for (i, at) in places(feature).enumerate() {
                    let standard = (f64::from(x[at]) - centre) * scale;
                    let expected = standard * f64::from(weight[feature]) + f64::from(bias[feature]);
                    near(&[y[at], to[at]], &[expected as f32, by_x[i] as f32], 5e-6);
                    along += f64::from(g[at]) * standard;
                    sum += f64::from(g[at]);
                }
                near(
                    &[by_weight[feature], by_bias[feature], sums[feature]],
                    &[along, sum, sum].map(|v| v as f32),
                    1e-5,
                );
                let count = values.len() as f64;
                let unbiased = (1.0 / (scale * scale) - 0.2) * count / (count - 1.0);
                let running = [0.7 * 0.5 + 0.3 * centre, 0.7 * 2.0 + 0.3 * unbiased].map(|v| v as f32);
                near(&[mean[feature], variance[feature]], &running, 5e-6);
            }
            launch(
                "batch_norm_recall",
                1,
                32,
                &[
                    pointer(&mean),
                    pointer(&variance),
                    written(&mut statistics),
                    Arg::U32(features as u32),
                    Arg::F32(0.2),
                ],
            );
            near(&[statistics[0], statistics[1]], &[mean[0], 1.0 / (variance[0] + 0.2).sqrt()], 1e-6);
        }
    }
}

#[test]
fn tables_give_rows_and_take_their_gradients() {
    let (table, dims) = (wave(7 * 5, 0.4), 5usize);
    let indices = [3u32, 0, 3, 6, 3, 0];
    let mut rows = vec![f32::NAN; 30];
    let shape = [Arg::U64(6), Arg::U32(5)];
    launch(
        "gather",
        2,
        32,
        &[&[pointer(&table), pointer(&indices), written(&mut rows)], &shape[..]].concat(),
    );
    for (row, index) in indices.iter().enumerate() {
        assert_eq!(rows[row * dims..][..dims], table[*index as usize * dims..][..dims]);
    }
    // Row 5 is read so often that a block has it.
    let all: Vec<u32> = indices.iter().copied().chain([5; 100]).collect();
    let gradient = wave(all.len() * dims, 0.7);
    let touched = [0u32, 3, 5, 6];
    let (mut starts, mut order) = (vec![0u32], Vec::new());
    for row in touched {
        order.extend((0..all.len() as u32).filter(|sample| all[*sample as usize] == row));
        starts.push(order.len() as u32);
    }
    let mut sums = vec![9.0; table.len()];
    let read = [pointer(&gradient), pointer(&touched), pointer(&starts), pointer(&order)];
    let count = [4u32];
    launch("scatter", 2, 256, &[&read[..], &[written(&mut sums), pointer(&count), Arg::U32(5)]].concat());
    for (entry, sum) in sums.chunks(dims).enumerate() {
        let of_entry: Vec<usize> = (0..all.len()).filter(|row| all[*row] as usize == entry).collect();
        let expected: Vec<f32> =
            (0..dims).map(|d| of_entry.iter().map(|row| gradient[row * dims + d]).sum()).collect();
        near(sum, if of_entry.is_empty() { &[9.0; 5] } else { &expected }, 2e-6);
    }
    let (mut whole, mut back) = (vec![0.0f32; 6 * 8], vec![1.0f32; 30]);
    let place = [Arg::U64(6), Arg::U32(5), Arg::U32(8), Arg::U32(2)];
    launch("join", 2, 32, &[&[pointer(&rows), written(&mut whole)], &place[..]].concat());
    launch("part", 2, 32, &[&[pointer(&whole), written(&mut back)], &place[..], &[Arg::U32(1)]].concat());
    assert_eq!(back, rows.iter().map(|v| v + 1.0).collect::<Vec<_>>());
    assert_eq!((whole[0], whole[1], whole[7], whole[2]), (0.0, 0.0, 0.0, rows[0]));
}

#[test]
fn pools_take_the_first_of_the_largest_and_give_back_to_it() {
    let (height, width) = (5i32, 6i32);
    let mut x: Vec<f32> = wave(60, 0.9).iter().map(|v| (v * 2.0).round()).collect();
    x[17] = f32::NAN;
    for (kernel, stride, padding) in [([2, 2], [2, 2], [0, 0]), ([3, 2], [2, 1], [1, 1])] {
        let out = |axis: usize, len: i32| (len + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1;
        let (rows, columns) = (out(0, height), out(1, width));
        let results = (2 * rows * columns) as usize;
        let (mut y, mut chosen) = (vec![0.0f32; results], vec![0u32; results]);
        let mut shape = vec![Arg::U64(2)];
        shape.extend([height, width, rows, columns].map(Arg::I32));
        shape.push(Arg::Window([kernel, stride, padding]));
        launch(
            "max_pool",
            2,
            32,
            &[&[pointer(&x), written(&mut y), written(&mut chosen)], &shape[..], &[Arg::U32(0)]].concat(),
        );
        let g = wave(results, 0.3);
        let mut expected = vec![0.0f32; x.len()];
        for i in 0..results {
            let plane = i / (rows * columns) as usize;
            let (a, b) = (i as i32 / columns % rows, i as i32 % columns);
            let mut best: Option<usize> = None;
            for row in
                (a * stride[0] - padding[0]).max(0)..(a * stride[0] - padding[0] + kernel[0]).min(height)
            {
                for column in
                    (b * stride[1] - padding[1]).max(0)..(b * stride[1] - padding[1] + kernel[1]).min(width)
                {
                    let at = plane * 30 + (row * width + column) as usize;
                    let better = |best: usize| x[at] > x[best] || x[at].is_nan() && !x[best].is_nan();
                    if best.is_none_or(better) {
                        best = Some(at);
                    }
                }
            }
            let best = best.unwrap();
            assert!(y[i] == x[best] || y[i].is_nan() && x[best].is_nan());
            assert_eq!(chosen[i] as usize + plane * 30, best, "{kernel:?} {i}");
            expected[best] += g[i];
        }
        let mut to = vec![f32::NAN; x.len()];
        let args = [&[pointer(&g), pointer(&chosen), written(&mut to)], &shape[..], &[Arg::U32(0)]].concat();
        launch("max_pool_backward", 2, 32, &args);
        near(&to, &expected, 1e-6);
    }
}

#[test]
fn every_kernel_is_listed() {
    for source in SOURCES {
        let text = source.text(Precision::F32);
        let defined = text.matches("extern \"C\" __global__").count();
        assert_eq!(defined, source.kernels.len(), "{}", source.name);
    }
}

/// For the cards that are sold, A100, H100 and H200, B200: down to their machine code.
#[test]
fn every_kernel_compiles_for_every_card() {
    if let Err(e) = nvrtc::load() {
        assert!(std::env::var_os("FIRESTEEL_NVRTC").is_none(), "{e}");
        eprintln!("skipped: {e}");
        return;
    }
    for (source, precision) in SOURCES.iter().flat_map(|source| PRECISIONS.map(|one| (source, one))) {
        for architecture in ["sm_80", "sm_90", "sm_100"] {
            let code = nvrtc::compile(source, precision, architecture).unwrap();
            for kernel in source.kernels {
                let section = format!(".text.{kernel}");
                assert!(code.windows(section.len()).any(|part| part == section.as_bytes()), "{kernel}");
            }
        }
        let ptx = nvrtc::compile(source, precision, "compute_80").unwrap();
        let ptx = String::from_utf8(ptx).unwrap();
        assert!(source.fuses || !ptx.contains("fma.rn.f32"), "{} fuses", source.name);
        let multiplies = source.name == "product.cu" && precision != Precision::F32;
        assert_eq!(ptx.contains("mma.sync"), multiplies, "{} {precision}", source.name);
    }
    // Cards without those tensor cores have f32.
    for source in SOURCES {
        nvrtc::compile(source, Precision::F32, "sm_75").unwrap();
    }
}

#[test]
fn a_machine_without_a_gpu_is_told_what_was_looked_for() {
    match Card::open(0) {
        Ok(card) => assert!(!card.name().is_empty()),
        Err(e) => {
            assert_eq!(e.kind(), firesteel_error::Kind::Io);
            assert!(e.to_string().contains("libcuda.so") || e.to_string().contains("driver"), "{e}");
        }
    }
    let e = Card::open(99).err().map_or(String::new(), |e| e.to_string());
    assert!(e.contains("libcuda.so") || e.contains("there is no device cuda:99; the driver has "), "{e}");
}
