//! Moments along the way that all go, by their formulas and in the limits that these have.

use firesteel_comm::gossip::{
    Dpsgd, FirstMoment, Gossip, Order, QuasiGlobal, QuasiGlobalAdam, QuasiGlobalAdamConfig,
};
use firesteel_comm::topology::Topology;
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::Kind as ErrorKind;

use crate::gossip::{LEN, Sgd, all, target};
use crate::world::{Kind, meshes, options, run};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-6;

pub fn adam(topology: Topology, first: FirstMoment) -> QuasiGlobalAdam {
    let config = QuasiGlobalAdamConfig { beta1: BETA1, beta2: BETA2, epsilon: EPSILON as f32, first };
    QuasiGlobalAdam::new(topology, config).unwrap()
}

#[test]
fn quasi_global_momentum_is_what_it_says() {
    // All mix with all, and all have the gradient 1: a gain of 1/(1 − β), and one buffer for all.
    let done = run(meshes(Kind::Local, 3, &options()), |mesh| {
        let mut made = QuasiGlobal::new(Topology::Complete, 0.9, 0.9, false).unwrap();
        let mut weights = vec![0.0; 2];
        for step in 0..1_500 {
            let mut down = Sgd { rate: 1e-3, gradient: vec![1.0; 2] };
            made.step(&mesh, Key::new(step, 0, 0), &mut weights, &mut down).unwrap();
        }
        made.buffer().to_vec()
    });
    for buffer in done {
        assert!((buffer[0] - 10.0).abs() < 0.02, "{buffer:?}");
    }
    // Without momentum it is D-PSGD.
    let plain = all(|| Box::new(Dpsgd::new(Topology::Ring, Order::UpdateThenMix)), 5, 30, 0.1);
    let none = all(|| Box::new(QuasiGlobal::new(Topology::Ring, 0.0, 0.9, false).unwrap()), 5, 30, 0.1);
    assert_eq!(plain, none);
}

/// Steps of workers that all have the gradient 1 in each of two values.
fn along_ones(mesh: &Mesh, made: &mut dyn Gossip, steps: u64) {
    let mut weights = vec![0.0; 2];
    for step in 0..steps {
        let mut down = Sgd { rate: 1e-3, gradient: vec![1.0; 2] };
        made.step(mesh, Key::new(step, 0, 0), &mut weights, &mut down).unwrap();
    }
}

/// The way has the length 1 over the whole network: of two values that go alike each has 1/√2 of it.
#[test]
fn moments_of_adam_tend_to_the_way_of_all() {
    for (name, first, expected) in
        [("local", FirstMoment::Local, 1.0), ("global", FirstMoment::Global, 0.5f32.sqrt())]
    {
        let done = run(meshes(Kind::Local, 3, &options()), |mesh| {
            let mut made = adam(Topology::Complete, first);
            along_ones(&mesh, &mut made, 1_500);
            made.moments().map(<[f32]>::to_vec)
        });
        for [m, v] in done {
            assert!((m[0] - expected).abs() < 1e-3 && m[0] == m[1], "{name}: m̂ = {m:?}");
            let expected = 0.5 * (1.0 - BETA2.powi(1_500)) as f32;
            assert!((v[0] - expected).abs() < 1e-3 && v[0] == v[1], "{name}: v̂ = {v:?}");
        }
    }
}

/// The card's formulas in f64, for all workers of a ring in turn: weights, m̂ and v̂ of each after some steps.
fn serial(world: usize, steps: i32, rate: f64, first: FirstMoment) -> Vec<[Vec<f64>; 3]> {
    let mut all = vec![[vec![0.0; LEN], vec![0.0; LEN], vec![0.0; LEN]]; world];
    for step in 1..=steps {
        let before = all.clone();
        for (rank, [x, m, v]) in all.iter_mut().enumerate() {
            for i in 0..LEN {
                let g = x[i] - f64::from(target(rank)[i]);
                let first_moment = BETA1 * m[i] + (1.0 - BETA1) * g;
                let second_moment = BETA2 * v[i] + (1.0 - BETA2) * g * g;
                let root = (second_moment / (1.0 - BETA2.powi(step))).sqrt();
                x[i] -= rate * (first_moment / (1.0 - BETA1.powi(step))) / (root + EPSILON);
                if first == FirstMoment::Local {
                    m[i] = first_moment;
                }
            }
        }
        let half = all.clone();
        for (rank, [x, m, v]) in all.iter_mut().enumerate() {
            let neighbours = [(rank + world - 1) % world, rank, (rank + 1) % world];
            *x = (0..LEN).map(|i| neighbours.iter().map(|of| half[*of][0][i]).sum::<f64>() / 3.0).collect();
            let way: Vec<f64> =
                before[rank][0].iter().zip(&*x).map(|(before, after)| before - after).collect();
            let length = way.iter().map(|d| d * d).sum::<f64>().sqrt() + 1e-8;
            for (i, d) in way.into_iter().map(|d| d / length).enumerate() {
                v[i] = BETA2 * v[i] + (1.0 - BETA2) * d * d;
                if first == FirstMoment::Global {
                    m[i] = BETA1 * m[i] + (1.0 - BETA1) * d;
                }
            }
        }
    }
    all
}

#[test]
fn adam_is_what_its_formulas_say() {
    for first in [FirstMoment::Local, FirstMoment::Global] {
        let expected = serial(5, 40, 0.01, first);
        let done = run(meshes(Kind::Local, 5, &options()), |mesh| {
            let (mut made, mut x) = (adam(Topology::Ring, first), vec![0.0f32; LEN]);
            for step in 0..40 {
                let gradient = x.iter().zip(target(mesh.rank())).map(|(x, b)| x - b).collect();
                let mut down = Sgd { rate: 0.01, gradient };
                made.step(&mesh, Key::new(step, 0, 0), &mut x, &mut down).unwrap();
            }
            let [m, v] = made.moments().map(<[f32]>::to_vec);
            [x, m, v]
        });
        for (rank, (found, expected)) in done.iter().zip(&expected).enumerate() {
            for (name, (found, expected)) in ["x", "m̂", "v̂"].iter().zip(found.iter().zip(expected)) {
                for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let apart = (f64::from(*found) - expected).abs();
                    assert!(
                        apart < 1e-4 * expected.abs().max(1.0),
                        "{first:?}, {name} {i} at {rank}: {apart}"
                    );
                }
            }
        }
    }
}

/// A step at a rate of 0 mixes and says nothing of the way: v̂ stays.
#[test]
fn a_rate_of_nothing_is_no_way() {
    run(meshes(Kind::Local, 3, &options()), |mesh| {
        let mut made = adam(Topology::Complete, FirstMoment::Global);
        along_ones(&mesh, &mut made, 3);
        let before = made.moments().map(<[f32]>::to_vec);
        let mut down = Sgd { rate: 0.0, gradient: vec![1.0; 2] };
        made.step(&mesh, Key::new(3, 0, 0), &mut [mesh.rank() as f32; 2], &mut down).unwrap();
        assert_eq!(made.moments().map(<[f32]>::to_vec), before);
    });
}

#[test]
fn what_makes_no_adam_is_refused() {
    let good = QuasiGlobalAdamConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, first: FirstMoment::Local };
    let refused = |config| {
        let e = QuasiGlobalAdam::new(Topology::Ring, config).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        e.to_string()
    };
    let e = refused(QuasiGlobalAdamConfig { beta2: 1.0, ..good });
    assert_eq!(e, "beta2 is 1, expected at least 0 and below 1");
    let e = refused(QuasiGlobalAdamConfig { epsilon: 0.0, ..good });
    assert_eq!(e, "epsilon is 0, expected above 0, and finite");
    let mut made = adam(Topology::Ring, FirstMoment::Local);
    let of = |moments: usize, steps: &[f32]| vec![vec![0.5; moments], vec![0.5; moments], steps.to_vec()];
    let mut resumed = |state: Vec<Vec<f32>>| made.set_state(state, 4).unwrap_err().to_string();
    assert_eq!(resumed(of(3, &[7.0])), "a state of vectors of 3 values, expected 4");
    assert_eq!(resumed(of(4, &[])), "moments of 4 values after [] steps, expected 1 number");
    assert_eq!(resumed(of(4, &[f32::NAN])), "moments of 4 values after [NaN] steps, expected 1 number");
    assert_eq!(resumed(of(0, &[7.0])), "moments of 0 values after [7.0] steps, expected 1 number");
}
