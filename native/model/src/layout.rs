//! Where parameters lie in the flat vector.

use firesteel_error::{Error, Result};

use crate::graph::{ALIGNMENT, MOST_VALUES, Node, Parameter, Table};
use crate::infer::Unplaced;

/// The flat vector.
#[derive(Default)]
pub(crate) struct Layout {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) tables: Vec<Table>,
    pub(crate) dense_len: usize,
    pub(crate) len: usize,
}

/// The next place where a tensor may start.
pub(crate) fn align(offset: usize) -> usize {
    offset.next_multiple_of(ALIGNMENT)
}

/// Gives each parameter its place: dense ones in backward order, then tables.
pub(crate) fn place(nodes: &mut [Node], unplaced: &[Vec<Unplaced>]) -> Result<Layout> {
    let mut layout = Layout::default();
    for want_tables in [false, true] {
        for (n, unplaced) in unplaced.iter().enumerate().rev() {
            for p in unplaced.iter().filter(|p| p.table == want_tables) {
                nodes[n].parameters.push(layout.parameters.len());
                layout.add(n, &nodes[n], p)?;
            }
        }
        if !want_tables {
            layout.dense_len = layout.len;
        }
    }
    Ok(layout)
}

impl Layout {
    fn add(&mut self, n: usize, node: &Node, p: &Unplaced) -> Result<()> {
        // Each has at most MOST_VALUES, so the sum cannot wrap before it is refused.
        let range = self.len..self.len + p.len;
        self.len = align(range.end);
        if self.len > MOST_VALUES {
            return Err(Error::argument(format!(
                "layer '{}' ({}): the network has more than {MOST_VALUES} weights with its {} of {:?}",
                node.name,
                node.op.name(),
                p.suffix,
                p.shape
            )));
        }
        if p.table {
            let (rows, dims) = (p.shape[0], p.shape[1]);
            self.tables.push(Table { parameter: self.parameters.len(), rows, dims, range: range.clone() });
        }
        let name = format!("{}.{}", node.name, p.suffix);
        self.parameters.push(Parameter { name, node: n, shape: p.shape.clone(), range, init: p.init });
        Ok(())
    }
}
