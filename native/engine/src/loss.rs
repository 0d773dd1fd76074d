//! Losses and their gradients by the logits.

use serde::{Deserialize, Serialize};

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// −log softmax(logits)\[class\].
    SoftmaxCrossEntropy,
    /// On logits, a mean over the outputs.
    BinaryCrossEntropy,
    /// A mean over the outputs.
    MeanSquaredError,
    /// Quadratic within `delta`, linear beyond; a mean over the outputs.
    Huber {
        /// Where it turns linear.
        delta: f32,
    },
}
