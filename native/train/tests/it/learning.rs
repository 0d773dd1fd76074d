//! Training learns, stops early, follows its schedule and says what happens.

use std::sync::Arc;

use firesteel_train::{Event, Predictor, Task};

use crate::support::*;

#[test]
fn a_table_is_learned_and_scored() {
    let config =
        flights(r#"{"epochs": 30, "batchSize": 64, "learningRate": 0.01, "validationFraction": 0.2}"#);
    let outcome = train_on(Talk::Local, &config, &[tabular(2000)], None).remove(0);
    let model = outcome.model.unwrap();
    let last = model.history().last().unwrap();
    assert_eq!(last.metric.as_deref(), Some("auc"));
    assert!(last.validation_metric.unwrap() > 0.9, "AUC {:?}", last.validation_metric);
    assert!(last.loss < 0.5 * model.history()[0].loss);
    let info = model.info();
    assert_eq!((info.task, info.outputs, info.width), (Task::Classification, 2, 3));
    let rows = tabular(500);
    let predictions = Predictor::new(Arc::new(model), 1).predict(&rows).unwrap();
    assert_eq!(predictions.values.len(), 1000);
    let sums: Vec<f32> = predictions.probabilities().chunks(2).map(|p| p[0] + p[1]).collect();
    assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-6));
    let [
        Event::Started { rows, validation_rows, steps_per_epoch, .. },
        ..,
        Event::Finished { epochs: 30, early, .. },
    ] = outcome.events.as_slice()
    else {
        panic!("{:?}", outcome.events);
    };
    assert_eq!(rows + validation_rows, 2000);
    assert_eq!(*steps_per_epoch, rows.div_ceil(64));
    assert!(!early);
}

#[test]
fn images_are_learned_by_accuracy() {
    let config =
        digits(r#"{"epochs": 15, "batchSize": 32, "learningRate": 0.01, "validationFraction": 0.25}"#);
    let model = train(&config, &images(600));
    let last = model.history().last().unwrap();
    assert_eq!(last.metric.as_deref(), Some("accuracy"));
    assert!(last.validation_metric.unwrap() > 0.95, "accuracy {:?}", last.validation_metric);
}

#[test]
fn a_number_is_predicted_in_its_own_unit() {
    let network = r#"{"mlp": {"hidden": [16]}}"#;
    let params = r#"{"epochs": 40, "batchSize": 32, "learningRate": 0.01, "validationFraction": 0.2}"#;
    let config = config("regression", network, params, r#"["distance", "hour"]"#, r#""label": "delay""#);
    let rows = tabular(1000);
    let model = train(&config, &rows);
    let last = model.history().last().unwrap();
    assert_eq!(last.metric.as_deref(), Some("rmse"));
    // Delays spread over 100 to 160 with a deviation of 12.
    assert!(last.validation_metric.unwrap() < 2.0, "RMSE {:?}", last.validation_metric);
    let predictions = Predictor::new(Arc::new(model), 1).predict(&rows).unwrap();
    assert_eq!(predictions.outputs, 1);
    let mean = predictions.values.iter().sum::<f32>() / 1000.0;
    assert!((mean - 130.0).abs() < 3.0, "mean prediction {mean}");
}

#[test]
fn two_classes_with_one_logit() {
    let params = r#"{"epochs": 20, "batchSize": 64, "learningRate": 0.01, "loss": "binary_cross_entropy", "validationFraction": 0.2}"#;
    let model = train(&flights(params), &tabular(1500));
    assert!(model.history().last().unwrap().validation_metric.unwrap() > 0.9);
    assert_eq!((model.graph().output_len(), model.info().outputs), (1, 2));
    let predictions = Predictor::new(Arc::new(model), 1).predict(&tabular(10)).unwrap();
    assert_eq!((predictions.outputs, predictions.values.len()), (2, 20));
}

/// The label is noise, so the validation metric soon has its best value.
#[test]
fn training_stops_early_with_the_best_weights() {
    let network = r#"{"mlp": {"hidden": [64]}}"#;
    let params =
        r#"{"epochs": 200, "batchSize": 16, "learningRate": 0.02, "validationFraction": 0.5, "patience": 3}"#;
    let config = config("classification", network, params, r#"["hour", "weight"]"#, r#""label": "late""#);
    let rows = tabular(200);
    for parts in [deal(&rows, 1), deal(&rows, 3)] {
        let outcome = train_on(Talk::Local, &config, &parts, None).remove(0);
        let model = outcome.model.unwrap();
        let metrics: Vec<f64> = model.history().iter().map(|r| r.validation_metric.unwrap()).collect();
        let best = metrics.iter().copied().fold(f64::MIN, f64::max);
        let at = metrics.iter().position(|m| *m == best).unwrap();
        // The loss may fall for longer than the metric rises.
        let losses: Vec<f64> = model.history().iter().map(|r| r.validation_loss.unwrap()).collect();
        let least = losses.iter().copied().fold(f64::MAX, f64::min);
        let least = losses.iter().position(|loss| *loss == least).unwrap();
        assert_eq!(metrics.len(), at.max(least) + 1 + 3, "{metrics:?} {losses:?}");
        assert!(matches!(outcome.events.last(), Some(Event::Finished { early: true, .. })));
        // One epoch more than the best, from the same start, ends elsewhere; the best itself is what was kept.
        let mut short = config.clone();
        (short.params.epochs, short.params.patience) = (at + 1, 0);
        let kept = train_on(Talk::Local, &short, &parts, None).remove(0).model.unwrap();
        assert_eq!(kept.weights(), model.weights());
    }
}

#[test]
fn batch_norm_statistics_are_the_mean_over_workers() {
    let network = r#"{"sequential": {"layers": [{"linear": {"outputs": 8}}, {"batch_norm": {}}, "relu"]}}"#;
    let params = r#"{"epochs": 20, "batchSize": 64, "learningRate": 0.01, "validationFraction": 0.2}"#;
    let config = config("classification", network, params, r#"["distance", "hour"]"#, r#""label": "late""#);
    let rows = tabular(1000);
    let outcomes = train_on(Talk::Local, &config, &deal(&rows, 3), None);
    let models: Vec<_> = outcomes.into_iter().map(|o| Arc::new(o.model.unwrap())).collect();
    let score = |m: &Arc<firesteel_train::Model>| Predictor::new(m.clone(), 1).predict(&rows).unwrap().values;
    assert_eq!(score(&models[0]), score(&models[2]));
    let alone = train(&config, &rows);
    let metric = |m: &firesteel_train::Model| m.history().last().unwrap().validation_metric.unwrap();
    assert!(metric(&models[0]) > metric(&alone) - 0.03, "{} and {}", metric(&models[0]), metric(&alone));
}

#[test]
fn rows_that_are_skipped_or_kept() {
    let rows = tabular(100);
    let holes: Vec<Option<f64>> = (0..100).map(|r| (r % 10 != 3).then_some(f64::from(r))).collect();
    let column: arrow_array::ArrayRef = Arc::new(arrow_array::Float64Array::from(holes));
    let rows = batch(vec![("x", column), ("late", rows.column_by_name("late").unwrap().clone())]);
    let of = |how: &str| {
        let params = format!(r#"{{"epochs": 1, "handleInvalid": "{how}"}}"#);
        config("classification", r#"{"mlp": {"hidden": [4]}}"#, &params, r#"["x"]"#, r#""label": "late""#)
    };
    let started = |how: &str| match train_on(Talk::Local, &of(how), &deal(&rows, 2), None).remove(1).events[0]
    {
        Event::Started { rows, .. } => rows,
        ref other => panic!("{other:?}"),
    };
    assert_eq!((started("skip"), started("keep")), (90, 100));
    let skipping = Predictor::new(Arc::new(train(&of("skip"), &rows)), 1).predict(&rows).unwrap();
    let skipped = skipping.skipped.unwrap();
    assert_eq!((skipped.len(), skipped.iter().map(|s| u32::from(*s)).sum::<u32>(), skipped[3]), (100, 10, 1));
    assert_eq!(skipping.values.len(), 200);
    let keeping = Predictor::new(Arc::new(train(&of("keep"), &rows)), 1).predict(&rows).unwrap();
    assert_eq!(keeping.skipped, None);
    // The mean of x takes the place of NULL, so all such rows score alike.
    assert_eq!(keeping.values[6..8], keeping.values[26..28]);
}

/// A warm-up longer than the training never reaches the learning rate, and trains all the same.
#[test]
fn a_warm_up_longer_than_the_training() {
    for schedule in ["constant", "linear", "cosine"] {
        let params = format!(
            r#"{{"epochs": 4, "batchSize": 32, "learningRate": 0.05, "warmupSteps": 1000, "schedule": "{schedule}"}}"#
        );
        let losses = losses(&train(&flights(&params), &tabular(400)));
        assert!(losses[3] < losses[0], "{schedule}: {losses:?}");
    }
}

/// More of them than are scored at a time; the network is that of the start, so a [`Predictor`] tells the same.
#[test]
fn every_held_out_row_counts_once() {
    let network = r#"{"mlp": {"hidden": [4]}}"#;
    let params = r#"{"epochs": 1, "optimizer": "sgd", "learningRate": 1e-30}"#;
    let mut config = config("regression", network, params, r#"["distance", "hour"]"#, r#""label": "delay""#);
    config.data.validation = Some("rest".into());
    let rows = tabular(10_000);
    let of = |name: &str| rows.column_by_name(name).unwrap().clone();
    let rest: arrow_array::ArrayRef =
        Arc::new(arrow_array::BooleanArray::from_iter((0..10_000).map(|r| Some(r >= 500))));
    let names = ["distance", "hour", "delay"];
    let rows = batch(names.iter().map(|n| (*n, of(n))).chain([("rest", rest)]).collect());
    for parts in [deal(&rows, 1), deal(&rows, 2)] {
        let model = train_on(Talk::Local, &config, &parts, None).remove(0).model.unwrap();
        let found = model.history()[0].validation_metric.unwrap();
        let predicted = Predictor::new(Arc::new(model), 1).predict(&rows).unwrap().values;
        let delays = of("delay");
        let delays: &arrow_array::Float64Array = delays.as_any().downcast_ref().unwrap();
        let squares = (500..10_000).map(|r| (f64::from(predicted[r]) - delays.value(r)).powi(2));
        let expected = (squares.sum::<f64>() / 9_500.0).sqrt();
        assert!((found - expected).abs() < 1e-5 * expected, "{found}, expected {expected}");
    }
}
