//! The default strategy, BigDL's: gradient slices are shuffled to their owners, each owner sums its slice and runs the
//! optimizer on it, and the new weights are broadcast. The optimizer's state is divided by the number of workers.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::tables::Tables;
use super::{Computed, Layout, Owned, Strategy, Totals, Update};
use crate::collective::{reduce, slice_of};
use crate::fabric::{Fabric, Key};
use crate::mailbox::Pending;
use crate::plan::{self, ALIGNMENT};
use crate::wire;

const GRADIENTS: u16 = 0;
const WEIGHTS: u16 = 1;

/// Bytes of [`Totals`] on the wire.
pub(super) const TOTALS: usize = 16;

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
    tables: Tables,
    sum: Vec<f32>,
    step: u64,
    totals: Totals,
    /// Dense gradients up to here have been staged.
    staged: usize,
    staging: Vec<BytesMut>,
    posted: Vec<Pending>,
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
    /// Divides the dense part into buckets, each bucket among all workers, and the rows of each table by row mod world.
    ///
    /// # Errors
    /// `InvalidArgument` for buckets of 0 values or a table whose range is not rows × dims.
    pub fn new(fabric: Arc<dyn Fabric>, layout: &Layout) -> Result<Sharded> {
        let (rank, world) = (fabric.rank(), fabric.world());
        let mut owned_len = 0;
        let mut buckets = Vec::new();
        for range in cut(layout)? {
            let own = bucket_slice(&range, rank, world);
            let at = owned_len;
            owned_len += own.len();
            buckets.push(Bucket { range, own, at });
        }
        let longest = buckets.iter().map(|b| b.own.len()).max().unwrap_or(0);
        let tables = Tables::new(&layout.tables, owned_len, fabric.as_ref())?;
        Ok(Sharded {
            fabric,
            buckets,
            tables,
            sum: vec![0.0; longest],
            step: 0,
            totals: Totals::default(),
            staged: 0,
            staging: Vec::new(),
            posted: Vec::new(),
        })
    }

    /// Copies the overlap of `range` and `bucket` into the parts of its owners.
    fn stage(&mut self, bucket: &Range<usize>, range: &Range<usize>, gradient: &[f32]) {
        let world = self.fabric.world();
        if self.staging.is_empty() {
            for owner in 0..world {
                let mut part = BytesMut::with_capacity(TOTALS + 4 * bucket_slice(bucket, owner, world).len());
                put_totals(&mut part, self.totals);
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
    fn update_alone(&mut self, computed: Computed<'_>, update: &mut dyn Update) {
        let Computed { weights, gradient, touched } = computed;
        let scale = (self.totals.weight > 0.0).then(|| (1.0 / self.totals.weight) as f32);
        for bucket in self.buckets.iter().filter(|b| !b.own.is_empty()) {
            let Some(scale) = scale else { break };
            update.update(bucket.at, scale, &mut weights[bucket.own.clone()], &gradient[bucket.own.clone()]);
        }
        self.tables.update_alone(weights, gradient, touched, scale, update);
    }
}

impl Strategy for Sharded {
    fn owned_len(&self) -> usize {
        self.tables.end()
    }

    fn owned(&self) -> Box<dyn Iterator<Item = Owned> + '_> {
        let dense = self.buckets.iter().map(|b| Owned { at: b.at, range: b.own.clone(), first: true });
        Box::new(dense.chain(self.tables.owned(self.fabric.as_ref())))
    }

    fn begin(&mut self, step: u64, totals: Totals) -> Result<()> {
        self.step = step;
        self.totals = totals;
        self.staged = 0;
        self.posted.clear();
        self.staging.clear();
        Ok(())
    }

    fn ready(&mut self, range: Range<usize>, gradient: &[f32]) -> Result<()> {
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

    fn finish(&mut self, computed: Computed<'_>, update: &mut dyn Update) -> Result<Totals> {
        if self.fabric.world() == 1 {
            self.update_alone(computed, update);
            return Ok(self.totals);
        }
        let Computed { weights, gradient, touched } = computed;
        let fabric = self.fabric.clone();
        let behind = self.buckets.len();
        let of_rows = self.tables.post(fabric.as_ref(), self.key(behind, GRADIENTS), gradient, touched)?;
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
        let mut scale = None;
        let mut updated = Vec::with_capacity(self.buckets.len());
        for (number, pending) in std::mem::take(&mut self.posted).into_iter().enumerate() {
            let mut parts = pending.wait()?;
            totals = sum_totals(&mut parts)?;
            scale = (totals.weight > 0.0).then(|| (1.0 / totals.weight) as f32);
            let own = self.buckets[number].own.clone();
            let sum = &mut self.sum[..own.len()];
            reduce(&parts, sum)?;
            if let Some(scale) = scale.filter(|_| !own.is_empty()) {
                update.update(self.buckets[number].at, scale, &mut weights[own.clone()], sum);
            }
            updated.push(self.fabric.broadcast(self.key(number, WEIGHTS), self.fabric.part(&weights[own]))?);
        }
        let key = self.key(behind, WEIGHTS);
        let of_rows = self.tables.update((fabric.as_ref(), key), of_rows, scale, weights, update)?;
        self.take_weights(updated, weights)?;
        self.tables.take(of_rows, fabric.world(), weights)?;
        Ok(totals)
    }

    fn changed_rows(&self) -> &[Vec<u32>] {
        self.tables.changed()
    }

    fn agrees(&self) -> bool {
        true
    }
}

/// The dense part in buckets; one at least, as totals ride on it.
///
/// # Errors
/// `InvalidArgument` for buckets of 0 values.
pub(super) fn cut(layout: &Layout) -> Result<Vec<Range<usize>>> {
    if layout.bucket_len == 0 {
        return Err(Error::argument("buckets of 0 values, expected at least 1"));
    }
    let mut buckets = plan::fixed(0..layout.dense_len, layout.bucket_len);
    if buckets.is_empty() {
        buckets.push(0..0);
    }
    Ok(buckets)
}

/// The slice of a bucket that `owner` owns, cut at multiples of 16 f32.
fn bucket_slice(bucket: &Range<usize>, owner: usize, world: usize) -> Range<usize> {
    let blocks = slice_of(bucket.len().div_ceil(ALIGNMENT), owner, world);
    let place = |block: usize| (bucket.start + block * ALIGNMENT).min(bucket.end);
    place(blocks.start)..place(blocks.end)
}

/// Takes the totals off the parts and adds them, in rank order.
pub(super) fn sum_totals(parts: &mut [Bytes]) -> Result<Totals> {
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

/// Puts them before a part.
pub(super) fn put_totals(part: &mut BytesMut, totals: Totals) {
    part.put_f64_le(totals.loss);
    part.put_f64_le(totals.weight);
}

#[cfg(test)]
mod tests {
    use super::super::TableLayout;
    use super::*;
    use crate::fabric::Options;
    use crate::join::local_world;

    #[test]
    fn owners_partition_the_flat_vector() {
        let tables = vec![TableLayout { range: 112..133, rows: 7, dims: 3 }];
        let layout = Layout { len: 133, dense_len: 112, tables, bucket_len: 48, ..Layout::default() };
        for world in 1..5 {
            let mut seen = vec![0; 133];
            for fabric in local_world(world, &Options::default()).unwrap() {
                let sharded = Sharded::new(Arc::new(fabric), &layout).unwrap();
                let mut places: Vec<usize> = Vec::new();
                for Owned { at, range, first } in sharded.owned() {
                    places.extend(at..at + range.len());
                    range.for_each(|i| seen[i] += 1);
                    assert!(first);
                }
                assert_eq!(places, (0..sharded.owned_len()).collect::<Vec<_>>());
            }
            assert!(seen.iter().all(|n| *n == 1), "{world} workers own {seen:?}");
        }
    }
}
