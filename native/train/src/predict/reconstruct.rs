//! How far rows are from what a network gives back of them.

use arrow_array::RecordBatch;
use firesteel_error::{Error, Result};

use super::Predictor;
use crate::config::Task;
use crate::data::features;
use crate::params::HandleInvalid;

/// How well a model reconstructs the rows of a batch. A row unlike those of the training has a large loss.
#[derive(Clone, Debug, PartialEq)]
pub struct ReconstructionLoss {
    /// `(rows)`: the mean squared error between the encoded features and their reconstruction, whatever the loss of
    /// the training. 0 for skipped rows.
    pub values: Vec<f32>,
    /// `(rows, columns)`: that of each feature column alone, in the order of the model's features. The mean over
    /// columns, each counted by its width, is the row's. 0 for skipped rows.
    pub columns: Vec<f32>,
    /// 1 for each row that is to be dropped, as in [`super::Predictions`]; none if none is.
    pub skipped: Option<Vec<u8>>,
}

impl Predictor {
    /// How well the model reconstructs each row of a batch, which has the model's feature columns and may have others.
    ///
    /// # Errors
    /// `InvalidArgument` when the model learned something else, `InvalidData` naming the column, the row and what was
    /// found there.
    pub fn reconstruction_loss(&self, batch: &RecordBatch) -> Result<ReconstructionLoss> {
        self.reconstruction_loss_handling(batch, self.model.preprocessing.handle_invalid)
    }

    /// As [`Predictor::reconstruction_loss`], with another answer to unusable features than the one of the training.
    ///
    /// # Errors
    /// As [`Predictor::reconstruction_loss`].
    pub fn reconstruction_loss_handling(
        &self,
        batch: &RecordBatch,
        invalid: HandleInvalid,
    ) -> Result<ReconstructionLoss> {
        if self.model.task != Task::Reconstruction {
            return Err(Error::argument(format!(
                "the model learned a {}, expected a reconstruction: it gives no features back",
                self.model.task.name()
            )));
        }
        let encoded = self.encode(batch, invalid)?;
        let graph = &self.model.graph;
        let (last, width) = (graph.nodes().len() - 1, graph.output_len());
        let found = self.forward(&encoded, last)?;
        let places = self.model.preprocessing.places();
        let (mut values, mut columns) = (Vec::new(), Vec::new());
        let mut squares = vec![0.0f64; width];
        for (row, found) in found.chunks_exact(width).enumerate() {
            let expected = features(&encoded.tensors, row).flatten();
            for ((square, found), expected) in squares.iter_mut().zip(found).zip(expected) {
                *square = (f64::from(*found) - f64::from(*expected)).powi(2);
            }
            values.push(mean(&squares));
            columns.extend(places.iter().map(|place| mean(&squares[place.clone()])));
        }
        Ok(ReconstructionLoss {
            values: encoded.put_back(values, 1),
            columns: encoded.put_back(columns, places.len()),
            skipped: encoded.skipped(),
        })
    }
}

fn mean(values: &[f64]) -> f32 {
    (values.iter().sum::<f64>() / values.len() as f64) as f32
}
