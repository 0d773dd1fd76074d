//! From spec to graph: names become indices, shapes are inferred, parameters get their places.

use std::collections::HashMap;

use firesteel_error::{Error, Result};

use crate::graph::{Buffer, Graph, Node, Source};
use crate::infer::{self, Inferred, Unplaced, product};
use crate::layout::{align, place};
use crate::spec::{Input, InputKind, Op, Spec};

/// The graph of a spec.
pub(crate) fn build(spec: &Spec) -> Result<Graph> {
    spec.check_version()?;
    let mut builder = Builder::new(spec)?;
    for index in 0..spec.layers.len() {
        builder.add(index)?;
    }
    builder.check_all_used()?;
    let Builder { mut nodes, unplaced, buffers, buffers_len, .. } = builder;
    let layout = place(&mut nodes, &unplaced)?;
    Ok(Graph {
        spec: spec.clone(),
        nodes,
        parameters: layout.parameters,
        tables: layout.tables,
        buffers,
        dense_len: layout.dense_len,
        len: layout.len,
        buffers_len,
    })
}

struct Builder<'a> {
    spec: &'a Spec,
    names: HashMap<&'a str, Source>,
    nodes: Vec<Node>,
    unplaced: Vec<Vec<Unplaced>>,
    buffers: Vec<Buffer>,
    buffers_len: usize,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a Spec) -> Result<Builder<'a>> {
        if spec.inputs.is_empty() {
            return Err(Error::argument("the network has no inputs"));
        }
        if spec.layers.is_empty() {
            return Err(Error::argument("the network has no layers"));
        }
        let mut names = HashMap::new();
        for (i, input) in spec.inputs.iter().enumerate() {
            if names.insert(input.name.as_str(), Source::Input(i)).is_some() {
                return Err(Error::argument(format!("two inputs are named '{}'", input.name)));
            }
            check_input(input)?;
        }
        Ok(Builder {
            spec,
            names,
            nodes: Vec::new(),
            unplaced: Vec::new(),
            buffers: Vec::new(),
            buffers_len: 0,
        })
    }

    fn add(&mut self, index: usize) -> Result<()> {
        let layer = &self.spec.layers[index];
        let sources = self.sources(index)?;
        let inferred = self.infer(&layer.op, &sources).map_err(|found| {
            Error::argument(format!("layer '{}' ({}): {found}", layer.name, layer.op.name()))
        })?;
        let mut node = Node {
            name: layer.name.clone(),
            op: layer.op.clone(),
            sources,
            shape: inferred.shape,
            parameters: Vec::new(),
            buffers: Vec::new(),
        };
        if let Op::BatchNorm { .. } = layer.op {
            for (suffix, start) in [("running_mean", 0.0), ("running_var", 1.0)] {
                node.buffers.push(self.buffers.len());
                let features = node.shape[0];
                let range = self.buffers_len..self.buffers_len + features;
                self.buffers_len = align(range.end);
                let name = format!("{}.{suffix}", layer.name);
                self.buffers.push(Buffer { name, shape: vec![features], range, start });
            }
        }
        if self.names.insert(&layer.name, Source::Node(index)).is_some() {
            return Err(Error::argument(format!("two layers or inputs are named '{}'", layer.name)));
        }
        self.nodes.push(node);
        self.unplaced.push(inferred.parameters);
        Ok(())
    }

    fn sources(&self, index: usize) -> Result<Vec<Source>> {
        let layer = &self.spec.layers[index];
        if layer.inputs.is_empty() {
            return match index {
                0 if self.spec.inputs.len() == 1 => Ok(vec![Source::Input(0)]),
                0 => Err(Error::argument(format!(
                    "layer '{}' names no inputs and the network has {}; name the ones it reads",
                    layer.name,
                    self.spec.inputs.len()
                ))),
                _ => Ok(vec![Source::Node(index - 1)]),
            };
        }
        let find = |name: &String| {
            self.names.get(name.as_str()).copied().ok_or_else(|| {
                Error::argument(format!(
                    "layer '{}' reads '{name}', which is no input and no earlier layer",
                    layer.name
                ))
            })
        };
        layer.inputs.iter().map(find).collect()
    }

    fn shape(&self, source: Source) -> &[usize] {
        match source {
            Source::Node(n) => &self.nodes[n].shape,
            Source::Input(i) => self.spec.inputs[i].kind.shape(),
        }
    }

    /// The output shape and parameters of `op` on `sources`, or what is wrong with them.
    fn infer(&self, op: &Op, sources: &[Source]) -> std::result::Result<Inferred, String> {
        let wants_one = !matches!(op, Op::Concat | Op::Add);
        if wants_one && sources.len() != 1 {
            return Err(format!("reads {} sources, expected one", sources.len()));
        }
        if let Op::Embedding { dims } = op {
            return infer::embedding(*dims, self.input(sources[0]));
        }
        if let Some(input) = sources.iter().filter_map(|s| self.input(*s)).find(|i| i.kind.is_index()) {
            return Err(format!("reads the indices of '{}'; put an embedding between", input.name));
        }
        let shapes: Vec<&[usize]> = sources.iter().map(|s| self.shape(*s)).collect();
        infer::dense(op, &shapes)
    }

    fn input(&self, source: Source) -> Option<&Input> {
        match source {
            Source::Input(i) => Some(&self.spec.inputs[i]),
            Source::Node(_) => None,
        }
    }

    fn check_all_used(&self) -> Result<()> {
        let used = |s: Source| self.nodes.iter().any(|n| n.sources.contains(&s));
        for (i, input) in self.spec.inputs.iter().enumerate() {
            if !used(Source::Input(i)) {
                return Err(Error::argument(format!("no layer reads input '{}'", input.name)));
            }
        }
        for (n, node) in self.nodes.iter().enumerate().take(self.nodes.len() - 1) {
            if !used(Source::Node(n)) {
                return Err(Error::argument(format!("no layer reads layer '{}'", node.name)));
            }
        }
        Ok(())
    }
}

/// Whether samples of an input can be.
fn check_input(input: &Input) -> Result<()> {
    let found = match &input.kind {
        InputKind::Dense { shape } if shape.is_empty() || shape.contains(&0) => {
            format!("shape {shape:?}, expected at least one axis and no empty one")
        }
        InputKind::Dense { shape } => match product(shape) {
            Ok(_) => return Ok(()),
            Err(found) => found,
        },
        InputKind::Index { cardinality: 0 } => "cardinality 0".into(),
        InputKind::Index { .. } => return Ok(()),
    };
    Err(Error::argument(format!("input '{}' has {found}", input.name)))
}
