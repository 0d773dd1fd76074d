//! How good predictions are, under the names of BigQuery ML.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Result, ScalarValue};
use firesteel_train::Predictions;
use firesteel_train::metrics::auc;
use serde::{Deserialize, Deserializer, Serialize};

use crate::about::Label;

/// Predictions next to what they should have been.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    /// The probability of each class a row; or the predicted number.
    values: Vec<f32>,
    /// The index of the class; or the number.
    labels: Vec<f64>,
    outputs: usize,
}

/// The measures of a classifier; means over its classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Classified {
    #[serde(deserialize_with = "number")]
    pub(crate) precision: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) recall: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) accuracy: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) f1_score: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) log_loss: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) roc_auc: f64,
}

/// The measures of a regressor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Regressed {
    #[serde(deserialize_with = "number")]
    pub(crate) mean_absolute_error: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) mean_squared_error: f64,
    /// None where a label or prediction is at or below −1.
    pub(crate) mean_squared_log_error: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(crate) median_absolute_error: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) r2_score: f64,
    #[serde(deserialize_with = "number")]
    pub(crate) explained_variance: f64,
}

/// JSON has no NaN, such as R² where all labels are the same: it is null there.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Either.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Measures {
    Classified(Classified),
    Regressed(Regressed),
}

impl Scores {
    /// Takes the rows in that have a label.
    pub(crate) fn push(&mut self, predictions: &Predictions, labels: &Float64Array, classifier: bool) {
        self.outputs = predictions.outputs;
        let values = if classifier { predictions.probabilities() } else { predictions.values.clone() };
        let skipped = |row: usize| predictions.skipped.as_ref().is_some_and(|s| s[row] == 1);
        for (row, label) in labels.iter().enumerate() {
            if let (Some(label), false) = (label, skipped(row)) {
                self.labels.push(label);
                self.values.extend_from_slice(&values[row * self.outputs..(row + 1) * self.outputs]);
            }
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.labels.len()
    }

    /// None without rows.
    pub(crate) fn measures(&self, classifier: bool, threshold: Option<f64>) -> Option<Measures> {
        if self.rows() == 0 {
            return None;
        }
        Some(match classifier {
            true => Measures::Classified(self.classified(threshold)),
            false => Measures::Regressed(self.regressed()),
        })
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.outputs..(row + 1) * self.outputs]
    }

    /// Rows by (what was, what was predicted).
    fn counts(&self, threshold: Option<f64>) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0; self.outputs]; self.outputs];
        for (row, label) in self.labels.iter().enumerate() {
            counts[*label as usize][decide(self.row(row), threshold)] += 1;
        }
        counts
    }

    fn classified(&self, threshold: Option<f64>) -> Classified {
        let (counts, rows) = (self.counts(threshold), self.rows() as f64);
        let classes = self.outputs;
        // Of two classes the second is the one that is looked for; of more, each in turn.
        let wanted = if classes == 2 { 1..2 } else { 0..classes };
        let predicted = |class: usize| counts.iter().map(|row| row[class]).sum::<u64>() as f64;
        let labelled = |class: usize| counts[class].iter().sum::<u64>() as f64;
        let measure = |class: usize| {
            let right = counts[class][class] as f64;
            let (precision, recall) = (share(right, predicted(class)), share(right, labelled(class)));
            [precision, recall, share(2.0 * precision * recall, precision + recall)]
        };
        // A class that no row has and none is taken for says nothing, nor does a curve without one of its sides.
        let there = |class: &usize| classes == 2 || predicted(*class) + labelled(*class) > 0.0;
        let found: Vec<[f64; 3]> = wanted.clone().filter(there).map(measure).collect();
        let mean = |measure: usize| found.iter().map(|m| m[measure]).sum::<f64>() / found.len() as f64;
        let sided = |class: &usize| (1.0..rows).contains(&labelled(*class));
        let areas: Vec<f64> = wanted.filter(sided).map(|class| self.auc(class)).collect();
        let right: u64 = (0..classes).map(|c| counts[c][c]).sum();
        let loss = |(row, label): (usize, &f64)| -f64::from(self.row(row)[*label as usize]).max(1e-15).ln();
        Classified {
            precision: mean(0),
            recall: mean(1),
            accuracy: right as f64 / rows,
            f1_score: mean(2),
            log_loss: self.labels.iter().enumerate().map(loss).sum::<f64>() / rows,
            roc_auc: areas.iter().sum::<f64>() / areas.len() as f64,
        }
    }

    /// Of one class against all others.
    fn auc(&self, class: usize) -> f64 {
        auc(&mut self.ranked(class))
    }

    fn ranked(&self, class: usize) -> Vec<(f32, bool, f32)> {
        let row = |(row, label): (usize, &f64)| (self.row(row)[class], *label as usize == class, 1.0);
        self.labels.iter().enumerate().map(row).collect()
    }

    fn regressed(&self) -> Regressed {
        let n = self.rows() as f64;
        let pairs = || self.labels.iter().zip(&self.values).map(|(label, value)| (*label, f64::from(*value)));
        let mean = |of: &dyn Fn((f64, f64)) -> f64| pairs().map(of).sum::<f64>() / n;
        let (label_mean, error_mean) = (mean(&|(y, _)| y), mean(&|(y, p)| y - p));
        let variance = mean(&|(y, _)| (y - label_mean).powi(2));
        let squared = mean(&|(y, p)| (y - p).powi(2));
        let mut errors: Vec<f64> = pairs().map(|(y, p)| (y - p).abs()).collect();
        errors.sort_by(f64::total_cmp);
        let middle = errors.len() / 2;
        let median =
            if errors.len() % 2 == 1 { errors[middle] } else { (errors[middle - 1] + errors[middle]) / 2.0 };
        let log = pairs().all(|(y, p)| y > -1.0 && p > -1.0);
        Regressed {
            mean_absolute_error: mean(&|(y, p)| (y - p).abs()),
            mean_squared_error: squared,
            mean_squared_log_error: log.then(|| mean(&|(y, p)| (y.ln_1p() - p.ln_1p()).powi(2))),
            median_absolute_error: median,
            r2_score: 1.0 - squared / variance,
            explained_variance: 1.0 - mean(&|(y, p)| (y - p - error_mean).powi(2)) / variance,
        }
    }

    /// One row a class that was, one column a class that was predicted.
    pub(crate) fn confusion(&self, label: &Label, threshold: Option<f64>) -> Result<RecordBatch> {
        let (classes, mut counts) = (label.class_values()?, self.counts(threshold));
        // Nobody has said how many there are where there are no rows.
        if counts.is_empty() {
            counts = vec![vec![0; classes.len()]; classes.len()];
        }
        let expected = ScalarValue::iter_to_array(classes.iter().cloned())?;
        let column = |class: usize| -> ArrayRef {
            Arc::new(counts.iter().map(|row| Some(row[class] as i64)).collect::<Int64Array>())
        };
        let columns = std::iter::once(expected).chain((0..classes.len()).map(column)).collect();
        Ok(RecordBatch::try_new(confusion_schema(label)?, columns)?)
    }

    /// Points of the curve of class 1, from the highest threshold down; at most `most`.
    pub(crate) fn roc(&self, most: usize) -> Result<RecordBatch> {
        let mut rows = self.ranked(1);
        rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let positives = rows.iter().filter(|r| r.1).count() as i64;
        let negatives = rows.len() as i64 - positives;
        let (mut points, mut hits, mut alarms) = (Vec::new(), 0i64, 0i64);
        for ties in rows.chunk_by(|a, b| a.0 == b.0) {
            let right = ties.iter().filter(|r| r.1).count() as i64;
            hits += right;
            alarms += ties.len() as i64 - right;
            points.push((f64::from(ties[0].0), hits, alarms));
        }
        let step = points.len().div_ceil(most.max(1)).max(1);
        let last = points.len().saturating_sub(1);
        let kept: Vec<_> = points
            .into_iter()
            .enumerate()
            .filter(|(i, _)| i % step == 0 || *i == last)
            .map(|(_, p)| p)
            .collect();
        let real = |of: &dyn Fn(&(f64, i64, i64)) -> f64| -> ArrayRef {
            Arc::new(kept.iter().map(|p| Some(of(p))).collect::<Float64Array>())
        };
        let whole = |of: &dyn Fn(&(f64, i64, i64)) -> i64| -> ArrayRef {
            Arc::new(kept.iter().map(|p| Some(of(p))).collect::<Int64Array>())
        };
        let columns = vec![
            real(&|p| p.0),
            real(&|p| share(p.1 as f64, positives as f64)),
            real(&|p| share(p.2 as f64, negatives as f64)),
            whole(&|p| p.1),
            whole(&|p| p.2),
            whole(&|p| negatives - p.2),
            whole(&|p| positives - p.1),
        ];
        Ok(RecordBatch::try_new(roc_schema(), columns)?)
    }
}

/// The class of these probabilities; of two classes the second where it reaches the threshold.
pub(crate) fn decide(probabilities: &[f32], threshold: Option<f64>) -> usize {
    match (probabilities, threshold) {
        ([_, second], Some(threshold)) => usize::from(f64::from(*second) >= threshold),
        _ => firesteel_train::metrics::largest(probabilities),
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

const CLASSIFIED: [&str; 6] = ["precision", "recall", "accuracy", "f1_score", "log_loss", "roc_auc"];
const REGRESSED: [&str; 6] = [
    "mean_absolute_error",
    "mean_squared_error",
    "mean_squared_log_error",
    "median_absolute_error",
    "r2_score",
    "explained_variance",
];

/// The names of the columns of `ML.EVALUATE`.
pub(crate) fn measure_names(classifier: bool) -> [&'static str; 6] {
    if classifier { CLASSIFIED } else { REGRESSED }
}

/// The columns of `ML.EVALUATE`.
pub(crate) fn measures_schema(classifier: bool) -> SchemaRef {
    let names = measure_names(classifier);
    Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Float64, true)).to_vec()))
}

impl Measures {
    fn is_classified(&self) -> bool {
        matches!(self, Measures::Classified(_))
    }

    /// In the order of [`measure_names`]; none where it is not defined.
    fn values(&self) -> [Option<f64>; 6] {
        let values = match *self {
            Measures::Classified(Classified { precision, recall, accuracy, f1_score, log_loss, roc_auc }) => {
                [precision, recall, accuracy, f1_score, log_loss, roc_auc].map(Some)
            }
            Measures::Regressed(r) => [
                Some(r.mean_absolute_error),
                Some(r.mean_squared_error),
                r.mean_squared_log_error,
                Some(r.median_absolute_error),
                Some(r.r2_score),
                Some(r.explained_variance),
            ],
        };
        values.map(|value| value.filter(|v| v.is_finite()))
    }

    /// One of them by its name.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let place = measure_names(self.is_classified()).iter().position(|n| *n == name)?;
        self.values()[place]
    }

    /// As the row of `ML.EVALUATE`.
    pub(crate) fn batch(&self) -> Result<RecordBatch> {
        let column = |value| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
        let columns = self.values().map(column).to_vec();
        Ok(RecordBatch::try_new(measures_schema(self.is_classified()), columns)?)
    }
}

/// No row of `ML.EVALUATE`.
pub(crate) fn no_measures(classifier: bool) -> RecordBatch {
    RecordBatch::new_empty(measures_schema(classifier))
}

/// The columns of `ML.CONFUSION_MATRIX`.
pub(crate) fn confusion_schema(label: &Label) -> Result<SchemaRef> {
    let expected = Field::new("expected_label", label.data_type()?, true);
    let class = |class: &String| Field::new(class, DataType::Int64, true);
    let fields: Vec<Field> =
        std::iter::once(expected).chain(label.classes.iter().flatten().map(class)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

/// The columns of `ML.ROC_CURVE`.
pub(crate) fn roc_schema() -> SchemaRef {
    let real = ["threshold", "recall", "false_positive_rate"].map(|n| Field::new(n, DataType::Float64, true));
    let whole = ["true_positives", "false_positives", "true_negatives", "false_negatives"]
        .map(|n| Field::new(n, DataType::Int64, true));
    Arc::new(Schema::new(real.into_iter().chain(whole).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f32], labels: &[f64], outputs: usize) -> Scores {
        Scores { values: values.to_vec(), labels: labels.to_vec(), outputs }
    }

    #[test]
    fn measures_that_are_not_defined_come_back() {
        let mut scores = Scores { outputs: 1, ..Scores::default() };
        (scores.labels, scores.values) = (vec![2.0, 2.0], vec![1.0, 2.0]);
        let measures = scores.measures(false, None).unwrap();
        let again: Measures = serde_json::from_str(&serde_json::to_string(&measures).unwrap()).unwrap();
        assert_eq!((again.value("r2_score"), again.value("mean_squared_error")), (None, Some(0.5)));
    }

    /// What rows do not have takes no part in a mean.
    #[test]
    fn a_class_that_is_not_there_is_left_out() {
        let logits = [3.0, 0.0, 0.0, 0.0, 3.0, 0.0, 3.0, 0.0, 0.0];
        let Some(Measures::Classified(found)) = scores(&logits, &[0.0, 1.0, 1.0], 3).measures(true, None)
        else {
            panic!()
        };
        // Of class 0: precision 1/2, recall 1; of class 1: 1 and 1/2.
        assert_eq!((found.precision, found.recall), (0.75, 0.75));
        assert!((found.roc_auc - 0.75).abs() < 1e-12, "{}", found.roc_auc);
        let Some(only) = scores(&[3.0, 0.0, 0.0], &[0.0], 3).measures(true, None) else { panic!() };
        assert_eq!((only.value("precision"), only.value("roc_auc")), (Some(1.0), None));
    }

    #[test]
    fn a_classifier_of_two_classes() {
        // Probabilities of class 1: .9 .8 .4 .2; truth 1 0 1 0.
        let s = scores(&[0.1, 0.9, 0.2, 0.8, 0.6, 0.4, 0.8, 0.2], &[1.0, 0.0, 1.0, 0.0], 2);
        let Some(Measures::Classified(m)) = s.measures(true, None) else { panic!("a classifier") };
        assert_eq!((m.precision, m.recall, m.accuracy, m.f1_score), (0.5, 0.5, 0.5, 0.5));
        assert_eq!(m.roc_auc, 0.75);
        let loss = -(0.9f32.ln() + 0.2f32.ln() + 0.4f32.ln() + 0.8f32.ln()) / 4.0;
        assert!((m.log_loss - f64::from(loss)).abs() < 1e-6);
        let Some(Measures::Classified(m)) = s.measures(true, Some(0.3)) else { panic!("a classifier") };
        assert_eq!((m.recall, m.accuracy), (1.0, 0.75));
    }

    #[test]
    fn a_regressor() {
        let s = scores(&[1.0, 2.0, 4.0], &[1.0, 3.0, 2.0], 1);
        let Some(Measures::Regressed(m)) = s.measures(false, None) else { panic!("a regressor") };
        assert_eq!((m.mean_absolute_error, m.median_absolute_error), (1.0, 1.0));
        assert!((m.mean_squared_error - 5.0 / 3.0).abs() < 1e-12);
        assert!((m.r2_score - (1.0 - (5.0 / 3.0) / (2.0 / 3.0))).abs() < 1e-12);
        assert!(scores(&[-2.0], &[1.0], 1).regressed().mean_squared_log_error.is_none());
    }

    #[test]
    fn nothing_to_measure() {
        assert!(scores(&[], &[], 2).measures(true, None).is_none());
        let label = Label {
            column: "y".into(),
            data_type: "Utf8".into(),
            classes: Some(vec!["a".into(), "b".into()]),
        };
        let matrix = scores(&[0.9, 0.1, 0.2, 0.8], &[0.0, 0.0], 2).confusion(&label, None).unwrap();
        assert_eq!(matrix.num_rows(), 2);
        assert_eq!(matrix.schema().field(2).name(), "b");
    }

    #[test]
    fn the_curve_ends_in_the_corner() {
        let curve =
            scores(&[0.1, 0.9, 0.2, 0.8, 0.6, 0.4, 0.8, 0.2], &[1.0, 0.0, 1.0, 0.0], 2).roc(100).unwrap();
        assert_eq!(curve.num_rows(), 4);
        let column = |i: usize| {
            arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(curve.column(i)).clone()
        };
        assert_eq!((column(1).value(3), column(2).value(3)), (1.0, 1.0));
        assert_eq!((column(1).value(0), column(2).value(0)), (0.5, 0.0));
    }
}
