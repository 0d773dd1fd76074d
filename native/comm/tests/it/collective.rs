//! Ways to all-reduce, against the plain sum and their own formulas.

use firesteel_comm::collective::{Algorithm, Link, Subgroup, all_reduce_by_host};
use firesteel_comm::{Fabric, Key};

use crate::compress::normal;
use crate::world::{KINDS, Kind, meshes, options, run};

fn vector(len: usize, rank: usize) -> Vec<f32> {
    normal(len, rank as u64)
}

/// All have the same bits, which are near the sum.
fn check_sums(done: &[Vec<f32>], context: &str) {
    let (world, len) = (done.len(), done[0].len());
    for (rank, found) in done.iter().enumerate() {
        assert!(found == &done[0], "{context}: rank {rank} has other bits");
    }
    let mut expected = vec![0.0f64; len];
    for rank in 0..world {
        expected.iter_mut().zip(vector(len, rank)).for_each(|(sum, value)| *sum += f64::from(value));
    }
    for (found, expected) in done[0].iter().zip(&expected) {
        let most = 1e-6 * world as f64 * expected.abs().max(1.0);
        assert!((f64::from(*found) - expected).abs() <= most, "{context}: {found}, expected {expected}");
    }
}

#[test]
fn every_algorithm_sums_in_every_world_and_sends_what_it_says() {
    for kind in KINDS {
        let worlds = if matches!(kind, Kind::Local) { 1..10 } else { 2..6 };
        for world in worlds {
            for len in [0, 1, world - 1, world, 4_099, 300_007] {
                if len > 5_000 && world > 5 {
                    continue;
                }
                let done = run(meshes(kind, world, &options()), |mesh| {
                    let one = |(nth, algorithm): (usize, Algorithm)| {
                        let mut values = vector(len, mesh.rank());
                        let before = mesh.sent();
                        algorithm.all_reduce(&mesh, Key::new(nth as u64, 0, 0), &mut values).unwrap();
                        (values, mesh.sent() - before)
                    };
                    Algorithm::ALL.into_iter().enumerate().map(one).collect::<Vec<_>>()
                });
                for (nth, algorithm) in Algorithm::ALL.into_iter().enumerate() {
                    let context = format!("{}, {kind:?}, {world} × {len}", algorithm.name());
                    let sums: Vec<Vec<f32>> = done.iter().map(|of_rank| of_rank[nth].0.clone()).collect();
                    check_sums(&sums, &context);
                    for (rank, of_rank) in done.iter().enumerate() {
                        assert_eq!(
                            of_rank[nth].1,
                            algorithm.bytes(len, rank, world),
                            "{context}: rank {rank}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn hosts_of_any_size_sum_first() {
    for (hosts, between) in [
        (&[7u32, 7, 7][..], Algorithm::Ring),
        (&[0, 1, 0, 1], Algorithm::TwoPhase),
        (&[3, 1, 1, 2, 3, 1], Algorithm::HalvingDoubling),
        (&[0, 1, 2, 3, 4], Algorithm::DoubleBinaryTree),
    ] {
        let done = run(meshes(Kind::Local, hosts.len(), &options()), |mesh| {
            let mut values = vector(1_003, mesh.rank());
            all_reduce_by_host(&mesh, Key::new(0, 0, 0), &mut values, hosts, between).unwrap();
            values
        });
        check_sums(&done, &format!("{hosts:?}"));
    }
}

#[test]
fn groups_talk_among_themselves() {
    let colors = [0, 1, 0, 2, 1, 0];
    let done = run(meshes(Kind::Mixed, colors.len(), &options()), |mesh| {
        let group = Subgroup::new(&mesh, &colors).unwrap();
        let mut values = vec![1.0, mesh.rank() as f32];
        Algorithm::Ring.all_reduce(&group, Key::new(0, 0, 0), &mut values).unwrap();
        (group.rank(), group.world(), values)
    });
    for (rank, (place, world, values)) in done.into_iter().enumerate() {
        let members: Vec<usize> = (0..colors.len()).filter(|other| colors[*other] == colors[rank]).collect();
        assert_eq!((members[place], world), (rank, members.len()));
        assert_eq!(values, [members.len() as f32, members.iter().sum::<usize>() as f32]);
    }
    let mesh = &meshes(Kind::Local, 2, &options())[0];
    let e = Subgroup::new(mesh, &[1]).err().unwrap();
    assert_eq!(e.to_string(), "1 colors for 2 workers");
}

#[test]
fn what_is_chosen_depends_on_what_messages_cost() {
    let chosen = |len, world, per_message| {
        Algorithm::choose(len, world, Link { latency: 1e-4, per_message, bandwidth: 1e9 })
    };
    // Two rounds beat a logarithm of them where many messages cost nothing.
    assert_eq!(chosen(100, 64, 0.0), Algorithm::TwoPhase);
    // And not where each costs.
    assert_eq!(chosen(100, 64, 2e-5), Algorithm::HalvingDoubling);
    assert_eq!(chosen(100, 4, 2e-5), Algorithm::TwoPhase);
    // Of no power of two, twins swap halves beside.
    assert_eq!(chosen(10_000_000, 64, 2e-5), Algorithm::HalvingDoubling);
    // There a ring has fewer messages than two phases, which send long vectors by chunks.
    assert_eq!(chosen(10_000_000, 63, 2e-5), Algorithm::Ring);
    assert_eq!(chosen(10_000_000, 63, 0.0), Algorithm::TwoPhase);
    let link = Link { latency: 1.0, per_message: 1.0, bandwidth: 1.0 };
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.seconds(100, 1, link), 0.0, "{}", algorithm.name());
    }
}
