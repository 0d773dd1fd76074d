//! What a layer inside the network makes of rows.

use arrow_array::RecordBatch;
use firesteel_error::{Error, Result};
use firesteel_model::{Graph, Node, Op, Source};

use super::Predictor;
use crate::config::Task;
use crate::model::Model;
use crate::nearest::by_distance;
use crate::params::HandleInvalid;

/// The values of a layer for the rows of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// Values a row: the layer's shape multiplied out.
    pub width: usize,
    /// `(rows, width)`. 0 for skipped rows.
    pub values: Vec<f32>,
    /// 1 for each row that is to be dropped, as in [`super::Predictions`]; none if none is.
    pub skipped: Option<Vec<u8>>,
}

impl Model {
    /// The layer that [`Predictor::embed`] gives the values of: the one of that name, or, without a name, of a
    /// reconstruction the narrowest hidden layer behind its activation, the first of equals, and of other networks the
    /// one that the head reads.
    ///
    /// # Errors
    /// `InvalidArgument` with the layers there are, the nearest first, or when without a name there is no such layer.
    pub fn embedding_layer(&self, name: Option<&str>) -> Result<&Node> {
        self.find_layer(name).map(|layer| &self.graph.nodes()[layer])
    }

    fn find_layer(&self, name: Option<&str>) -> Result<usize> {
        let graph = &*self.graph;
        if let Some(name) = name {
            let found = graph.nodes().iter().position(|node| node.name == name);
            return found.ok_or_else(|| {
                Error::argument(format!(
                    "the network has no layer '{name}'; there are {}",
                    layers(graph, name)
                ))
            });
        }
        let head = head(graph);
        let found = match self.task {
            Task::Reconstruction => bottleneck(graph, head),
            Task::Classification | Task::Regression => None,
        };
        found.or_else(|| before(graph, head)).ok_or_else(|| {
            Error::argument(format!(
                "the network has no layer before its head; name one of {}",
                layers(graph, "")
            ))
        })
    }
}

/// All layers, those whose names are nearest to `name` first; without a name in their order.
fn layers(graph: &Graph, name: &str) -> String {
    let names = graph.nodes().iter().map(|node| node.name.as_str());
    let names = if name.is_empty() { names.collect() } else { by_distance(name, names) };
    names.join(", ")
}

/// The layer whose values a layer reads first; none if that is an input.
fn before(graph: &Graph, layer: usize) -> Option<usize> {
    match graph.nodes()[layer].sources[0] {
        Source::Node(node) => Some(node),
        Source::Input(_) => None,
    }
}

/// The linear layer that gives the outputs, or the first of several whose sum does; the last layer where none is.
fn head(graph: &Graph) -> usize {
    let last = graph.nodes().len() - 1;
    let back = std::iter::successors(Some(last), |layer| before(graph, *layer));
    let mut linear = back.filter(|layer| matches!(graph.nodes()[*layer].op, Op::Linear { .. }));
    linear.next().unwrap_or(last)
}

/// The narrowest linear layer other than the head, or the activation behind it.
fn bottleneck(graph: &Graph, head: usize) -> Option<usize> {
    let nodes = graph.nodes();
    let hidden = (0..nodes.len()).filter(|n| *n != head && matches!(nodes[*n].op, Op::Linear { .. }));
    let narrowest = hidden.min_by_key(|n| nodes[*n].shape.iter().product::<usize>())?;
    let activation = nodes.iter().position(|node| {
        node.sources == [Source::Node(narrowest)]
            && matches!(node.op, Op::Relu | Op::Tanh | Op::Sigmoid | Op::Gelu)
    });
    Some(activation.unwrap_or(narrowest))
}

impl Predictor {
    /// The values of a layer for the rows of a batch, which has the model's feature columns and may have others. Which
    /// layer it is without a name, and how wide, says [`Model::embedding_layer`].
    ///
    /// # Errors
    /// As [`Model::embedding_layer`]; `InvalidData` naming the column, the row and what was found there.
    pub fn embed(&self, batch: &RecordBatch, layer: Option<&str>) -> Result<Embeddings> {
        self.embed_handling(batch, layer, self.model.preprocessing.handle_invalid)
    }

    /// As [`Predictor::embed`], with another answer to unusable features than the one of the training.
    ///
    /// # Errors
    /// As [`Predictor::embed`].
    pub fn embed_handling(
        &self,
        batch: &RecordBatch,
        layer: Option<&str>,
        invalid: HandleInvalid,
    ) -> Result<Embeddings> {
        let layer = self.model.find_layer(layer)?;
        let encoded = self.encode(batch, invalid)?;
        let values = self.forward(&encoded, layer)?;
        let width = self.model.graph.nodes()[layer].shape.iter().product();
        Ok(Embeddings { width, values: encoded.put_back(values, width), skipped: encoded.skipped() })
    }
}
