//! Sums that threads of one process make in each other's vectors.

use std::thread;
use std::time::Duration;

use firesteel_comm::collective::{Algorithm, all_reduce_sum, barrier};
use firesteel_comm::{Cancel, Fabric, Key, Mesh, Options, join};
use firesteel_error::Kind as ErrorKind;

use crate::world::{Kind, membership, meshes, options, run};

const KEY: Key = Key { step: 0, bucket: 0, phase: 0 };

/// Workers of one process that meet by name.
fn joined(world: usize) -> Vec<Mesh> {
    let (there, _) = membership(world, |_| "one process".into());
    run((0..world).collect(), |rank| join(&there, rank, None, &options()).unwrap())
}

#[test]
fn threads_that_meet_by_name_sum_as_those_made_together() {
    for meshes in [joined(3), meshes(Kind::Local, 3, &options())] {
        let done = run(meshes, |mesh| {
            let mut values: Vec<f32> = (0..700_001).map(|i| (i % 97 * (mesh.rank() + 1)) as f32).collect();
            let summed = mesh.sum_in_place(KEY, &mut values);
            summed.unwrap().unwrap();
            assert_eq!(mesh.sent(), Algorithm::TwoPhase.bytes(values.len(), mesh.rank(), 3));
            values
        });
        for values in done {
            assert!(values.iter().enumerate().all(|(i, value)| *value == (i % 97 * 6) as f32));
        }
    }
    let others = run(meshes(Kind::Mixed, 3, &options()), |mesh| mesh.sum_in_place(KEY, &mut [0.0]).is_none());
    assert_eq!(others, [true; 3]);
}

#[test]
fn a_vector_of_another_length_is_named_and_nothing_is_summed() {
    let done = run(meshes(Kind::Local, 3, &options()), |mesh| {
        let mut values = vec![1.0; if mesh.rank() == 1 { 9 } else { 10 }];
        let e = all_reduce_sum(&mesh, KEY, &mut values).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        assert!(values.iter().all(|value| *value == 1.0));
        // Nobody leaves before all have seen it.
        barrier(&mesh, Key::new(1, 0, 0)).unwrap();
        e.to_string()
    });
    assert_eq!(done[0], "rank 1 sums 9 values, expected 10");
    assert_eq!(done[1], "rank 0 sums 10 values, expected 9");
    assert_eq!(done[2], "rank 1 sums 9 values, expected 10");
}

/// Who gives up takes its vector back; who comes then hears of it.
#[test]
fn who_gives_up_has_its_vector_back() {
    let short = Options { deadline: Duration::from_millis(300), ..options() };
    run(meshes(Kind::Local, 2, &short), |mesh| {
        if mesh.rank() == 0 {
            let mut values = vec![1.0; 100];
            let e = all_reduce_sum(&mesh, KEY, &mut values).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Timeout);
            assert_eq!(e.to_string(), "rank 0 waited 0.3 s for rank 1 (broadcast, bucket 0 of step 0)");
            assert_eq!(values, [1.0; 100]);
        } else {
            thread::sleep(Duration::from_millis(600));
        }
        barrier(&mesh, Key::new(1, 0, 0)).unwrap();
        if mesh.rank() == 1 {
            let e = all_reduce_sum(&mesh, KEY, &mut [1.0; 100]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PeerLost);
            assert_eq!(e.to_string(), "rank 1 lost rank 0: it left an all-reduce");
        }
        barrier(&mesh, Key::new(2, 0, 0)).unwrap();
    });
}

#[test]
fn a_worker_sums_once_at_a_time_by_one_key() {
    let cancel = Cancel::new();
    let meshes = meshes(Kind::Local, 2, &Options { cancel: cancel.clone(), ..options() });
    thread::scope(|scope| {
        let waits = scope.spawn(|| all_reduce_sum(&meshes[0], KEY, &mut [1.0; 8]).unwrap_err());
        while meshes[1].arrivals() == 0 {
            thread::yield_now();
        }
        let e = all_reduce_sum(&meshes[0], KEY, &mut [1.0; 8]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Internal);
        assert!(e.to_string().contains("rank 0 sums twice at once by "), "{e}");
        cancel.cancel();
        assert_eq!(waits.join().unwrap().kind(), ErrorKind::Cancelled);
    });
}
