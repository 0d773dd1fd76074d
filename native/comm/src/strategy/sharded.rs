//! The default strategy, BigDL's: gradient slices are shuffled to their owners, each owner sums its slice and runs the
//! optimizer on it, and the new weights are broadcast. The optimizer's state is divided by the number of workers.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::rows::{self, Rows};
use crate::collective::{reduce, slice_of};
use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::wire;

const GRADIENTS: u16 = 0;
const WEIGHTS: u16 = 1;

/// Bytes of [`Totals`] on the wire.
const TOTALS: usize = 16;

/// Slices begin at multiples of this many f32, as tensors do.
const ALIGNMENT: usize = 16;

/// Sums over the rows of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Σ wᵢ·lossᵢ.
    pub loss: f64,
    /// Σ wᵢ.
    pub weight: f64,
}

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

/// The optimizer, as an owner sees it.
pub trait Update {
    /// Updates `weights` from the sum of gradients over all workers; `scale`, 1/Σ wᵢ, makes it a mean. `at` is the
    /// place of the first weight among all weights that this worker owns.
    fn update(&mut self, at: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]);
}

/// One range of the dense part that travels as one message a peer.
#[derive(Debug)]
struct Bucket {
    range: Range<usize>,
    /// This worker's slice, and its place among all that it owns.
    own: Range<usize>,
    at: usize,
}

/// One worker's part in the strategy, with its buffers.
pub struct Sharded {
    fabric: Arc<dyn Fabric>,
    buckets: Vec<Bucket>,
    tables: Vec<TableLayout>,
    /// Where each table's rows begin among all that this worker owns.
    tables_at: Vec<usize>,
    owned_len: usize,
    sum: Vec<f32>,
    step: u64,
    totals: Totals,
    /// Dense gradients up to here have been staged.
    staged: usize,
    staging: Vec<BytesMut>,
    posted: Vec<Pending>,
    /// Of each table, the rows that any worker's part of the last step has changed.
    changed: Vec<Vec<u32>>,
}

impl std::fmt::Debug for Sharded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sharded")
            .field("buckets", &self.buckets)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl Sharded {
    /// Divides `0..dense_len` into buckets of about `bucket_len` f32, each bucket among all workers, and the rows of
    /// each table by row mod world.
    ///
    /// # Errors
    /// `InvalidArgument` for a `bucket_len` of 0 or a table whose range is not rows × dims.
    pub fn new(
        fabric: Arc<dyn Fabric>,
        dense_len: usize,
        tables: &[TableLayout],
        bucket_len: usize,
    ) -> Result<Sharded> {
        if bucket_len == 0 {
            return Err(Error::argument("buckets of 0 values, expected at least 1"));
        }
        if let Some(table) = tables.iter().find(|t| t.range.len() != t.rows * t.dims) {
            return Err(Error::argument(format!(
                "a table of {} rows of {} at {:?}",
                table.rows, table.dims, table.range
            )));
        }
        let (rank, world) = (fabric.rank(), fabric.world());
        let mut owned_len = 0;
        let mut buckets = Vec::new();
        let mut start = 0;
        // One bucket at least: totals ride on it.
        while start < dense_len || buckets.is_empty() {
            let end = (start + bucket_len.next_multiple_of(ALIGNMENT)).min(dense_len);
            let own = bucket_slice(&(start..end), rank, world);
            buckets.push(Bucket { range: start..end, own: own.clone(), at: owned_len });
            owned_len += own.len();
            start = end.max(start + 1);
        }
        let mut tables_at = Vec::new();
        for table in tables {
            tables_at.push(owned_len);
            owned_len += owned_rows(table.rows, rank, world) * table.dims;
        }
        let longest = buckets.iter().map(|b| b.own.len()).max().unwrap_or(0);
        Ok(Sharded {
            fabric,
            buckets,
            tables: tables.to_vec(),
            tables_at,
            owned_len,
            sum: vec![0.0; longest],
            step: 0,
            totals: Totals::default(),
            staged: 0,
            staging: Vec::new(),
            posted: Vec::new(),
            changed: vec![Vec::new(); tables.len()],
        })
    }

    /// How many workers there are.
    pub fn world(&self) -> usize {
        self.fabric.world()
    }

    /// How many weights this worker updates: the size of its optimizer state.
    pub fn owned_len(&self) -> usize {
        self.owned_len
    }

    /// The rows of each table that the last step has changed, in no order.
    pub fn changed_rows(&self) -> &[Vec<u32>] {
        &self.changed
    }

    /// What this worker owns: pairs of a place among its own weights and a range of the flat vector.
    pub fn owned(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let (rank, world) = (self.fabric.rank(), self.fabric.world());
        let dense = self.buckets.iter().map(|b| (b.at, b.own.clone()));
        let rows = self.tables.iter().zip(&self.tables_at).flat_map(move |(table, at)| {
            (rank..table.rows).step_by(world).enumerate().map(move |(nth, row)| {
                let start = table.range.start + row * table.dims;
                (at + nth * table.dims, start..start + table.dims)
            })
        });
        dense.chain(rows)
    }

    /// Starts a step with this worker's totals. `step` grows from call to call and is the same on all workers.
    pub fn begin(&mut self, step: u64, totals: Totals) {
        self.step = step;
        self.totals = totals;
        self.staged = 0;
        self.posted.clear();
        self.staging.clear();
    }

    /// Takes the finished gradient of `range`; ranges follow each other. Posts every bucket that is complete.
    ///
    /// # Errors
    /// Those of [`Fabric`]; `Internal` when ranges do not follow each other.
    pub fn ready(&mut self, range: Range<usize>, gradient: &[f32]) -> Result<()> {
        if self.fabric.world() == 1 {
            return Ok(());
        }
        if range.start != self.staged || range.len() != gradient.len() {
            return Err(Error::internal(format!("gradient of {range:?} follows {}", self.staged)));
        }
        while self.posted.len() < self.buckets.len() {
            let bucket = self.buckets[self.posted.len()].range.clone();
            self.stage(&bucket, &range, gradient);
            if self.staged < bucket.end {
                break;
            }
            self.post()?;
        }
        Ok(())
    }

    /// Copies the overlap of `range` and `bucket` into the parts of its owners.
    fn stage(&mut self, bucket: &Range<usize>, range: &Range<usize>, gradient: &[f32]) {
        let world = self.fabric.world();
        if self.staging.is_empty() {
            for owner in 0..world {
                let mut part = BytesMut::with_capacity(TOTALS + 4 * bucket_slice(bucket, owner, world).len());
                part.put_f64_le(self.totals.loss);
                part.put_f64_le(self.totals.weight);
                self.staging.push(part);
            }
        }
        for owner in 0..world {
            let slice = bucket_slice(bucket, owner, world);
            let overlap = slice.start.max(range.start)..slice.end.min(range.end);
            if !overlap.is_empty() {
                let local = overlap.start - range.start..overlap.end - range.start;
                wire::put_f32s(&mut self.staging[owner], &gradient[local]);
            }
        }
        self.staged = self.staged.max(range.end.min(bucket.end));
    }

    fn post(&mut self) -> Result<()> {
        let parts = self.staging.drain(..).map(BytesMut::freeze).collect();
        let key = self.key(self.posted.len(), GRADIENTS);
        self.posted.push(self.fabric.shuffle(key, parts)?);
        Ok(())
    }

    fn key(&self, bucket: usize, phase: u16) -> Key {
        Key::new(self.step, u32::try_from(bucket).unwrap_or(u32::MAX), phase)
    }

    /// Ends the step: owners update, and all workers end with the same `weights`. `touched[t]` holds the sorted
    /// distinct rows of table t whose gradient this worker has; no other row of a table is looked at or changed.
    ///
    /// Returns the totals over all workers. When their weight is 0 nothing is updated.
    ///
    /// # Errors
    /// Those of [`Fabric`]; `Internal` when not all of the dense gradient was [`Sharded::ready`].
    pub fn finish(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        touched: &[Vec<u32>],
        update: &mut dyn Update,
    ) -> Result<Totals> {
        self.changed.iter_mut().for_each(Vec::clear);
        if self.fabric.world() == 1 {
            self.update_alone(weights, gradient, touched, update);
            self.changed.iter_mut().zip(touched).for_each(|(to, touched)| to.extend(touched));
            return Ok(self.totals);
        }
        let of_rows = self.post_rows(gradient, touched)?;
        if self.posted.is_empty() && self.buckets[0].range.is_empty() {
            self.ready(0..0, &[])?;
        }
        if self.posted.len() != self.buckets.len() {
            let (found, expected) = (self.posted.len(), self.buckets.len());
            return Err(Error::internal(format!(
                "{found} of {expected} buckets are ready at the step's end"
            )));
        }
        let mut totals = Totals::default();
        let mut updated = Vec::with_capacity(self.buckets.len());
        for (number, pending) in std::mem::take(&mut self.posted).into_iter().enumerate() {
            let mut parts = pending.wait()?;
            totals = sum_totals(&mut parts)?;
            let own = self.buckets[number].own.clone();
            let sum = &mut self.sum[..own.len()];
            reduce(&parts, sum)?;
            if totals.weight > 0.0 && !own.is_empty() {
                let scale = (1.0 / totals.weight) as f32;
                update.update(self.buckets[number].at, scale, &mut weights[own.clone()], sum);
            }
            updated.push(self.fabric.broadcast(self.key(number, WEIGHTS), wire::f32s(&weights[own]))?);
        }
        let rows = self.update_rows(of_rows, totals, weights, update)?;
        self.take_weights(updated, weights)?;
        if let Some(rows) = rows {
            for (rank, part) in rows.wait()?.into_iter().enumerate() {
                rows::scatter(part, [rank, self.fabric.world()], &self.tables, weights, &mut self.changed)?;
            }
        }
        Ok(totals)
    }

    fn take_weights(&self, updated: Vec<Pending>, weights: &mut [f32]) -> Result<()> {
        let (rank, world) = (self.fabric.rank(), self.fabric.world());
        for (bucket, pending) in self.buckets.iter().zip(updated) {
            for (owner, part) in pending.wait()?.iter().enumerate() {
                if owner != rank {
                    wire::copy_f32s(part, &mut weights[bucket_slice(&bucket.range, owner, world)], owner)?;
                }
            }
        }
        Ok(())
    }

    /// One worker owns everything: no message, no copy, no allocation.
    fn update_alone(
        &self,
        weights: &mut [f32],
        gradient: &[f32],
        touched: &[Vec<u32>],
        update: &mut dyn Update,
    ) {
        if self.totals.weight <= 0.0 {
            return;
        }
        let scale = (1.0 / self.totals.weight) as f32;
        for bucket in self.buckets.iter().filter(|b| !b.own.is_empty()) {
            update.update(bucket.at, scale, &mut weights[bucket.own.clone()], &gradient[bucket.own.clone()]);
        }
        for ((table, at), touched) in self.tables.iter().zip(&self.tables_at).zip(touched) {
            for row in touched {
                let start = table.range.start + *row as usize * table.dims;
                let range = start..start + table.dims;
                let at = at + *row as usize * table.dims;
                update.update(at, scale, &mut weights[range.clone()], &gradient[range]);
            }
        }
    }

    /// Sends the touched rows of all tables to their owners, as one message a peer.
    fn post_rows(&self, gradient: &[f32], touched: &[Vec<u32>]) -> Result<Option<Pending>> {
        if self.tables.is_empty() {
            return Ok(None);
        }
        let parts = rows::by_owner(&self.tables, touched, gradient, self.fabric.world());
        self.fabric.shuffle(self.key(self.buckets.len(), GRADIENTS), parts).map(Some)
    }

    /// Sums and updates the rows that this worker owns, and sends their new values to everyone.
    fn update_rows(
        &mut self,
        posted: Option<Pending>,
        totals: Totals,
        weights: &mut [f32],
        update: &mut dyn Update,
    ) -> Result<Option<Pending>> {
        let Some(posted) = posted else { return Ok(None) };
        let (rank, world) = (self.fabric.rank(), self.fabric.world());
        let parts: Vec<Bytes> = posted.wait()?;
        let summed = rows::sum(&parts, &self.tables, rank, world)?;
        if totals.weight > 0.0 {
            let scale = (1.0 / totals.weight) as f32;
            for (t, Rows { rows, values }) in summed.iter().enumerate() {
                let table = &self.tables[t];
                for (row, sum) in rows.iter().zip(values.chunks_exact(table.dims)) {
                    let at = self.tables_at[t] + *row as usize / world * table.dims;
                    let start = table.range.start + *row as usize * table.dims;
                    update.update(at, scale, &mut weights[start..start + table.dims], sum);
                }
            }
        }
        let changed: Vec<Vec<u32>> = summed.into_iter().map(|s| s.rows).collect();
        let part = rows::collect(&self.tables, &changed, weights);
        self.fabric.broadcast(self.key(self.buckets.len(), WEIGHTS), part).map(Some)
    }
}

/// The slice of a bucket that `owner` owns, cut at multiples of 16 f32.
fn bucket_slice(bucket: &Range<usize>, owner: usize, world: usize) -> Range<usize> {
    let blocks = slice_of(bucket.len().div_ceil(ALIGNMENT), owner, world);
    let place = |block: usize| (bucket.start + block * ALIGNMENT).min(bucket.end);
    place(blocks.start)..place(blocks.end)
}

/// How many of `rows` rows belong to `rank`.
fn owned_rows(rows: usize, rank: usize, world: usize) -> usize {
    rows.saturating_sub(rank).div_ceil(world)
}

/// Takes the totals off the parts and adds them, in rank order.
fn sum_totals(parts: &mut [Bytes]) -> Result<Totals> {
    let mut totals = Totals::default();
    for (rank, part) in parts.iter_mut().enumerate() {
        if part.len() < TOTALS {
            return Err(Error::corrupt(format!(
                "rank {rank} sent {} bytes, expected at least {TOTALS}",
                part.len()
            )));
        }
        totals.loss += part.get_f64_le();
        totals.weight += part.get_f64_le();
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::Options;
    use crate::join::local_world;

    #[test]
    fn owners_partition_the_flat_vector() {
        let tables = [TableLayout { range: 112..133, rows: 7, dims: 3 }];
        for world in 1..5 {
            let mut seen = vec![0; 133];
            for fabric in local_world(world, &Options::default()).unwrap() {
                let sharded = Sharded::new(Arc::new(fabric), 112, &tables, 48).unwrap();
                let mut places: Vec<usize> = Vec::new();
                for (at, range) in sharded.owned() {
                    places.extend(at..at + range.len());
                    range.for_each(|i| seen[i] += 1);
                }
                assert_eq!(places, (0..sharded.owned_len()).collect::<Vec<_>>());
            }
            assert!(seen.iter().all(|n| *n == 1), "{world} workers own {seen:?}");
        }
    }
}
