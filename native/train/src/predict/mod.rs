//! Scoring rows with a model.

mod embed;
mod encoded;
mod fold;
mod reconstruct;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arrow_array::RecordBatch;
use firesteel_engine::{Inference, InferenceConfig, Mode};
use firesteel_error::{Error, Result};
use firesteel_model::Graph;

pub use self::embed::Embeddings;
use self::encoded::{Encoded, places};
use self::fold::Folded;
pub use self::reconstruct::ReconstructionLoss;
use crate::config::{Feature, Task};
use crate::data::{Encoding, Invalid, Reader, Tensor, Vocabulary, Where};
use crate::model::Model;
use crate::params::HandleInvalid;

/// Rows that a plan has room for; more go through in pieces.
const ROWS: usize = 256;

/// Scores rows; any number of threads may call it at once.
#[derive(Debug)]
pub struct Predictor {
    model: Arc<Model>,
    features: Vec<Feature>,
    /// Of each feature that holds texts what they are.
    known: Vec<Option<Arc<Vocabulary>>>,
    threads: usize,
    /// The network with fewer products, made when the first rows are scored; none where that would not pay.
    folded: OnceLock<Option<Folded>>,
    /// Plans that no call uses now and the layer of the model's network that each ends at: of a layer at most as many as
    /// calls ran at once. All read the weights of `folded`, if it has their layer, else those of `model`.
    idle: Mutex<Vec<(usize, Inference)>>,
}

/// What a model says of the rows of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Values a row.
    pub outputs: usize,
    /// `(rows, outputs)`: a logit a class, one number in the label's unit, or the encoded features as the network gives
    /// them back. 0 for skipped rows.
    pub values: Vec<f32>,
    /// 1 for each row that is to be dropped, as the model was trained with `handle_invalid` skip; none if none is.
    pub skipped: Option<Vec<u8>>,
}

impl Predictions {
    /// Of a classification: the probability of each class, `(rows, classes)`.
    pub fn probabilities(&self) -> Vec<f32> {
        let mut probabilities = self.values.clone();
        for row in probabilities.chunks_exact_mut(self.outputs.max(1)) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|v| *v = (*v - most).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
        probabilities
    }
}

impl Predictor {
    /// For a model; each call uses `threads` threads.
    pub fn new(model: Arc<Model>, threads: usize) -> Predictor {
        let feature = |encoding: &Encoding| Feature {
            column: encoding.column().to_owned(),
            shape: match encoding {
                Encoding::Vector { shape, .. } => Some(shape.clone()),
                _ => None,
            },
        };
        let features = model.preprocessing.columns.iter().map(feature).collect();
        let known = |encoding: &Encoding| match encoding {
            Encoding::Category { values, .. } | Encoding::OneHot { values, .. } => {
                Some(Arc::new(Vocabulary::new(values)))
            }
            Encoding::Number { .. } | Encoding::Vector { .. } => None,
        };
        let known = model.preprocessing.columns.iter().map(known).collect();
        let (folded, idle) = (OnceLock::new(), Mutex::default());
        Predictor { model, features, known, threads: threads.max(1), folded, idle }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Scores the rows of a batch, which has the model's feature columns and may have others.
    ///
    /// # Errors
    /// `InvalidData` naming the column, the row and what was found there.
    pub fn predict(&self, batch: &RecordBatch) -> Result<Predictions> {
        self.predict_handling(batch, self.model.preprocessing.handle_invalid)
    }

    /// As [`Predictor::predict`], with another answer to unusable features than the one of the training.
    ///
    /// # Errors
    /// `InvalidData` naming the column, the row and what was found there.
    pub fn predict_handling(&self, batch: &RecordBatch, invalid: HandleInvalid) -> Result<Predictions> {
        let encoded = self.encode(batch, invalid)?;
        let values = self.in_units(self.forward(&encoded, self.model.graph.nodes().len() - 1)?);
        let outputs = self.model.info().outputs;
        let values = encoded.put_back(values, outputs);
        Ok(Predictions { outputs, values, skipped: encoded.skipped() })
    }

    /// The rows of a batch as the network reads them.
    fn encode(&self, batch: &RecordBatch, invalid: HandleInvalid) -> Result<Encoded> {
        let mut reader = Reader::knowing(&self.features, invalid, &self.known);
        let early = reader.push(batch, Where::Batch)?;
        let rows = early.as_ref().map_or(batch.num_rows(), |k| k.iter().filter(|k| **k).count());
        let mut late = Invalid::new(invalid, Where::Batch, rows);
        let tensors =
            self.model.preprocessing.encode(std::mem::take(&mut reader.columns), rows, &mut late)?;
        let tensors = tensors.into_iter().map(Tensor::dense).collect();
        Ok(Encoded { rows, tensors, places: places(early, late.keep) })
    }

    /// The values of a layer, `(encoded rows, width)`.
    fn forward(&self, encoded: &Encoded, layer: usize) -> Result<Vec<f32>> {
        let Model { graph, weights, buffers, .. } = &*self.model;
        let folded = self.folded.get_or_init(|| Folded::new(graph, weights)).as_ref();
        let folded = folded.and_then(|folded| Some((folded, folded.place(graph, layer)?)));
        let (graph, weights, end) = match folded {
            Some((folded, end)) => (&folded.graph, &folded.weights, end),
            None => (graph, weights, layer),
        };
        let mut plan = self.borrow(layer, || up_to(graph, end))?;
        let mut values = vec![0.0; encoded.rows * plan.graph().output_len()];
        let inputs: Vec<_> = encoded.tensors.iter().map(Tensor::view).collect();
        plan.forward(weights, buffers, encoded.rows, &inputs, &mut values)?;
        self.idle().push((layer, plan));
        Ok(values)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(usize, Inference)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plan that ends at a layer, if need be a new one of `graph`.
    fn borrow(&self, layer: usize, graph: impl FnOnce() -> Result<Arc<Graph>>) -> Result<Inference> {
        let mut idle = self.idle();
        if let Some(at) = idle.iter().rposition(|(ends, _)| *ends == layer) {
            return Ok(idle.swap_remove(at).1);
        }
        drop(idle);
        Inference::new(graph()?, InferenceConfig { rows: ROWS, threads: self.threads, mode: Mode::Auto })
    }

    /// From the network's outputs to what a caller reads.
    fn in_units(&self, mut values: Vec<f32>) -> Vec<f32> {
        match self.model.task {
            Task::Regression => {
                let label = &self.model.label;
                values.iter_mut().for_each(|v| *v = (f64::from(*v) * label.deviation + label.mean) as f32);
                values
            }
            // One logit, of class 1: the softmax of 0 and it is its sigmoid.
            Task::Classification if self.model.graph.output_len() == 1 => {
                values.into_iter().flat_map(|logit| [0.0, logit]).collect()
            }
            Task::Classification | Task::Reconstruction => values,
        }
    }
}

/// The network up to a layer.
fn up_to(graph: &Arc<Graph>, layer: usize) -> Result<Arc<Graph>> {
    if layer + 1 == graph.nodes().len() {
        return Ok(graph.clone());
    }
    let cut = graph.up_to(layer);
    cut.map(Arc::new).ok_or_else(|| Error::internal(format!("the network has no layer {layer}")))
}
