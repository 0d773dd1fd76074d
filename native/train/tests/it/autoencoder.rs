//! A reconstruction learns its own features, and tells rows apart that are unlike the others.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use firesteel_error::Kind;
use firesteel_train::params::{HandleInvalid, LossName};
use firesteel_train::{Encoding, Event, Model, Predictor, Task, TrainConfig};

use crate::support::*;

const NO_LABEL: &str = r#""weight": null"#;

fn numbers(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

const AXES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Points of a plane in six dimensions, each axis with a mean and a scale of its own.
fn plane(rows: usize) -> RecordBatch {
    let of = |axis: usize| {
        let at = axis as f64;
        let (u, v) = ((1.0 + at).sin(), (2.0 * at).cos());
        let value = move |r| 100.0 * at + (1.0 + at) * (u * (noise(r, 1) - 0.5) + v * (noise(r, 2) - 0.5));
        numbers((0..rows).map(value))
    };
    batch(AXES.iter().enumerate().map(|(axis, name)| (*name, of(axis))).collect())
}

/// The first row of [`plane`], with something added to one of its columns.
fn moved(column: &str, by: f64) -> RecordBatch {
    let row = plane(1);
    let of = |name: &&'static str| {
        let column_of: &Float64Array = row.column_by_name(name).unwrap().as_any().downcast_ref().unwrap();
        (*name, numbers([column_of.value(0) + if *name == column { by } else { 0.0 }].into_iter()))
    };
    batch(AXES.iter().map(of).collect())
}

fn planes(params: &str) -> TrainConfig {
    let network = r#"{"autoencoder": {"hidden": [16, 2, 16], "activation": "tanh"}}"#;
    config("reconstruction", network, params, r#"["a", "b", "c", "d", "e", "f"]"#, NO_LABEL)
}

/// Numbers, strings with NULLs and a vector of [`tabular`] and [`images`].
fn mixed(rows: usize) -> RecordBatch {
    let (tabular, images) = (tabular(rows), images(rows));
    let of = |name: &'static str| (name, tabular.column_by_name(name).unwrap().clone());
    let mut columns: Vec<_> = ["distance", "carrier", "hour", "weight", "held"].map(of).to_vec();
    columns.push(("image", images.column_by_name("image").unwrap().clone()));
    batch(columns)
}

fn mixtures(params: &str) -> TrainConfig {
    let network = r#"{"autoencoder": {"hidden": [12, 4, 12], "activation": "gelu", "dropout": 0.1}}"#;
    config("reconstruction", network, params, r#"["distance", "carrier", "hour", "image"]"#, NO_LABEL)
}

#[test]
fn a_plane_is_learned_and_a_point_beside_it_stands_out() {
    let params = r#"{"epochs": 60, "batchSize": 32, "learningRate": 0.01, "validationFraction": 0.2}"#;
    let model = Arc::new(train(&planes(params), &plane(1000)));
    let last = model.history().last().unwrap();
    assert_eq!((last.metric.as_deref(), last.validation_metric), (Some("mse"), last.validation_loss));
    assert!(last.loss < 0.01 && last.validation_loss.unwrap() < 0.01, "{last:?}");
    let info = model.info();
    assert_eq!((info.task, info.outputs, info.width), (Task::Reconstruction, 6, 6));
    let predictor = Predictor::new(model, 1);
    let inside = predictor.reconstruction_loss(&plane(200)).unwrap();
    let largest = inside.values.iter().copied().fold(0.0, f32::max);
    // Three deviations in one column, where each column alone would be nothing unusual.
    let outlier = predictor.reconstruction_loss(&moved("d", 4.0)).unwrap();
    assert!(outlier.values[0] > 10.0 * largest, "{} beside {largest}", outlier.values[0]);
    let odd = |columns: &[f32]| columns.iter().copied().fold(0.0, f32::max) == columns[3];
    assert!(odd(&outlier.columns), "{:?}", outlier.columns);
}

/// By the definition, from the encoded features that the test encodes itself.
#[test]
fn losses_are_the_mean_of_squares_of_all_encoded_features() {
    let model = Arc::new(train(&mixtures(r#"{"epochs": 2, "batchSize": 32}"#), &mixed(200)));
    let Encoding::OneHot { values: carriers, .. } = &model.preprocessing().columns[1] else { panic!() };
    let width = 2 + (2 + carriers.len()) + 18;
    assert_eq!((model.info().outputs, model.info().width, model.graph().output_len()), (width, width, width));
    assert!(model.graph().tables().is_empty());
    let rows = mixed(30);
    let predictor = Predictor::new(model.clone(), 1);
    let losses = predictor.reconstruction_loss(&rows).unwrap();
    let found = predictor.predict(&rows).unwrap();
    assert_eq!((found.outputs, losses.values.len(), losses.columns.len()), (width, 30, 4 * 30));
    let text: &StringArray = rows.column_by_name("carrier").unwrap().as_any().downcast_ref().unwrap();
    let hours: &arrow_array::Int32Array =
        rows.column_by_name("hour").unwrap().as_any().downcast_ref().unwrap();
    let Encoding::Number { scaling, .. } = &model.preprocessing().columns[2] else { panic!() };
    use arrow_array::Array;
    for row in 0..30 {
        let given = &found.values[row * width..][..width];
        let index = match text.is_valid(row).then(|| text.value(row)) {
            None => 0,
            Some(text) => carriers.iter().position(|c| c == text).map_or(1, |at| at + 2),
        };
        let one_hot = |at: usize| f32::from(u8::from(at == index));
        let squares = given[2..width - 18].iter().enumerate().map(|(at, v)| (v - one_hot(at)).powi(2));
        let carrier = squares.sum::<f32>() / (2 + carriers.len()) as f32;
        let hour = (f64::from(hours.value(row)) - scaling.mean[0]) / scaling.deviation[0];
        let hour = (given[1] - hour as f32).powi(2);
        let [distance, carrier_found, hour_found, image] = losses.columns[4 * row..][..4] else { panic!() };
        assert!((carrier - carrier_found).abs() < 1e-5, "row {row}: {carrier_found}, expected {carrier}");
        assert!((hour - hour_found).abs() < 1e-5, "row {row}: {hour_found}, expected {hour}");
        let all = distance + hour + carrier * (width - 20) as f32 + image * 18.0;
        assert!((losses.values[row] - all / width as f32).abs() < 1e-5, "row {row}");
    }
}

/// What a training minimises is what a predictor tells.
#[test]
fn the_loss_of_an_epoch_is_the_mean_of_its_rows() {
    let mut config = mixtures(r#"{"epochs": 1, "batchSize": 16, "optimizer": "sgd", "learningRate": 1e-30}"#);
    config.network = firesteel_model::Network::from_json(r#"{"autoencoder": {"hidden": [3]}}"#).unwrap();
    config.data.weight = Some("weight".into());
    config.data.validation = Some("held".into());
    let rows = mixed(97);
    let model = Arc::new(train(&config, &rows));
    let losses = Predictor::new(model.clone(), 1).reconstruction_loss(&rows).unwrap().values;
    let of = |name: &str| rows.column_by_name(name).unwrap().clone();
    let (weights, held) = (of("weight"), of("held"));
    let weights: &arrow_array::Float32Array = weights.as_any().downcast_ref().unwrap();
    let held: &arrow_array::BooleanArray = held.as_any().downcast_ref().unwrap();
    let mean = |of_held: bool| {
        let counted = (0..97).filter(|row| held.value(*row) == of_held);
        let (sum, weight) = counted.fold((0.0, 0.0), |(sum, weight), row| {
            (sum + f64::from(losses[row] * weights.value(row)), weight + f64::from(weights.value(row)))
        });
        sum / weight
    };
    let record = &model.history()[0];
    for (found, expected) in [(record.loss, mean(false)), (record.validation_loss.unwrap(), mean(true))] {
        assert!((found - expected).abs() < 1e-5 * expected, "{found}, expected {expected}");
    }
}

#[test]
fn a_string_that_is_too_wide_is_refused_with_its_name() {
    let words = StringArray::from_iter_values((0..5000).map(|r| format!("w{r}")));
    let rows = batch(vec![("word", Arc::new(words) as ArrayRef)]);
    let network = r#"{"autoencoder": {"hidden": [2]}}"#;
    let of = |params: &str| config("reconstruction", network, params, r#"["word"]"#, NO_LABEL);
    assert_eq!(
        refusal(&of(r#"{"epochs": 1}"#), &deal(&rows, 2)),
        "string column 'word' has 5000 categories, expected at most 4094 to reconstruct; \
         maxCategories or minCategoryCount let rare ones share one"
    );
    let model = train(&of(r#"{"epochs": 1, "maxCategories": 3, "batchSize": 4096}"#), &rows);
    assert_eq!(model.info().outputs, 5);
}

#[test]
fn validation_stops_a_reconstruction_early() {
    // Noise that no bottleneck can keep: what is learned of the training rows is soon of no use.
    let columns = |c: &&'static str| (*c, numbers((0..80).map(|r| noise(r, u64::from(c.as_bytes()[0])))));
    let rows = batch(AXES.iter().map(columns).collect());
    for loss in [LossName::Auto, LossName::Huber] {
        let mut config = planes(
            r#"{"epochs": 300, "batchSize": 8, "learningRate": 0.02, "validationFraction": 0.5, "patience": 3}"#,
        );
        (config.params.loss, config.params.huber_delta) = (loss, 0.5);
        let outcome = train_on(Talk::Local, &config, std::slice::from_ref(&rows), None).remove(0);
        let model = outcome.model.unwrap();
        let losses: Vec<f64> = model.history().iter().map(|r| r.validation_loss.unwrap()).collect();
        let best = losses.iter().copied().fold(f64::MAX, f64::min);
        assert_eq!(losses.len(), losses.iter().position(|l| *l == best).unwrap() + 1 + 3, "{losses:?}");
        assert!(matches!(outcome.events.last(), Some(Event::Finished { early: true, .. })));
        let name = if loss == LossName::Huber { "huber" } else { "mse" };
        assert_eq!(model.history()[0].metric.as_deref(), Some(name));
    }
}

#[test]
fn a_checkpoint_goes_on_bit_for_bit() {
    let rows = mixed(150);
    let mut config = mixtures(r#"{"epochs": 4, "batchSize": 32, "checkpointInterval": 2}"#);
    config.checkpoints = true;
    let parts = std::slice::from_ref(&rows);
    let whole = train_on(Talk::Local, &config, parts, None).remove(0);
    let of_epoch_2 = |e: &Event| match e {
        Event::Checkpoint { epoch: 2, bytes, .. } => Some(bytes.clone()),
        _ => None,
    };
    let file = whole.events.iter().find_map(of_epoch_2).unwrap();
    let resumed = train_on(Talk::Local, &config, parts, Some(file)).remove(0).model.unwrap();
    let whole = whole.model.unwrap();
    assert_eq!((resumed.weights(), losses(&resumed)), (whole.weights(), losses(&whole)));
}

#[test]
fn a_training_goes_on_from_a_model_of_the_same_task() {
    let config = planes(r#"{"epochs": 5, "batchSize": 32, "learningRate": 0.01}"#);
    let rows = plane(300);
    let first = Arc::new(train(&config, &rows));
    let from = |config: &TrainConfig, start: &Arc<Model>| {
        let parts = std::slice::from_ref(&rows);
        train_from(Talk::Local, config, parts, None, Some(start.clone())).remove(0).model
    };
    let second = from(&config, &first).unwrap();
    assert!(losses(&second)[0] < losses(&first)[0] / 2.0, "{:?} {:?}", losses(&first), losses(&second));
    let names = r#"["a", "b", "c", "d", "e", "f"]"#;
    let mlp = r#"{"mlp": {"hidden": [4]}}"#;
    let regression = self::config("regression", mlp, r#"{"epochs": 1}"#, names, r#""label": "a""#);
    let e = from(&regression, &first).unwrap_err().to_string();
    assert_eq!(e, "the model that training is to go on from learned a reconstruction, expected a regression");
}

#[test]
fn files_hold_all_that_a_reconstruction_needs() {
    let model = train(&mixtures(r#"{"epochs": 1}"#), &mixed(60));
    assert_eq!(model.label(), "");
    let files = model.files().unwrap();
    let loaded = Model::from_files(&files).unwrap();
    assert_eq!(loaded.info(), model.info());
    let of = |model| Predictor::new(Arc::new(model), 2).reconstruction_loss(&mixed(40)).unwrap();
    assert_eq!(of(loaded), of(model));
}

#[test]
fn rows_with_holes_are_skipped_or_filled() {
    let model = Arc::new(train(&planes(r#"{"epochs": 1}"#), &plane(60)));
    let predictor = Predictor::new(model, 1);
    let rows = plane(4);
    let hole: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(1.0), Some(1e300)]));
    let of = |name: &&'static str| {
        (*name, if *name == "c" { hole.clone() } else { rows.column_by_name(name).unwrap().clone() })
    };
    let rows = batch(AXES.iter().map(of).collect());
    assert!(predictor.reconstruction_loss(&rows).unwrap_err().to_string().contains("'c', row 1"));
    let skipping = predictor.reconstruction_loss_handling(&rows, HandleInvalid::Skip).unwrap();
    assert_eq!(skipping.skipped, Some(vec![0, 1, 0, 1]));
    assert_eq!((skipping.values[1], &skipping.columns[18..]), (0.0, &[0.0; 6][..]));
    let keeping = predictor.reconstruction_loss_handling(&rows, HandleInvalid::Keep).unwrap();
    assert_eq!((keeping.skipped, keeping.values[2]), (None, skipping.values[2]));
    assert!(keeping.values.iter().all(|v| v.is_finite() && *v > 0.0));
}

#[test]
fn a_network_that_gives_too_few_values_and_a_model_that_gives_none_back() {
    let spec = r#"{"spec": {"version": 1, "inputs": [{"name": "numbers", "kind": {"dense": {"shape": [6]}}}],
        "layers": [{"name": "out", "op": {"linear": {"outputs": 5}}}]}}"#;
    let names = r#"["a", "b", "c", "d", "e", "f"]"#;
    let e = refusal(&config("reconstruction", spec, "{}", names, NO_LABEL), &[plane(20)]);
    assert_eq!(e, "layer 'out', the network's last, has 5 outputs, expected 6 for the encoded features");
    let model = train(&flights(r#"{"epochs": 1}"#), &tabular(50));
    let e = Predictor::new(Arc::new(model), 1).reconstruction_loss(&tabular(5)).unwrap_err();
    assert_eq!(e.kind(), Kind::InvalidArgument);
    assert!(e.to_string().starts_with("the model learned a classification, expected a reconstruction"));
}
