//! Strategies in which nobody waits for the slowest more than it must.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use firesteel_comm::Fabric;
use firesteel_comm::strategy::{Computed, Spec, Strategy, TableLayout, Totals};
use firesteel_error::{Error, Kind as ErrorKind};

use super::{BOWL, Sgd, bottom, build, layout};
use crate::world::{KINDS, Kind, meshes, options, run};

#[test]
fn without_staleness_nothing_differs_by_a_bit() {
    for kind in KINDS {
        for world in [1, 2, 3, 4] {
            let trained = |text: &str| {
                run(meshes(kind, world, &options()), |mesh| {
                    let rank = mesh.rank();
                    let mut strategy = build(text, mesh, &layout(BOWL, &[], 1_000));
                    let mut weights = vec![0.0; BOWL];
                    descend_dense(strategy.as_mut(), rank, &mut weights, 20, &mut |_| ());
                    weights
                })
            };
            let (found, expected) = (trained("ssp(staleness=0)"), trained("sharded"));
            assert!(found == expected, "{world} workers over {kind:?}");
        }
    }
}

/// Goes down on one worker without tables; tells of every step before it is made.
fn descend_dense(
    strategy: &mut dyn Strategy,
    rank: usize,
    weights: &mut [f32],
    steps: u64,
    begins: &mut dyn FnMut(u64),
) {
    let bottom = bottom(rank);
    for step in 0..steps {
        begins(step);
        let gradient: Vec<f32> = weights.iter().zip(&bottom).map(|(x, b)| x - b).collect();
        strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
        strategy.ready(0..BOWL, &gradient).unwrap();
        let computed = Computed { weights, gradient: &gradient, touched: &[] };
        strategy.finish(computed, &mut Sgd(0.1)).unwrap();
    }
    strategy.settle(weights, &mut Sgd(0.1)).unwrap();
    strategy.meet(steps, &mut [weights]).unwrap();
}

#[test]
fn nobody_is_farther_ahead_than_its_staleness_lets_it() {
    const WORLD: usize = 3;
    const STEPS: u64 = 30;
    for (text, bound) in [("ssp(staleness=0)", Some(0)), ("ssp(staleness=2)", Some(2)), ("asp", None)] {
        let made: [AtomicU64; WORLD] = Default::default();
        let ahead = AtomicU64::new(0);
        let ends = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(text, mesh, &layout(BOWL, &[], 1_000));
            let mut weights = vec![0.0; BOWL];
            descend_dense(strategy.as_mut(), rank, &mut weights, STEPS, &mut |step| {
                if rank == 1 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // What it has made is what it has at least sent.
                made[rank].store(step, Ordering::SeqCst);
                let slowest = made.iter().map(|made| made.load(Ordering::SeqCst)).min().unwrap();
                ahead.fetch_max(step - slowest, Ordering::SeqCst);
            });
            weights
        });
        assert!(ends.iter().all(|weights| *weights == ends[0]), "{text}");
        let ahead = ahead.into_inner();
        // A worker that has sent its last gradient has not yet said that it begins the next step.
        match bound {
            Some(bound) => assert!(ahead <= bound + 1, "{text}: {ahead} steps ahead"),
            None => assert!(ahead > 5, "{text}: {ahead} steps ahead"),
        }
    }
}

#[test]
fn who_waits_for_a_worker_that_died_hears_which() {
    let start = Instant::now();
    let ends = run(meshes(Kind::Tcp, 3, &options()), |mesh| {
        if mesh.rank() == 2 {
            mesh.abort(&Error::new(ErrorKind::Io, "its disk is full"));
            return None;
        }
        let layout = layout(BOWL, &[], 1_000);
        let mut strategy = build("ssp(staleness=1)", mesh, &layout);
        let mut made = 0;
        let e = loop {
            strategy.begin(made, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            let computed = Computed { weights: &mut [0.0; BOWL], gradient: &[1.0; BOWL], touched: &[] };
            match strategy.finish(computed, &mut Sgd(0.1)) {
                Ok(_) => made += 1,
                Err(e) => break e,
            }
        };
        assert!(made <= 1, "{made} steps");
        Some(e)
    });
    assert!(start.elapsed() < Duration::from_secs(10));
    for e in ends.into_iter().flatten() {
        assert!(
            e.kind() == ErrorKind::PeerLost && e.to_string().ends_with("rank 2: its disk is full"),
            "{e}"
        );
    }
}

#[test]
fn owners_of_slices_have_no_tables() {
    let layout = layout(0, &[TableLayout { range: 0..6, rows: 2, dims: 3 }], 64);
    run(meshes(Kind::Local, 2, &options()), |mesh| {
        let spec: Spec = "asp".parse().unwrap();
        let e = spec.build(Arc::new(mesh), &layout, 5).err().unwrap().to_string();
        assert_eq!(e, "the strategy asp(every=1): a network with 1 embedding tables, expected none");
    });
}
