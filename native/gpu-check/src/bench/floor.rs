//! The least time that a step could take on a card.

use firesteel_engine::Precision;
use firesteel_model::{Graph, Op, Source};

/// The longer of the two holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    /// Seconds of its products at the card's rate.
    pub(super) products: f64,
    /// Seconds of its memory at the card's rate.
    pub(super) memory: f64,
}

impl Floor {
    /// `rates` are multiplications and additions a second, and bytes a second.
    pub(super) fn new(graph: &Graph, rows: usize, precision: Precision, rates: [f64; 2]) -> Floor {
        let [operations, bytes] = rates;
        Floor {
            products: rows as f64 * products(graph) / operations,
            memory: memory(graph, rows as f64, precision) / bytes,
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.products.max(self.memory)
    }
}

/// Multiplications and additions a row: of the result, of the weights' gradient, and of the operand's where it has one.
fn products(graph: &Graph) -> f64 {
    let one = |node: &firesteel_model::Node| {
        let depth: usize = match node.op {
            Op::Linear { .. } | Op::Conv2d { .. } => {
                graph.parameters()[node.parameters[0]].shape[1..].iter().product()
            }
            _ => return 0.0,
        };
        let results: usize = node.shape.iter().product();
        let passes = if matches!(node.sources[0], Source::Input(_)) { 2 } else { 3 };
        (2 * passes * depth * results) as f64
    };
    graph.nodes().iter().map(one).sum()
}

/// Bytes, if every value were touched only when it must be. Of a weight: read forward and backward, its gradient written, and
/// what SGD with momentum reads and writes of weight, gradient and state. Of a product's or convolution's result: written, read by
/// what follows, and once more backward, its gradient written and read twice; everything else is counted as if it were fused.
fn memory(graph: &Graph, rows: f64, precision: Precision) -> f64 {
    let each = match precision {
        Precision::F32 | Precision::Tf32 => 4.0,
        Precision::Bf16 | Precision::F16 => 2.0,
    };
    let result = |node: &firesteel_model::Node| match node.op {
        Op::Linear { .. } | Op::Conv2d { .. } => node.shape.iter().product::<usize>() as f64,
        _ => 0.0,
    };
    let results: f64 = graph.nodes().iter().map(result).sum();
    graph.dense_len() as f64 * (2.0 * each + 4.0 + 20.0) + rows * results * each * 6.0
}
