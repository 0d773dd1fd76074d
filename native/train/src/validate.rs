//! Metrics over the held-out rows of all workers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_engine::{Batch, Loss, Replica, Targets};
use firesteel_error::{Error, Result};

use crate::data::{Gather, Rows};
use crate::group::Group;
use crate::metrics::{self, Mean};

/// What the held-out rows say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Validation {
    pub(crate) loss: f64,
    pub(crate) metric: f64,
}

/// Which metric a training watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Auc,
    Accuracy,
    Rmse,
    /// The loss of a reconstruction.
    Mse,
    /// The loss of a reconstruction, when that is huber.
    Huber,
}

impl Metric {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Metric::Auc => "auc",
            Metric::Accuracy => "accuracy",
            Metric::Rmse => "rmse",
            Metric::Mse => "mse",
            Metric::Huber => "huber",
        }
    }

    /// Whether `a` is a better value than `b`, if there is one yet, by more than this part of it. What is not finite is
    /// never better, and anything finite is better than it.
    pub(crate) fn better(self, a: f64, b: Option<f64>, by: f64) -> bool {
        if !a.is_finite() {
            return false;
        }
        match (self, b.filter(|b| b.is_finite())) {
            (_, None) => true,
            (Metric::Auc | Metric::Accuracy, Some(b)) => a > b + by * b.abs(),
            (Metric::Rmse | Metric::Mse | Metric::Huber, Some(b)) => a < b - by * b.abs(),
        }
    }
}

/// What is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validator {
    pub(crate) metric: Metric,
    pub(crate) loss: Loss,
    /// In which a regression's label is measured.
    pub(crate) unit: f64,
}

/// One worker's part.
#[derive(Default)]
struct Part {
    loss: Mean,
    /// Of correct rows, or of squared differences.
    metric: Mean,
    /// (score, whether class 1, weight), for AUC.
    scores: Vec<(f32, bool, f32)>,
}

/// Rows that are scored at a time: the outputs of all rows would need as much memory as their features.
const PIECE: usize = 4096;

/// Bytes of a score on the wire.
const SCORE: usize = 9;

impl Validator {
    /// Scores this worker's held-out rows and combines them with everyone's.
    pub(crate) fn run(&self, group: &mut Group, replica: &mut Replica, rows: &Rows) -> Result<Validation> {
        let mut part = Part::default();
        let mut gather = Gather::new(rows);
        let mut values = Vec::new();
        for start in (0..rows.len).step_by(PIECE) {
            // `prepare` has checked that a worker's rows fit in an u32.
            let picks: Vec<(u64, u32)> =
                (start..rows.len.min(start + PIECE)).map(|row| (row as u64, row as u32)).collect();
            gather.fill(rows, &picks, start as u64);
            let inputs = gather.inputs();
            values.resize(picks.len() * replica.graph().output_len(), 0.0);
            replica.forward(picks.len(), &inputs, &mut values)?;
            self.score(&gather.batch(&inputs), &values, &mut part);
        }
        let parts = group.gather(part.to_bytes())?;
        let combined = match parts {
            None => Bytes::new(),
            Some(parts) => self.combine(parts)?,
        };
        let mut combined = group.of_rank0(combined)?;
        if combined.len() != 16 {
            return Err(Error::corrupt(format!(
                "rank 0 sent {} bytes of metrics, expected 16",
                combined.len()
            )));
        }
        Ok(Validation { loss: combined.get_f64_le(), metric: combined.get_f64_le() })
    }

    /// Adds rows for which the network gave `values`.
    fn score(&self, batch: &Batch, values: &[f32], part: &mut Part) {
        let outputs = values.len() / batch.rows;
        for (row, output) in values.chunks_exact(outputs).enumerate() {
            let weight = batch.weights.map_or(1.0, |w| w[row]);
            let (loss, metric) = match batch.targets {
                Targets::Classes(classes) => {
                    let class = classes[row];
                    if self.metric == Metric::Auc {
                        let score = if outputs == 1 { output[0] } else { output[1] - output[0] };
                        part.scores.push((score, class == 1, weight));
                    }
                    self.of_class(output, class as usize)
                }
                Targets::Values(targets) => self.of_values(output, &targets[row * outputs..][..outputs]),
            };
            part.loss.add(loss, f64::from(weight));
            part.metric.add(metric, f64::from(weight));
        }
    }

    fn of_class(&self, output: &[f32], class: usize) -> (f64, f64) {
        if let [logit] = output {
            let right = (*logit > 0.0) == (class == 1);
            return (metrics::logistic_loss(*logit, class == 1), f64::from(u8::from(right)));
        }
        let right = metrics::largest(output) == class;
        (metrics::softmax_loss(output, class), f64::from(u8::from(right)))
    }

    /// Means over the outputs.
    fn of_values(&self, output: &[f32], targets: &[f32]) -> (f64, f64) {
        let (mut loss, mut metric) = (0.0, 0.0);
        for (output, target) in output.iter().zip(targets) {
            let (of_loss, of_metric) = self.of_value(*output, *target);
            loss += of_loss;
            metric += of_metric;
        }
        (loss / output.len() as f64, metric / output.len() as f64)
    }

    fn of_value(&self, output: f32, target: f32) -> (f64, f64) {
        let difference = f64::from(output) - f64::from(target);
        let square = difference * difference;
        match self.loss {
            Loss::Huber { delta } => (metrics::huber_loss(difference, f64::from(delta)), square),
            _ => (square, square),
        }
    }

    fn combine(&self, parts: Vec<Bytes>) -> Result<Bytes> {
        let mut all = Part::default();
        for (rank, part) in parts.into_iter().enumerate() {
            all.take(rank, part)?;
        }
        let metric = match self.metric {
            Metric::Auc => metrics::auc(&mut all.scores),
            Metric::Accuracy => all.metric.value(),
            Metric::Rmse => all.metric.value().sqrt() * self.unit,
            Metric::Mse | Metric::Huber => all.loss.value(),
        };
        let mut out = BytesMut::with_capacity(16);
        out.put_f64_le(all.loss.value());
        out.put_f64_le(metric);
        Ok(out.freeze())
    }
}

impl Part {
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + SCORE * self.scores.len());
        for mean in [self.loss, self.metric] {
            let (sum, weight) = mean.parts();
            out.put_f64_le(sum);
            out.put_f64_le(weight);
        }
        for (score, class, weight) in &self.scores {
            out.put_f32_le(*score);
            out.put_u8(u8::from(*class));
            out.put_f32_le(*weight);
        }
        out.freeze()
    }

    fn take(&mut self, rank: usize, mut part: Bytes) -> Result<()> {
        if part.len() < 32 || !(part.len() - 32).is_multiple_of(SCORE) {
            return Err(Error::corrupt(format!("rank {rank} sent {} bytes of scores", part.len())));
        }
        self.loss.merge(Mean::from_parts(part.get_f64_le(), part.get_f64_le()));
        self.metric.merge(Mean::from_parts(part.get_f64_le(), part.get_f64_le()));
        while part.has_remaining() {
            self.scores.push((part.get_f32_le(), part.get_u8() == 1, part.get_f32_le()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_worse_than_anything() {
        for metric in [Metric::Auc, Metric::Accuracy, Metric::Rmse, Metric::Mse, Metric::Huber] {
            for worse in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(
                    !metric.better(worse, None, 0.0) && !metric.better(worse, Some(0.5), 0.0),
                    "{metric:?}"
                );
                assert!(metric.better(0.5, Some(worse), 0.0), "{metric:?}");
            }
            assert!(metric.better(0.5, None, 0.0) && !metric.better(0.5, Some(0.5), 0.0), "{metric:?}");
        }
        assert!(Metric::Auc.better(0.6, Some(0.5), 0.0) && Metric::Rmse.better(0.4, Some(0.5), 0.0));
        // By more than a tenth of it.
        assert!(Metric::Auc.better(0.56, Some(0.5), 0.1) && !Metric::Auc.better(0.54, Some(0.5), 0.1));
        assert!(Metric::Rmse.better(0.44, Some(0.5), 0.1) && !Metric::Rmse.better(0.46, Some(0.5), 0.1));
    }
}
