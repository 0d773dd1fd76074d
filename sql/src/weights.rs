//! How much each row of a training counts.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::common::{Result, exec_err};
use serde::{Deserialize, Serialize};

use crate::encode::Encoder;
use crate::options::ClassWeights;

/// The column of the training loop where the query has none.
const COLUMN: &str = " weight";

/// A weight by a column of the query, by the class, or by both.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Weights {
    column: Option<String>,
    /// In the order of the network's outputs.
    classes: Option<Vec<f64>>,
}

impl Weights {
    /// With a column, and the classes' names and rows.
    ///
    /// # Errors
    /// `Execution` naming the class that is unknown or has no weight.
    pub(crate) fn new(
        column: Option<&str>,
        asked: &ClassWeights,
        classes: &[(String, u64)],
    ) -> Result<Weights> {
        let classes = match asked {
            ClassWeights::Equal => None,
            ClassWeights::Balanced => Some(balanced(classes)),
            ClassWeights::Given(weights) => Some(given(weights, classes)?),
        };
        Ok(Weights { column: column.map(str::to_owned), classes })
    }

    /// The name of the column that [`Weights::of`] gives.
    pub(crate) fn name(&self) -> Option<&str> {
        self.column.as_deref().or(self.classes.as_ref().map(|_| COLUMN))
    }

    /// The column of a batch.
    ///
    /// # Errors
    /// Of Arrow, when the query's column is no number.
    pub(crate) fn of(&self, batch: &RecordBatch, encoder: &Encoder) -> Result<Option<(Field, ArrayRef)>> {
        let Some(name) = self.name() else { return Ok(None) };
        let own = self.column.as_ref().and_then(|column| batch.column_by_name(column));
        let array = match (&self.classes, own) {
            (None, own) => match own {
                Some(own) => own.clone(),
                None => return exec_err!("there is no column '{name}'"),
            },
            (Some(classes), own) => {
                let own = own.map(|own| cast(own, &DataType::Float64)).transpose()?;
                let own = own.as_ref().map(|own| own.as_primitive::<Float64Type>());
                let labels = encoder.labels(batch)?;
                let of_class =
                    |class: Option<f64>| classes.get(class.unwrap_or(0.0) as usize).copied().unwrap_or(1.0);
                let weights: Float64Array = match own {
                    None => labels.iter().map(|class| Some(of_class(class))).collect(),
                    Some(own) => {
                        labels.iter().zip(own).map(|(class, w)| Some(of_class(class) * w?)).collect()
                    }
                };
                Arc::new(weights)
            }
        };
        Ok(Some((Field::new(name, array.data_type().clone(), true), array)))
    }
}

/// Every class counts the same in sum, and rows count 1 in the mean.
fn balanced(classes: &[(String, u64)]) -> Vec<f64> {
    let rows: u64 = classes.iter().map(|(_, n)| n).sum();
    let there = classes.iter().filter(|(_, n)| *n > 0).count();
    classes.iter().map(|(_, n)| rows as f64 / (there as f64 * (*n).max(1) as f64)).collect()
}

fn given(weights: &[(String, f64)], classes: &[(String, u64)]) -> Result<Vec<f64>> {
    let known = || classes.iter().map(|(class, _)| class.as_str()).collect::<Vec<_>>().join(", ");
    if let Some((label, _)) = weights.iter().find(|(label, _)| !classes.iter().any(|(c, _)| c == label)) {
        return exec_err!("class_weights names '{label}', which no row has (classes: {})", known());
    }
    let weight = |(class, _): &(String, u64)| match weights.iter().find(|(label, _)| label == class) {
        Some((_, weight)) => Ok(*weight),
        None => exec_err!("class_weights has no weight for '{class}' (classes: {})", known()),
    };
    classes.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_classes_count_the_same() {
        let classes = [("a".to_owned(), 30), ("b".to_owned(), 10)];
        let weights = Weights::new(None, &ClassWeights::Balanced, &classes).unwrap();
        let weights = weights.classes.unwrap();
        assert_eq!(weights[0] * 30.0, weights[1] * 10.0);
        assert_eq!(weights[0] * 30.0 + weights[1] * 10.0, 40.0);
    }

    #[test]
    fn given_ones_are_those_of_the_classes() {
        let classes = [("a".to_owned(), 30), ("b".to_owned(), 10)];
        let of = |weights: &[(&str, f64)]| {
            let weights = weights.iter().map(|(l, w)| ((*l).to_owned(), *w)).collect();
            Weights::new(None, &ClassWeights::Given(weights), &classes)
        };
        assert_eq!(of(&[("b", 3.0), ("a", 1.0)]).unwrap().classes, Some(vec![1.0, 3.0]));
        for (weights, expected) in [
            (&[("a", 1.0), ("c", 1.0)], "names 'c', which no row has (classes: a, b)"),
            (&[("a", 1.0), ("a", 1.0)], "has no weight for 'b' (classes: a, b)"),
        ] {
            let e = of(weights).unwrap_err().strip_backtrace();
            assert!(e.ends_with(&format!("class_weights {expected}")), "{e}");
        }
    }
}
