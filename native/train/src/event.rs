//! What a training tells while it runs.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One epoch of training: an element of a model's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: usize,
    /// Updates of the weights so far.
    pub step: u64,
    /// The weighted mean over the training rows, while they were trained on.
    pub loss: f64,
    /// Over the held-out rows, when there are any.
    pub validation_loss: Option<f64>,
    /// Which metric: `auc`, `accuracy` or `rmse`.
    pub metric: Option<String>,
    /// Its value over the held-out rows.
    pub validation_metric: Option<f64>,
    /// Training rows a second over all workers, validation not counted.
    pub samples_per_second: f64,
    /// The whole epoch's time, validation included.
    pub seconds: f64,
}

/// What happened. As JSON, an object whose `event` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The workers have agreed on everything; the first step follows.
    Started {
        /// Workers.
        world: usize,
        /// Training rows over all workers.
        rows: u64,
        /// Held-out rows over all workers.
        validation_rows: u64,
        /// Updates of the weights an epoch.
        steps_per_epoch: u64,
        /// Trained values.
        weights: usize,
        /// Epochs that a checkpoint had behind it.
        resumed_at: usize,
        /// What computes: `cpu` or a GPU's name; absent where workers that never meet choose for themselves.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// An epoch ended.
    Epoch(EpochRecord),
    /// Everything needed to go on from here; rank 0 only.
    Checkpoint {
        /// Epochs behind it.
        epoch: usize,
        /// Steps behind it.
        step: u64,
        /// What [`crate::Session`]'s `resume` takes.
        #[serde(skip)]
        bytes: Bytes,
    },
    /// Training ended well.
    Finished {
        /// Epochs behind it.
        epochs: usize,
        /// Steps behind it.
        step: u64,
        /// Whether it ended early, by `patience`.
        early: bool,
        /// From the start of fit.
        seconds: f64,
    },
}

impl Event {
    /// As one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an event holds only strings and numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_json() {
        let record = EpochRecord {
            epoch: 1,
            step: 20,
            loss: 0.5,
            validation_loss: None,
            metric: Some("auc".into()),
            validation_metric: Some(0.75),
            samples_per_second: 100.0,
            seconds: 2.0,
        };
        assert_eq!(
            Event::Epoch(record).to_json(),
            r#"{"event":"epoch","epoch":1,"step":20,"loss":0.5,"validation_loss":null,"metric":"auc","validation_metric":0.75,"samples_per_second":100.0,"seconds":2.0}"#
        );
        let checkpoint = Event::Checkpoint { epoch: 1, step: 20, bytes: Bytes::from_static(b"x") };
        assert_eq!(checkpoint.to_json(), r#"{"event":"checkpoint","epoch":1,"step":20}"#);
    }
}
