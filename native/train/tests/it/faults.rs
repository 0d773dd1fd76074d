//! Workers that die, training that diverges or is cancelled.

use std::time::Instant;

use firesteel_comm::Cancel;
use firesteel_error::Kind;
use firesteel_train::{Event, Gpu, Session, Trainer};

use crate::support::*;

#[test]
fn when_a_worker_dies_the_others_end_with_its_rank() {
    others_end_with_the_rank_that_dies("sharded", 300, |_| None);
}

#[test]
fn whatever_the_strategy() {
    for strategy in ["two_phase(sign, sign, feedback=true)", "local(every=3)", "dpsgd", "choco", "union"] {
        others_end_with_the_rank_that_dies(strategy, 300, |_| None);
    }
}

/// Three workers train by a strategy on so many rows, on GPUs or not, and one dies between two epochs.
pub fn others_end_with_the_rank_that_dies(
    strategy: &str,
    rows: usize,
    gpu: impl Fn(usize) -> Option<Gpu> + Sync,
) {
    let config = flights(&format!(r#"{{"epochs": 1000, "batchSize": 30, "strategy": "{strategy}"}}"#));
    let parts = deal(&tabular(rows), 3);
    for talk in [Talk::Local, Talk::Tcp] {
        let started = Instant::now();
        let outcomes = together_or_dead(talk, 3, |rank, fabric| {
            let (cancel, gpu) = (Cancel::new(), gpu(rank));
            let session = Session { fabric, threads: 1, cancel, resume: None, start: None, gpu };
            let mut die = |event| {
                if rank == 1 && matches!(event, Event::Epoch(ref e) if e.epoch == 2) {
                    panic!("killed by the test");
                }
            };
            let shard = shard(&config, rank, &parts[rank]);
            Trainer::new(config.clone()).unwrap().fit(shard, session, &mut die).map(|_| ())
        });
        assert!(outcomes[1].is_none());
        for rank in [0, 2] {
            let e = outcomes[rank].as_ref().unwrap().as_ref().unwrap_err();
            assert_eq!(e.kind(), Kind::PeerLost, "{strategy}, {talk:?}: {e}");
            assert!(e.to_string().contains("rank 1"), "{strategy}, {talk:?}: {e}");
        }
        assert!(started.elapsed() < options().deadline / 2, "long before the deadline");
    }
}

#[test]
fn a_cancelled_worker_stops_and_the_others_hear_of_it() {
    let config = flights(r#"{"epochs": 100000}"#);
    let parts = deal(&tabular(300), 2);
    let outcomes = together(Talk::Local, 2, |rank, fabric| {
        let cancel = Cancel::new();
        let session =
            Session { fabric, threads: 1, cancel: cancel.clone(), resume: None, start: None, gpu: None };
        let mut hear = |event| {
            if rank == 1 && matches!(event, Event::Epoch(ref e) if e.epoch == 3) {
                cancel.cancel();
            }
        };
        let shard = shard(&config, rank, &parts[rank]);
        Trainer::new(config.clone()).unwrap().fit(shard, session, &mut hear).unwrap_err()
    });
    assert_eq!(outcomes[1].kind(), Kind::Cancelled);
    assert_eq!(outcomes[1].to_string(), "training was cancelled in epoch 4, step 0");
    assert_eq!(outcomes[0].kind(), Kind::PeerLost, "{}", outcomes[0]);
    assert!(outcomes[0].to_string().contains("rank 1"), "{}", outcomes[0]);
}

#[test]
fn divergence_names_epoch_and_step_on_every_worker() {
    let network = r#"{"mlp": {"hidden": [8]}}"#;
    let params = r#"{"epochs": 50, "batchSize": 50, "optimizer": "sgd", "learningRate": 1e6}"#;
    let config = config("regression", network, params, r#"["distance", "hour"]"#, r#""label": "delay""#);
    let parts = deal(&tabular(300), 2);
    let errors: Vec<_> = train_on(Talk::Local, &config, &parts, None)
        .into_iter()
        .map(|o| o.model.map(|_| ()).unwrap_err())
        .collect();
    for e in &errors {
        assert_eq!(e.kind(), Kind::Diverged, "{e}");
        assert_eq!(e.to_string(), errors[0].to_string());
    }
    let text = errors[0].to_string();
    assert!(text.starts_with("training diverged in epoch ") && text.contains(", step "), "{text}");
    assert!(text.ends_with("a smaller learningRate may help"), "{text}");
}
