//! Losses and their gradients by the logits, with PyTorch's definitions and a weight a row.

use std::ops::Range;

use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::batch::{Targets, Totals};

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// −log softmax(logits)\[class\].
    SoftmaxCrossEntropy,
    /// −y·log σ(x) − (1−y)·log(1−σ(x)) on logits x, a mean over the outputs. Targets are values in 0 to 1, or, for
    /// one output, the classes 0 and 1.
    BinaryCrossEntropy,
    /// (x−y)², a mean over the outputs.
    MeanSquaredError,
    /// ½(x−y)² within `delta`, delta·(|x−y|−½delta) beyond; a mean over the outputs (Huber 1964).
    Huber {
        /// Where it turns linear.
        delta: f32,
    },
}

impl Loss {
    /// The name a configuration uses.
    pub fn name(&self) -> &'static str {
        match self {
            Loss::SoftmaxCrossEntropy => "softmax_cross_entropy",
            Loss::BinaryCrossEntropy => "binary_cross_entropy",
            Loss::MeanSquaredError => "mean_squared_error",
            Loss::Huber { .. } => "huber",
        }
    }

    /// Whether a network of `outputs` can be trained with it.
    ///
    /// # Errors
    /// `InvalidArgument` naming the loss, what was found and what was expected.
    pub fn check_outputs(&self, outputs: usize) -> Result<()> {
        match *self {
            Loss::SoftmaxCrossEntropy if outputs < 2 => Err(Error::argument(format!(
                "softmax_cross_entropy needs at least 2 outputs, the network has {outputs}"
            ))),
            Loss::Huber { delta } if !(delta > 0.0 && delta.is_finite()) => {
                Err(Error::argument(format!("huber's delta is {delta}, expected above 0 and finite")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the targets and weights of a batch fit the loss and each other. [`Loss::backward`] relies on it.
    ///
    /// # Errors
    /// `InvalidData` naming the row, what was found and what was expected.
    pub fn check_batch(
        &self,
        outputs: usize,
        rows: usize,
        targets: Targets<'_>,
        weights: Option<&[f32]>,
    ) -> Result<()> {
        self.check_kind(outputs, targets)?;
        match targets {
            Targets::Classes(classes) => self.check_classes(outputs, rows, classes)?,
            Targets::Values(values) => self.check_values(outputs, rows, values)?,
        }
        let Some(weights) = weights else { return Ok(()) };
        if weights.len() != rows {
            return Err(Error::data(format!("the batch has {rows} rows and {} weights", weights.len())));
        }
        match weights.iter().position(|w| !(*w >= 0.0 && w.is_finite())) {
            Some(row) => Err(Error::data(format!(
                "row {row} of the batch has weight {}, expected at least 0 and finite",
                weights[row]
            ))),
            None => Ok(()),
        }
    }

    fn check_classes(&self, outputs: usize, rows: usize, classes: &[u32]) -> Result<()> {
        let classes_known = if *self == Loss::SoftmaxCrossEntropy { outputs } else { 2 };
        if classes.len() != rows {
            return Err(Error::data(format!("the batch has {rows} rows and {} classes", classes.len())));
        }
        match classes.iter().position(|class| *class as usize >= classes_known) {
            Some(row) => Err(Error::data(format!(
                "row {row} of the batch has class {}, expected below {classes_known}",
                classes[row]
            ))),
            None => Ok(()),
        }
    }

    fn check_values(&self, outputs: usize, rows: usize, values: &[f32]) -> Result<()> {
        if rows.checked_mul(outputs) != Some(values.len()) {
            return Err(Error::data(format!(
                "the batch has {} target values, expected {outputs} for each of {rows} rows",
                values.len()
            )));
        }
        let binary = *self == Loss::BinaryCrossEntropy;
        let fits = |y: f32| if binary { (0.0..=1.0).contains(&y) } else { y.is_finite() };
        match values.iter().position(|y| !fits(*y)) {
            Some(at) => Err(Error::data(format!(
                "row {} of the batch has target {}, expected {}",
                at / outputs,
                values[at],
                if binary { "0 to 1" } else { "a finite value" }
            ))),
            None => Ok(()),
        }
    }

    /// The loss of a block of at most `LANES` rows, and its gradient by the logits.
    ///
    /// `logits` and `gradient` are `(outputs, LANES)`, row `rows.start + lane` of the batch in each lane; with one
    /// lane that is a row of a row-major matrix. `targets` and `weights` are those of the whole batch. Lanes past
    /// `rows` may hold anything and get gradient 0. The gradient is wᵢ ∂lossᵢ/∂logits, the result Σ wᵢ·lossᵢ and
    /// Σ wᵢ.
    ///
    /// # Errors
    /// `InvalidData` when the targets are not of the loss's kind.
    ///
    /// # Panics
    /// When a vector is shorter than [`Loss::check_batch`] wants it, a class is not of the network's, or `rows` has
    /// more than `LANES`.
    pub fn backward<const LANES: usize>(
        &self,
        logits: &[f32],
        rows: Range<usize>,
        targets: Targets<'_>,
        weights: Option<&[f32]>,
        gradient: &mut [f32],
    ) -> Result<Totals> {
        let outputs = logits.len() / LANES;
        self.check_kind(outputs, targets)?;
        let mut block_weights = [0.0; LANES];
        match weights {
            Some(weights) => block_weights[..rows.len()].copy_from_slice(&weights[rows.clone()]),
            None => block_weights[..rows.len()].fill(1.0),
        }
        let losses = match (*self, targets) {
            (Loss::SoftmaxCrossEntropy, Targets::Classes(classes)) => {
                softmax::<LANES>(logits, &classes[rows.clone()], &block_weights, gradient)
            }
            (loss, targets) => {
                loss.by_value::<LANES>(logits, rows.clone(), targets, &block_weights, gradient)
            }
        };
        for output in 0..outputs {
            gradient[output * LANES..][rows.len()..LANES].fill(0.0);
        }
        let mut totals = Totals::default();
        for lane in 0..rows.len() {
            totals.loss += f64::from(block_weights[lane]) * losses[lane];
            totals.weight += f64::from(block_weights[lane]);
        }
        Ok(totals)
    }

    /// Whether targets are of the loss's kind.
    fn check_kind(&self, outputs: usize, targets: Targets<'_>) -> Result<()> {
        let (read, found) = match (self, targets) {
            (Loss::SoftmaxCrossEntropy, Targets::Values(_)) => ("classes", "values"),
            (Loss::BinaryCrossEntropy, Targets::Classes(_)) if outputs == 1 => return Ok(()),
            (Loss::BinaryCrossEntropy | Loss::MeanSquaredError | Loss::Huber { .. }, Targets::Classes(_)) => {
                ("values", "classes")
            }
            _ => return Ok(()),
        };
        Err(Error::data(format!("{} on {outputs} outputs reads {read}, the batch has {found}", self.name())))
    }

    /// The losses that are a mean over the outputs of a function of one logit and one target.
    fn by_value<const LANES: usize>(
        self,
        logits: &[f32],
        rows: Range<usize>,
        targets: Targets<'_>,
        weights: &[f32; LANES],
        gradient: &mut [f32],
    ) -> [f64; LANES] {
        let outputs = logits.len() / LANES;
        let share = 1.0 / outputs as f32;
        let mut losses = [0.0; LANES];
        for (lane, row) in rows.enumerate() {
            for output in 0..outputs {
                let y = match targets {
                    Targets::Values(values) => values[row * outputs + output],
                    Targets::Classes(classes) => classes[row] as f32,
                };
                let at = output * LANES + lane;
                let (loss, slope) = self.of(logits[at], y);
                losses[lane] += f64::from(loss);
                gradient[at] = weights[lane] * share * slope;
            }
            losses[lane] /= outputs as f64;
        }
        losses
    }

    /// The loss of one logit and its derivative.
    fn of(self, x: f32, y: f32) -> (f32, f32) {
        let d = x - y;
        match self {
            Loss::BinaryCrossEntropy | Loss::SoftmaxCrossEntropy => {
                // e^−|x| neither overflows nor cancels: log(1+eˣ) = max(x, 0) + log(1+e^−|x|).
                let e = (-x.abs()).exp();
                let sigmoid = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
                (x.max(0.0) - x * y + e.ln_1p(), sigmoid - y)
            }
            Loss::MeanSquaredError => (d * d, 2.0 * d),
            Loss::Huber { delta } if d.abs() <= delta => (0.5 * d * d, d),
            Loss::Huber { delta } => (delta * (d.abs() - 0.5 * delta), delta.copysign(d)),
        }
    }
}

/// Softmax cross-entropy of a block, shifted by each row's largest logit so that nothing overflows.
fn softmax<const LANES: usize>(
    logits: &[f32],
    classes: &[u32],
    weights: &[f32; LANES],
    gradient: &mut [f32],
) -> [f64; LANES] {
    let (values, _) = logits.as_chunks::<LANES>();
    let (slopes, _) = gradient.as_chunks_mut::<LANES>();
    let lanes = classes.len();
    let mut top = [f32::NEG_INFINITY; LANES];
    for value in values {
        for lane in 0..LANES {
            top[lane] = top[lane].max(value[lane]);
        }
    }
    let mut sum = [0.0; LANES];
    for (slope, value) in slopes.iter_mut().zip(values) {
        for lane in 0..lanes {
            slope[lane] = (value[lane] - top[lane]).exp();
            sum[lane] += slope[lane];
        }
    }
    let mut scale = [0.0; LANES];
    for lane in 0..lanes {
        scale[lane] = weights[lane] / sum[lane];
    }
    for slope in slopes.iter_mut() {
        for lane in 0..lanes {
            slope[lane] *= scale[lane];
        }
    }
    let mut losses = [0.0; LANES];
    for (lane, class) in classes.iter().enumerate() {
        let class = *class as usize;
        slopes[class][lane] -= weights[lane];
        losses[lane] = f64::from(sum[lane].ln()) + f64::from(top[lane]) - f64::from(values[class][lane]);
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Loss; 4] = [
        Loss::SoftmaxCrossEntropy,
        Loss::BinaryCrossEntropy,
        Loss::MeanSquaredError,
        Loss::Huber { delta: 0.7 },
    ];

    /// One row of the definition, in f64, stable or not.
    fn reference(loss: Loss, logits: &[f64], class: usize, values: &[f64]) -> f64 {
        let mean = |f: &dyn Fn(f64, f64) -> f64| {
            logits.iter().zip(values).map(|(x, y)| f(*x, *y)).sum::<f64>() / logits.len() as f64
        };
        match loss {
            Loss::SoftmaxCrossEntropy => logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[class],
            Loss::BinaryCrossEntropy => mean(&|x, y| {
                let p = 1.0 / (1.0 + (-x).exp());
                -y * p.ln() - (1.0 - y) * (1.0 - p).ln()
            }),
            Loss::MeanSquaredError => mean(&|x, y| (x - y).powi(2)),
            Loss::Huber { delta } => mean(&|x, y| {
                let (d, delta) = ((x - y).abs(), f64::from(delta));
                if d <= delta { 0.5 * d * d } else { delta * (d - 0.5 * delta) }
            }),
        }
    }

    /// A batch whose every value is different.
    struct Case {
        outputs: usize,
        logits: Vec<f32>,
        classes: Vec<u32>,
        values: Vec<f32>,
        weights: Vec<f32>,
    }

    impl Case {
        fn new(rows: usize, outputs: usize) -> Case {
            let wave = |i: usize, f: f32| (i as f32 * f).sin();
            Case {
                outputs,
                logits: (0..rows * outputs).map(|i| 2.5 * wave(i, 0.83)).collect(),
                classes: (0..rows).map(|i| (i * 7 % outputs) as u32).collect(),
                values: (0..rows * outputs).map(|i| 0.5 + 0.5 * wave(i, 1.7)).collect(),
                weights: (0..rows).map(|i| 1.0 + wave(i, 2.1)).collect(),
            }
        }

        fn targets(&self, loss: Loss) -> Targets<'_> {
            match loss {
                Loss::SoftmaxCrossEntropy => Targets::Classes(&self.classes),
                _ => Targets::Values(&self.values),
            }
        }

        /// Row-major gradient and totals, computed in blocks of `LANES`.
        fn run<const LANES: usize>(&self, loss: Loss) -> (Vec<f32>, Totals) {
            let rows = self.classes.len();
            loss.check_batch(self.outputs, rows, self.targets(loss), Some(&self.weights)).unwrap();
            let mut gradient = vec![0.0; self.logits.len()];
            let mut totals = Totals::default();
            for start in (0..rows).step_by(LANES) {
                let block = start..rows.min(start + LANES);
                let mut logits = vec![f32::NAN; self.outputs * LANES];
                let mut out = vec![f32::NAN; self.outputs * LANES];
                for (lane, row) in block.clone().enumerate() {
                    for o in 0..self.outputs {
                        logits[o * LANES + lane] = self.logits[row * self.outputs + o];
                    }
                }
                let targets = self.targets(loss);
                let part = loss
                    .backward::<LANES>(&logits, block.clone(), targets, Some(&self.weights), &mut out)
                    .unwrap();
                totals.loss += part.loss;
                totals.weight += part.weight;
                for o in 0..self.outputs {
                    for lane in 0..LANES {
                        match out[o * LANES + lane] {
                            g if lane < block.len() => gradient[(start + lane) * self.outputs + o] = g,
                            g => assert_eq!(g, 0.0, "a lane without a row"),
                        }
                    }
                }
            }
            (gradient, totals)
        }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 2e-6 * expected.abs().max(1.0), "{found}, expected {expected}");
    }

    fn one(loss: Loss, logits: &[f32], targets: Targets) -> (f64, Vec<f32>) {
        let mut gradient = vec![0.0; logits.len()];
        let totals = loss.backward::<1>(logits, 0..1, targets, None, &mut gradient).unwrap();
        (totals.loss, gradient)
    }

    #[test]
    fn softmax_literal() {
        // softmax(0, ln 2, 0) = ¼, ½, ¼.
        let (loss, gradient) = one(Loss::SoftmaxCrossEntropy, &[0.0, 2f32.ln(), 0.0], Targets::Classes(&[1]));
        near(loss, 2f64.ln());
        assert!(gradient.iter().zip([0.25, -0.5, 0.25]).all(|(g, e)| (g - e).abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn binary_literal_by_class_and_by_value() {
        let logit = [3f32.ln()];
        for targets in [Targets::Classes(&[1]), Targets::Values(&[1.0])] {
            let (loss, gradient) = one(Loss::BinaryCrossEntropy, &logit, targets);
            near(loss, -0.75f64.ln());
            near(f64::from(gradient[0]), -0.25);
        }
    }

    #[test]
    fn squares_and_huber_literal() {
        let targets = [0.0, 1.0];
        let (loss, gradient) = one(Loss::MeanSquaredError, &[3.0, 0.0], Targets::Values(&targets));
        near(loss, 5.0);
        assert_eq!(gradient, [3.0, -1.0]);
        let (loss, gradient) = one(Loss::Huber { delta: 2.0 }, &[3.0, 0.0], Targets::Values(&targets));
        near(loss, (2.0 * 2.0 + 0.5) / 2.0);
        assert_eq!(gradient, [1.0, -0.5]);
    }

    #[test]
    fn gradients_equal_finite_differences_in_f64() {
        for loss in ALL {
            for (rows, outputs) in [(1, 2), (7, 3), (16, 10), (37, 1), (5, 101)] {
                if loss.check_outputs(outputs).is_err() {
                    continue;
                }
                let case = Case::new(rows, outputs);
                let (gradient, totals) = case.run::<16>(loss);
                let (mut sum, mut weight) = (0.0, 0.0);
                for row in 0..rows {
                    let part = row * outputs..(row + 1) * outputs;
                    let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
                    let (mut logits, values) =
                        (wide(&case.logits[part.clone()]), wide(&case.values[part.clone()]));
                    let w = f64::from(case.weights[row]);
                    let class = case.classes[row] as usize;
                    sum += w * reference(loss, &logits, class, &values);
                    weight += w;
                    for o in 0..outputs {
                        let middle = logits[o];
                        let mut at = |x| {
                            logits[o] = x;
                            reference(loss, &logits, class, &values)
                        };
                        let slope = (at(middle + 1e-5) - at(middle - 1e-5)) / 2e-5;
                        logits[o] = middle;
                        near(f64::from(gradient[part.start + o]), w * slope);
                    }
                }
                near(totals.loss, sum);
                near(totals.weight, weight);
            }
        }
    }

    #[test]
    fn lanes_do_not_change_a_bit() {
        for loss in ALL {
            let case = Case::new(19, 5);
            let (narrow, wide) = (case.run::<1>(loss), case.run::<16>(loss));
            assert_eq!(narrow.0, wide.0);
            near(narrow.1.loss, wide.1.loss);
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        let (loss, gradient) = one(Loss::SoftmaxCrossEntropy, &[1e4, -1e4, 0.0], Targets::Classes(&[1]));
        assert_eq!((loss, gradient.as_slice()), (2e4, [1.0, -1.0, 0.0].as_slice()));
        for (x, y, expected) in [(1e4, 1.0, 0.0), (1e4, 0.0, 1e4), (-1e4, 1.0, 1e4), (-1e4, 0.0, 0.0)] {
            let (loss, gradient) = one(Loss::BinaryCrossEntropy, &[x], Targets::Values(&[y]));
            assert_eq!(loss, expected);
            assert!(gradient[0].is_finite());
        }
    }

    #[test]
    fn rows_whose_targets_cannot_be_counted_are_refused() {
        assert!(Loss::MeanSquaredError.check_batch(4, 1 << 62, Targets::Values(&[]), None).is_err());
    }

    #[test]
    fn targets_of_another_kind_are_an_error_and_not_another_loss() {
        for (loss, targets) in [
            (Loss::SoftmaxCrossEntropy, Targets::Values(&[0.0, 1.0])),
            (Loss::MeanSquaredError, Targets::Classes(&[0])),
            (Loss::BinaryCrossEntropy, Targets::Classes(&[0])),
        ] {
            let e = loss.backward::<1>(&[0.5, 0.25], 0..1, targets, None, &mut [0.0; 2]).unwrap_err();
            assert!(e.to_string().contains("on 2 outputs reads"), "{e}");
        }
    }

    #[test]
    fn no_rows_no_loss() {
        let mut gradient = [f32::NAN; 32];
        let none = Targets::Classes(&[]);
        let totals =
            Loss::SoftmaxCrossEntropy.backward::<16>(&[0.0; 32], 0..0, none, None, &mut gradient).unwrap();
        assert_eq!(totals, Totals::default());
        assert_eq!(gradient, [0.0; 32]);
    }

    #[test]
    fn batches_that_do_not_fit_are_refused_with_the_row() {
        let (softmax, binary) = (Loss::SoftmaxCrossEntropy, Loss::BinaryCrossEntropy);
        let cases: [(Loss, usize, Targets, &str); 7] = [
            (softmax, 3, Targets::Classes(&[0, 3]), "row 1 of the batch has class 3, expected below 3"),
            (softmax, 3, Targets::Classes(&[0]), "2 rows and 1 classes"),
            (softmax, 1, Targets::Values(&[0.0, 1.0]), "softmax_cross_entropy on 1 outputs reads classes"),
            (binary, 3, Targets::Classes(&[0, 1]), "on 3 outputs reads values"),
            (binary, 1, Targets::Values(&[0.0, 1.5]), "row 1 of the batch has target 1.5, expected 0 to 1"),
            (Loss::MeanSquaredError, 2, Targets::Values(&[0.0; 3]), "3 target values, expected 2 for each"),
            (
                Loss::MeanSquaredError,
                1,
                Targets::Values(&[0.0, f32::NAN]),
                "row 1 of the batch has target NaN",
            ),
        ];
        for (loss, outputs, targets, expected) in cases {
            let e = loss.check_batch(outputs, 2, targets, None).unwrap_err().to_string();
            assert!(e.contains(expected), "{e} should contain {expected}");
        }
        let e = softmax.check_batch(2, 2, Targets::Classes(&[0, 1]), Some(&[1.0, -1.0])).unwrap_err();
        assert!(e.to_string().contains("row 1 of the batch has weight -1"), "{e}");
        let e = Loss::Huber { delta: 0.0 }.check_outputs(1).unwrap_err();
        assert_eq!(e.to_string(), "huber's delta is 0, expected above 0 and finite");
        assert!(softmax.check_outputs(1).is_err());
    }
}
