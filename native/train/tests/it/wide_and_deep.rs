//! Wide & deep: the sum of its parts, trained together.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use firesteel_train::{Encoding, Model, Predictor, TrainConfig};

use crate::support::*;

/// Two string columns of ten values each and a number. Whether a pair is of class 1 is drawn for the pair, so that
/// neither column alone says it; the number says nothing.
fn pairs(rows: usize) -> RecordBatch {
    let drawn = |r: usize, column| (10.0 * noise(r, column)) as usize;
    let text = |name: &str, column| {
        let words = (0..rows).map(|r| format!("{name}{}", drawn(r, column)));
        Arc::new(StringArray::from_iter_values(words)) as ArrayRef
    };
    let class = |r| f64::from(u8::from(noise(10 * drawn(r, 21) + drawn(r, 22), 23) < 0.5));
    let numbers =
        |of: &dyn Fn(usize) -> f64| Arc::new(Float64Array::from_iter_values((0..rows).map(of))) as ArrayRef;
    let noisy = numbers(&|r| noise(r, 24));
    batch(vec![("u", text("u", 21)), ("i", text("i", 22)), ("x", noisy), ("y", numbers(&class))])
}

fn of_pairs(network: &str, params: &str) -> TrainConfig {
    config("classification", network, params, r#"["u", "i", "x"]"#, r#""label": "y""#)
}

#[test]
fn pairs_are_remembered_by_the_deep_part_and_not_by_the_wide_one_alone() {
    let params = r#"{"epochs": 25, "batchSize": 64, "learningRate": 0.01, "validationFraction": 0.2}"#;
    let auc = |hidden: &str| {
        let network = format!(r#"{{"wide_and_deep": {{"hidden": {hidden}, "activation": "gelu"}}}}"#);
        train(&of_pairs(&network, params), &pairs(2000)).history().last().unwrap().validation_metric.unwrap()
    };
    // Without hidden layers the deep part is linear too.
    let (deep, wide) = (auc("[32]"), auc("[]"));
    assert!(deep > 0.97 && wide < 0.85, "AUC {deep} with hidden layers, {wide} without");
}

/// A category's own weight is all that there is to learn: the wide part learns it where the deep one hardly can.
#[test]
fn categories_are_remembered_by_the_wide_part() {
    let rows = 1500;
    let category = |r: usize| (200.0 * noise(r, 31)) as usize;
    let words = StringArray::from_iter_values((0..rows).map(|r| format!("c{}", category(r))));
    let labels = Float64Array::from_iter_values((0..rows).map(|r| noise(category(r), 32)));
    let table = batch(vec![("c", Arc::new(words) as ArrayRef), ("y", Arc::new(labels))]);
    let last = |network: &str| {
        let params = r#"{"epochs": 30, "batchSize": 32, "learningRate": 0.01}"#;
        let config = config("regression", network, params, r#"["c"]"#, r#""label": "y""#);
        *losses(&train(&config, &table)).last().unwrap()
    };
    let wide = last(r#"{"wide_and_deep": {"hidden": [1], "embedding_dims": 1}}"#);
    let deep = last(r#"{"tabular": {"hidden": [1], "embedding_dims": 1}}"#);
    assert!(wide < 0.05 && wide < deep / 3.0, "loss {wide}, {deep} without the wide part");
}

#[test]
fn the_output_is_the_sum_of_head_and_wide_parts() {
    let network = r#"{"wide_and_deep": {"hidden": [6, 4], "dropout": 0.2}}"#;
    let model = Arc::new(train(&of_pairs(network, r#"{"epochs": 3}"#), &pairs(300)));
    let rows = pairs(50);
    let predictor = Predictor::new(model.clone(), 1);
    let of = |layer: &str| predictor.embed(&rows, Some(layer)).unwrap().values;
    let found = predictor.predict(&rows).unwrap();
    let parts = [of("head"), of("numbers_wide"), of("u_wide"), of("i_wide")];
    for (at, found) in found.values.iter().enumerate() {
        let expected: f32 = parts.iter().map(|part| part[at]).sum();
        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    }
    // The wide part of a category is its row of a table as wide as the outputs.
    let Encoding::Category { values, .. } = &model.preprocessing().columns[0] else { panic!() };
    let table = model.graph().parameters().iter().find(|p| p.name == "u_wide.weight").unwrap();
    assert_eq!(table.shape, [values.len() + 2, 2]);
    let text: &StringArray = rows.column_by_name("u").unwrap().as_any().downcast_ref().unwrap();
    let index = values.iter().position(|v| v == text.value(0)).unwrap() + 2;
    assert_eq!(parts[2][..2], model.weights()[table.range.clone()][2 * index..][..2]);
    // The embedding of a row is what the head reads, not the sum's first operand.
    let embedded = predictor.embed(&rows, None).unwrap();
    assert_eq!((embedded.width, embedded.values.len()), (4, 200));
    assert_eq!(model.embedding_layer(None).unwrap().name, "dropout2");
}

#[test]
fn files_give_the_same_model_back() {
    let network = r#"{"wide_and_deep": {"hidden": [6], "activation": "sigmoid"}}"#;
    let model = train(&of_pairs(network, r#"{"epochs": 1}"#), &pairs(100));
    let loaded = Model::from_files(&model.files().unwrap()).unwrap();
    let of = |model| Predictor::new(Arc::new(model), 1).predict(&pairs(20)).unwrap();
    assert_eq!(of(loaded), of(model));
}
