//! Bad input is refused before training, by all workers alike, with words that say where it is.

use std::sync::Arc;

use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{ArrayRef, Date32Array, Float64Array, Int32Array, ListArray, RecordBatch, StringArray};
use firesteel_train::{Predictor, TrainConfig};

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
    let two = refusal(&config, &[good(), good()]);
    assert_eq!(two, "rank 0: weight column 'w' does not exist; there are x, y");
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
    assert_eq!(
        refusal(&with(r#"{"patience": 2}"#), &[good()]),
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
