//! A candidate's steps over a simulated network.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use firesteel_error::{Error, Kind, Result};

use super::candidates::Candidate;
use super::profile::drawn;
use super::{Job, MOST_BUCKETS, MOST_MESSAGES};
use crate::compress::Place;
use crate::fabric::{Fabric, Key, Options};
use crate::simulated::{Network, Simulated, simulated_world};
use crate::strategy::{Computed, Layout, Spec, TableLayout, Tensor, Totals, Update};

/// Values that a worker has for each of the others and each bucket, so that what goes before them is short beside them.
const EACH: usize = 256;
/// The fewest values of a model that has more, and the most of all workers together.
const FEWEST: usize = 1 << 16;
const MOST: usize = 1 << 25;
/// Of a worker's thread, in bytes.
const STACK: usize = 1 << 19;

/// What is trained in the place of a job's model.
#[derive(Debug)]
pub(super) struct Shape {
    layout: Layout,
    /// Rows that a worker touches of each table.
    touched: Vec<usize>,
    /// How many times as long the job's vectors are, and how many times as many its buckets.
    longer: f64,
    more: f64,
}

impl Shape {
    pub(super) fn new(job: &Job) -> Shape {
        let dense = (job.model_bytes / 4) as usize;
        let all = dense as f64 + job.tables.iter().map(|table| (table.rows * table.dims) as f64).sum::<f64>();
        let most = (MOST / job.workers).max(EACH);
        let buckets = job.model_bytes.div_ceil(job.bucket_bytes) as usize;
        let few = (MOST_MESSAGES / job.workers.pow(2)).clamp(1, MOST_BUCKETS);
        let wanted = (buckets.min(few) * job.workers * EACH).max(FEWEST).min(most);
        let longer = (all / wanted as f64).max(1.0);
        let shorter = |count: f64| ((count / longer).round() as usize).max(1);
        let dense_len = shorter(dense as f64);
        let fit = (dense_len / (job.workers * EACH / 4)).clamp(1, few);
        let fewer = buckets.min(fit);
        let mut layout = Layout {
            len: dense_len,
            dense_len,
            tensors: vec![Tensor { range: 0..dense_len, shape: vec![dense_len] }],
            tables: Vec::new(),
            bucket_len: dense_len.div_ceil(fewer),
        };
        let mut touched = Vec::new();
        for table in &job.tables {
            let (rows, dims) = (shorter(table.rows as f64), table.dims as usize);
            let range = layout.len..layout.len + rows * dims;
            layout.len = range.end;
            layout.tables.push(TableLayout { range, rows, dims });
            touched.push(shorter(table.touched as f64).min(rows));
        }
        Shape { layout, touched, longer, more: buckets as f64 / fewer as f64 }
    }

    /// A network on which vectors as long as these take as long as the job's on the network that is.
    fn network(&self, network: &Network) -> Network {
        let mut scaled = network.clone();
        scaled.bandwidth /= self.longer;
        scaled.per_message *= self.more;
        for link in scaled.links.values_mut() {
            link.bandwidth /= self.longer;
            link.per_message *= self.more;
        }
        scaled
    }
}

/// What a step took.
#[derive(Debug)]
pub(super) struct Trial {
    /// On the clock of the slowest worker.
    pub(super) seconds: f64,
    /// Of the worker that sends most, of the job's size.
    pub(super) bytes: u64,
}

/// Steps as they go on, after as many that are not counted.
pub(super) fn run(candidate: &Candidate, job: &Job, shape: &Shape, network: &Network) -> Result<Trial> {
    let spec: Spec = candidate.tried.parse()?;
    let fabrics = simulated_world(job.workers, &shape.network(network), &Options::default())?;
    let done: Vec<Result<[Mark; 2]>> = thread::scope(|scope| {
        let start = |fabric: Simulated| {
            let (spec, fabric) = (&spec, Arc::new(fabric));
            let work = move || {
                let done = train(&fabric, spec, candidate.steps, job.step_seconds, shape);
                done.inspect_err(|e| fabric.abort(e))
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work)
        };
        let threads: Vec<_> = fabrics.into_iter().map(start).collect();
        let join = |thread: std::io::Result<thread::ScopedJoinHandle<'_, _>>| {
            let thread =
                thread.map_err(|e| Error::new(Kind::Io, "a worker's thread cannot be had").with_source(e))?;
            thread.join().unwrap_or_else(|_| Err(Error::internal("a worker panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let marks = done.into_iter().collect::<Result<Vec<_>>>()?;
    let when = |nth: usize| marks.iter().map(|of_rank| of_rank[nth].time).fold(0.0, f64::max);
    let most = marks.iter().map(|[from, to]| to.sent - from.sent).max().unwrap_or(0);
    let steps = candidate.steps as f64;
    Ok(Trial { seconds: (when(1) - when(0)) / steps, bytes: (most as f64 * shape.longer / steps) as u64 })
}

/// Where a worker is.
#[derive(Clone, Copy, Debug)]
struct Mark {
    time: f64,
    sent: u64,
}

/// Steps that nobody looks at, and then as many more: where the worker was before and behind these.
fn train(fabric: &Arc<Simulated>, spec: &Spec, steps: u64, seconds: f64, shape: &Shape) -> Result<[Mark; 2]> {
    let layout = &shape.layout;
    let mut strategy = spec.build(fabric.clone(), layout, 1)?;
    let place = Place { seed: 1, key: Key::new(0, 0, 0), rank: fabric.rank(), part: 0 };
    let gradient = drawn(place.own(), layout.len);
    let mut weights = vec![0.0; layout.len];
    let mark = || Mark { time: fabric.now(), sent: fabric.sent() };
    let mut before = mark();
    for step in 0..2 * steps {
        if step == steps {
            before = mark();
        }
        let touched = touched(shape, fabric.rank(), step);
        fabric.compute(seconds / 3.0);
        strategy.begin(step, Totals { loss: 1.0, weight: 1.0 })?;
        for start in (0..layout.dense_len).step_by(layout.bucket_len) {
            let range = start..(start + layout.bucket_len).min(layout.dense_len);
            fabric.compute(seconds * 2.0 / 3.0 * range.len() as f64 / layout.dense_len as f64);
            strategy.ready(range.clone(), &gradient[range])?;
        }
        let computed = Computed { weights: &mut weights, gradient: &gradient, touched: &touched };
        strategy.finish(computed, &mut Descent)?;
    }
    Ok([before, mark()])
}

/// Sorted rows of each table, drawn.
fn touched(shape: &Shape, rank: usize, step: u64) -> Vec<Vec<u32>> {
    let of_table = |(nth, (table, count)): (usize, (&TableLayout, &usize))| {
        let place = Place { seed: 2, key: Key::new(step, 0, 0), rank, part: nth as u32 };
        let draw = place.own();
        let rows: BTreeSet<u32> =
            (0..*count as u64).map(|i| (draw.word(i) % table.rows as u64) as u32).collect();
        rows.into_iter().collect()
    };
    shape.layout.tables.iter().zip(&shape.touched).enumerate().map(of_table).collect()
}

/// Plain gradient descent in small steps.
struct Descent;

impl Update for Descent {
    fn update(&mut self, _: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]) {
        weights.iter_mut().zip(gradient_sum).for_each(|(weight, g)| *weight -= self.rate() * scale * g);
    }

    fn rate(&self) -> f32 {
        1e-3
    }
}
