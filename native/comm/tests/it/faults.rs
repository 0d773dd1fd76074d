//! What happens when a peer dies or is late.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_comm::collective::barrier;
use firesteel_comm::{Cancel, Fabric, Key, Options};
use firesteel_error::{Error, Kind as ErrorKind};

use crate::world::{KINDS, meshes, options, run};

#[test]
fn a_worker_that_leaves_early_is_named_by_all_others() {
    for kind in KINDS {
        let start = Instant::now();
        let errors = run(meshes(kind, 4, &options()), |mesh| {
            if mesh.rank() == 2 {
                return None;
            }
            Some(barrier(&mesh, Key::new(0, 0, 0)).unwrap_err())
        });
        for error in errors.into_iter().flatten() {
            assert_eq!(error.kind(), ErrorKind::PeerLost, "{kind:?}: {error}");
            assert!(error.to_string().contains("rank 2"), "{kind:?}: {error}");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{kind:?} took {:?}", start.elapsed());
    }
}

#[test]
fn a_panicking_worker_is_named_by_all_others() {
    for kind in KINDS {
        let errors = run(meshes(kind, 3, &options()), |mesh| {
            if mesh.rank() == 1 {
                let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let _mesh = mesh;
                    std::panic::resume_unwind(Box::new("boom"));
                }));
                assert!(caught.is_err());
                return None;
            }
            Some((mesh.rank(), barrier(&mesh, Key::new(0, 0, 0)).unwrap_err().to_string()))
        });
        for (rank, error) in errors.into_iter().flatten() {
            assert_eq!(error, format!("rank {rank} lost rank 1: it panicked"), "{kind:?}");
        }
    }
}

#[test]
fn an_abort_tells_everyone_why() {
    for kind in KINDS {
        let errors = run(meshes(kind, 3, &options()), |mesh| {
            if mesh.rank() == 0 {
                mesh.abort(&Error::data("column 'x' holds NaN"));
                return None;
            }
            Some((mesh.rank(), barrier(&mesh, Key::new(0, 0, 0)).unwrap_err()))
        });
        for (rank, error) in errors.into_iter().flatten() {
            assert_eq!(
                error.to_string(),
                format!("rank {rank} lost rank 0: column 'x' holds NaN"),
                "{kind:?}"
            );
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }
}

#[test]
fn what_a_finished_worker_sent_still_arrives() {
    for kind in KINDS {
        run(meshes(kind, 2, &options()), |mesh| {
            let part = Bytes::from(vec![7; 3_000_000]);
            let pending = mesh.broadcast(Key::new(0, 0, 0), part.clone()).unwrap();
            if mesh.rank() == 1 {
                thread::sleep(Duration::from_millis(100));
                assert_eq!(pending.wait().unwrap()[0], part);
            }
        });
    }
}

#[test]
fn a_late_worker_is_named_at_the_deadline() {
    let short = Options { deadline: Duration::from_millis(400), ..options() };
    for kind in KINDS {
        let errors = run(meshes(kind, 3, &short), |mesh| {
            let waited = (mesh.rank() != 2).then(|| barrier(&mesh, Key::new(7, 0, 0)).unwrap_err());
            // Nobody leaves before all have waited: a worker that left is not late.
            thread::sleep(Duration::from_millis(800));
            waited.map(|e| (mesh.rank(), e))
        });
        let errors: Vec<_> = errors.into_iter().flatten().collect();
        assert_eq!(errors.len(), 2);
        for (rank, error) in errors {
            assert_eq!(error.kind(), ErrorKind::Timeout, "{kind:?}: {error}");
            let text = format!("rank {rank} waited 0.4 s for rank 2 (broadcast, bucket 0 of step 7)");
            assert_eq!(error.to_string(), text, "{kind:?}");
        }
    }
}

#[test]
fn cancelling_ends_a_wait() {
    for kind in KINDS {
        let cancel = Cancel::new();
        let options = Options { cancel: cancel.clone(), ..options() };
        let start = Instant::now();
        run(meshes(kind, 2, &options), |mesh| {
            if mesh.rank() == 1 {
                thread::sleep(Duration::from_millis(100));
                cancel.cancel();
                thread::sleep(Duration::from_millis(300));
                return;
            }
            let error = barrier(&mesh, Key::new(0, 0, 0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
        });
        assert!(start.elapsed() < Duration::from_secs(3), "{kind:?} took {:?}", start.elapsed());
    }
}
