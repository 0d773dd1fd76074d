//! Workers that go down, each in a bowl of its own.

use firesteel_comm::Fabric;
use firesteel_comm::strategy::{Computed, Totals};

use super::{BOWL, Sgd, all, bottom, bowl, build, descend};
use crate::world::{Kind, meshes, options, run};

#[test]
fn all_meet_near_the_bottom_of_all() {
    const WORLD: usize = 4;
    let mut mean = vec![0.0f64; BOWL];
    for rank in 0..WORLD {
        mean.iter_mut().zip(bottom(rank)).for_each(|(mean, b)| *mean += f64::from(b) / WORLD as f64);
    }
    let size: f64 = mean.iter().map(|b| b * b).sum::<f64>().sqrt();
    for text in all() {
        let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(&text, mesh, &bowl(&text));
            let mut weights = vec![0.0; BOWL];
            descend(strategy.as_mut(), rank, &mut weights, 0..4, 250)
        });
        for of_rank in &done {
            assert!(*of_rank == done[0], "{text}");
        }
        let found = &done[0][3];
        let far: f64 =
            found.iter().zip(&mean).map(|(x, b)| (f64::from(*x) - b).powi(2)).sum::<f64>().sqrt() / size;
        // One value of 48 a step comes near, and so does one magnitude for all; feedback comes as near as its delay lets it; all others come nearer.
        let late = ["true", "top_k"].iter().any(|word| text.contains(word));
        let most = match text.as_str() {
            // Each worker divides by a little of its own gradient's square too.
            "quasi_global_adam" => 0.15,
            "gather" | "one_bit_adam(warmup=300)" | "dgc(ratio=0.3, momentum=0.5)" => 0.3,
            // Here a worker may send an epoch's gradients before another begins.
            "asp" | "downpour" => f64::INFINITY,
            _ if late => 0.06,
            _ => 0.02,
        };
        assert!(far <= most, "{text}: {far}");
    }
}

#[test]
fn relaxed_strategies_are_what_they_relax_where_nothing_is_relaxed() {
    let trained = |text: &str, world: usize| {
        let done = run(meshes(Kind::Local, world, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(text, mesh, &bowl(text));
            descend(strategy.as_mut(), rank, &mut vec![0.0; BOWL], 0..2, 12)
        });
        done.into_iter().next().unwrap().pop().unwrap()
    };
    let near = |a: &str, b: &str| {
        for world in [2, 4] {
            let (found, expected) = (trained(a, world), trained(b, world));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5, "{a}: {found}, {b}: {expected}");
            }
        }
    };
    near("local(every=1)", "sharded");
    near("slow_mo(every=4, beta=0, alpha=1)", "local(every=4)");
    near("hierarchical(every=4, group=1, inner=1)", "local(every=4)");
    near("hierarchical(every=4, group=2, inner=4)", "local(every=4)");
    near("dpsgd(complete)", "sharded");
    near("quasi_global(complete, momentum=0, nesterov=false)", "dpsgd(complete)");
    near("choco(by=plain, gamma=1)", "dpsgd");
    near("dcd(by=plain)", "dpsgd(order=mix_update)");
}

#[test]
fn workers_are_alike_when_they_have_met_and_not_before() {
    let after = |text: &'static str, steps: u64| {
        run(meshes(Kind::Local, 4, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(text, mesh, &bowl(text));
            let (mut weights, bottom) = (vec![0.0f32; BOWL], bottom(rank));
            for step in 0..steps {
                let gradient: Vec<f32> = weights.iter().zip(&bottom).map(|(x, b)| x - b).collect();
                strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
                let touched = [vec![0, 1, 2]];
                let computed = Computed { weights: &mut weights, gradient: &gradient, touched: &touched };
                strategy.finish(computed, &mut Sgd(0.1)).unwrap();
            }
            weights
        })
    };
    let alike = |all: &[Vec<f32>], pairs: &[(usize, usize)]| pairs.iter().all(|(a, b)| all[*a] == all[*b]);
    let pairs = [(0, 1), (0, 2), (0, 3)];
    assert!(alike(&after("local(every=3)", 3), &pairs) && alike(&after("local(every=3)", 6), &pairs));
    assert!(!alike(&after("local(every=3)", 4), &[(0, 1)]));
    let groups = after("hierarchical(every=4, group=2, inner=2)", 6);
    assert!(alike(&groups, &[(0, 1), (2, 3)]) && !alike(&groups, &[(1, 2)]));
    assert!(alike(&after("hierarchical(every=4, group=2, inner=2)", 8), &pairs));
}
