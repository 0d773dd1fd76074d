//! `index -> (dims)`: a row of a table. The gradient of the table stays sparse: backward notes each sample's row of
//! gradient, and [`Gather`] adds them up by table row once the whole batch is through.

use std::ops::Range;

use firesteel_error::Result;

use crate::batch::Values;
use crate::fuse::{Activation, Stage};
use crate::kernels::gather::{gather, gather_len};
use crate::kernels::lanes::{activate, lanes, lanes_mut, to_rows};
use crate::memory::{LANES, filled};
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Value};
use firesteel_model::{Graph, Source, Table};

/// Emits the layer.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let result = builder.result(stage, &[]);
    sum(builder, &[stage.node], None, result);
    let parameter = builder.graph.nodes()[stage.node].parameters[0];
    let table = builder.graph.tables().iter().position(|t| t.parameter == parameter);
    let table = table.expect("an embedding's weight is a table");
    let stage = *stage;
    Ok(vec![Box::new(move |builder| {
        let gradient = result.gradient.expect("a layer with weights has a gradient");
        let before = dims_before(builder.graph, table);
        builder.call(BackwardCall { before, gradient, dims: result.len }, &[gradient], 0);
        builder.finishes(&stage);
    })])
}

/// Emits the forward of embeddings of equal width that are added up, first to last, and an activation behind them.
pub(super) fn sum(builder: &mut Builder, nodes: &[usize], activation: Option<Activation>, result: Value) {
    let rows = |node: &usize| {
        let node = &builder.graph.nodes()[*node];
        let Source::Input(input) = node.sources[0] else {
            unreachable!("the graph has checked that an embedding reads an input");
        };
        Rows { input, weight: builder.graph.parameters()[node.parameters[0]].range.clone() }
    };
    let tables = nodes.iter().map(rows).collect();
    let forward = Forward { tables, activation, result: result.id, dims: result.len };
    builder.call(forward, &[result.id], gather_len(result.len));
}

/// A table and the input that says which of its rows.
#[derive(Debug)]
struct Rows {
    input: usize,
    weight: Range<usize>,
}

#[derive(Debug)]
struct Forward {
    tables: Vec<Rows>,
    activation: Option<Activation>,
    result: Id,
    dims: usize,
}

// SAFETY: writes the result in the rank's share of blocks only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        let row = |table: usize, sample: usize| {
            let Rows { input, weight } = &self.tables[table];
            let Values::Index(indices) = pass.job.inputs[*input] else {
                unreachable!("the batch was checked against the graph");
            };
            &pass.job.weights[weight.clone()][indices[sample] as usize * self.dims..][..self.dims]
        };
        for block in pass.block_share() {
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there. Scratch is taken
            // once at a time.
            let (to, scratch) =
                unsafe { (pass.write(self.result, block), pass.scratch(gather_len(self.dims))) };
            let first = pass.first + block * LANES;
            let sizes = [self.tables.len(), pass.lanes(block)];
            gather(pass.job.arch, sizes, |table, lane| row(table, first + lane), scratch, lanes_mut(to));
            if let Some(activation) = self.activation {
                activate(pass.job.arch, activation, to);
            }
        }
    }
}

#[derive(Debug)]
struct BackwardCall {
    before: usize,
    gradient: Id,
    dims: usize,
}

// SAFETY: writes the sparse gradient of the rows in the rank's share of blocks only.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        let training = pass.training();
        for block in pass.block_share() {
            let first = pass.first + block * LANES;
            // SAFETY: the rows are in this rank's share of blocks.
            let rows = unsafe { training.sparse(self.before, self.dims, first..first + pass.lanes(block)) };
            to_rows(lanes(pass.read(self.gradient, block)), self.dims, rows);
        }
    }
}

/// The dims of all tables before a table.
pub(crate) fn dims_before(graph: &Graph, table: usize) -> usize {
    graph.tables()[..table].iter().map(|t| t.dims).sum()
}

/// One table while a batch is gathered into it.
#[derive(Debug)]
pub(crate) struct Gather {
    /// The input that holds the table's indices.
    pub(crate) input: usize,
    /// The step at which each row of the table was last seen; the memory that keeps sorting down to distinct rows.
    seen: Vec<u64>,
    now: u64,
}

impl Gather {
    /// One for each table of a network.
    pub(crate) fn all(graph: &Graph) -> Result<Vec<Gather>> {
        let input = |parameter: usize| match graph.nodes()[graph.parameters()[parameter].node].sources[0] {
            Source::Input(input) => input,
            Source::Node(_) => unreachable!("the graph has checked that an embedding reads an input"),
        };
        let one = |t: &Table| Ok(Gather { input: input(t.parameter), seen: filled(t.rows, 0)?, now: 0 });
        graph.tables().iter().map(one).collect()
    }

    /// Lists the distinct rows of `indices` in `touched`, sorted, and sums the gradient `(samples, dims)` of each
    /// sample into its row of `table` `(rows, dims)`. Samples are added in order.
    pub(crate) fn run(
        &mut self,
        indices: &[u32],
        dims: usize,
        gradient: &[f32],
        table: &mut [f32],
        touched: &mut Vec<u32>,
    ) {
        self.now += 1;
        touched.clear();
        for (index, gradient) in indices.iter().zip(gradient.chunks_exact(dims)) {
            let row = &mut table[*index as usize * dims..][..dims];
            let seen = &mut self.seen[*index as usize];
            if *seen != self.now {
                *seen = self.now;
                touched.push(*index);
                row.copy_from_slice(gradient);
            } else {
                row.iter_mut().zip(gradient).for_each(|(to, g)| *to += g);
            }
        }
        touched.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_gets_the_sum_of_each_row_and_keeps_the_rest() {
        let mut gather = Gather { input: 0, seen: vec![0; 5], now: 0 };
        let (mut table, mut touched) = (vec![9.0; 10], Vec::new());
        let gradient = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0];
        for _ in 0..2 {
            gather.run(&[4, 1, 4], 2, &gradient, &mut table, &mut touched);
            assert_eq!(touched, [1, 4]);
            assert_eq!(table, [9.0, 9.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0, 11.0, 22.0]);
        }
        gather.run(&[], 2, &[], &mut table, &mut touched);
        assert!(touched.is_empty());
    }
}
