//! Owners update with whatever gradients have come, and nobody waits for the slowest more than it must.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Kind, Result};

use super::{Computed, Layout, Owned, Strategy, Totals, Update};
use crate::collective::{barrier, slice_of};
use crate::fabric::{Fabric, Key};
use crate::wire;
use crate::words::{ranks, seconds};

/// Of pushes, of new weights, of the ends of epochs: there are no other messages.
const PUSHES: u32 = 0;
const WEIGHTS: u32 = 1;
const ENDS: u32 = 2;
/// How long a worker that waits sleeps before it looks for what is lost.
const LOOK: Duration = Duration::from_millis(20);

/// A parameter server whose servers are the workers: each owns a slice of the weights and its optimizer's state. Gradients are sent
/// to the owners, who update with what has come and send their slice to everyone; each goes on with the latest that it has.
///
/// Worker i begins its step c when every owner has said that all gradients of steps up to c − s − 1 are in what it sent, s the
/// staleness: stale synchronous parallel (Ho et al. 2013); with s = 0 it gives what [`super::Sharded`] gives, and without a bound it is
/// asynchronous (Recht et al. 2011, Dean et al. 2012). A worker that waits serves. Each gradient counts once; those of m among n
/// workers are m/n of a step of plain SGD; an optimizer that keeps moments makes a step of its own of them. Owners hold back
/// gradients that are more than s steps ahead of the slowest.
///
/// With [`Stale::fetching`] it is DOWNPOUR (Dean et al. 2012): each worker has weights of its own.
///
/// At an epoch's end all gradients are in, and all have the same weights. Each worker sends 2·(n−1)/n of the weights a step, up to
/// twice as much back where it serves while it waits. For networks without tables.
pub struct Stale {
    fabric: Arc<dyn Fabric>,
    len: usize,
    /// None: no bound.
    staleness: Option<u64>,
    /// Steps whose gradients travel together.
    every: u64,
    /// In how many steps a worker that makes steps of its own takes the owners' weights; none: it makes none.
    fetch: Option<u64>,
    totals: Totals,
    /// Whether a step of this epoch has been made.
    begun: bool,
    /// What this owner has since then.
    slice: Vec<f32>,
    /// Steps since the owners' weights were taken.
    alone: u64,
    /// Of the steps that have not been sent: Σ gradients, Σ weights.
    sum: Vec<f32>,
    weight: f64,
    unsent: u64,
    /// Pushes made so far, on each worker as many at an epoch's end.
    pushed: u64,
    /// Of each worker, how many pushes have come here, and those that are held back.
    heard: Vec<u64>,
    held: Vec<Push>,
    /// Pushes of all workers that are in what this owner has: all before it.
    complete: u64,
    /// Slices that this worker has sent, and has had of each owner; what the latest say of `complete`.
    sent: u64,
    had: Vec<u64>,
    known: Vec<u64>,
    /// The latest slices: those that have not been taken, or all where workers make steps of their own.
    latest: Vec<Option<Bytes>>,
}

struct Push {
    rank: usize,
    number: u64,
    /// How many steps it stands for.
    steps: f64,
    weight: f64,
    gradient: Bytes,
}

/// Bytes before a push's gradient: its steps and weight.
const HEAD: usize = 16;

impl Stale {
    /// With a bound of so many steps, or none; each worker sends its gradients in every so many steps.
    ///
    /// # Errors
    /// `InvalidArgument` for a network with tables, and for gradients that would never be sent.
    pub fn new(
        fabric: Arc<dyn Fabric>,
        layout: &Layout,
        staleness: Option<u64>,
        every: u64,
    ) -> Result<Stale> {
        if !layout.tables.is_empty() {
            let found = layout.tables.len();
            return Err(Error::argument(format!("a network with {found} embedding tables, expected none")));
        }
        if every == 0 {
            return Err(Error::argument("every is 0, expected at least 1"));
        }
        let world = fabric.world();
        Ok(Stale {
            fabric,
            len: layout.len,
            staleness,
            every,
            fetch: None,
            totals: Totals::default(),
            begun: false,
            slice: Vec::new(),
            alone: 0,
            sum: vec![0.0; layout.len],
            weight: 0.0,
            unsent: 0,
            pushed: 0,
            heard: vec![0; world],
            held: Vec::new(),
            complete: 0,
            sent: 0,
            had: vec![0; world],
            known: vec![0; world],
            latest: vec![None; world],
        })
    }

    /// With weights of its own for each worker: by each gradient it makes a step of plain SGD at once, and in every so many steps it
    /// takes what the owners have by then. What it sends stands for as many steps as it made.
    ///
    /// # Errors
    /// `InvalidArgument` where the owners' weights would never be taken.
    pub fn fetching(self, fetch: u64) -> Result<Stale> {
        match fetch {
            0 => Err(Error::argument("fetch is 0, expected at least 1")),
            _ => Ok(Stale { fetch: Some(fetch), ..self }),
        }
    }

    fn own(&self) -> Range<usize> {
        slice_of(self.len, self.fabric.rank(), self.fabric.world())
    }

    /// Begins an epoch with this owner's slice of the weights that all have.
    fn own_what_is_there(&mut self, weights: &[f32]) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.slice = weights[self.own()].to_vec();
        // What a worker takes where an owner has sent nothing yet.
        if self.fetch.is_some() {
            let world = self.fabric.world();
            let of = |owner| Some(wire::f32s(&weights[slice_of(self.len, owner, world)]));
            self.latest = (0..world).map(of).collect();
        }
    }

    /// Sends what has not been sent to the owners.
    fn push(&mut self) -> Result<()> {
        let world = self.fabric.world();
        let steps = if self.fetch.is_some() { self.unsent } else { 1 };
        let part = |owner| {
            let slice = slice_of(self.len, owner, world);
            let mut part = BytesMut::with_capacity(HEAD + 4 * slice.len());
            part.put_f64_le(steps as f64);
            part.put_f64_le(self.weight);
            wire::put_f32s(&mut part, &self.sum[slice]);
            (owner, part.freeze())
        };
        let parts = (0..world).map(part).collect();
        // Nobody waits here for an answer.
        drop(self.fabric.exchange(Key::new(self.pushed, PUSHES, 0), parts, &[])?);
        self.sum.fill(0.0);
        (self.weight, self.unsent) = (0.0, 0);
        self.pushed += 1;
        Ok(())
    }

    /// What a worker has sent under a key, if it has come.
    fn next(&self, key: Key, rank: usize) -> Result<Option<Bytes>> {
        let come = self.fabric.exchange(key, vec![], &[rank])?.poll();
        Ok(come.and_then(|mut parts| parts.pop()))
    }

    /// Takes in the gradients that have come.
    fn hear(&mut self) -> Result<()> {
        for rank in 0..self.fabric.world() {
            let key = |number| Key::new(number, PUSHES, 0);
            while let Some(mut part) = self.next(key(self.heard[rank]), rank)? {
                if part.len() != HEAD + 4 * self.own().len() {
                    let (found, expected) = (part.len(), HEAD + 4 * self.own().len());
                    return Err(Error::corrupt(format!(
                        "rank {rank} sent {found} bytes, expected {expected}"
                    )));
                }
                let (steps, weight) = (part.get_f64_le(), part.get_f64_le());
                if ![steps, weight].iter().all(|value| value.is_finite() && *value >= 0.0) {
                    return Err(Error::corrupt(format!(
                        "rank {rank} sent gradients of {steps} steps with a weight of {weight}, expected finite numbers of 0 and up"
                    )));
                }
                self.held.push(Push { rank, number: self.heard[rank], steps, weight, gradient: part });
                self.heard[rank] += 1;
            }
        }
        Ok(())
    }

    /// Updates with the gradients that may count by now; whether all of a number did that had not.
    fn apply(&mut self, update: &mut dyn Update) -> Result<bool> {
        let complete = self.heard.iter().copied().min().unwrap_or(0);
        let ahead =
            self.staleness.map_or(u64::MAX, |steps| complete.saturating_add(steps.div_ceil(self.every)));
        let (mut ready, held): (Vec<Push>, _) = self.held.drain(..).partition(|push| push.number < ahead);
        self.held = held;
        ready.sort_by_key(|push| (push.number, push.rank));
        for round in ready.chunk_by(|a, b| a.number == b.number) {
            let mut sum = vec![0.0; self.slice.len()];
            for push in round {
                wire::add_f32s(&push.gradient, &mut sum, push.rank)?;
            }
            let weight: f64 = round.iter().map(|push| push.weight).sum();
            if weight > 0.0 && !self.slice.is_empty() {
                let steps: f64 = round.iter().map(|push| push.steps).sum();
                let share = steps / self.fabric.world() as f64;
                update.update(0, (share / weight) as f32, &mut self.slice, &sum);
            }
        }
        let more = complete > self.complete;
        self.complete = complete;
        Ok(more)
    }

    /// Sends this owner's slice to everyone.
    fn publish(&mut self) -> Result<()> {
        let mut part = BytesMut::with_capacity(8 + 4 * self.slice.len());
        part.put_u64_le(self.complete);
        wire::put_f32s(&mut part, &self.slice);
        let part = part.freeze();
        let others = (0..self.fabric.world()).filter(|rank| *rank != self.fabric.rank());
        let parts = others.map(|rank| (rank, part.clone())).collect();
        drop(self.fabric.exchange(Key::new(self.sent, WEIGHTS, 0), parts, &[])?);
        self.sent += 1;
        Ok(())
    }

    /// Takes in the latest slices of the others.
    fn read(&mut self) -> Result<()> {
        let (rank, world) = (self.fabric.rank(), self.fabric.world());
        self.known[rank] = self.complete;
        for owner in (0..world).filter(|owner| *owner != rank) {
            let mut latest = None;
            while let Some(part) = self.next(Key::new(self.had[owner], WEIGHTS, 0), owner)? {
                latest = Some(part);
                self.had[owner] += 1;
            }
            let Some(mut part) = latest else { continue };
            if part.len() < 8 {
                let found = part.len();
                return Err(Error::corrupt(format!("rank {owner} sent {found} bytes, expected at least 8")));
            }
            self.known[owner] = part.get_u64_le();
            self.latest[owner] = Some(part);
        }
        Ok(())
    }

    /// Goes on with what the owners have sent, and with what this one has.
    fn take(&mut self, weights: &mut [f32]) -> Result<()> {
        let world = self.fabric.world();
        self.alone = 0;
        weights[self.own()].copy_from_slice(&self.slice);
        let rank = self.fabric.rank();
        for (owner, latest) in self.latest.iter_mut().enumerate().filter(|(owner, _)| *owner != rank) {
            // Who makes no steps of its own has it already once it is taken.
            let part = if self.fetch.is_some() { latest.clone() } else { latest.take() };
            if let Some(part) = part {
                wire::copy_f32s(&part, &mut weights[slice_of(self.len, owner, world)], owner)?;
            }
        }
        Ok(())
    }

    /// A step of this worker's own, where it makes such.
    fn step(&mut self, weights: &mut [f32], gradient: &[f32], rate: f32) {
        if self.fetch.is_some() && self.totals.weight > 0.0 {
            let scale = rate / self.totals.weight as f32;
            weights.iter_mut().zip(gradient).for_each(|(weight, g)| *weight -= scale * g);
        }
    }

    /// Serves until all owners have all pushes before `number` in what they sent here.
    fn serve_until(&mut self, number: u64, update: &mut dyn Update) -> Result<()> {
        let behind = |of: &[u64]| -> Vec<usize> { (0..of.len()).filter(|rank| of[*rank] < number).collect() };
        // When anything came last from one of those that are waited for, and how much had by then.
        let (mut since, mut come) = (Instant::now(), Vec::new());
        let mut least = 0;
        loop {
            let arrivals = self.fabric.arrivals();
            self.hear()?;
            if self.apply(update)? {
                self.publish()?;
            }
            self.read()?;
            least = least.max(self.known.iter().copied().min().unwrap_or(0));
            if least >= number {
                return Ok(());
            }
            self.fabric.check()?;
            let (of_gradients, of_weights) = (behind(&self.heard), behind(&self.known));
            let so_far = |rank: &usize| (*rank, self.heard[*rank] + self.had[*rank]);
            let now: Vec<_> = of_gradients.iter().chain(&of_weights).map(so_far).collect();
            if now != come {
                (since, come) = (Instant::now(), now);
            } else if since.elapsed() > self.fabric.deadline() {
                let (what, late) = match of_gradients.is_empty() {
                    true => ("weights", of_weights),
                    false => ("gradients", of_gradients),
                };
                let (rank, span) = (self.fabric.rank(), seconds(self.fabric.deadline()));
                let text = format!("rank {rank} waited {span} for {what} of {}", ranks(&late));
                return Err(Error::new(Kind::Timeout, text));
            }
            self.fabric.wait_beyond(arrivals, LOOK);
        }
    }
}

impl Strategy for Stale {
    fn owned_len(&self) -> usize {
        self.own().len()
    }

    fn owned(&self) -> Box<dyn Iterator<Item = Owned> + '_> {
        Box::new(std::iter::once(Owned { at: 0, range: self.own(), first: true }))
    }

    fn begin(&mut self, _: u64, totals: Totals) -> Result<()> {
        self.totals = totals;
        Ok(())
    }

    fn finish(&mut self, computed: Computed<'_>, update: &mut dyn Update) -> Result<Totals> {
        let Computed { weights, gradient, .. } = computed;
        self.own_what_is_there(weights);
        self.step(weights, gradient, update.rate());
        self.sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        self.weight += self.totals.weight;
        self.unsent += 1;
        if self.unsent == self.every {
            self.push()?;
        }
        self.hear()?;
        let before = self.held.len();
        self.apply(update)?;
        if self.held.len() < before {
            self.publish()?;
        }
        // What is in no push yet is no older than what is.
        let must = self.staleness.map_or(0, |steps| self.pushed.saturating_sub(steps.div_ceil(self.every)));
        self.serve_until(must, update)?;
        self.alone += 1;
        if self.fetch.is_none_or(|fetch| self.alone >= fetch) {
            self.take(weights)?;
        }
        Ok(self.totals)
    }

    fn changed_rows(&self) -> &[Vec<u32>] {
        &[]
    }

    fn agrees(&self) -> bool {
        false
    }

    fn settle(&mut self, weights: &mut [f32], update: &mut dyn Update) -> Result<()> {
        self.own_what_is_there(weights);
        if self.unsent > 0 {
            self.push()?;
        }
        self.serve_until(self.pushed, update)?;
        self.take(weights)?;
        self.begun = false;
        // Before that nobody sends what belongs to the next epoch.
        barrier(self.fabric.as_ref(), Key::new(self.pushed, ENDS, 0))
    }
}
