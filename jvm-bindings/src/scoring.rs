//! Scoring: batches in, outputs out by address.

use std::sync::Arc;

use arrow_array::RecordBatch;
use firesteel_error::{Error, Result};
use firesteel_train::params::HandleInvalid;
use firesteel_train::{Model, Predictions, Predictor};

/// An opened model: any number of scorers share it.
#[derive(Debug)]
pub struct OpenModel {
    predictor: Arc<Predictor>,
}

impl OpenModel {
    /// A model from its files.
    ///
    /// # Errors
    /// `Corrupt` when they are no model.
    pub fn new(files: &[(String, Vec<u8>)]) -> Result<OpenModel> {
        // A task scores on the core that it has; Spark runs one task a core.
        let predictor = Predictor::new(Arc::new(Model::from_files(files)?), 1);
        Ok(OpenModel { predictor: Arc::new(predictor) })
    }

    /// Task, features and sizes as JSON.
    ///
    /// # Errors
    /// `Internal` when they are not JSON.
    pub fn info(&self) -> Result<String> {
        serde_json::to_string(&self.predictor.model().info())
            .map_err(|e| Error::internal("a model's info is not JSON").with_source(e))
    }

    /// A scorer for one task; `handle_invalid` as the hyper-parameter of that name.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none of its values.
    pub fn scorer(&self, handle_invalid: &str) -> Result<Scorer> {
        let invalid = serde_json::from_value(handle_invalid.into())
            .map_err(|e| Error::argument(format!("handleInvalid is {handle_invalid}: {e}")))?;
        Ok(Scorer { predictor: self.predictor.clone(), invalid, last: None })
    }
}

/// Keeps the outputs of the last batch where the JVM reads them.
#[derive(Debug)]
pub struct Scorer {
    predictor: Arc<Predictor>,
    invalid: HandleInvalid,
    last: Option<Predictions>,
}

impl Scorer {
    /// Scores a batch. Gives the address of the outputs, `(rows, outputs)` f32, and that of a byte a row which is 1
    /// for rows to be dropped, 0 when there is none such. They hold until the next call.
    ///
    /// # Errors
    /// `InvalidData` naming the column, the row and what was found there.
    pub fn run(&mut self, batch: &RecordBatch) -> Result<[i64; 2]> {
        let predictions = self.last.insert(self.predictor.predict_handling(batch, self.invalid)?);
        let skipped = predictions.skipped.as_ref().map_or(0, |s| s.as_ptr() as i64);
        Ok([predictions.values.as_ptr() as i64, skipped])
    }
}
