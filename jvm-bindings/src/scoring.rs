//! Scoring: batches in, outputs out by address.

use std::sync::{Arc, Mutex};

use arrow_array::RecordBatch;
use firesteel_error::{Error, Result};
use firesteel_train::params::HandleInvalid;
use firesteel_train::{Model, Predictions, Predictor};
use serde::Deserialize;

use crate::registry::lock;

/// An opened model: any number of scorers share it.
#[derive(Debug)]
pub struct OpenModel {
    model: Arc<Model>,
    /// By the threads they use: tasks of one job all have as many. A predictor keeps plans, not weights.
    predictors: Mutex<Vec<(usize, Arc<Predictor>)>>,
}

/// What a scorer is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    handle_invalid: HandleInvalid,
    #[serde(default = "one")]
    threads: usize,
}

fn one() -> usize {
    1
}

impl Settings {
    fn read(text: &str) -> Result<Settings> {
        let settings: Settings = serde_json::from_str(text)
            .map_err(|e| Error::argument(format!("the scorer's settings are not valid: {e}")))?;
        if settings.threads == 0 {
            return Err(Error::argument("threads is 0, expected at least 1"));
        }
        Ok(settings)
    }
}

impl OpenModel {
    /// A model from its files.
    ///
    /// # Errors
    /// `Corrupt` when they are no model.
    pub fn new(files: &[(String, Vec<u8>)]) -> Result<OpenModel> {
        Ok(OpenModel { model: Arc::new(Model::from_files(files)?), predictors: Mutex::default() })
    }

    /// Task, features and sizes as JSON.
    ///
    /// # Errors
    /// `Internal` when they are not JSON.
    pub fn info(&self) -> Result<String> {
        serde_json::to_string(&self.model.info())
            .map_err(|e| Error::internal("a model's info is not JSON").with_source(e))
    }

    /// A scorer for one task. `settings` is a JSON object with `handle_invalid`, as the hyper-parameter of that name,
    /// and `threads`, the cores that the task has, 1 when absent; or the word that `handle_invalid` is.
    ///
    /// # Errors
    /// `InvalidArgument` naming what was found.
    pub fn scorer(&self, settings: &str) -> Result<Scorer> {
        let Settings { handle_invalid, threads } = Settings::read(settings)?;
        let mut predictors = lock(&self.predictors);
        let known = predictors.iter().find(|(n, _)| *n == threads).map(|(_, predictor)| predictor.clone());
        let predictor = known.unwrap_or_else(|| {
            let predictor = Arc::new(Predictor::new(self.model.clone(), threads));
            predictors.push((threads, predictor.clone()));
            predictor
        });
        Ok(Scorer { predictor, invalid: handle_invalid, last: None })
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

#[cfg(test)]
mod tests {
    use super::*;

    use arrow_array::{ArrayRef, Float64Array};
    use firesteel_comm::{Cancel, Options, local_world};
    use firesteel_train::{Session, ShardBuilder, TrainConfig, Trainer};

    fn rows(values: &[Option<f64>]) -> RecordBatch {
        let column = |values: Vec<Option<f64>>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let labels = (0..values.len()).map(|r| Some((r % 2) as f64)).collect();
        RecordBatch::try_from_iter([("x", column(values.to_vec())), ("y", column(labels))]).unwrap()
    }

    fn opened() -> OpenModel {
        let config = TrainConfig::from_json(
            r#"{"task": "classification", "network": {"mlp": {"hidden": [4]}}, "params": {"epochs": 1},
                "data": {"features": [{"column": "x"}], "label": "y"}}"#,
        )
        .unwrap();
        let mut shard = ShardBuilder::new(&config, 0).unwrap();
        shard.push(&rows(&[Some(1.0), Some(2.0), Some(3.0)])).unwrap();
        let mesh = local_world(1, &Options::default()).unwrap().remove(0);
        let session = Session {
            fabric: Arc::new(mesh),
            threads: 1,
            cancel: Cancel::new(),
            resume: None,
            start: None,
            gpu: None,
        };
        let model = Trainer::new(config).unwrap().fit(Ok(shard.finish()), session, &mut |_| {}).unwrap();
        OpenModel::new(&model.files().unwrap()).unwrap()
    }

    fn outputs(scorer: &mut Scorer, batch: &RecordBatch) -> (Vec<f32>, Option<Vec<u8>>) {
        let [values, skipped] = scorer.run(batch).unwrap();
        let rows = batch.num_rows();
        // SAFETY: `run` gave the addresses of 2 f32 and of a byte a row, which hold until the next call.
        unsafe {
            let values = std::slice::from_raw_parts(values as *const f32, 2 * rows).to_vec();
            let skipped =
                (skipped != 0).then(|| std::slice::from_raw_parts(skipped as *const u8, rows).to_vec());
            (values, skipped)
        }
    }

    #[test]
    fn a_batch_whose_rows_are_all_skipped() {
        let mut scorer = opened().scorer(r#"{"handle_invalid": "skip"}"#).unwrap();
        assert_eq!(outputs(&mut scorer, &rows(&[None, None])), (vec![0.0; 4], Some(vec![1, 1])));
        let (values, skipped) = outputs(&mut scorer, &rows(&[Some(1.0), None]));
        assert_eq!((&values[2..], skipped), (&[0.0, 0.0][..], Some(vec![0, 1])));
        let (values, skipped) = outputs(&mut scorer, &rows(&[Some(1.0)]));
        assert!(values.iter().any(|v| *v != 0.0) && skipped.is_none());
        let [_, skipped] = scorer.run(&rows(&[])).unwrap();
        assert_eq!(skipped, 0);
    }

    #[test]
    fn scorers_of_as_many_threads_share_their_plans() {
        let model = opened();
        let batch = rows(&[Some(1.0), Some(2.0), Some(5.0)]);
        let mut one = model.scorer(r#"{"handle_invalid": "error"}"#).unwrap();
        let mut two = model.scorer(r#"{"handle_invalid": "error", "threads": 2}"#).unwrap();
        assert_eq!(outputs(&mut one, &batch), outputs(&mut two, &batch));
        let also_one = model.scorer(r#"{"handle_invalid": "skip"}"#).unwrap();
        assert!(Arc::ptr_eq(&one.predictor, &also_one.predictor));
        assert!(!Arc::ptr_eq(&one.predictor, &two.predictor));
    }

    #[test]
    fn settings_that_are_none() {
        let model = opened();
        let text = |settings: &str| model.scorer(settings).unwrap_err().to_string();
        assert!(text(r#"{"handle_invalid": "maybe"}"#).contains("unknown variant `maybe`"));
        assert!(text(r#"{"threads": 2}"#).contains("missing field `handle_invalid`"));
        assert_eq!(text(r#"{"handle_invalid": "skip", "threads": 0}"#), "threads is 0, expected at least 1");
        assert!(text(r#"{"handle_invalid": "skip", "thread": 1}"#).contains("unknown field `thread`"));
    }
}
