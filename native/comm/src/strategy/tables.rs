//! Tables whose rows have owners, who update them.

use std::ops::Range;

use bytes::Bytes;
use firesteel_error::{Error, Result};

use super::rows;
use super::{Owned, Update};
use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::sparse::Rows;

/// A table of the flat vector whose gradient is non-zero in few rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableLayout {
    /// Its place in the flat vector.
    pub range: Range<usize>,
    /// The number of rows.
    pub rows: usize,
    /// The width of a row.
    pub dims: usize,
}

impl TableLayout {
    /// A row's place in the flat vector.
    pub(super) fn row(&self, row: u32) -> Range<usize> {
        let start = self.range.start + row as usize * self.dims;
        start..start + self.dims
    }
}

/// All tables of a network; row r belongs to worker r mod world.
#[derive(Debug)]
pub(super) struct Tables {
    layouts: Vec<TableLayout>,
    /// Where each table's rows begin among all that this worker owns.
    at: Vec<usize>,
    end: usize,
    /// Of each table, the rows that any worker's part of the last step has changed.
    changed: Vec<Vec<u32>>,
}

impl Tables {
    /// Behind `at` other weights that this worker owns.
    ///
    /// # Errors
    /// `InvalidArgument` for a table whose range is not rows × dims.
    pub(super) fn new(layouts: &[TableLayout], at: usize, fabric: &dyn Fabric) -> Result<Tables> {
        if let Some(table) = layouts.iter().find(|t| t.range.len() != t.rows * t.dims) {
            let TableLayout { range, rows, dims } = table;
            return Err(Error::argument(format!("a table of {rows} rows of {dims} at {range:?}")));
        }
        let (rank, world) = (fabric.rank(), fabric.world());
        let mut end = at;
        let mut begin = |table: &TableLayout| {
            let at = end;
            end += table.rows.saturating_sub(rank).div_ceil(world) * table.dims;
            at
        };
        let at = layouts.iter().map(&mut begin).collect();
        Ok(Tables { layouts: layouts.to_vec(), at, end, changed: vec![Vec::new(); layouts.len()] })
    }

    /// How many weights this worker owns, those before the tables included.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    pub(super) fn changed(&self) -> &[Vec<u32>] {
        &self.changed
    }

    pub(super) fn owned<'a>(&'a self, fabric: &dyn Fabric) -> impl Iterator<Item = Owned> + use<'a> {
        let (rank, world) = (fabric.rank(), fabric.world());
        self.layouts.iter().zip(&self.at).flat_map(move |(table, at)| {
            (rank..table.rows).step_by(world).enumerate().map(move |(nth, row)| {
                let at = at + nth * table.dims;
                Owned { at, range: table.row(row as u32), first: true }
            })
        })
    }

    /// Sends the touched rows of all tables to their owners, as one message a peer.
    pub(super) fn post(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        gradient: &[f32],
        touched: &[Vec<u32>],
    ) -> Result<Option<Pending>> {
        self.changed.iter_mut().for_each(Vec::clear);
        if self.layouts.is_empty() {
            return Ok(None);
        }
        let parts = rows::by_owner(&self.layouts, touched, gradient, fabric.world());
        fabric.shuffle(key, parts).map(Some)
    }

    /// Sums and updates the rows that this worker owns, and sends their new values to everyone. Without a scale nothing is updated.
    pub(super) fn update(
        &self,
        (fabric, key): (&dyn Fabric, Key),
        posted: Option<Pending>,
        scale: Option<f32>,
        weights: &mut [f32],
        update: &mut dyn Update,
    ) -> Result<Option<Pending>> {
        let Some(posted) = posted else { return Ok(None) };
        let (rank, world) = (fabric.rank(), fabric.world());
        let parts: Vec<Bytes> = posted.wait()?;
        let summed = rows::sum(&parts, &self.layouts, rank, world)?;
        for ((table, at), Rows { rows, values }) in self.layouts.iter().zip(&self.at).zip(&summed) {
            let Some(scale) = scale else { break };
            for (row, sum) in rows.iter().zip(values.chunks_exact(table.dims)) {
                let at = at + *row as usize / world * table.dims;
                update.update(at, scale, &mut weights[table.row(*row)], sum);
            }
        }
        let changed: Vec<Vec<u32>> = summed.into_iter().map(|s| s.rows).collect();
        fabric.broadcast(key, rows::collect(&self.layouts, &changed, weights)).map(Some)
    }

    /// Takes the new values of all owners.
    pub(super) fn take(&mut self, sent: Option<Pending>, world: usize, weights: &mut [f32]) -> Result<()> {
        let Some(sent) = sent else { return Ok(()) };
        for (rank, part) in sent.wait()?.into_iter().enumerate() {
            rows::scatter(part, [rank, world], &self.layouts, weights, &mut self.changed)?;
        }
        Ok(())
    }

    /// One worker owns everything: no message, no copy, no allocation.
    pub(super) fn update_alone(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        touched: &[Vec<u32>],
        scale: Option<f32>,
        update: &mut dyn Update,
    ) {
        for (changed, touched) in self.changed.iter_mut().zip(touched) {
            changed.clear();
            changed.extend(touched);
        }
        let Some(scale) = scale else { return };
        for ((table, at), touched) in self.layouts.iter().zip(&self.at).zip(touched) {
            for row in touched {
                let range = table.row(*row);
                let at = at + *row as usize * table.dims;
                update.update(at, scale, &mut weights[range.clone()], &gradient[range]);
            }
        }
    }
}
