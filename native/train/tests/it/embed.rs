//! The values of layers inside a network, against sums by hand.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
use firesteel_error::Kind;
use firesteel_train::params::HandleInvalid;
use firesteel_train::{Encoding, Model, Predictor};

use crate::support::*;

/// `(rows, outputs)`: x·Wᵀ + b of a linear layer.
fn linear(model: &Model, layer: &str, x: &[f32]) -> Vec<f32> {
    let of = |suffix: &str| {
        let name = format!("{layer}.{suffix}");
        let found = model.graph().parameters().iter().find(|p| p.name == name).unwrap();
        (&model.weights()[found.range.clone()], found.shape.clone())
    };
    let ((weight, shape), (bias, _)) = (of("weight"), of("bias"));
    let row = |x: &[f32]| {
        let output = |(w, b): (&[f32], &f32)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        weight.chunks(shape[1]).zip(bias).map(output).collect::<Vec<f32>>()
    };
    x.chunks(shape[1]).flat_map(row).collect()
}

/// The two number columns of [`tabular`] as the model encodes them, `(rows, 2)`.
fn encoded(model: &Model, rows: &RecordBatch) -> Vec<f32> {
    let distance: &Float64Array = rows.column_by_name("distance").unwrap().as_any().downcast_ref().unwrap();
    let hour: &Int32Array = rows.column_by_name("hour").unwrap().as_any().downcast_ref().unwrap();
    let scale = |column: usize, value: f64| {
        let Encoding::Number { scaling, .. } = &model.preprocessing().columns[column] else { panic!() };
        ((value - scaling.mean[0]) / scaling.deviation[0]) as f32
    };
    (0..rows.num_rows())
        .flat_map(|row| [scale(0, distance.value(row)), scale(1, f64::from(hour.value(row)))])
        .collect()
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    }
}

fn delays(network: &str) -> Arc<Model> {
    let params = r#"{"epochs": 2, "batchSize": 16}"#;
    let config = config("regression", network, params, r#"["distance", "hour"]"#, r#""label": "delay""#);
    Arc::new(train(&config, &tabular(100)))
}

#[test]
fn every_layer_of_an_mlp_by_hand() {
    let model = delays(r#"{"mlp": {"hidden": [5, 3], "dropout": 0.5}}"#);
    let rows = tabular(40);
    let predictor = Predictor::new(model.clone(), 1);
    let embed = |layer| predictor.embed(&rows, layer).unwrap();
    let relu = |values: Vec<f32>| values.into_iter().map(|v| v.max(0.0)).collect::<Vec<f32>>();
    let hidden1 = linear(&model, "hidden1", &encoded(&model, &rows));
    let hidden2 = linear(&model, "hidden2", &relu(hidden1.clone()));
    close(&embed(Some("hidden1")).values, &hidden1);
    close(&embed(Some("activation1")).values, &relu(hidden1));
    close(&embed(Some("hidden2")).values, &hidden2);
    let default = embed(None);
    close(&default.values, &relu(hidden2));
    assert_eq!((default.width, model.embedding_layer(None).unwrap().name.as_str()), (3, "dropout2"));
    // A prediction in between uses another plan.
    let predicted = predictor.predict(&rows).unwrap().values;
    let (mean, deviation) = model.label_scale();
    let head = linear(&model, "head", &default.values);
    let in_units: Vec<f32> = head.iter().map(|v| (f64::from(*v) * deviation + mean) as f32).collect();
    assert!(predicted.iter().zip(&in_units).all(|(a, b)| (a - b).abs() < 1e-3));
    close(&embed(Some("head")).values, &head);
    assert_eq!(embed(None), default);
    assert_eq!(predictor.predict(&rows).unwrap().values, predicted);
}

#[test]
fn the_narrowest_layer_of_an_autoencoder_by_hand() {
    let network = r#"{"autoencoder": {"hidden": [4, 1, 4, 1], "activation": "tanh"}}"#;
    let names = r#"["distance", "hour"]"#;
    let config = config("reconstruction", network, r#"{"epochs": 2}"#, names, r#""weight": null"#);
    let model = Arc::new(train(&config, &tabular(100)));
    let rows = tabular(20);
    let found = Predictor::new(model.clone(), 2).embed(&rows, None).unwrap();
    let tanh = |values: Vec<f32>| values.into_iter().map(f32::tanh).collect::<Vec<f32>>();
    let hidden1 = tanh(linear(&model, "hidden1", &encoded(&model, &rows)));
    close(&found.values, &tanh(linear(&model, "hidden2", &hidden1)));
    assert_eq!((found.width, found.skipped), (1, None));
    assert_eq!(model.embedding_layer(None).unwrap().name, "activation2");
}

#[test]
fn an_embedding_gives_rows_of_its_table() {
    let model = Arc::new(train(&flights(r#"{"epochs": 1}"#), &tabular(100)));
    let rows = tabular(30);
    let found = Predictor::new(model.clone(), 1).embed(&rows, Some("carrier_embedding")).unwrap();
    let Encoding::Category { values, .. } = &model.preprocessing().columns[2] else { panic!() };
    let table = &model.weights()[model.graph().tables()[0].range.clone()];
    let text: &StringArray = rows.column_by_name("carrier").unwrap().as_any().downcast_ref().unwrap();
    for (row, found) in found.values.chunks(found.width).enumerate() {
        let known = |text| values.iter().position(|v| v == text).map_or(1, |at| at + 2);
        let index = if text.is_valid(row) { known(text.value(row)) } else { 0 };
        assert_eq!(found, &table[index * found.len()..][..found.len()], "row {row}");
    }
}

/// The embedding is folded into the first linear layer: what lies before is read from the whole network.
#[test]
fn every_layer_around_a_folded_embedding_by_hand() {
    let network = r#"{"tabular": {"hidden": [12, 7], "embedding_dims": 20, "dropout": 0.3}}"#;
    let names = r#"["distance", "hour", "carrier"]"#;
    let config =
        config("classification", network, r#"{"epochs": 2, "batchSize": 16}"#, names, r#""label": "late""#);
    let model = Arc::new(train(&config, &tabular(100)));
    let rows = tabular(40);
    let predictor = Predictor::new(model.clone(), 2);
    let embed = |layer: &str| predictor.embed(&rows, Some(layer)).unwrap().values;
    let relu = |values: Vec<f32>| values.into_iter().map(|v| v.max(0.0)).collect::<Vec<f32>>();
    let predicted = predictor.predict(&rows).unwrap();
    let (joined, numbers) = (embed("features_joined"), encoded(&model, &rows));
    for (row, numbers) in joined.chunks(22).zip(numbers.chunks(2)) {
        assert_eq!(row[..2], *numbers);
    }
    let parts: Vec<f32> = joined.chunks(22).flat_map(|row| row[2..].to_vec()).collect();
    assert_eq!(parts, embed("carrier_embedding"));
    let hidden1 = linear(&model, "hidden1", &joined);
    close(&embed("hidden1"), &hidden1);
    close(&embed("activation1"), &relu(hidden1.clone()));
    close(&embed("dropout1"), &relu(hidden1.clone()));
    let hidden2 = linear(&model, "hidden2", &relu(hidden1));
    close(&embed("hidden2"), &hidden2);
    let head = linear(&model, "head", &relu(hidden2));
    close(&embed("head"), &head);
    let logits: Vec<f32> = match model.graph().output_len() {
        1 => head.iter().flat_map(|logit| [0.0, *logit]).collect(),
        _ => head,
    };
    close(&predicted.values, &logits);
}

#[test]
fn a_wrong_name_lists_the_layers_with_the_nearest_first() {
    let model = delays(r#"{"mlp": {"hidden": [5, 3]}}"#);
    let e = Predictor::new(model, 1).embed(&tabular(3), Some("hiden2")).unwrap_err();
    assert_eq!(e.kind(), Kind::InvalidArgument);
    let expected =
        "the network has no layer 'hiden2'; there are hidden2, hidden1, head, activation2, activation1";
    assert_eq!(e.to_string(), expected);
    let bare = delays(r#"{"mlp": {"hidden": []}}"#);
    let e = bare.embedding_layer(None).unwrap_err().to_string();
    assert_eq!(e, "the network has no layer before its head; name one of head");
}

#[test]
fn skipped_rows_are_marked_and_hold_0() {
    let model = delays(r#"{"mlp": {"hidden": [5], "activation": "sigmoid"}}"#);
    let hole: ArrayRef = Arc::new(Float64Array::from(vec![Some(1e6), None, Some(1e6)]));
    let hour = tabular(3).column_by_name("hour").unwrap().clone();
    let rows = batch(vec![("distance", hole), ("hour", hour)]);
    let predictor = Predictor::new(model, 1);
    let found = predictor.embed_handling(&rows, None, HandleInvalid::Skip).unwrap();
    assert_eq!((found.skipped, &found.values[5..10]), (Some(vec![0, 1, 0]), &[0.0; 5][..]));
    assert!(found.values[10..].iter().all(|v| *v > 0.0));
    assert!(predictor.embed(&rows, None).unwrap_err().to_string().contains("'distance', row 1"));
}
