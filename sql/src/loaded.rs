//! Models in memory, shared by all queries of a session.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Float64Builder, ListArray, RecordBatch, StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, ScalarValue};
use firesteel_train::{Model, Predictions, Predictor};

use crate::about::{About, probability};
use crate::encode::Encoder;
use crate::error::outside;
use crate::evaluate::decide;

/// A model that is ready to score rows.
#[derive(Debug)]
pub struct LoadedModel {
    about: Arc<About>,
    encoder: Encoder,
    predictor: Predictor,
    /// The classes, in the label's type.
    classes: Option<ArrayRef>,
}

impl LoadedModel {
    /// From a model and what its commit says of it.
    ///
    /// # Errors
    /// `Plan` when a class is no value of the label's type.
    pub fn new(model: Model, about: Arc<About>) -> Result<LoadedModel> {
        let classes = match &about.label.classes {
            Some(_) => Some(ScalarValue::iter_to_array(about.label.class_values()?)?),
            None => None,
        };
        let encoder = Encoder::new(&about.features, &about.label);
        Ok(LoadedModel { encoder, predictor: Predictor::new(Arc::new(model), 1), classes, about })
    }

    /// What it is.
    pub fn about(&self) -> &Arc<About> {
        &self.about
    }

    /// The network and its weights.
    pub fn model(&self) -> &Arc<Model> {
        self.predictor.model()
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        4 * self.model().weights().len() + 4096
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// What the network says of the rows of a query's batch.
    ///
    /// # Errors
    /// Naming the column, the row and what was found there.
    pub fn predict(&self, batch: &RecordBatch) -> Result<Predictions> {
        self.predictor.predict(&self.encoder.features(batch)?).map_err(outside)
    }

    /// The column of predictions; of two classes the second where it reaches the threshold.
    ///
    /// # Errors
    /// Of Arrow.
    pub fn values(&self, predictions: &Predictions, threshold: Option<f64>) -> Result<ArrayRef> {
        let Some(classes) = &self.classes else {
            let numbers = predictions.values.iter().map(|v| f64::from(*v)).collect();
            return Ok(Arc::new(Float64Array::new(numbers, scored(predictions))));
        };
        let chosen =
            predictions.values.chunks_exact(predictions.outputs.max(1)).map(|logits| match threshold {
                None => firesteel_train::metrics::largest(logits) as u32,
                Some(_) => decide(&softmax(logits), threshold) as u32,
            });
        let chosen = UInt32Array::new(chosen.collect(), scored(predictions));
        Ok(take(classes, &chosen, None)?)
    }

    /// The column of class probabilities, the likeliest first; at most `top` a row.
    ///
    /// # Errors
    /// Of Arrow.
    pub fn probabilities(&self, predictions: &Predictions, top: Option<usize>) -> Result<ArrayRef> {
        let (outputs, rows) =
            (predictions.outputs.max(1), predictions.values.len() / predictions.outputs.max(1));
        let Some(classes) = &self.classes else {
            return Ok(new_null_array(&DataType::Null, rows));
        };
        let kept = top.unwrap_or(outputs).clamp(1, outputs);
        let (mut places, mut values) =
            (Vec::with_capacity(rows * kept), Float64Builder::with_capacity(rows * kept));
        let mut order: Vec<u32> = Vec::with_capacity(outputs);
        for logits in predictions.values.chunks_exact(outputs) {
            let shares = softmax(logits);
            order.clear();
            order.extend(0..outputs as u32);
            order.sort_by(|a, b| shares[*b as usize].total_cmp(&shares[*a as usize]).then(a.cmp(b)));
            for class in &order[..kept] {
                places.push(*class);
                values.append_value(f64::from(shares[*class as usize]));
            }
        }
        let labels = take(classes, &UInt32Array::from(places), None)?;
        let element = probability(classes.data_type());
        let DataType::Struct(fields) = &element else {
            return Ok(new_null_array(&element, rows));
        };
        let structs = StructArray::try_new(fields.clone(), vec![labels, Arc::new(values.finish())], None)?;
        let offsets = OffsetBuffer::from_repeated_length(kept, rows);
        let field = Arc::new(Field::new_list_field(element, true));
        Ok(Arc::new(ListArray::try_new(field, offsets, Arc::new(structs), scored(predictions))?))
    }
}

/// Which rows have a prediction; a model that skips unusable rows has none for them.
pub(crate) fn scored(predictions: &Predictions) -> Option<NullBuffer> {
    predictions.skipped.as_ref().map(|skipped| skipped.iter().map(|s| *s == 0).collect())
}

/// In f64's precision only at the end: the same numbers as [`Predictions::probabilities`].
fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut shares: Vec<f32> = logits.iter().map(|l| (l - most).exp()).collect();
    let sum: f32 = shares.iter().sum();
    shares.iter_mut().for_each(|s| *s /= sum);
    shares
}
