//! Bad input is refused before training, by all workers alike, with words that say where it is.

use std::sync::Arc;

use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{
    ArrayRef, Date32Array, Decimal64Array, DictionaryArray, Float64Array, Int32Array, ListArray, RecordBatch,
    StringArray,
};
use firesteel_train::params::{HandleInvalid, Standardization};
use firesteel_train::{Encoding, Event, Predictor, TrainConfig};

use crate::support::*;

fn numbers(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

/// Rows with these numbers and good labels.
fn rows(values: &[Option<f64>]) -> RecordBatch {
    let labels = Int32Array::from_iter_values((0..values.len()).map(|r| (r % 2) as i32));
    batch(vec![("x", numbers(values)), ("y", Arc::new(labels))])
}

fn labelled(labels: ArrayRef) -> RecordBatch {
    let values: Vec<Option<f64>> = (0..labels.len()).map(|r| Some(r as f64)).collect();
    batch(vec![("x", numbers(&values)), ("y", labels)])
}

fn on(column: &str) -> TrainConfig {
    config(
        "classification",
        r#"{"mlp": {"hidden": [4]}}"#,
        "{}",
        &format!(r#"["{column}"]"#),
        r#""label": "y""#,
    )
}

fn good() -> RecordBatch {
    rows(&[Some(1.0), Some(2.0), Some(3.0)])
}

#[test]
fn unknown_column() {
    assert_eq!(refusal(&on("z"), &[good()]), "feature column 'z' does not exist; there are x, y");
    let mut config = on("x");
    config.data.label = "z".into();
    assert_eq!(refusal(&config, &[good()]), "label column 'z' does not exist; there are x, y");
    config = on("x");
    config.data.weight = Some("w".into());
    // Both lack it.
    let two = refusal(&config, &[good(), good()]);
    assert_eq!(two, "weight column 'w' does not exist; there are x, y");
    let w = numbers(&[Some(1.0)]);
    let other = batch(vec![("x", w.clone()), ("w", w), ("y", numbers(&[Some(1.0)]))]);
    assert_eq!(
        refusal(&config, &[other, good()]),
        "rank 1: weight column 'w' does not exist; there are x, y"
    );
}

#[test]
fn null_nan_and_infinite_features() {
    let hint =
        "expected a finite number; handleInvalid 'skip' drops such rows, 'keep' takes the mean instead";
    for (value, shown) in [(None, "NULL"), (Some(f64::NAN), "NaN"), (Some(f64::NEG_INFINITY), "-inf")] {
        let bad = rows(&[Some(1.0), value, Some(2.0)]);
        assert_eq!(
            refusal(&on("x"), &[good(), bad]),
            format!("column 'x', row 1 of rank 1: {shown}, {hint}")
        );
    }
    let list = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
        Some(vec![Some(1.0), Some(2.0)]),
        Some(vec![Some(1.0), Some(f32::NAN)]),
    ]);
    let bad = batch(vec![("v", Arc::new(list)), ("y", Arc::new(Int32Array::from(vec![0, 1])))]);
    let e = refusal(&on("v"), &[bad]);
    assert!(e.starts_with("column 'v', row 1 of rank 0: NaN in element 1, expected a finite number"), "{e}");
}

/// Row numbers count all rows of a partition, over batches.
#[test]
fn the_row_is_named_in_later_batches() {
    let mut values = vec![Some(1.0); 100];
    values[90] = None;
    let e = refusal(&on("x"), &[rows(&values)]);
    assert!(e.starts_with("column 'x', row 90 of rank 0: NULL"), "{e}");
}

#[test]
fn bad_labels() {
    let text = |labels: ArrayRef| refusal(&on("y2"), &[batch(vec![("y2", labels.clone()), ("y", labels)])]);
    let label = |values: &[Option<f64>]| text(numbers(values));
    let wanted = "expected a class, a whole number from 0 to 99999";
    assert_eq!(label(&[Some(0.0), None]), format!("label column 'y', row 1 of rank 0: NULL, {wanted}"));
    assert_eq!(label(&[Some(0.5)]), format!("label column 'y', row 0 of rank 0: 0.5, {wanted}"));
    assert_eq!(label(&[Some(-1.0)]), format!("label column 'y', row 0 of rank 0: -1, {wanted}"));
    assert_eq!(
        label(&[Some(20_130_101.0)]),
        format!("label column 'y', row 0 of rank 0: 20130101, {wanted}")
    );
    assert_eq!(
        label(&[Some(0.0), Some(0.0)]),
        "label column 'y' is 0 in every row, expected at least two classes"
    );
    let words: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    assert_eq!(text(words), "label column 'y' has type Utf8, expected numbers");
    let mut config = on("x");
    config.classes = Some(2);
    let bad = labelled(Arc::new(Int32Array::from(vec![0, 1, 7])));
    assert_eq!(
        refusal(&config, &[good(), bad]),
        "label column 'y', row 2 of rank 1: 7, expected a class, a whole number from 0 to 1"
    );
    config = on("x");
    config.task = firesteel_train::Task::Regression;
    let bad = labelled(numbers(&[Some(1.0), Some(f64::NAN)]));
    assert_eq!(refusal(&config, &[bad]), "label column 'y', row 1 of rank 0: NaN, expected a finite number");
}

#[test]
fn ragged_vectors() {
    let vectors = |lengths: &[i32]| {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(
            lengths.iter().map(|n| Some((0..*n).map(Some).collect::<Vec<_>>())),
        );
        let labels = Int32Array::from_iter_values((0..lengths.len() as i32).map(|r| r % 2));
        batch(vec![("v", Arc::new(list)), ("y", Arc::new(labels))])
    };
    assert_eq!(
        refusal(&on("v"), &[vectors(&[4, 4, 3])]),
        "column 'v', row 2 of rank 0: a vector of 3 values, expected 4 as in the rows before"
    );
    let mut shaped = on("v");
    shaped.data.features[0].shape = Some(vec![2, 2]);
    assert_eq!(
        refusal(&shaped, &[vectors(&[5, 4])]),
        "column 'v', row 0 of rank 0: a vector of 5 values, expected 4 for shape [2, 2]"
    );
    assert_eq!(
        refusal(&on("v"), &[vectors(&[4, 4]), vectors(&[]), vectors(&[5])]),
        "column 'v': vectors of 5 values on rank 2 and of 4 on rank 0"
    );
    let e = refusal(&on("v"), &[vectors(&[0])]);
    assert_eq!(e, "column 'v', row 0 of rank 0: an empty vector");
}

#[test]
fn zero_rows() {
    assert_eq!(refusal(&on("x"), &[rows(&[])]), "there are no rows to train on");
    assert_eq!(refusal(&on("x"), &[rows(&[]), rows(&[])]), "there are no rows to train on");
    let mut config = on("x");
    config.data.validation = Some("x".into());
    let held = rows(&[Some(1.0), Some(1.0)]);
    assert_eq!(refusal(&config, &[held]), "all 2 rows are held out for validation, none is left to train on");
    let e = refusal(&config, &[rows(&[Some(0.0), Some(2.0)])]);
    assert_eq!(e, "validation column 'x', row 1 of rank 0: 2, expected true or false");
}

#[test]
fn bad_weights() {
    let mut config = on("x");
    config.data.weight = Some("x".into());
    let e = refusal(&config, &[good(), rows(&[Some(1.0), Some(-2.0)])]);
    assert_eq!(e, "weight column 'x', row 1 of rank 1: -2, expected at least 0 and finite");
    let e = refusal(&config, &[rows(&[Some(0.0), Some(0.0)])]);
    assert_eq!(e, "weight column 'x' is 0 in every training row");
    // Without weight the validation metric is 0/0: early stopping would never see a better one.
    config.data.validation = Some("h".into());
    let held = |weights: &[Option<f64>]| {
        let labels = Int32Array::from_iter_values((0..weights.len()).map(|r| (r % 2) as i32));
        let held = numbers(&[Some(1.0), Some(0.0), Some(1.0), Some(0.0)]);
        batch(vec![("x", numbers(weights)), ("h", held), ("y", Arc::new(labels))])
    };
    for patience in [0, 2] {
        config.params.patience = patience;
        let part = || held(&[Some(0.0), Some(1.0), Some(0.0), Some(2.0)]);
        let e = refusal(&config, &[part(), part()]);
        assert_eq!(e, "weight column 'x' is 0 in every row held out for validation");
        train_on(Talk::Local, &config, &[part(), held(&[Some(1.0); 4])], None).remove(0).model.unwrap();
    }
}

#[test]
fn types() {
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![1, 2]));
    let labels: ArrayRef = Arc::new(Int32Array::from(vec![0, 1]));
    let e = refusal(&on("d"), &[batch(vec![("d", dates), ("y", labels.clone())])]);
    assert_eq!(
        e,
        "feature column 'd' has type Date32, expected numbers, booleans, strings or lists of numbers"
    );
    let words: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let words = batch(vec![("x", words), ("y", labels)]);
    assert_eq!(
        refusal(&on("x"), &[good(), words.clone()]),
        "feature column 'x' holds strings on rank 1 and numbers on rank 0"
    );
    let mut shaped = on("x");
    shaped.data.features[0].shape = Some(vec![1]);
    assert_eq!(
        refusal(&shaped, &[good()]),
        "feature column 'x' has a shape and holds numbers, expected vectors"
    );
    let predictor = Predictor::new(Arc::new(train(&on("x"), &good())), 1);
    let e = predictor.predict(&words).unwrap_err().to_string();
    assert_eq!(e, "feature column 'x' holds strings, the model was trained on numbers");
    let e = predictor.predict(&rows(&[None])).unwrap_err().to_string();
    assert!(e.starts_with("column 'x', row 0 of the batch: NULL, expected a finite number"), "{e}");
}

#[test]
fn options_that_do_not_fit_the_data() {
    let with = |params: &str| {
        config("classification", r#"{"mlp": {"hidden": [4]}}"#, params, r#"["x"]"#, r#""label": "y""#)
    };
    let mut patient = with("{}");
    (patient.params.patience, patient.data.validation) = (2, Some("x".into()));
    assert_eq!(
        refusal(&patient, &[rows(&[Some(0.0), Some(0.0)])]),
        "patience is 2, but no row is held out: set validationFraction or a validation column"
    );
    let three = labelled(Arc::new(Int32Array::from(vec![0, 1, 2])));
    assert_eq!(
        refusal(&with(r#"{"loss": "binary_cross_entropy"}"#), &[three]),
        "loss is binary_cross_entropy, which tells two classes apart; the label column 'y' has 3"
    );
    let spec = r#"{"spec": {"version": 1, "inputs": [{"name": "numbers", "kind": {"dense": {"shape": [1]}}}],
        "layers": [{"name": "out", "op": {"linear": {"outputs": 5}}}]}}"#;
    let e = refusal(&config("classification", spec, "{}", r#"["x"]"#, r#""label": "y""#), &[good()]);
    assert_eq!(e, "layer 'out', the network's last, has 5 outputs, expected 2 for the label column 'y'");
    let e = TrainConfig::from_json(
        r#"{"task": "classification", "network": "lenet5", "params": {"learnRate": 1},
            "data": {"features": [{"column": "x"}], "label": "y"}}"#,
    );
    assert_eq!(e.unwrap_err().to_string(), "there is no option 'learnRate'; did you mean 'learningRate'?");
}

/// Column names that are also names of layers.
#[test]
fn a_column_may_be_called_as_a_layer() {
    let words: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "a", "c"]));
    let number = || numbers(&[Some(1.0), Some(2.0), Some(3.0), Some(4.0)]);
    let labels: ArrayRef = Arc::new(Int32Array::from(vec![0, 1, 0, 1]));
    let list =
        ListArray::from_iter_primitive::<Int32Type, _, _>((0..4).map(|r| Some(vec![Some(r), Some(1)])));
    let rows = batch(vec![
        ("head", words.clone()),
        ("head_embedding", words.clone()),
        ("numbers", words),
        ("hidden1", Arc::new(list)),
        ("features_joined", number()),
        ("y", labels),
    ]);
    let features = r#"["head", "head_embedding", "numbers", "hidden1", "features_joined"]"#;
    let network = r#"{"tabular": {"hidden": [4], "dropout": 0.1}}"#;
    train(&config("classification", network, r#"{"epochs": 1}"#, features, r#""label": "y""#), &rows);
}

/// Networks compute in f32; 1e39 is finite as f64 and infinite there.
#[test]
fn numbers_that_f32_cannot_hold() {
    let with = |how: &str| {
        let mut config = on("x");
        config.params.handle_invalid = serde_json::from_value(how.into()).unwrap();
        config.params.standardization = Standardization::None;
        config
    };
    let bad = || rows(&[Some(1.0), Some(1e39), Some(2.0), Some(3.0)]);
    let e = refusal(&with("error"), &[good(), bad()]);
    let found = "column 'x', row 1 of rank 1: 1e39, which is inf once encoded, expected a finite number; ";
    assert!(e.starts_with(found), "{e}");
    let trained_on = |how: &str| {
        let outcomes = train_on(Talk::Local, &with(how), &[good(), bad()], None);
        let rows = |outcome: &Outcome| match outcome.events[0] {
            Event::Started { rows, .. } => rows,
            ref other => panic!("{other:?}"),
        };
        let losses = losses(outcomes[0].model.as_ref().unwrap());
        assert!(losses.iter().all(|l| l.is_finite()), "{how}: {losses:?}");
        (rows(&outcomes[0]), rows(&outcomes[1]))
    };
    assert_eq!(trained_on("skip"), (6, 6));
    let far = || rows(&[Some(1e39), Some(2e39)]);
    assert_eq!(
        refusal(&with("skip"), &[far()]),
        "no row is left to train on: handleInvalid skips all of them"
    );
    let e = refusal(&with("keep"), &[far()]);
    assert!(e.starts_with("column 'x' has the mean 1.5e39, too large to take the place of"), "{e}");

    let mut weighted = with("skip");
    weighted.params.validation_fraction = 0.3;
    train_on(Talk::Local, &weighted, &[good(), bad()], None).remove(0).model.unwrap();
}

#[test]
fn numbers_that_f32_cannot_hold_when_scored() {
    let mut config = on("x");
    config.params.handle_invalid = HandleInvalid::Skip;
    let predictor = Predictor::new(Arc::new(train(&config, &good())), 1);
    let scored = rows(&[None, Some(1.0), Some(1e300), Some(2.0)]);
    let predictions = predictor.predict(&scored).unwrap();
    assert_eq!(predictions.skipped, Some(vec![1, 0, 1, 0]));
    let alone = predictor.predict(&rows(&[Some(1.0), Some(2.0)])).unwrap();
    let values = &predictions.values;
    assert_eq!([&values[2..4], &values[6..8]].concat(), alone.values);
    assert_eq!([&values[..2], &values[4..6]].concat(), [0.0; 4]);
    let kept = predictor.predict_handling(&scored, HandleInvalid::Keep).unwrap();
    assert_eq!((kept.skipped, &kept.values[..2]), (None, &kept.values[4..6]));
    let e = predictor.predict_handling(&scored.slice(1, 3), HandleInvalid::Error).unwrap_err().to_string();
    assert!(e.starts_with("column 'x', row 1 of the batch: 1e300, which is inf once encoded"), "{e}");

    let list = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
        Some(vec![Some(1.0), Some(1.0)]),
        Some(vec![Some(2.0), Some(1.001)]),
    ]);
    let vectors = batch(vec![("v", Arc::new(list)), ("y", Arc::new(Int32Array::from(vec![0, 1])))]);
    let predictor = Predictor::new(Arc::new(train(&on("v"), &vectors)), 1);
    let far = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
        Some(vec![Some(1.0), Some(1.0)]),
        Some(vec![Some(1.0), Some(-3e38)]),
    ]);
    let e = predictor.predict(&batch(vec![("v", Arc::new(far))])).unwrap_err().to_string();
    assert!(
        e.starts_with("column 'v', row 1 of the batch: -3e38 in element 1, which is -inf once encoded"),
        "{e}"
    );
}

#[test]
fn a_held_out_label_that_f32_cannot_hold() {
    let mut config = on("x");
    config.task = firesteel_train::Task::Regression;
    config.data.validation = Some("x".into());
    let values = [Some(0.0), Some(0.0), Some(1.0)];
    let labels = numbers(&[Some(1.0), Some(1.0), Some(1e300)]);
    let e = refusal(&config, &[batch(vec![("x", numbers(&values)), ("y", labels)])]);
    assert_eq!(e, "label column 'y' holds 1e300, which is inf deviations from the mean 1e0");
}

/// Partitions of NULLs alone, and rows before the first vector, are filled once the width is known.
#[test]
fn null_vectors_before_any_other() {
    let part = |vectors: Vec<Option<Vec<f32>>>| {
        let labels = Int32Array::from_iter_values((0..vectors.len()).map(|r| (r % 2) as i32));
        let lists = vectors.into_iter().map(|v| v.map(|v| v.into_iter().map(Some)));
        let list = ListArray::from_iter_primitive::<Float32Type, _, _>(lists);
        batch(vec![("v", Arc::new(list)), ("y", Arc::new(labels))])
    };
    let mut config = on("v");
    config.params.handle_invalid = HandleInvalid::Keep;
    let parts = [part(vec![None, None]), part(vec![None, Some(vec![1.0, 2.0]), Some(vec![3.0, 6.0]), None])];
    let model = train_on(Talk::Local, &config, &parts, None).remove(0).model.unwrap();
    assert_eq!(model.info().width, 2);
    let predictor = Predictor::new(Arc::new(model), 1);
    let nulls = predictor.predict(&parts[0]).unwrap().values;
    assert_eq!(nulls[..2], predictor.predict(&part(vec![Some(vec![2.0, 4.0])])).unwrap().values);
    assert_eq!(nulls[..2], nulls[2..]);
    let e = refusal(&config, &[part(vec![None, None])]);
    assert_eq!(e, "column 'v' holds only NULL, expected vectors");
}

#[test]
fn decimals_and_dictionaries_of_nulls() {
    let decimals = Decimal64Array::from(vec![Some(125), Some(250), None]).with_precision_and_scale(10, 2);
    let words: DictionaryArray<Int32Type> = vec![None::<&str>; 3].into_iter().collect();
    let rows = batch(vec![
        ("x", Arc::new(decimals.unwrap())),
        ("w", Arc::new(words)),
        ("y", Arc::new(Int32Array::from(vec![0, 1, 0]))),
    ]);
    let features = r#"["x", "w"]"#;
    let params = r#"{"epochs": 1, "handleInvalid": "keep"}"#;
    let network = r#"{"tabular": {"hidden": [4]}}"#;
    let model = train(&config("classification", network, params, features, r#""label": "y""#), &rows);
    let Encoding::Number { scaling, .. } = &model.preprocessing().columns[0] else { panic!() };
    assert_eq!(scaling.mean, [1.875]);
}
