//! Which layers run as one kernel.
//!
//! - An activation behind a linear layer or a convolution goes into the product's last step.
//! - relu, tanh and sigmoid never fall, so they commute with a max-pool: pool first, a quarter of the work.
//! - A 2×2 max-pool behind a convolution goes into it: the whole image is never written.
//! - In inference, embeddings that are added up are one gather, to which a linear layer that comes last and the activation
//!   behind the sum add theirs.

use firesteel_model::{Graph, Node, Op, Source};

/// An elementwise function whose gradient its own result tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// max(x, 0).
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

impl Activation {
    /// That of an operation; none for one of another kind, gelu among them.
    pub(crate) fn of(op: &Op) -> Option<Activation> {
        match op {
            Op::Relu => Some(Activation::Relu),
            Op::Tanh => Some(Activation::Tanh),
            Op::Sigmoid => Some(Activation::Sigmoid),
            _ => None,
        }
    }
}

/// Layers that run as one: `node` computes, then come the pool and the activation that are fused into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    /// The layer whose operation it is.
    pub(crate) node: usize,
    /// The layer whose value it gives.
    pub(crate) result: usize,
    /// Whether a 2×2 max-pool is fused into a convolution.
    pub(crate) pool: bool,
    /// Applied to the result.
    pub(crate) activation: Option<Activation>,
    /// Whether all that a sum adds up is fused into it.
    pub(crate) operands: bool,
}

/// What a plan is for. Both give the same values, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Backward needs the value of every layer that it passes.
    Training,
    /// Only the outputs are wanted.
    Inference,
}

/// The stages of a network in execution order.
pub(crate) fn fuse(graph: &Graph, purpose: Purpose) -> Vec<Stage> {
    let nodes = graph.nodes();
    let mut fused = vec![false; nodes.len()];
    let mut operands = vec![None; nodes.len()];
    if purpose == Purpose::Inference {
        operands = (0..nodes.len()).map(|node| operands_of_sum(nodes, node)).collect();
        operands.iter().flatten().flatten().for_each(|operand| fused[*operand] = true);
    }
    let mut stages = Vec::new();
    for node in 0..nodes.len() {
        if fused[node] {
            continue;
        }
        let mut stage = Stage { operands: operands[node].is_some(), ..Stage::of(node) };
        match &nodes[node].op {
            Op::Linear { .. } => stage.take_activation(nodes, &mut fused),
            Op::Conv2d { .. } => stage.take_behind_convolution(nodes, &mut fused),
            Op::MaxPool2d { .. } => stage.take_activation(nodes, &mut fused),
            Op::Add if stage.operands => stage.take_activation(nodes, &mut fused),
            op => {
                if let (Some(activation), Some(pool)) = (Activation::of(op), next(nodes, node)) {
                    // An activation before a pool: the pool runs on the activation's source.
                    if matches!(nodes[pool].op, Op::MaxPool2d { .. }) {
                        fused[pool] = true;
                        stage = Stage { activation: Some(activation), ..Stage::of(pool) };
                    }
                }
            }
        }
        stages.push(stage);
    }
    stages
}

/// The only reader of a layer's value.
fn next(nodes: &[Node], node: usize) -> Option<usize> {
    let mut readers = (0..nodes.len()).filter(|&n| nodes[n].sources.contains(&Source::Node(node)));
    let (first, second) = (readers.next(), readers.next());
    first.filter(|_| second.is_none())
}

/// What a sum adds up, if that can be fused into it: embeddings, and perhaps a linear layer behind them, that nobody else
/// reads. Another order would round otherwise.
fn operands_of_sum(nodes: &[Node], node: usize) -> Option<Vec<usize>> {
    let sources = &nodes[node].sources;
    if nodes[node].op != Op::Add {
        return None;
    }
    let operand = |(place, source): (usize, &Source)| match *source {
        Source::Node(n) if next(nodes, n) == Some(node) && !sources[..place].contains(source) => {
            let last = place > 0 && place + 1 == sources.len();
            let fits = match nodes[n].op {
                Op::Embedding { .. } => true,
                Op::Linear { .. } => last,
                _ => false,
            };
            fits.then_some(n)
        }
        _ => None,
    };
    sources.iter().enumerate().map(operand).collect()
}

/// Whether a pool is the one that convolutions can take in: 2×2 windows side by side.
fn is_halving(op: &Op) -> bool {
    matches!(op, Op::MaxPool2d { kernel: [2, 2], stride: None | Some([2, 2]), padding: [0, 0] })
}

impl Stage {
    /// A layer alone.
    pub(crate) fn of(node: usize) -> Stage {
        Stage { node, result: node, pool: false, activation: None, operands: false }
    }

    fn take_activation(&mut self, nodes: &[Node], fused: &mut [bool]) {
        let Some(reader) = next(nodes, self.result) else { return };
        let Some(activation) = Activation::of(&nodes[reader].op) else { return };
        self.activation = Some(activation);
        self.result = reader;
        fused[reader] = true;
    }

    fn take_behind_convolution(&mut self, nodes: &[Node], fused: &mut [bool]) {
        let after = |node| next(nodes, node).filter(|&n| nodes[n].sources.len() == 1);
        let Some(first) = after(self.node) else { return };
        if is_halving(&nodes[first].op) {
            self.pool = true;
            self.result = first;
            fused[first] = true;
            return self.take_activation(nodes, fused);
        }
        let Some(activation) = Activation::of(&nodes[first].op) else { return };
        match after(first) {
            Some(second) if is_halving(&nodes[second].op) => {
                *self = Stage { pool: true, result: second, activation: Some(activation), ..*self };
                (fused[first], fused[second]) = (true, true);
            }
            // Some other max-pool comes next: leave the activation to it.
            Some(second) if matches!(nodes[second].op, Op::MaxPool2d { .. }) => {}
            _ => self.take_activation(nodes, fused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firesteel_model::{Input, InputKind, Network};

    fn image() -> Vec<Input> {
        vec![Input { name: "image".into(), kind: InputKind::Dense { shape: vec![1, 28, 28] } }]
    }

    fn stages(network: &Network) -> Vec<(usize, usize, bool, Option<Activation>)> {
        let graph = Graph::new(&network.build(image(), 10).unwrap()).unwrap();
        fuse(&graph, Purpose::Inference).iter().map(|s| (s.node, s.result, s.pool, s.activation)).collect()
    }

    #[test]
    fn lenet5_becomes_six_stages() {
        let relu = Some(Activation::Relu);
        let expected = [
            (0, 2, true, relu),
            (3, 5, true, relu),
            (6, 6, false, None),
            (7, 8, false, relu),
            (9, 10, false, relu),
            (11, 11, false, None),
        ];
        assert_eq!(stages(&Network::Lenet5), expected);
    }

    #[test]
    fn an_activation_waits_behind_any_max_pool_but_gelu_does_not() {
        let conv =
            Op::Conv2d { outputs: 2, kernel: [3, 3], stride: [1, 1], padding: [0, 0], groups: 1, bias: true };
        let pool = Op::MaxPool2d { kernel: [3, 3], stride: Some([2, 2]), padding: [1, 1] };
        for (op, activation) in [(Op::Tanh, Activation::Tanh), (Op::Relu, Activation::Relu)] {
            let layers = vec![conv.clone(), op, pool.clone(), Op::Flatten];
            let expected = [(0, 0, false, None), (2, 2, false, Some(activation))];
            assert_eq!(stages(&Network::Sequential { layers })[..2], expected);
        }
        let layers = vec![conv, Op::Gelu, pool, Op::Flatten];
        assert_eq!(stages(&Network::Sequential { layers }).len(), 5);
    }
}
