//! Reductions that give a direction to go, each by its own law.

use firesteel_comm::compress::{CountSketch, Place};
use firesteel_comm::reduce::{AdamConfig, FetchSgd, OneBitAdam, QAdam, Reduce, State};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::Kind as ErrorKind;

use crate::reduce::{SEED, vector};
use crate::world::{Kind, meshes, options, run};

const LEN: usize = 100;
const WORLD: usize = 3;
const ADAM: AdamConfig = AdamConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, warmup: 20 };

type Make = fn() -> Box<dyn Reduce>;

fn one_bit() -> Box<dyn Reduce> {
    Box::new(OneBitAdam::new(ADAM).unwrap())
}

fn q_adam() -> Box<dyn Reduce> {
    Box::new(QAdam::new(ADAM).unwrap())
}

/// The result of each step, in which as many bytes are sent as were said, and the state after it.
fn steps(
    mesh: &Mesh,
    made: &mut dyn Reduce,
    steps: std::ops::Range<u64>,
    from: impl Fn(usize, u64) -> Vec<f32>,
) -> Vec<(Vec<f32>, State)> {
    let one = |step| {
        let mut values = from(mesh.rank(), step);
        let (before, said) = (mesh.sent(), made.bytes(LEN, mesh.rank(), mesh.world()));
        made.sum(mesh, Key::new(step, 0, 0), &mut values).unwrap();
        assert_eq!(Some(mesh.sent() - before), said);
        (values, made.state())
    };
    steps.map(one).collect()
}

/// As all-reduce does, in rank order.
fn sum(from: impl Fn(usize, u64) -> Vec<f32>, step: u64) -> Vec<f32> {
    (1..WORLD).fold(from(0, step), |sum, rank| sum.iter().zip(from(rank, step)).map(|(a, b)| a + b).collect())
}

/// Bit for bit; then the second moment and its correction stay, and the first moment's goes on.
#[test]
fn it_is_adam_before_it_is_compressed() {
    for make in [one_bit, q_adam] as [Make; 2] {
        let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            steps(&mesh, make().as_mut(), 0..300, |rank, step| vector(LEN, rank, step))
        });
        let [mut m, mut v] = [[0.0f32; LEN], [0.0f32; LEN]];
        for (t, (found, state)) in (1..).zip(&done[0]) {
            let g = sum(|rank, step| vector(LEN, rank, step), t - 1);
            for i in (0..LEN).filter(|_| t <= 20) {
                m[i] += (g[i] - m[i]) * 0.1;
                v[i] = v[i] * 0.99 + g[i] * g[i] * 0.01;
            }
            if t > 20 {
                m.copy_from_slice(&state["first moment"]);
            }
            assert_eq!((&state["first moment"][..], &state["second moment"][..]), (&m[..], &v[..]), "{t}");
            let step = (1.0 / (1.0 - 0.9f64.powf(t as f64))) as f32;
            let root = (1.0 / (1.0 - 0.99f64.powf(t.min(20) as f64)).sqrt()) as f32;
            let expected: Vec<f32> = (0..LEN).map(|i| step * m[i] / (v[i].sqrt() * root + 1e-8)).collect();
            assert_eq!(*found, expected, "{t}");
        }
    }
}

/// What is left, and Σ of what the first moment lacks or has too much in each step, are nothing together.
#[test]
fn the_first_moment_is_of_the_mean_and_nothing_of_it_is_lost() {
    for world in [1, 2, 5] {
        let done = run(meshes(Kind::Local, world, &options()), |mesh| {
            steps(&mesh, one_bit().as_mut(), 0..200, |rank, step| vector(LEN, rank, step))
        });
        let mut owed = vec![0.0f64; LEN];
        for t in 20..200 {
            for rank in 0..world {
                let g = vector(LEN, rank, t as u64);
                owed.iter_mut().zip(g).for_each(|(owed, g)| *owed += 0.1 * f64::from(g));
            }
            let [before, after] = [t - 1, t].map(|t| &done[0][t].1["first moment"]);
            let moved =
                before.iter().zip(after).map(|(before, after)| 0.9 * f64::from(*before) - f64::from(*after));
            owed.iter_mut().zip(moved).for_each(|(owed, moved)| *owed += moved);
        }
        let size = owed.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        for (rank, of_rank) in done.iter().enumerate() {
            let state = &of_rank[199].1;
            let slice = firesteel_comm::collective::slice_of(LEN, rank, world);
            for (name, first) in [("left", 0), ("left of the sum", slice.start)] {
                for (owed, left) in owed[first..].iter_mut().zip(&state[name]) {
                    *owed -= f64::from(*left);
                }
            }
        }
        let most = owed.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        assert!(size > 0.01 && most < 1e-4, "{most}, before {size}");
        // Resumed by others, nothing of it is lost either.
        let states: Vec<State> = done.iter().map(|of_rank| of_rank[199].1.clone()).collect();
        let all = |states: &[State]| -> f64 {
            let left = |state: &State| ["left", "left of the sum"].map(|name| state.get(name).cloned());
            states.iter().flat_map(left).flatten().flatten().map(f64::from).sum()
        };
        for other in [1, 3] {
            let resumed = |rank| {
                let mut made = one_bit();
                made.resume(&states, rank, other).unwrap();
                made.state()
            };
            let others: Vec<State> = (0..other).map(resumed).collect();
            assert!((all(&others) - all(&states)).abs() < 1e-4);
            assert_eq!(others[0]["second moment"], states[0]["second moment"]);
            assert_eq!(others[0]["steps"], [200.0]);
        }
    }
}

/// A byte a value is near.
#[test]
fn q_adam_is_near_adam() {
    let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
        steps(&mesh, q_adam().as_mut(), 0..100, |rank, step| vector(LEN, rank, step))
    });
    let mut m = vec![0.0f32; LEN];
    for (step, (_, state)) in (0..).zip(&done[0]) {
        let g = sum(|rank, step| vector(LEN, rank, step), step);
        m.iter_mut().zip(&g).for_each(|(m, g)| *m = 0.9 * *m + 0.1 * g);
        let size = m.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for (found, expected) in state["first moment"].iter().zip(&m) {
            assert!((found - expected).abs() < 0.1 * size, "{found}, expected {expected}, of {size}");
        }
    }
}

/// Of a row that no sample has, only its ε would be under the sign.
#[test]
fn what_never_had_a_gradient_stays() {
    let from = |rank: usize, step: u64| {
        let mut gradient = vector(LEN, rank, step);
        gradient[40..].fill(0.0);
        // Too late.
        gradient[70] = if step > 25 { 1.0 } else { 0.0 };
        gradient
    };
    for (make, sent) in [(one_bit as Make, 4 + 20u64.div_ceil(8)), (q_adam, 32 + 32)] {
        run(meshes(Kind::Local, 2, &options()), |mesh| {
            let mut made = make();
            for (values, _) in steps(&mesh, made.as_mut(), 0..60, from) {
                assert!(values[..40].iter().all(|value| value.abs() < 100.0));
                assert_eq!(values[40..], [0.0; 60]);
            }
            assert_eq!(made.bytes(LEN, mesh.rank(), 2), Some(2 * sent));
        });
    }
}

/// Gradients of Σ aᵢ/2·(xᵢ − bᵢ)² for other b on each worker, as shares of their mean.
#[test]
fn adam_converges() {
    for make in [one_bit, q_adam] as [Make; 2] {
        let done = run(meshes(Kind::Local, 4, &options()), |mesh| {
            let mut made = make();
            let target = vector(LEN, mesh.rank(), 7);
            let mut x = vec![0.0f32; LEN];
            for step in 0..2_000u64 {
                let pull = |(i, (x, b)): (usize, (&f32, &f32))| [0.5, 1.0, 2.0][i % 3] * (x - b) / 4.0;
                let mut values: Vec<f32> = x.iter().zip(&target).enumerate().map(pull).collect();
                made.sum(&mesh, Key::new(step, 0, 0), &mut values).unwrap();
                let rate = 0.05 / (1.0 + step as f32 / 100.0);
                x.iter_mut().zip(&values).for_each(|(x, direction)| *x -= rate * direction);
            }
            x
        });
        let x = &done[0];
        let mean: Vec<f32> =
            (0..LEN).map(|i| (0..4).map(|rank| vector(LEN, rank, 7)[i]).sum::<f32>() / 4.0).collect();
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
        let far = norm(&mut x.iter().zip(&mean).map(|(x, b)| x - b));
        assert!(far < 0.06 * norm(&mut mean.iter().copied()), "{far}");
    }
}

#[test]
fn adam_refuses_what_makes_no_sense() {
    let refused = |config: AdamConfig| {
        let e = OneBitAdam::new(config).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        assert_eq!(QAdam::new(config).unwrap_err().to_string(), e.to_string());
        e.to_string()
    };
    assert_eq!(refused(AdamConfig { beta1: 1.0, ..ADAM }), "beta1 is 1, expected at least 0 and below 1");
    assert_eq!(refused(AdamConfig { beta2: -0.5, ..ADAM }), "beta2 is -0.5, expected at least 0 and below 1");
    let text = "epsilon is NaN, expected at least 0, and finite";
    assert_eq!(refused(AdamConfig { epsilon: f32::NAN, ..ADAM }), text);
    assert_eq!(refused(AdamConfig { warmup: 0, ..ADAM }), "warm-up is 0 steps, expected from 1 to 16777216");
}

/// Whole numbers, of which f32 are all sums.
fn whole(rank: usize, step: u64) -> Vec<f32> {
    vector(LEN, rank, step).into_iter().map(|value| (4.0 * value).round()).collect()
}

/// With whole momenta, to the last bit: the sum of all tables, and 0 wherever what is given has a cell.
#[test]
fn fetch_sgd_is_what_its_authors_run() {
    const COLUMNS: usize = 37;
    for momentum in [0.0, 0.5] {
        let make = || FetchSgd::new([3, COLUMNS], 0.03, momentum, SEED).unwrap();
        let done =
            run(meshes(Kind::Local, WORLD, &options()), |mesh| steps(&mesh, &mut make(), 0..12, whole));
        let draw = Place { seed: SEED, key: Key::new(0, 0, 0), rank: 0, part: 0 }.shared();
        let sketch = || CountSketch::new(3, COLUMNS, &draw).unwrap();
        let [mut u, mut e] = [vec![0.0f32; 3 * COLUMNS], vec![0.0f32; 3 * COLUMNS]];
        for (step, (found, state)) in (0..).zip(&done[0]) {
            // The sketch of a sum is the sum of sketches.
            let mut of_sum = sketch();
            of_sum.add_run(0, &sum(whole, step)).unwrap();
            for (i, cell) in of_sum.table().iter().enumerate() {
                u[i] = momentum * u[i] + cell;
                e[i] += u[i];
            }
            let mut all = sketch();
            all.table_mut().copy_from_slice(&e);
            let read: Vec<f32> = (0..LEN).map(|i| all.estimate(i)).collect();
            let mut order: Vec<usize> = (0..LEN).collect();
            order.sort_by(|a, b| read[*b].abs().total_cmp(&read[*a].abs()));
            let mut given = vec![0.0f32; LEN];
            order[..3].iter().for_each(|i| given[*i] = read[*i]);
            assert_eq!(*found, given, "step {step}");
            let mut of_given = sketch();
            of_given.add_run(0, &given).unwrap();
            for (i, _) in of_given.table().iter().enumerate().filter(|(_, cell)| **cell != 0.0) {
                (u[i], e[i]) = (0.0, 0.0);
            }
            for (name, expected) in [("momentum", &u), ("error", &e)] {
                assert_eq!(state[name], *expected, "{name}, {step}");
            }
        }
    }
}

/// Gradients of ½‖x − b‖², where b has 20 of 2,000 values, another of each on each worker.
#[test]
fn fetch_sgd_converges_where_gradients_are_sparse() {
    let target = |rank: usize| -> Vec<f32> {
        let mut target = vec![0.0; 2_000];
        vector(20, rank, 3).into_iter().enumerate().for_each(|(i, value)| target[97 * i + 5] = value);
        target
    };
    let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
        let mut made = FetchSgd::new([5, 200], 0.01, 0.5, SEED).unwrap();
        let target = target(mesh.rank());
        let mut x = vec![0.0f32; 2_000];
        for step in 0..300 {
            let mut values: Vec<f32> = x.iter().zip(&target).map(|(x, b)| (x - b) / WORLD as f32).collect();
            made.sum(&mesh, Key::new(step, 0, 0), &mut values).unwrap();
            x.iter_mut().zip(&values).for_each(|(x, direction)| *x -= 0.1 * direction);
        }
        x
    });
    let mean = |i: usize| (0..WORLD).map(|rank| target(rank)[i]).sum::<f32>() / WORLD as f32;
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    let far = norm(&mut (0..2_000).map(|i| done[0][i] - mean(i)));
    assert!(far < 1e-3 * norm(&mut (0..2_000).map(mean)), "{far}");
}

#[test]
fn fetch_sgd_refuses_what_makes_no_sense() {
    let refused = |shape: [usize; 2], ratio: f64, momentum: f32| {
        FetchSgd::new(shape, ratio, momentum, SEED).unwrap_err().to_string()
    };
    assert_eq!(refused([0, 9], 0.1, 0.9), "count sketch: rows is 0, expected from 1 to 64");
    assert_eq!(refused([3, 9], 2.0, 0.9), "fetch-sgd: ratio is 2, expected above 0 and at most 1");
    assert_eq!(refused([3, 9], 0.1, 1.0), "fetch-sgd: momentum is 1, expected at least 0 and below 1");
    let mut made = FetchSgd::new([3, 9], 0.1, 0.9, SEED).unwrap();
    let e = made.resume(&[State::new()], 0, 1).unwrap_err();
    let text = "fetch-sgd: 0 cells of momentum and 0 of error, expected 27 each";
    assert_eq!((e.kind(), e.message()), (ErrorKind::Corrupt, text));
}
