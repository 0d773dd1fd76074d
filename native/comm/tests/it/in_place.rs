//! Sums that threads of one process make in each other's vectors.

use std::thread;
use std::time::Duration;

use firesteel_comm::collective::{Algorithm, all_reduce_sum, barrier};
use firesteel_comm::{Cancel, Fabric, Key, Mesh, Options, join};
use firesteel_error::{Error, Kind as ErrorKind};

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
            assert!(mesh.sums_in_place());
            all_reduce_sum(&mesh, KEY, &mut values).unwrap();
            assert_eq!(mesh.sent(), Algorithm::TwoPhase.bytes(values.len(), mesh.rank(), 3));
            values
        });
        for values in done {
            assert!(values.iter().enumerate().all(|(i, value)| *value == (i % 97 * 6) as f32));
        }
    }
    let sum_in_place =
        |mesh: Mesh| (mesh.sums_in_place(), mesh.sum_in_place(KEY, &mut [0.0]).unwrap_err().kind());
    let mixed = run(meshes(Kind::Mixed, 3, &options()), sum_in_place);
    assert_eq!(mixed, [(false, ErrorKind::Internal); 3]);
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
    let meshes = meshes(Kind::Local, 2, &short);
    let mut values = vec![1.0; 100];
    let e = all_reduce_sum(&meshes[0], KEY, &mut values).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert_eq!(e.to_string(), "rank 0 waited 0.3 s for rank 1 (broadcast, bucket 0 of step 0)");
    assert_eq!(values, [1.0; 100]);
    let e = all_reduce_sum(&meshes[1], KEY, &mut values).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerLost);
    assert_eq!(e.to_string(), "rank 1 lost rank 0: it left an all-reduce");
}

#[test]
fn who_comes_late_hears_why_another_left() {
    let cancel = Cancel::new();
    let meshes = meshes(Kind::Local, 2, &Options { cancel: cancel.clone(), ..options() });
    cancel.cancel();
    let e = all_reduce_sum(&meshes[0], KEY, &mut [1.0; 8]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    meshes[0].abort(&Error::data("column 'x' holds NaN"));
    let e = all_reduce_sum(&meshes[1], KEY, &mut [1.0; 8]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidData);
    assert_eq!(e.to_string(), "rank 1 lost rank 0: column 'x' holds NaN");
}

#[test]
fn a_worker_sums_once_at_a_time_by_one_key() {
    let cancel = Cancel::new();
    let meshes = meshes(Kind::Local, 2, &Options { cancel: cancel.clone(), ..options() });
    thread::scope(|scope| {
        let waits = scope.spawn(|| all_reduce_sum(&meshes[0], KEY, &mut [1.0; 8]).unwrap_err());
        meshes[1].wait_beyond(0, Duration::from_secs(20));
        let e = all_reduce_sum(&meshes[0], KEY, &mut [1.0; 8]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Internal);
        assert_eq!(e.to_string(), "rank 0 sums bucket 0 of step 0 twice at once");
        cancel.cancel();
        assert_eq!(waits.join().unwrap().kind(), ErrorKind::Cancelled);
    });
}
