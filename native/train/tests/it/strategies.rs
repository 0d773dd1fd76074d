//! Trainings whose workers talk otherwise than by the default strategy.

use firesteel_error::Kind;
use firesteel_train::{Event, TrainConfig};

use crate::resume::checkpoints;
use crate::support::*;

/// What gives the sums that the default gives.
const EXACT: [&str; 12] = [
    "all_reduce(halving_doubling)",
    "all_reduce(auto)",
    "all_reduce(buckets=merged)",
    "two_phase",
    "gather(plain, feedback=false)",
    "linear(plain, feedback=true)",
    "union",
    "sparse_gather",
    "densify",
    "parallax",
    "s2(ratio=1)",
    "ssp(staleness=0)",
];

/// What goes other ways to the same end.
const OTHERS: [&str; 21] = [
    "two_phase(fp16, bf16)",
    "two_phase(min_max_u8, min_max_u8)",
    "two_phase(qsgd(levels=15), qsgd(levels=15))",
    "two_phase(sign, sign, feedback=true)",
    "gather(top_k(ratio=0.05))",
    "linear(shrink(random_k(ratio=0.2)), feedback=true)",
    "power_sgd",
    "ok_top_k(ratio=0.05)",
    "g_top_k(ratio=0.05)",
    "s2(rows=3, ratio=0.5)",
    "s2(ratio=0.2, feedback=true)",
    "local(every=4)",
    "post_local(every=8, after=5)",
    "async_average(every=3)",
    "slow_mo(every=4)",
    "easgd(every=4)",
    "hierarchical(every=4, group=2, inner=2)",
    "dpsgd",
    "gradient_tracking(exponential)",
    "push_sum(one_peer)",
    "choco(gamma=0.3)",
];

fn with(config: &TrainConfig, strategy: &str) -> TrainConfig {
    let mut config = config.clone();
    config.params.strategy = strategy.parse().unwrap();
    config
}

#[test]
fn what_is_exact_trains_as_one_worker_does() {
    let tables = flights(r#"{"epochs": 3, "batchSize": 50, "validationFraction": 0.2, "bucketBytes": 256}"#);
    let nets = digits(
        r#"{"epochs": 3, "batchSize": 32, "optimizer": "sgd", "momentum": 0.9, "learningRate": 0.05}"#,
    );
    for (config, rows) in [(tables, tabular(400)), (nets, images(301))] {
        let alone = train(&config, &rows);
        // Owners of slices have no tables.
        for strategy in
            EXACT.into_iter().filter(|text| config.data.label == "digit" || !text.starts_with("ssp"))
        {
            for (world, talk) in [(2, Talk::Tcp), (3, Talk::Local)] {
                let outcomes = train_on(talk, &with(&config, strategy), &deal(&rows, world), None);
                let models: Vec<_> = outcomes.into_iter().map(|o| o.model.unwrap()).collect();
                let apart = distance(&losses(&models[0]), &losses(&alone));
                assert!(apart < 2e-5, "{strategy}, {world} workers: losses differ by {apart:e}");
                assert!(models.iter().all(|model| model.weights() == models[0].weights()), "{strategy}");
            }
        }
    }
}

#[test]
fn what_is_compressed_or_relaxed_learns() {
    let config = flights(
        r#"{"epochs": 12, "batchSize": 64, "optimizer": "sgd", "learningRate": 0.3, "validationFraction": 0.2}"#,
    );
    let rows = tabular(1_200);
    let alone = train(&config, &rows).history().last().unwrap().clone();
    let own_momentum = [
        ("quasi_global(complete)", 0.03),
        ("dgc(ratio=0.2, momentum=0.5)", 0.15),
        ("fetch_sgd(columns=500, ratio=0.2, momentum=0.5)", 0.3),
        ("one_bit_adam(warmup=40)", 0.01),
        ("qadam(warmup=40)", 0.01),
    ];
    let table = OTHERS.iter().map(|strategy| (*strategy, 0.3)).chain(own_momentum);
    for (strategy, rate) in table {
        let mut config = with(&config, strategy);
        config.params.learning_rate = rate;
        let outcomes = train_on(Talk::Local, &config, &deal(&rows, 4), None);
        let models: Vec<_> = outcomes.into_iter().map(|o| o.model.unwrap()).collect();
        assert!(models.iter().all(|model| model.weights() == models[0].weights()), "{strategy}");
        let histories: Vec<_> = models.iter().map(losses).collect();
        assert!(histories.iter().all(|history| *history == histories[0]), "{strategy}");
        let found = models[0].history().last().unwrap();
        let (found, expected) = (found.validation_metric.unwrap(), alone.validation_metric.unwrap());
        assert!(found > expected - 0.03, "{strategy}: AUC {found}, alone {expected}");
    }
}

#[test]
fn what_goes_on_from_a_checkpoint_goes_on_bit_for_bit() {
    let params = r#"{"epochs": 4, "batchSize": 50, "validationFraction": 0.2, "bucketBytes": 256}"#;
    let rows = tabular(300);
    for strategy in OTHERS {
        let config = with(&flights(params), strategy);
        let parts = deal(&rows, 4);
        let whole = train_on(Talk::Local, &config, &parts, None).remove(0).model.unwrap();
        let (epoch, file) = checkpoints(&config, &parts).swap_remove(1);
        let resumed = train_on(Talk::Local, &config, &parts, Some(file.clone())).remove(0);
        assert!(matches!(resumed.events[0], Event::Started { resumed_at, .. } if resumed_at == epoch));
        let resumed = resumed.model.unwrap();
        assert!(resumed.weights() == whole.weights(), "{strategy}");
        assert_eq!(losses(&resumed), losses(&whole), "{strategy}");
        // Fewer workers go on too.
        for outcome in train_on(Talk::Local, &config, &deal(&rows, 2), Some(file)) {
            assert_eq!(outcome.model.unwrap().history().len(), 4, "{strategy}");
        }
    }
    let other = with(&flights(params), "local(every=5)");
    let (_, file) = checkpoints(&with(&flights(params), "local(every=4)"), &deal(&rows, 2)).remove(0);
    let e = train_on(Talk::Local, &other, &deal(&rows, 2), Some(file)).remove(0).model.unwrap_err();
    assert!(e.to_string().contains(r#"strategy is "local(every=4)" there and "local(every=5)" here"#), "{e}");
}

#[test]
fn a_lone_worker_trains_as_without_a_strategy() {
    let config = flights(r#"{"epochs": 2, "batchSize": 50}"#);
    let rows = tabular(200);
    let expected = train(&config, &rows);
    for strategy in ["two_phase(sign, sign, feedback=true)", "local", "dpsgd(shift_one)", "slow_mo"] {
        assert_eq!(train(&with(&config, strategy), &rows).weights(), expected.weights(), "{strategy}");
    }
}

#[test]
fn a_world_that_a_strategy_does_not_have_is_refused_before_a_row_is_read() {
    let config = with(&flights(r#"{"epochs": 2}"#), "dpsgd(shift_one)");
    // Whose column would be refused next.
    let rows = tabular(90).project(&[0, 1, 3]).unwrap();
    let e = refusal(&config, &deal(&rows, 3));
    assert!(e.contains("shift_one among 3 workers, expected an even number"), "{e}");
}

/// Its own gradient, which no other worker sees, ends all workers as what it is: nobody runs it again.
#[test]
fn who_diverges_by_itself_says_so_to_all() {
    let config = flights(
        r#"{"epochs": 50, "batchSize": 64, "optimizer": "sgd", "learningRate": 1e25, "loss": "softmax_cross_entropy"}"#,
    );
    for strategy in ["local(every=1000)", "two_phase(sign, sign, feedback=true)", "dpsgd"] {
        for outcome in train_on(Talk::Local, &with(&config, strategy), &deal(&tabular(400), 3), None) {
            assert_eq!(outcome.model.map(drop).unwrap_err().kind(), Kind::Diverged, "{strategy}");
        }
    }
}
