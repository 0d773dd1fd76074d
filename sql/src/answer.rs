//! What a relation says of each row: a prediction, why it is so, the values of a layer, how odd the row is.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{Result, plan_err};
use serde::{Deserialize, Serialize};

use crate::about::About;
use crate::error::outside;
use crate::loaded::{LoadedModel, nulls};

/// What is said of each row.
#[derive(Clone, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Answer {
    /// `ML.PREDICT`.
    Predict {
        /// Of two classes: from which probability on the second is predicted.
        threshold: Option<f64>,
        /// How many classes the list of probabilities has.
        top_k: Option<usize>,
        /// Whether somebody reads the list of probabilities.
        probabilities: bool,
    },
    /// `ML.EXPLAIN_PREDICT`.
    Explain {
        /// How many features are named.
        top: usize,
        /// Orders of the features that are tried.
        orders: usize,
    },
    /// `ML.EMBED`.
    Embed {
        /// The layer; chosen by the kind of network when absent.
        layer: Option<String>,
    },
    /// `ML.RECONSTRUCTION_LOSS`.
    Loss {
        /// How many features are named.
        top: usize,
    },
}

// Thresholds are never NaN: they come from literals.
impl Eq for Answer {}

impl Hash for Answer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Answer::Predict { threshold, top_k, probabilities } => {
                (threshold.map(f64::to_bits), top_k, probabilities).hash(state);
            }
            Answer::Explain { top, orders } => (top, orders).hash(state),
            Answer::Embed { layer } => layer.hash(state),
            Answer::Loss { top } => top.hash(state),
        }
    }
}

impl Answer {
    /// The relation.
    pub fn function(&self) -> &'static str {
        match self {
            Answer::Predict { .. } => "ML.PREDICT",
            Answer::Explain { .. } => "ML.EXPLAIN_PREDICT",
            Answer::Embed { .. } => "ML.EMBED",
            Answer::Loss { .. } => "ML.RECONSTRUCTION_LOSS",
        }
    }

    /// What it is told, for plans.
    pub(crate) fn told(&self) -> String {
        let mut told = String::new();
        let mut push = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                told.push_str(&format!(", {name}={value}"));
            }
        };
        match self {
            Answer::Predict { threshold, top_k, probabilities } => {
                push("probabilities", Some(probabilities.to_string()));
                push("threshold", threshold.map(|t| t.to_string()));
                push("top_k", top_k.map(|k| k.to_string()));
            }
            Answer::Explain { top, orders } => {
                push("top_k_features", Some(top.to_string()));
                push("num_orders", Some(orders.to_string()));
            }
            Answer::Embed { layer } => push("layer", layer.clone()),
            Answer::Loss { top } => push("top_k_features", Some(top.to_string())),
        }
        told
    }

    /// The columns that are added to a row.
    ///
    /// # Errors
    /// `Plan` when the model gives no such answer.
    pub fn fields(&self, about: &About) -> Result<Vec<Field>> {
        Ok(match self {
            Answer::Predict { probabilities, .. } => {
                about.predicted_fields()?.into_iter().take(1 + usize::from(*probabilities)).collect()
            }
            Answer::Explain { .. } => {
                let predicted = about.predicted_fields()?.into_iter().take(1);
                let value = |name| Field::new(name, DataType::Float64, true);
                let others = [
                    value("prediction_value"),
                    value("baseline_prediction_value"),
                    Field::new("top_feature_attributions", of_features("attribution"), true),
                ];
                predicted.chain(others).collect()
            }
            Answer::Embed { .. } => {
                let item = Field::new_list_field(DataType::Float32, false);
                vec![Field::new("embedding", DataType::List(item.into()), true)]
            }
            Answer::Loss { .. } if about.model_type == "autoencoder" => vec![
                Field::new("reconstruction_loss", DataType::Float64, true),
                Field::new("top_feature_losses", of_features("loss"), true),
            ],
            Answer::Loss { .. } => {
                return plan_err!("ML.RECONSTRUCTION_LOSS is for autoencoders; the model is {about}");
            }
        })
    }

    /// Those columns.
    ///
    /// # Errors
    /// Naming the column, the row and what was found there, or the layer that is not there.
    pub(crate) fn columns(&self, model: &LoadedModel, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        match self {
            Answer::Predict { threshold, top_k, probabilities } => {
                let predictions = model.predict(batch)?;
                let mut columns = vec![model.values(&predictions, *threshold)?];
                if *probabilities && model.about().classes().is_some() {
                    columns.push(model.probabilities(&predictions, *top_k)?);
                }
                Ok(columns)
            }
            Answer::Explain { top, orders } => crate::explain::explain(model, batch, *top, *orders),
            Answer::Embed { layer } => {
                let found =
                    model.predictor().embed(&model.features(batch)?, layer.as_deref()).map_err(outside)?;
                let values = Arc::new(Float32Array::from(found.values));
                let offsets = OffsetBuffer::from_repeated_length(found.width, batch.num_rows());
                let item = Arc::new(Field::new_list_field(DataType::Float32, false));
                let lists = ListArray::try_new(item, offsets, values, nulls(found.skipped.as_deref()))?;
                Ok(vec![Arc::new(lists)])
            }
            Answer::Loss { top } => {
                let losses =
                    model.predictor().reconstruction_loss(&model.features(batch)?).map_err(outside)?;
                let skipped = nulls(losses.skipped.as_deref());
                let values = losses.values.iter().map(|v| f64::from(*v)).collect();
                let columns = model.model().info().features;
                let of_columns: Vec<f64> = losses.columns.iter().map(|v| f64::from(*v)).collect();
                let named = by_feature("loss", &columns, &of_columns, *top, skipped.clone())?;
                Ok(vec![Arc::new(Float64Array::new(values, skipped)), named])
            }
        }
    }
}

/// A list of features, each with a number.
fn of_features(value: &str) -> DataType {
    DataType::List(Field::new_list_field(DataType::Struct(feature_fields(value)), true).into())
}

fn feature_fields(value: &str) -> Fields {
    Fields::from(vec![
        Field::new("feature", DataType::Utf8, false),
        Field::new(value, DataType::Float64, false),
    ])
}

/// For each row the features whose numbers are the largest, without their signs, the largest first.
///
/// `values`: `(rows, features)`.
///
/// # Errors
/// Of Arrow.
pub(crate) fn by_feature(
    value: &str,
    features: &[String],
    values: &[f64],
    top: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let kept = top.min(features.len());
    let rows = values.len() / features.len().max(1);
    let (mut names, mut numbers) = (Vec::with_capacity(rows * kept), Vec::with_capacity(rows * kept));
    let mut order: Vec<usize> = Vec::with_capacity(features.len());
    for row in values.chunks_exact(features.len().max(1)) {
        order.clear();
        order.extend(0..features.len());
        order.sort_by(|a, b| row[*b].abs().total_cmp(&row[*a].abs()).then(a.cmp(b)));
        for feature in &order[..kept] {
            names.push(features[*feature].as_str());
            numbers.push(row[*feature]);
        }
    }
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(names)), Arc::new(Float64Array::from(numbers))];
    let structs = StructArray::try_new(feature_fields(value), columns, None)?;
    let item = Arc::new(Field::new_list_field(DataType::Struct(feature_fields(value)), true));
    let offsets = OffsetBuffer::from_repeated_length(kept, rows);
    Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(structs), nulls)?))
}
