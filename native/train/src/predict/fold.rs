//! Embeddings folded into the linear layer that reads them.
//!
//! With fixed weights, what an index input adds to a linear layer `x·Wᵀ + b` behind a concat is one of few vectors: a row
//! of its table E times the columns of W that read it. All of them, `E·Wᵀ`, are a table of their own, and the layer is a
//! sum of rows of such tables and of a linear layer of what is left: no products for embeddings, whose part of a
//! tabular network's first layer is nearly all of it. Scoring rounds otherwise than training did, by a few units in the
//! last place.

use std::ops::Range;
use std::sync::Arc;

use firesteel_model::{Graph, Layer, Node, Op, Parameter, Source, Spec};

/// The most values of all tables that are folded, 4 MiB: rows are gathered at random, so the tables should stay in
/// a cache, and each value costs a multiplication for each of the embedding's dims.
const TABLES: usize = 1 << 20;

/// The most weights of the network that results, 32 MiB: it is a second copy of all that is not folded.
const COPY: usize = 1 << 23;

/// The fewest dims of an embedding whose products take longer than gathering rows that are as wide as the linear layer:
/// measured with 128 outputs, 6 dims are slower folded and 12 are faster. The sum itself costs about as much again.
const DIMS: usize = 8;

/// A network that computes what another does from fewer products.
#[derive(Debug)]
pub(super) struct Folded {
    pub(super) graph: Arc<Graph>,
    pub(super) weights: Vec<f32>,
    /// The layer of the other network that became a sum. It and those behind it are there by their names; the running
    /// statistics lie as there.
    linear: usize,
}

impl Folded {
    /// The network, where that is possible and pays.
    pub(super) fn new(graph: &Graph, weights: &[f32]) -> Option<Folded> {
        let sum = Sum::find(graph)?;
        let spec = sum.spec()?;
        let folded = Graph::new(&spec).ok().filter(|g| g.len() <= COPY)?;
        let mut values = vec![0.0; folded.len()];
        for parameter in folded.parameters() {
            sum.fill(&folded, parameter, weights, &mut values[parameter.range.clone()])?;
        }
        Some(Folded { graph: Arc::new(folded), weights: values, linear: sum.linear })
    }

    /// The layer that a layer of the other network is here, none if it has no place here.
    pub(super) fn place(&self, graph: &Graph, layer: usize) -> Option<usize> {
        let name = &graph.nodes().get(layer).filter(|_| layer >= self.linear)?.name;
        self.graph.nodes().iter().position(|node| node.name == *name)
    }
}

/// A linear layer, what it reads, and how it becomes a sum.
struct Sum<'g> {
    graph: &'g Graph,
    linear: usize,
    outputs: usize,
    /// The concat and the dropouts before the linear layer.
    between: Vec<usize>,
    /// What the concat joins.
    parts: Vec<Part>,
    /// Of the linear layer of what is left.
    rest: String,
}

/// Some columns of the linear layer's weight and what they are multiplied by.
struct Part {
    source: Source,
    columns: Range<usize>,
    /// Whether it becomes a table.
    folded: bool,
}

impl<'g> Sum<'g> {
    /// The first linear layer that reads enough of embeddings.
    fn find(graph: &'g Graph) -> Option<Sum<'g>> {
        (0..graph.nodes().len()).find_map(|linear| Sum::of(graph, linear))
    }

    fn of(graph: &'g Graph, linear: usize) -> Option<Sum<'g>> {
        let nodes = graph.nodes();
        let Op::Linear { outputs, .. } = nodes[linear].op else { return None };
        let mut between = Vec::new();
        let mut reader = linear;
        while nodes[reader].op != Op::Concat {
            let Source::Node(n) = nodes[reader].sources[0] else { break };
            // In inference a dropout passes on what it reads.
            let passes = matches!(nodes[n].op, Op::Concat | Op::Dropout { .. });
            if !passes || readers(nodes, n) != [reader] {
                break;
            }
            between.push(n);
            reader = n;
        }
        let mut parts = Vec::new();
        let mut start = 0;
        for source in &nodes[reader].sources {
            let end = start + graph.shape(*source).iter().product::<usize>();
            parts.push(Part { source: *source, columns: start..end, folded: false });
            start = end;
        }
        let mut sum = Sum { graph, linear, outputs, between, parts, rest: unused_name(graph, linear) };
        sum.choose(reader);
        let dims: usize = sum.folded().map(|part| part.columns.len()).sum();
        (dims >= 2 * DIMS).then_some(sum)
    }

    /// Chooses the parts that become tables, the smallest first: embeddings wide enough that only `reader` reads, once.
    fn choose(&mut self, reader: usize) {
        let Sum { graph, outputs, .. } = *self;
        let rows = |part: &Part| {
            let Source::Node(node) = part.source else { return None };
            let pays = matches!(graph.nodes()[node].op, Op::Embedding { dims } if dims >= DIMS);
            (pays && readers(graph.nodes(), node) == [reader]).then(|| rows_of(graph, node))
        };
        let mut fits: Vec<(usize, usize)> =
            self.parts.iter().enumerate().filter_map(|(p, part)| Some((rows(part)?, p))).collect();
        fits.sort_unstable();
        let mut room = TABLES;
        for (rows, part) in fits {
            let Some(left) = rows.checked_mul(outputs).and_then(|values| room.checked_sub(values)) else {
                break;
            };
            room = left;
            self.parts[part].folded = true;
        }
    }

    fn folded(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.folded)
    }

    fn left(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.folded)
    }

    /// Whether a layer's table is folded.
    fn folds(&self, node: usize) -> bool {
        self.folded().any(|part| part.source == Source::Node(node))
    }

    fn name(&self, source: Source) -> String {
        match source {
            Source::Input(input) => self.graph.spec().inputs[input].name.clone(),
            Source::Node(node) => self.graph.nodes()[node].name.clone(),
        }
    }

    /// The layers: tables have the names of their embeddings, the sum that of the linear layer.
    fn spec(&self) -> Option<Spec> {
        let mut layers = Vec::new();
        for (n, node) in self.graph.nodes().iter().enumerate() {
            let inputs = node.sources.iter().map(|source| self.name(*source)).collect();
            let layer = Layer { name: node.name.clone(), inputs, op: node.op.clone() };
            if n == self.linear {
                self.push_sum(layer, &mut layers)?;
            } else if self.folds(n) {
                layers.push(Layer { op: Op::Embedding { dims: self.outputs }, ..layer });
            } else if !self.between.contains(&n) {
                layers.push(layer);
            }
        }
        Some(Spec { layers, ..self.graph.spec().clone() })
    }

    /// The tables come first: the engine gathers them all before it adds the linear layer.
    fn push_sum(&self, layer: Layer, layers: &mut Vec<Layer>) -> Option<()> {
        let mut terms: Vec<String> = self.folded().map(|part| self.name(part.source)).collect();
        let mut left: Vec<String> = self.left().map(|part| self.name(part.source)).collect();
        if left.len() > 1 {
            let concat = self.graph.nodes()[*self.between.last()?].name.clone();
            let inputs = std::mem::replace(&mut left, vec![concat.clone()]);
            layers.push(Layer { name: concat, inputs, op: Op::Concat });
        }
        if !left.is_empty() {
            terms.push(self.rest.clone());
            layers.push(Layer { name: self.rest.clone(), inputs: left, op: layer.op });
        }
        layers.push(Layer { name: layer.name, inputs: terms, op: Op::Add });
        Some(())
    }

    /// The values of a parameter of the folded network.
    fn fill(&self, folded: &Graph, parameter: &Parameter, weights: &[f32], to: &mut [f32]) -> Option<()> {
        let node = &folded.nodes()[parameter.node];
        let which = node.parameters.iter().position(|p| folded.parameters()[*p].range == parameter.range);
        let values = |node: usize| {
            let of_node = &self.graph.nodes()[node].parameters;
            let found = which.and_then(|which| of_node.get(which));
            found.map_or(&[][..], |p| &weights[self.graph.parameters()[*p].range.clone()])
        };
        if node.name == self.rest {
            match parameter.shape.len() {
                1 => to.copy_from_slice(values(self.linear)),
                _ => self.fill_rest(values(self.linear), to),
            }
            return Some(());
        }
        let before = self.graph.nodes().iter().position(|n| n.name == node.name)?;
        match self.folded().find(|part| part.source == Source::Node(before)) {
            Some(part) => self.fill_table(part, values(before), weights, to)?,
            None => to.copy_from_slice(values(before)),
        }
        Some(())
    }

    /// The columns of the weight `(outputs, inputs)` that are left, `(outputs, fewer)`.
    fn fill_rest(&self, weight: &[f32], to: &mut [f32]) {
        let inputs = weight.len() / self.outputs;
        let mut places = to.iter_mut();
        for row in weight.chunks_exact(inputs) {
            let kept = self.left().flat_map(|part| &row[part.columns.clone()]);
            kept.zip(&mut places).for_each(|(value, place)| *place = *value);
        }
    }

    /// `table` `(rows, dims)` times the columns that read it, `(rows, outputs)`. The first table has the bias where no
    /// linear layer is left that could add it.
    fn fill_table(&self, part: &Part, table: &[f32], weights: &[f32], to: &mut [f32]) -> Option<()> {
        let parameter = |p: usize| &weights[self.graph.parameters()[p].range.clone()];
        let (weight, bias) = match *self.graph.nodes()[self.linear].parameters {
            [weight] => (parameter(weight), None),
            [weight, bias, ..] => (parameter(weight), Some(parameter(bias))),
            [] => return None,
        };
        let first = self.folded().next().is_some_and(|first| first.source == part.source);
        let bias = bias.filter(|_| first && self.left().next().is_none());
        let inputs = weight.len() / self.outputs;
        // `(dims, outputs)`, so that the loop inside runs along memory.
        let column = |d: usize| weight[d..].iter().step_by(inputs).map(|w| f64::from(*w));
        let columns: Vec<f64> = part.columns.clone().flat_map(column).collect();
        let mut sums = vec![0.0f64; self.outputs];
        for (row, to) in table.chunks_exact(part.columns.len()).zip(to.chunks_exact_mut(self.outputs)) {
            match bias {
                Some(bias) => sums.iter_mut().zip(bias).for_each(|(sum, b)| *sum = f64::from(*b)),
                None => sums.fill(0.0),
            }
            for (value, column) in row.iter().zip(columns.chunks_exact(self.outputs)) {
                let value = f64::from(*value);
                sums.iter_mut().zip(column).for_each(|(sum, w)| *sum += value * w);
            }
            to.iter_mut().zip(&sums).for_each(|(to, sum)| *to = *sum as f32);
        }
        Some(())
    }
}

/// Who reads a layer, as often as it does.
fn readers(nodes: &[Node], layer: usize) -> Vec<usize> {
    let times = |node: usize| nodes[node].sources.iter().filter(|s| **s == Source::Node(layer)).count();
    (0..nodes.len()).flat_map(|node| std::iter::repeat_n(node, times(node))).collect()
}

/// The rows of an embedding's table.
fn rows_of(graph: &Graph, embedding: usize) -> usize {
    graph.nodes()[embedding].parameters.iter().map(|p| graph.parameters()[*p].shape[0]).sum()
}

/// A name for what is left of a layer.
fn unused_name(graph: &Graph, layer: usize) -> String {
    let mut name = format!("{}_rest", graph.nodes()[layer].name);
    while graph.spec().inputs.iter().any(|i| i.name == name) || graph.nodes().iter().any(|n| n.name == name) {
        name.push('_');
    }
    name
}

#[cfg(test)]
mod tests {
    use firesteel_engine::{Inference, InferenceConfig, Mode, Values};
    use firesteel_model::{Activation, Input, InputKind, Network};

    use super::*;

    const ROWS: usize = 53;

    /// Between −1 and 1, a function of two numbers.
    fn noise(seed: usize, i: usize) -> f32 {
        let mut x = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (i as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        for _ in 0..3 {
            x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn dense(name: &str, shape: &[usize]) -> Input {
        Input { name: name.into(), kind: InputKind::Dense { shape: shape.to_vec() } }
    }

    fn index(name: &str, cardinality: usize) -> Input {
        Input { name: name.into(), kind: InputKind::Index { cardinality } }
    }

    fn graph(network: &str, inputs: Vec<Input>) -> Graph {
        Graph::new(&Network::from_json(network).unwrap().build(inputs, 3).unwrap()).unwrap()
    }

    fn of_spec(inputs: Vec<Input>, layers: &str) -> Graph {
        let layers: Vec<Layer> = serde_json::from_str(&format!("[{layers}]")).unwrap();
        Graph::new(&Spec { version: 1, inputs, layers }).unwrap()
    }

    /// `(rows, outputs)` of some rows.
    fn outputs(graph: &Graph, weights: &[f32], buffers: &[f32]) -> Vec<f32> {
        let inputs = graph.spec().inputs.iter().enumerate();
        let data: Vec<(Vec<f32>, Vec<u32>)> = inputs
            .map(|(i, input)| match &input.kind {
                InputKind::Dense { shape } => {
                    let len = ROWS * shape.iter().product::<usize>();
                    ((0..len).map(|v| 2.0 * noise(100 + i, v)).collect(), Vec::new())
                }
                InputKind::Index { cardinality } => {
                    let value = |v| ((noise(200 + i, v) + 1.0) / 2.0 * *cardinality as f32) as u32;
                    (Vec::new(), (0..ROWS).map(value).collect())
                }
            })
            .collect();
        let values = |(dense, indices)| match dense {
            dense if Vec::is_empty(dense) => Values::Index(indices),
            dense => Values::Dense(dense),
        };
        let values: Vec<Values> = data.iter().map(|(dense, indices)| values((dense, indices))).collect();
        let config = InferenceConfig { rows: 32, threads: 2, mode: Mode::Auto };
        let mut plan = Inference::new(Arc::new(graph.clone()), config).unwrap();
        let mut found = vec![f32::NAN; ROWS * graph.output_len()];
        plan.forward(weights, buffers, ROWS, &values, &mut found).unwrap();
        found
    }

    /// Folds, and compares every layer that both networks have.
    fn check(graph: &Graph, seed: usize) -> Folded {
        let weights: Vec<f32> = (0..graph.len()).map(|i| noise(seed, i)).collect();
        // A variance is positive.
        let buffers: Vec<f32> = (0..graph.buffers_len()).map(|i| 1.5 + noise(seed + 1, i)).collect();
        let folded = Folded::new(graph, &weights).unwrap();
        assert_eq!(folded.graph.buffers_len(), graph.buffers_len());
        for layer in 0..graph.nodes().len() {
            let place = folded.place(graph, layer);
            assert_eq!(place.is_some(), layer >= folded.linear, "{}", graph.nodes()[layer].name);
            let Some(place) = place else { continue };
            let (whole, fewer) = (graph.up_to(layer).unwrap(), folded.graph.up_to(place).unwrap());
            let expected = outputs(&whole, &weights, &buffers);
            let found = outputs(&fewer, &folded.weights, &buffers);
            assert_eq!(found.len(), expected.len());
            let most = expected.iter().map(|v| v.abs()).fold(1.0, f32::max);
            for (found, expected) in found.iter().zip(&expected) {
                let name = &graph.nodes()[layer].name;
                assert!((found - expected).abs() <= 1e-5 * most, "{name}: {found}, expected {expected}");
            }
        }
        folded
    }

    fn ops(folded: &Folded) -> Vec<&str> {
        folded.graph.nodes().iter().map(|node| node.op.name()).collect()
    }

    #[test]
    fn presets_say_what_they_said() {
        let numbers = || dense("numbers", &[3]);
        let image = || dense("image", &[2, 2, 3]);
        let inputs = [
            vec![numbers(), index("a", 30), index("b", 300)],
            vec![index("a", 30), index("b", 300), index("c", 5)],
            vec![index("a", 30)],
            vec![index("a", 90), image(), index("b", 7), numbers()],
            vec![image(), index("b", 77)],
        ];
        let networks = [
            r#"{"tabular": {"hidden": [33, 10]}}"#,
            r#"{"tabular": {"hidden": [], "embedding_dims": 17}}"#,
            r#"{"tabular": {"hidden": [8], "dropout": 0.3, "activation": "tanh"}}"#,
            r#"{"tabular": {"hidden": [20, 4], "activation": "gelu", "embedding_dims": 21}}"#,
            r#"{"wide_and_deep": {"hidden": [18], "dropout": 0.1, "embedding_dims": 19}}"#,
            r#"{"wide_and_deep": {"hidden": []}}"#,
            r#"{"sequential": {"layers": [{"dropout": {"rate": 0.5}}, {"linear": {"outputs": 9, "bias": false}},
                {"batch_norm": {}}, "relu", {"linear": {"outputs": 6}}, {"layer_norm": {}}, "sigmoid"]}}"#,
            r#"{"sequential": {"layers": [{"linear": {"outputs": 16}}, {"layer_norm": {}}]}}"#,
        ];
        for (i, inputs) in inputs.into_iter().enumerate() {
            for (n, network) in networks.iter().enumerate() {
                let graph = graph(network, inputs.clone());
                let dims: usize = graph.tables().iter().map(|t| t.dims).filter(|dims| *dims >= DIMS).sum();
                match dims >= 2 * DIMS {
                    true => _ = check(&graph, 10 * i + n),
                    false => assert!(Folded::new(&graph, &vec![0.0; graph.len()]).is_none()),
                }
            }
        }
        let tabular = Network::Tabular {
            hidden: vec![4],
            embedding_dims: 20,
            dropout: 0.0,
            activation: Activation::Relu,
        };
        let graph = Graph::new(&tabular.build(vec![numbers(), index("a", 5)], 2).unwrap()).unwrap();
        assert_eq!(ops(&check(&graph, 7)), ["embedding", "linear", "add", "relu", "linear"]);
    }

    #[test]
    fn a_rounding_is_the_only_difference_of_a_table() {
        // One row, one output: the exact sum is 2⁻²⁴, which f32 would lose beside 1.
        let graph = graph(r#"{"sequential": {"layers": []}}"#, vec![index("a", 1)]);
        let spec = Spec { inputs: vec![index("a", 1)], ..graph.spec().clone() };
        let mut layers = spec.layers.clone();
        layers[0].op = Op::Embedding { dims: 16 };
        let graph = Graph::new(&Spec { layers, ..spec }).unwrap();
        let mut weights = vec![0.0; graph.len()];
        for parameter in graph.parameters() {
            let to = &mut weights[parameter.range.clone()];
            match parameter.name.as_str() {
                "head.weight" => to.fill(1.0),
                "head.bias" => to.fill(-1.0),
                _ => to[..2].copy_from_slice(&[1.0, 1.0 / f32::from(2u16).powi(24)]),
            }
        }
        let folded = Folded::new(&graph, &weights).unwrap();
        assert_eq!(folded.weights[..3], [1.0 / f32::from(2u16).powi(24); 3]);
    }

    #[test]
    fn inputs_may_be_embedded_twice_and_layers_called_alike() {
        let inputs = || vec![index("a", 40), dense("head_rest", &[2])];
        let layers = r#"{"name": "e", "inputs": ["a"], "op": {"embedding": {"dims": 11}}},
            {"name": "f", "inputs": ["a"], "op": {"embedding": {"dims": 9}}},
            {"name": "d", "inputs": ["head_rest"], "op": "tanh"},
            {"name": "all", "inputs": ["e", "head_rest", "f", "d"], "op": "concat"},
            {"name": "drop", "op": {"dropout": {"rate": 0.2}}},
            {"name": "head", "op": {"linear": {"outputs": 5}}}"#;
        let folded = check(&of_spec(inputs(), layers), 3);
        let names: Vec<&str> = folded.graph.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["e", "f", "d", "all", "head_rest_", "head"]);
    }

    /// Tables that others read, or that one layer reads twice, stay; the others are folded.
    #[test]
    fn tables_that_others_read_stay() {
        let layers = |sources: &str, end: &str| {
            let layers = format!(
                r#"{{"name": "e", "inputs": ["a"], "op": {{"embedding": {{"dims": 20}}}}}},
                {{"name": "f", "inputs": ["b"], "op": {{"embedding": {{"dims": 20}}}}}},
                {{"name": "all", "inputs": [{sources}], "op": "concat"}},
                {{"name": "h", "op": {{"linear": {{"outputs": 20}}}}}}, {end}"#
            );
            of_spec(vec![index("a", 4), index("b", 5)], &layers)
        };
        let relu = r#"{"name": "r", "op": "relu"}"#;
        let sum = r#"{"name": "s", "inputs": ["h", "e"], "op": "add"}"#;
        let both = check(&layers(r#""e", "f""#, relu), 1);
        assert_eq!(ops(&both), ["embedding", "embedding", "add", "relu"]);
        for graph in [layers(r#""e", "f""#, sum), layers(r#""e", "f", "e""#, relu)] {
            let one = check(&graph, 2);
            assert!(ops(&one).contains(&"linear"), "{:?}", ops(&one));
            let dims: Vec<usize> = one.graph.tables().iter().map(|t| t.dims).collect();
            assert_eq!(dims, [20, 20]);
            let e = one.graph.parameters().iter().find(|p| p.name == "e.weight").unwrap();
            let before = graph.parameters().iter().find(|p| p.name == "e.weight").unwrap();
            let drawn: Vec<f32> = before.range.clone().map(|i| noise(2, i)).collect();
            assert_eq!(one.weights[e.range.clone()], drawn);
        }
    }

    #[test]
    fn what_cannot_be_folded_or_does_not_pay_is_not() {
        let none = |graph: &Graph| Folded::new(graph, &vec![0.0; graph.len()]).is_none();
        let embeddings = r#"{"name": "e", "inputs": ["a"], "op": {"embedding": {"dims": 20}}},
            {"name": "f", "inputs": ["b"], "op": {"embedding": {"dims": 20}}},
            {"name": "all", "inputs": ["e", "f"], "op": "concat"}"#;
        let inputs = |rows| vec![index("a", rows), index("b", rows)];
        let linear = r#"{"name": "h", "op": {"linear": {"outputs": 40}}}"#;
        let with = |rows, more: &str| of_spec(inputs(rows), &format!("{embeddings}, {more}"));
        assert!(!none(&with(50, linear)));
        let twice = format!(r#"{linear}, {{"name": "s", "inputs": ["h", "all"], "op": "add"}}"#);
        assert!(none(&with(50, &twice)), "the concat is read twice");
        for op in [r#"{"layer_norm": {}}"#, r#"{"batch_norm": {}}"#, r#""relu""#] {
            let between = format!(r#"{{"name": "n", "op": {op}}}, {linear}"#);
            assert!(none(&with(50, &between)), "{op} comes first");
        }
        assert!(none(&with(TABLES / 40 + 1, linear)), "both tables are too large");
        let few = graph(r#"{"tabular": {"hidden": [40], "embedding_dims": 15}}"#, vec![index("a", 9)]);
        assert!(none(&few), "there are few dims");
        let narrow = ["a", "b", "c", "d"].map(|name| index(name, 9)).to_vec();
        assert!(
            none(&graph(r#"{"tabular": {"hidden": [40], "embedding_dims": 7}}"#, narrow)),
            "all are narrow"
        );
        assert!(none(&graph(r#"{"mlp": {"hidden": [4]}}"#, vec![dense("x", &[9])])), "nothing is embedded");
        // Of two tables that are too large together the smaller is folded; the copy has a limit of its own.
        let inputs = |large| vec![index("a", TABLES / 40), index("b", large)];
        let network = r#"{"tabular": {"hidden": [40], "embedding_dims": 16}}"#;
        let large = graph(network, inputs(TABLES / 40 + 1));
        let folded = Folded::new(&large, &vec![0.0; large.len()]).unwrap();
        assert_eq!(ops(&folded), ["embedding", "embedding", "linear", "add", "relu", "linear"]);
        assert!(none(&graph(network, inputs(COPY / 16))), "a copy of the other would be too large");
    }
}
