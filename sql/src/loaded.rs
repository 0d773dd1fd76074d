//! Models in memory, shared by all queries of a session.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, ListArray, RecordBatch, StructArray, UInt32Array,
    new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, ScalarValue, exec_err};
use firesteel_train::metrics::largest;
use firesteel_train::{Encoding, Model, Predictions, Predictor};

use crate::about::{About, probability};
use crate::encode::Encoder;
use crate::error::outside;
use crate::evaluate::decide;
use crate::transform::{Transform, Transformer};

/// A model that is ready to score rows.
#[derive(Debug)]
pub struct LoadedModel {
    about: Arc<About>,
    transform: Option<Transformers>,
    encoder: Encoder,
    /// The strings that training has seen, by column; empty where others are no error.
    seen: Vec<(String, HashSet<String>)>,
    predictor: Predictor,
    /// The classes, in the label's type.
    classes: Option<ArrayRef>,
}

/// What makes the columns of `TRANSFORM`.
#[derive(Debug)]
struct Transformers {
    features: Transformer,
    label: Option<Transformer>,
}

impl LoadedModel {
    /// From a model and what its commit says of it.
    ///
    /// # Errors
    /// `Plan` when a class is no value of the label's type.
    pub fn new(model: Model, about: Arc<About>) -> Result<LoadedModel> {
        let classes = match about.label.as_ref().filter(|label| label.classes.is_some()) {
            Some(label) => Some(ScalarValue::iter_to_array(label.class_values()?)?),
            None => None,
        };
        let transformers = |transform: &Transform| -> Result<Transformers> {
            let label = transform.label.as_ref().map(Transformer::new).transpose()?;
            Ok(Transformers { features: Transformer::new(&transform.features)?, label })
        };
        let transform = about.transform.as_ref().map(transformers).transpose()?;
        let encoder = Encoder::new(&about);
        let seen = |encoding: &Encoding| match encoding {
            Encoding::Category { column, values } | Encoding::OneHot { column, values } => {
                Some((column.clone(), values.iter().cloned().collect()))
            }
            Encoding::Number { .. } | Encoding::Vector { .. } => None,
        };
        let seen = match about.refuses_unseen {
            true => model.preprocessing().columns.iter().filter_map(seen).collect(),
            false => Vec::new(),
        };
        let predictor = Predictor::new(Arc::new(model), 1);
        Ok(LoadedModel { transform, encoder, seen, predictor, classes, about })
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

    /// What scores rows.
    pub(crate) fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// The features of a query's batch, as the training loop reads them.
    pub(crate) fn features(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let features = match &self.transform {
            Some(transform) => self.encoder.features(&transform.features.apply(batch)?)?,
            None => self.encoder.features(batch)?,
        };
        for (column, seen) in &self.seen {
            let strings = features.column_by_name(column).map(|strings| cast(strings, &DataType::Utf8));
            let Some(strings) = strings.transpose()? else { continue };
            for (row, string) in strings.as_string::<i32>().iter().enumerate() {
                if let Some(string) = string.filter(|string| !seen.contains(*string)) {
                    return exec_err!(
                        "column '{column}', row {row} of the batch: '{string}' was not in the training rows, and the model was made with on_unseen = 'error'"
                    );
                }
            }
        }
        Ok(features)
    }

    /// The label of each row of a query's batch: the index of its class, or a number; NULL where there is none.
    ///
    /// # Errors
    /// `Execution` naming a class that the model does not know.
    pub(crate) fn labels(&self, batch: &RecordBatch) -> Result<Float64Array> {
        match self.transform.as_ref().and_then(|transform| transform.label.as_ref()) {
            Some(label) => self.encoder.labels(&label.apply(batch)?),
            None => self.encoder.labels(batch),
        }
    }

    /// What the network says of the rows of a query's batch.
    ///
    /// # Errors
    /// Naming the column, the row and what was found there.
    pub fn predict(&self, batch: &RecordBatch) -> Result<Predictions> {
        self.predictor.predict(&self.features(batch)?).map_err(outside)
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
        let outputs = predictions.outputs.max(1);
        let chosen: Vec<u32> = match threshold {
            None => predictions.values.chunks_exact(outputs).map(|row| largest(row) as u32).collect(),
            Some(_) => {
                let shares = predictions.probabilities();
                shares.chunks_exact(outputs).map(|row| decide(row, threshold) as u32).collect()
            }
        };
        let chosen = UInt32Array::new(chosen.into(), scored(predictions));
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
        for shares in predictions.probabilities().chunks_exact(outputs) {
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
    nulls(predictions.skipped.as_deref())
}

/// NULL for each row that is marked as skipped.
pub(crate) fn nulls(skipped: Option<&[u8]>) -> Option<NullBuffer> {
    skipped.map(|skipped| skipped.iter().map(|s| *s == 0).collect())
}
