//! What the reductions promise that keep what they leave, each by its own law.

use firesteel_comm::compress::Indices;
use firesteel_comm::reduce::{Dgc, GTopK, OkTopK, PowerSgd, Reduce, State};
use firesteel_comm::{Fabric, Key};
use firesteel_error::Kind as ErrorKind;

use crate::reduce::{SEED, expected, vector};
use crate::world::{Kind, meshes, options, run};

/// What each of `world` workers has after each of some steps that start from what `from` gives.
fn steps(
    world: usize,
    steps: u64,
    make: impl Fn() -> Box<dyn Reduce> + Sync,
    from: impl Fn(usize, u64) -> Vec<f32> + Sync,
) -> Vec<Vec<Vec<f32>>> {
    run(meshes(Kind::Local, world, &options()), |mesh| {
        let mut made = make();
        let one = |step| {
            let mut values = from(mesh.rank(), step);
            made.sum(&mesh, Key::new(step, 0, 0), &mut values).unwrap();
            values
        };
        (0..steps).map(one).collect()
    })
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn power_sgd(rank: usize, shape: [usize; 2]) -> Box<dyn Reduce> {
    Box::new(PowerSgd::new(rank, shape, SEED).unwrap())
}

/// Of one vector all over again, the best approximation of its rank, as its power iteration converges: here the matrix itself.
#[test]
fn what_is_of_its_rank_power_sgd_gives_exactly() {
    const SHAPE: [usize; 2] = [13, 9];
    let of_rank_two = |rank: usize, _| -> Vec<f32> {
        let (u, v) = (vector(26, rank, 1), vector(18, 7, 2));
        let at = |i: usize| (0..2).map(|k| u[2 * (i / 9) + k] * v[2 * (i % 9) + k]).sum::<f32>();
        (0..117).map(at).collect()
    };
    for world in [1, 3] {
        let done = steps(world, 3, || power_sgd(2, SHAPE), of_rank_two);
        let sum = |i: usize| (0..world).map(|rank| f64::from(of_rank_two(rank, 0)[i])).sum::<f64>();
        for found in &done[0] {
            let far = norm(found.iter().enumerate().map(|(i, found)| f64::from(*found) - sum(i)));
            assert!(far < 1e-5 * norm((0..117).map(sum)), "{far}");
        }
    }
}

/// P·Pᵀ·M is a projection of M: what it gives and what it leaves are orthogonal.
#[test]
fn power_sgd_projects() {
    let done = steps(4, 1, || power_sgd(3, [20, 30]), |rank, step| vector(600, rank, step));
    let whole = expected(600, 4, 0);
    let given: Vec<f64> = done[0][0].iter().copied().map(f64::from).collect();
    let left = || whole.iter().zip(&given).map(|(whole, given)| whole - given);
    let along: f64 = left().zip(&given).map(|(left, given)| left * given).sum();
    assert!(along.abs() < 1e-5 * norm(whole.clone()) * norm(given.clone()), "{along}");
    let part = norm(given.clone()) / norm(whole.clone());
    assert!((0.3..0.9).contains(&part), "{part}");
    // Of rank three.
    let mut rows: Vec<Vec<f64>> = given.chunks(30).map(<[f64]>::to_vec).collect();
    for nth in 0..3 {
        let pivot = rows[nth].clone();
        let of = norm(pivot.clone()).powi(2);
        for row in &mut rows {
            let along = row.iter().zip(&pivot).map(|(a, b)| a * b).sum::<f64>() / of;
            row.iter_mut().zip(&pivot).for_each(|(row, pivot)| *row -= along * pivot);
        }
    }
    assert!(norm(rows.concat()) < 1e-4 * norm(given));
}

/// A step without a gradient leaves no direction to go on from.
#[test]
fn power_sgd_goes_on_after_zeros() {
    let from = |rank: usize, step: u64| match step {
        0 | 1 => vec![0.0; 64],
        _ => vector(64, rank, 5),
    };
    let done = steps(2, 40, || power_sgd(2, [8, 8]), from);
    assert_eq!(done[0][..2], [vec![0.0; 64], vec![0.0; 64]]);
    let mut given = vec![0.0f64; 64];
    done[0].iter().flatten().enumerate().for_each(|(i, value)| given[i % 64] += f64::from(*value));
    let far: Vec<f64> = given.iter().zip(expected(64, 2, 5)).map(|(given, one)| given / 38.0 - one).collect();
    assert!(norm(far) < 0.2 * norm(expected(64, 2, 5)));
}

#[test]
fn power_sgd_refuses_what_it_would_not_shorten() {
    let refused = |rank: usize, shape: [usize; 2]| {
        let e = PowerSgd::new(rank, shape, SEED).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        e.to_string()
    };
    let text =
        "power-sgd: rank 4 of 8 × 8 takes 64 values, expected fewer than the matrix has, as up to rank 3";
    assert_eq!(refused(4, [8, 8]), text);
    assert_eq!(refused(0, [8, 8]), "power-sgd: rank is 0, expected at least 1");
    for shape in [[1, 1000], [1000, 1], [0, 0], [0, 5]] {
        assert!(refused(1, shape).ends_with("up to rank 0"), "{shape:?}");
    }
    assert!(refused(usize::MAX, [usize::MAX, usize::MAX]).contains("expected fewer"));
    let done = run(meshes(Kind::Local, 1, &options()), |mesh| {
        power_sgd(1, [8, 8]).sum(&mesh, Key::new(0, 0, 0), &mut [0.0; 63])
    });
    let e = done.into_iter().next().unwrap().unwrap_err();
    assert_eq!(e.to_string(), "power-sgd: 63 values of a matrix of 8 × 8");
}

/// The indices of the `count` largest, by sorting.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..values.len()).collect();
    indices.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b)));
    indices.truncate(count);
    indices
}

/// The paper's algorithm 1 and 4, for all workers in turn.
#[test]
fn dgc_is_what_the_paper_says() {
    const LEN: usize = 100;
    const WORLD: usize = 3;
    const CLIP: f32 = 4.0;
    let make = || Dgc::new(0.02, 0.9, Some(CLIP), 8, Indices::Fixed).unwrap();
    let from = |rank: usize, step: u64| -> Vec<f32> {
        // Every third gradient is too long.
        let by = if step.is_multiple_of(3) { 1.0 } else { 0.1 };
        vector(LEN, rank, step).into_iter().map(|value| by * value).collect()
    };
    let done = steps(WORLD, 12, || Box::new(make()), from);
    let [mut m, mut v] = [vec![vec![0.0f32; LEN]; WORLD], vec![vec![0.0f32; LEN]; WORLD]];
    let counts = [25, 25, 7, 7, 2, 2, 2, 2, 2, 2, 2, 2];
    for (step, count) in counts.into_iter().enumerate() {
        let mut sum = vec![0.0f32; LEN];
        for rank in 0..WORLD {
            let g = from(rank, step as u64);
            let norm = norm(g.iter().copied().map(f64::from));
            let most = f64::from(CLIP) / (WORLD as f64).sqrt();
            assert_eq!(norm > most, step % 3 == 0);
            let scale = (most / norm).min(1.0) as f32;
            for i in 0..LEN {
                m[rank][i] = 0.9 * m[rank][i] + scale * g[i];
                v[rank][i] += m[rank][i];
            }
            for i in largest(&v[rank], count) {
                sum[i] += v[rank][i];
                (m[rank][i], v[rank][i]) = (0.0, 0.0);
            }
        }
        assert_eq!(done[0][step], sum, "{step}");
    }
    let states = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
        let mut made = make();
        for step in 0..12 {
            made.sum(&mesh, Key::new(step, 0, 0), &mut from(mesh.rank(), step)).unwrap();
        }
        made.state()
    });
    for (rank, state) in states.iter().enumerate() {
        assert_eq!((&state["momentum"], &state["velocity"]), (&m[rank], &v[rank]));
    }
    // Among others, all go on with what all had.
    let sum = |states: &[State], name: &str| -> Vec<f32> {
        (0..LEN).map(|i| states.iter().map(|state| state[name][i]).sum()).collect()
    };
    for world in [1, 2, 5] {
        let others: Vec<State> = (0..world)
            .map(|rank| {
                let mut made = make();
                made.resume(&states, rank, world).unwrap();
                made.state()
            })
            .collect();
        for name in ["momentum", "velocity"] {
            let (found, expected) = (sum(&others, name), sum(&states, name));
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{name}, {world}");
        }
        assert_eq!(others[0]["steps"], [8.0]);
    }
}

#[test]
fn dgc_refuses_what_makes_no_sense() {
    let refused = |ratio: f64, momentum: f32, clip: Option<f32>, warmup: u64| {
        Dgc::new(ratio, momentum, clip, warmup, Indices::Fixed).unwrap_err().to_string()
    };
    let text = "dgc: ratio is 0, expected above 0 and at most 1";
    assert_eq!(refused(0.0, 0.9, None, 0), text);
    assert_eq!(refused(0.1, 1.0, None, 0), "dgc: momentum is 1, expected at least 0 and below 1");
    assert_eq!(refused(0.1, 0.9, Some(0.0), 0), "dgc: clip is 0, expected above 0, and finite");
    assert_eq!(refused(0.1, 0.9, None, 1 << 25), "dgc: warm-up is 33554432 steps, expected at most 16777216");
}

/// Small whole numbers, of which f32 are all sums.
fn whole(len: usize, rank: usize, step: u64) -> Vec<f32> {
    vector(len, rank, step).into_iter().map(|value| (4.0 * value).round()).collect()
}

/// To the last bit, Σ of what was put in is Σ of what was given out and what all have left; at most `most` values are given in a step
/// and at least `least` in the mean.
fn nothing_is_lost(make: fn(f64) -> Box<dyn Reduce>, [least, most]: [usize; 2]) {
    const LEN: usize = 300;
    const STEPS: u64 = 200;
    for world in 1..10 {
        let done = run(meshes(Kind::Local, world, &options()), |mesh| {
            let mut made = make(0.05);
            let mut balance = vec![0.0f32; LEN];
            let mut all = 0;
            for step in 0..STEPS {
                let mut values = whole(LEN, mesh.rank(), step);
                balance.iter_mut().zip(&values).for_each(|(balance, value)| *balance += value);
                made.sum(&mesh, Key::new(step, 0, 0), &mut values).unwrap();
                let given = values.iter().filter(|value| **value != 0.0).count();
                assert!(given <= most, "{given} of {world}, step {step}");
                all += given;
                if mesh.rank() == 0 {
                    balance.iter_mut().zip(&values).for_each(|(balance, value)| *balance -= value);
                }
            }
            assert!(all >= least * STEPS as usize, "{all} of {world}");
            balance.iter_mut().zip(&made.state()["left"]).for_each(|(balance, left)| *balance -= left);
            balance
        });
        for i in 0..LEN {
            assert_eq!(done.iter().map(|balance| balance[i]).sum::<f32>(), 0.0, "value {i}, {world}");
        }
        // All of them: the plain sum.
        let done = steps(world, 70, || make(1.0), |rank, step| whole(31, rank, step));
        for (step, found) in (0..).zip(&done[0]) {
            let sum = |i: usize| (0..world).map(|rank| whole(31, rank, step)[i]).sum::<f32>();
            assert_eq!(*found, (0..31).map(sum).collect::<Vec<f32>>(), "{world}, step {step}");
        }
    }
}

#[test]
fn g_top_k_loses_nothing() {
    nothing_is_lost(|ratio| Box::new(GTopK::new(ratio, Indices::Shortest).unwrap()), [15, 15]);
}

#[test]
fn ok_topk_loses_nothing() {
    nothing_is_lost(|ratio| Box::new(OkTopK::new(ratio, Indices::Fixed).unwrap()), [12, 30]);
}

/// In steps with exact thresholds, the k largest sums of the k largest of each.
#[test]
fn ok_topk_is_a_top_k_of_top_ks() {
    const LEN: usize = 400;
    for world in [1, 2, 5] {
        let make = || Box::new(OkTopK::new(0.05, Indices::Shortest).unwrap()) as Box<dyn Reduce>;
        let done = steps(world, 1, make, |rank, step| vector(LEN, rank, step));
        let mut sum = vec![0.0f32; LEN];
        for rank in 0..world {
            let values = vector(LEN, rank, 0);
            largest(&values, 20).into_iter().for_each(|i| sum[i] += values[i]);
        }
        let mut expected = vec![0.0f32; LEN];
        largest(&sum, 20).into_iter().for_each(|i| expected[i] = sum[i]);
        assert_eq!(done[0][0], expected, "{world}");
    }
}

/// Where all that is large is in one place, its owners are all workers.
#[test]
fn ok_topk_cuts_regions_where_the_values_are() {
    const LEN: usize = 1000;
    const WORLD: usize = 4;
    let sent = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
        let mut made = OkTopK::new(0.08, Indices::Fixed).unwrap();
        let mut sent = 0;
        for step in 0..30 {
            let mut values = vector(LEN, mesh.rank(), step);
            values[200..].fill(0.0);
            let before = mesh.sent();
            made.sum(&mesh, Key::new(step, 0, 0), &mut values).unwrap();
            sent = mesh.sent() - before;
        }
        let state = made.state();
        let starts: Vec<f32> = state["regions"].chunks(2).map(|half| 65_536.0 * half[0] + half[1]).collect();
        for (nth, start) in (1..).zip(starts) {
            assert!((start - 50.0 * nth as f32).abs() < 10.0, "{start} of {nth}");
        }
        sent
    });
    // 16·80·¾ = 960, and a few heads; thresholds may let pass 5/4 and 4/3 of it.
    assert!(sent.iter().all(|sent| (640..1_400).contains(sent)), "{sent:?}");
}

#[test]
fn ok_topk_goes_on_with_indices_beyond_what_a_float_counts() {
    let halves = |index: u32| [(index >> 16) as f32, (index & 0xffff) as f32];
    let regions = [halves((1 << 24) + 1), halves(u32::MAX - 1)].concat();
    let state = State::from([
        ("step".into(), vec![5.0]),
        ("thresholds".into(), vec![0.5, 1.5]),
        ("regions".into(), regions.clone()),
    ]);
    let mut made = OkTopK::new(0.1, Indices::Fixed).unwrap();
    made.resume(&[state.clone(), state.clone(), state.clone()], 1, 3).unwrap();
    assert_eq!(made.state(), state);
    let e = made.resume(&[state.clone(), state], 1, 2).unwrap_err();
    let text = "ok-topk: regions from [16777217, 4294967294], expected 1 rising starts";
    assert_eq!((e.kind(), e.message()), (ErrorKind::Corrupt, text));
}
