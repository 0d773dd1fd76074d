//! The three moves and the collectives on every fabric.

use bytes::Bytes;
use firesteel_comm::collective::{all_gather, all_reduce_sum, barrier, broadcast_from, gather};
use firesteel_comm::{Fabric, Key};

use crate::world::{KINDS, meshes, options, run};

const LENGTHS: [usize; 5] = [0, 1, 4, 1_000, 100_003];

/// A value that tells its rank and place, exact in f32 when nine of them are added.
fn value(rank: usize, place: usize) -> f32 {
    ((place * 31 + rank * 7) % 4_099) as f32
}

#[test]
fn all_reduce_adds_every_value_once() {
    for kind in KINDS {
        for world in 1..=9 {
            let sums = run(meshes(kind, world, &options()), |mesh| {
                let reduce = |(step, len): (usize, &usize)| {
                    let mut values: Vec<f32> = (0..*len).map(|i| value(mesh.rank(), i)).collect();
                    all_reduce_sum(&mesh, Key::new(step as u64, 0, 0), &mut values).unwrap();
                    values
                };
                LENGTHS.iter().enumerate().map(reduce).collect::<Vec<_>>()
            });
            for (n, len) in LENGTHS.iter().enumerate() {
                let expected: Vec<f32> =
                    (0..*len).map(|i| (0..world).map(|rank| value(rank, i)).sum()).collect();
                for (rank, sums) in sums.iter().enumerate() {
                    assert!(sums[n] == expected, "{kind:?}, rank {rank} of {world}, length {len}");
                }
            }
        }
    }
}

#[test]
fn shuffle_brings_part_j_to_worker_j() {
    for kind in KINDS {
        let received = run(meshes(kind, 4, &options()), |mesh| {
            let parts = (0..4).map(|to| Bytes::from(format!("{}→{to}", mesh.rank()))).collect();
            mesh.shuffle(Key::new(1, 2, 3), parts).unwrap().wait().unwrap()
        });
        for (to, parts) in received.iter().enumerate() {
            let expected: Vec<Bytes> = (0..4).map(|from| Bytes::from(format!("{from}→{to}"))).collect();
            assert_eq!(*parts, expected, "{kind:?}");
        }
    }
}

#[test]
fn exchange_reaches_the_neighbours_of_a_ring() {
    for kind in KINDS {
        let received = run(meshes(kind, 5, &options()), |mesh| {
            let (left, right) = ((mesh.rank() + 4) % 5, (mesh.rank() + 1) % 5);
            let part = |to| (to, Bytes::from(format!("{}→{to}", mesh.rank())));
            let pending = mesh.exchange(Key::new(0, 0, 0), vec![part(left), part(right)], &[left, right]);
            pending.unwrap().wait().unwrap()
        });
        let expected = |from: usize, to: usize| Bytes::from(format!("{from}→{to}"));
        for (me, parts) in received.iter().enumerate() {
            assert_eq!(*parts, [expected((me + 4) % 5, me), expected((me + 1) % 5, me)], "{kind:?}");
        }
    }
}

#[test]
fn moves_may_be_waited_for_in_any_order() {
    for kind in KINDS {
        let firsts = run(meshes(kind, 3, &options()), |mesh| {
            let post =
                |bucket| mesh.broadcast(Key::new(0, bucket, 0), Bytes::from(vec![bucket as u8])).unwrap();
            let mut pending: Vec<_> = (0..20).map(post).collect();
            if mesh.rank() == 1 {
                pending.reverse();
            }
            pending.into_iter().map(|p| p.wait().unwrap()[0][0]).collect::<Vec<u8>>()
        });
        assert_eq!(firsts[0], (0..20).collect::<Vec<u8>>());
        assert_eq!(firsts[1], (0..20).rev().collect::<Vec<u8>>());
    }
}

#[test]
fn gathers_and_broadcasts_have_a_root() {
    for kind in KINDS {
        run(meshes(kind, 3, &options()), |mesh| {
            let me = Bytes::from(vec![mesh.rank() as u8]);
            let all = all_gather(&mesh, Key::new(0, 0, 0), me.clone()).unwrap();
            assert_eq!(all, [vec![0], vec![1], vec![2]].map(Bytes::from));
            let at_root = gather(&mesh, Key::new(1, 0, 0), 2, me.clone()).unwrap();
            assert_eq!(at_root, (mesh.rank() == 2).then_some(all));
            assert_eq!(broadcast_from(&mesh, Key::new(2, 0, 0), 1, me).unwrap(), Bytes::from(vec![1]));
            barrier(&mesh, Key::new(3, 0, 0)).unwrap();
        });
    }
}

#[test]
fn all_reduce_sends_what_its_formula_says() {
    for kind in KINDS {
        for world in [2, 4] {
            let len = 1_000 * world;
            let sent = run(meshes(kind, world, &options()), |mesh| {
                all_reduce_sum(&mesh, Key::new(0, 0, 0), &mut vec![1.0; len]).unwrap();
                mesh.sent()
            });
            let formula = (2 * 4 * len * (world - 1) / world) as u64;
            assert!(sent.iter().all(|s| *s == formula), "{kind:?}: {sent:?}, expected {formula}");
        }
    }
}

#[test]
fn parts_that_do_not_fit_the_world_are_refused() {
    let meshes = meshes(KINDS[0], 2, &options());
    let e = meshes[0].shuffle(Key::new(0, 0, 0), vec![Bytes::new()]).unwrap_err();
    assert_eq!(e.to_string(), "a shuffle of 1 parts among 2 workers");
    let e = meshes[0].exchange(Key::new(0, 0, 0), vec![], &[2]).unwrap_err();
    assert_eq!(e.to_string(), "rank 2 named in an exchange, the world has 2");
}
