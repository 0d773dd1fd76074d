//! Trainings of several GPUs that add gradients up among themselves, beside as many replicas on the CPU whose gradients are added
//! up here.

use std::sync::Arc;
use std::time::Duration;

use firesteel_engine::{
    Gpu, Loss, Mode, Moments, Optimizer, Peers, PlanConfig, Precision, Replica, Totals, Watch,
};
use firesteel_error::{Error, Result};
use firesteel_model::Graph;

use super::networks::{Rows, replica};
use super::presets::loss_of;

/// What is trained.
#[derive(Clone)]
pub struct Case {
    pub graph: Arc<Graph>,
    pub precision: Precision,
    pub optimizer: Optimizer,
    pub rate: f32,
    pub steps: u64,
    /// The most rows of a worker.
    pub most: usize,
    /// A step whose rows weigh so much that the gradient of f16 overflows.
    pub heavy: Option<u64>,
}

/// What a worker ends with.
pub struct Outcome {
    pub weights: Vec<f32>,
    pub state: Vec<Vec<f32>>,
    /// Of each step, over all workers.
    pub totals: Vec<(u64, Totals)>,
}

impl Case {
    fn loss(&self) -> Loss {
        loss_of(&self.graph)
    }

    fn start(&self) -> Replica {
        replica(&self.graph, self.most, 1, Mode::Wide, self.loss())
    }

    /// A worker's rows of a step: full batches, batches that are filled up, those that are not, and none. The rows of the fourth
    /// step weigh nothing.
    fn rows(&self, rank: usize, t: u64) -> Rows {
        let sizes = [self.most, self.most - 1, self.most, self.most / 3, 0];
        let mut rows =
            Rows::new(&self.graph, sizes[(rank + t as usize) % sizes.len()], 100 * t + rank as u64);
        match t {
            4 => rows.weights.fill(0.0),
            _ if self.heavy == Some(t) => rows.weights.fill(500.0),
            _ => {}
        }
        rows
    }

    /// On GPUs, a worker each; by rank.
    pub fn on(&self, gpus: &[Gpu]) -> Result<Vec<Outcome>> {
        let invitation = gpus[0].invitation()?;
        std::thread::scope(|scope| {
            let one = |(rank, gpu)| {
                let invitation = &invitation;
                scope.spawn(move || {
                    let watch = Watch { check: Box::new(|| Ok(())), deadline: Duration::from_secs(60) };
                    self.train(rank, gpu, gpu.join(invitation, [rank, gpus.len()], watch)?, || ())
                })
            };
            let all: Vec<_> = gpus.iter().enumerate().map(one).collect();
            let panicked = |_| Err(Error::internal("a worker panicked"));
            all.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect()
        })
    }

    /// A worker's part; `ended` is called when all steps have been done, or one has failed, before it leaves.
    pub fn train(&self, rank: usize, gpu: &Gpu, peers: Peers, ended: impl FnOnce()) -> Result<Outcome> {
        let (rows, loss, precision) = (self.most, self.loss(), self.precision);
        let config = PlanConfig { rows, threads: 1, mode: Mode::Auto, loss, seed: 3, precision };
        let mut replica = Replica::on(gpu, self.graph.clone(), config)?;
        replica.weights_mut().copy_from_slice(self.start().weights());
        replica.train_with(self.optimizer, Some(peers))?;
        let totals = self.steps(rank, &mut replica);
        ended();
        let (totals, state) = (totals?, replica.optimizer_state()?.unwrap_or_default());
        Ok(Outcome { weights: replica.weights().to_vec(), state, totals })
    }

    fn steps(&self, rank: usize, replica: &mut Replica) -> Result<Vec<(u64, Totals)>> {
        let mut totals = Vec::new();
        for t in 1..=self.steps {
            let rows = self.rows(rank, t);
            let inputs = rows.inputs();
            totals.extend(replica.train(t, &rows.batch(&inputs, self.loss()), self.rate, t)?);
        }
        totals.extend(replica.settle()?);
        Ok(totals)
    }

    /// On the CPU, in f32.
    pub fn on_cpu(&self, workers: usize) -> Result<Outcome> {
        let mut replicas: Vec<Replica> = (0..workers).map(|_| self.start()).collect();
        let mut moments = Moments::new(self.optimizer, self.graph.len())?;
        let mut weights = replicas[0].weights().to_vec();
        let mut all = Vec::new();
        for t in 1..=self.steps {
            let mut gradient = vec![0.0f32; weights.len()];
            let mut touched = vec![false; weights.len()];
            touched[..self.graph.dense_len()].fill(true);
            let mut totals = Totals::default();
            for (rank, replica) in replicas.iter_mut().enumerate() {
                let rows = self.rows(rank, t);
                let inputs = rows.inputs();
                replica.weights_mut().copy_from_slice(&weights);
                let of_rank = replica.step(t, &rows.batch(&inputs, self.loss()), &mut ())?;
                totals.loss += of_rank.loss;
                totals.weight += of_rank.weight;
                for (nth, table) in self.graph.tables().iter().enumerate() {
                    for row in replica.touched(nth) {
                        let start = table.range.start + *row as usize * table.dims;
                        let range = start..start + table.dims;
                        touched[range.clone()].fill(true);
                        let of_rank = &replica.gradient()[range.clone()];
                        gradient[range].iter_mut().zip(of_rank).for_each(|(sum, g)| *sum += g);
                    }
                }
                let dense = ..self.graph.dense_len();
                let of_rank = &replica.gradient()[dense];
                gradient[dense].iter_mut().zip(of_rank).for_each(|(sum, g)| *sum += g);
            }
            all.push((t, totals));
            if totals.weight > 0.0 {
                let scale = (1.0 / totals.weight) as f32;
                for place in (0..weights.len()).filter(|place| touched[*place]) {
                    let (weight, g) = (&mut weights[place..=place], &gradient[place..=place]);
                    moments.update(place, self.rate, t, scale, weight, g);
                }
            }
        }
        Ok(Outcome { weights, state: moments.slots().to_vec(), totals: all })
    }
}
