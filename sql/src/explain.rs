//! `ML.EXPLAIN_PREDICT`: how much each feature moved a prediction.
//!
//! Shapley values by sampled orders of the features (Štrumbelj & Kononenko 2014), each followed by its reverse. They start
//! at the prediction for a row of which nothing is known: numbers and vectors at their means, strings at the most frequent
//! one. In each order they add up to the difference to the prediction, but for rounding, and so do their means.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{Field, Schema};
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use firesteel_train::metrics::largest;
use firesteel_train::params::HandleInvalid;
use firesteel_train::{Encoding, Predictions};

use crate::answer::by_feature;
use crate::draw::draw;
use crate::error::outside;
use crate::loaded::{LoadedModel, scored};

/// Rows that are scored at once.
const ROWS: usize = 1 << 16;

/// The columns of the relation.
///
/// # Errors
/// Naming the column, the row and what was found there.
pub(crate) fn explain(
    model: &LoadedModel,
    batch: &RecordBatch,
    top: usize,
    orders: usize,
) -> Result<Vec<ArrayRef>> {
    let features = model.features(batch)?;
    let predictions = model.predictor().predict(&features).map_err(outside)?;
    let explained = Explained::new(model, &features)?;
    let names: Vec<String> = model.about().features.iter().map(|f| f.column.clone()).collect();
    let mut attributions = vec![0.0; batch.num_rows() * names.len()];
    let rows_at_once = (ROWS / (names.len() + 1)).max(1);
    let chosen = chosen(&predictions);
    for first in (0..batch.num_rows()).step_by(rows_at_once) {
        let rows = first..(first + rows_at_once).min(batch.num_rows());
        for order in 0..orders {
            explained.add(rows.clone(), order, &chosen, &mut attributions)?;
        }
    }
    attributions.iter_mut().for_each(|a| *a /= orders as f64);
    let start = scores(model, &explained.rows(|_| UInt32Array::from(vec![explained.unknown]))?)?;
    let start: Vec<f64> = chosen.iter().map(|class| f64::from(start[*class])).collect();
    let known = of_chosen(&scores(model, &features)?, &chosen);
    let skipped = scored(&predictions);
    Ok(vec![
        model.values(&predictions, None)?,
        Arc::new(Float64Array::new(known.into(), skipped.clone())),
        Arc::new(Float64Array::new(start.into(), skipped.clone())),
        by_feature("attribution", &names, &attributions, top, skipped)?,
    ])
}

/// The output that is explained for each row: that of the predicted class.
fn chosen(predictions: &Predictions) -> Vec<usize> {
    predictions.values.chunks_exact(predictions.outputs.max(1)).map(largest).collect()
}

/// Rows, and the one of which nothing is known.
struct Explained<'a> {
    model: &'a LoadedModel,
    /// As the training loop reads them, with nulls.
    schema: Arc<Schema>,
    /// The columns of the rows; the value where nothing is known comes last.
    columns: Vec<ArrayRef>,
    /// For each of them the feature that it belongs to.
    owners: Vec<usize>,
    /// The place of the row of which nothing is known.
    unknown: u32,
}

impl<'a> Explained<'a> {
    fn new(model: &'a LoadedModel, features: &RecordBatch) -> Result<Explained<'a>> {
        let mut owners = Vec::new();
        for (i, feature) in model.about().features.iter().enumerate() {
            owners.extend(feature.kind.columns(&feature.column).iter().map(|_| i));
        }
        let both = |(field, column): (&Arc<Field>, &ArrayRef)| -> Result<ArrayRef> {
            Ok(concat(&[column.as_ref(), unknown(model, field)?.as_ref()])?)
        };
        let columns = features.schema_ref().fields().iter().zip(features.columns()).map(both);
        Ok(Explained {
            model,
            schema: nullable(features.schema_ref()),
            columns: columns.collect::<Result<Vec<_>>>()?,
            owners,
            unknown: u32::try_from(features.num_rows()).map_err(|e| exec_datafusion_err!("{e}"))?,
        })
    }

    /// The rows at some places of each column.
    fn rows(&self, places: impl Fn(usize) -> UInt32Array) -> Result<RecordBatch> {
        let column = |(i, column): (usize, &ArrayRef)| take(column, &places(i), None);
        let columns = self.columns.iter().enumerate().map(column).collect::<Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// Adds what each feature does in one order. Odd orders are the reverse of those before them.
    fn add(
        &self,
        rows: std::ops::Range<usize>,
        order: usize,
        chosen: &[usize],
        attributions: &mut [f64],
    ) -> Result<()> {
        let count = self.model.about().features.len();
        let mut features: Vec<usize> = (0..count).collect();
        features.sort_by(|a, b| {
            let key = |feature: &usize| draw(order as u64 / 2, *feature as u64);
            key(a).total_cmp(&key(b))
        });
        if order % 2 == 1 {
            features.reverse();
        }
        let mut place = vec![0; count];
        features.iter().enumerate().for_each(|(at, feature)| place[*feature] = at);
        // Row by row: nothing known, the first feature known, the first two, up to all.
        let steps = count + 1;
        let mixed = self.rows(|column| {
            let place = place[self.owners[column]];
            let at = |row: usize, step: usize| if step > place { row as u32 } else { self.unknown };
            rows.clone().flat_map(|row| (0..steps).map(move |step| at(row, step))).collect()
        })?;
        let of_steps: Vec<usize> = rows.clone().flat_map(|row| vec![chosen[row]; steps]).collect();
        let values = of_chosen(&scores(self.model, &mixed)?, &of_steps);
        for (row, values) in rows.zip(values.chunks_exact(steps)) {
            for (step, feature) in features.iter().enumerate() {
                attributions[row * count + feature] += values[step + 1] - values[step];
            }
        }
        Ok(())
    }
}

/// The probability of each class, `(rows, classes)`, or the number that is predicted.
fn scores(model: &LoadedModel, features: &RecordBatch) -> Result<Vec<f32>> {
    let predictions = model.predictor().predict_handling(features, HandleInvalid::Keep).map_err(outside)?;
    Ok(match model.about().classes() {
        Some(_) => predictions.probabilities(),
        None => predictions.values,
    })
}

/// Of the scores of each row the one that is explained.
fn of_chosen(scores: &[f32], chosen: &[usize]) -> Vec<f64> {
    let outputs = (scores.len() / chosen.len().max(1)).max(1);
    scores.chunks_exact(outputs).zip(chosen).map(|(row, class)| f64::from(row[*class])).collect()
}

fn nullable(schema: &Schema) -> Arc<Schema> {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

/// The value of a column of which nothing is known.
fn unknown(model: &LoadedModel, field: &Field) -> Result<ArrayRef> {
    let encoding = model.model().preprocessing().columns.iter().find(|c| c.column() == field.name());
    match encoding {
        Some(Encoding::Category { values, .. }) if !values.is_empty() => {
            let most_frequent: ArrayRef = Arc::new(StringArray::from(vec![values[0].as_str()]));
            Ok(cast(&most_frequent, field.data_type())?)
        }
        Some(_) => Ok(new_null_array(field.data_type(), 1)),
        None => exec_err!("the model has no column '{}'", field.name()),
    }
}
