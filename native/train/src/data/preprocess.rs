//! How columns become the inputs of a network: what all workers agreed on, and what a model keeps.

use std::collections::HashMap;
use std::ops::Range;

use firesteel_error::{Error, Result};
use firesteel_model::{Input, InputKind};
use serde::{Deserialize, Serialize};

use super::raw::{Invalid, NULL, Raw, Texts, VectorColumn};
use super::rows::Tensor;
use crate::params::HandleInvalid;

/// How every feature column is encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// What becomes of a row with a NULL, NaN or infinite number or vector.
    pub handle_invalid: HandleInvalid,
    /// One a feature, in the order of the configuration.
    pub columns: Vec<Encoding>,
}

/// How one column is encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoding {
    /// A number; all number columns together are one input, `numbers`.
    Number {
        /// The column.
        column: String,
        /// Of length 1.
        scaling: Scaling,
    },
    /// A string: an index. 0 is NULL, 1 is every string not listed, 2 and up are `values`.
    Category {
        /// The column.
        column: String,
        /// From the most frequent on.
        values: Vec<String>,
    },
    /// A string of a reconstruction: an input of its own, 1 at the index that a category has and 0 elsewhere.
    OneHot {
        /// The column.
        column: String,
        /// From the most frequent on.
        values: Vec<String>,
    },
    /// A vector: an input of its own.
    Vector {
        /// The column.
        column: String,
        /// Of one row.
        shape: Vec<usize>,
        /// Of length 1, shared by all elements, or one an element.
        scaling: Scaling,
    },
}

/// How numbers are standardised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Also takes the place of missing values.
    pub mean: Vec<f64>,
    /// The population's; 1 where all values are equal.
    pub deviation: Vec<f64>,
    /// Whether the mean is subtracted and the deviation divided by.
    pub standardize: bool,
}

impl Scaling {
    fn encode(&self, at: usize, value: f64) -> f32 {
        let (mean, deviation) = (self.mean[at], self.deviation[at]);
        let value = if value.is_finite() { value } else { mean };
        if self.standardize { ((value - mean) / deviation) as f32 } else { value as f32 }
    }

    /// What takes the place of a row's value that f32, in which networks compute, cannot hold once it is scaled.
    ///
    /// # Errors
    /// As [`Invalid::found`].
    #[cold]
    fn instead(
        &self,
        at: usize,
        found: &str,
        column: &str,
        row: usize,
        invalid: &mut Invalid,
    ) -> Result<f32> {
        invalid.found(column, row, found)?;
        let mean = self.encode(at, f64::NAN);
        match mean.is_finite() {
            true => Ok(mean),
            false if !invalid.keeps(row) => Ok(0.0),
            false => Err(Error::data(format!(
                "column '{column}' has the mean {:e}, too large to take the place of its invalid values; \
                 standardization makes it 0",
                self.mean[at]
            ))),
        }
    }

    fn encode_number(&self, value: f64, column: &str, row: usize, invalid: &mut Invalid) -> Result<f32> {
        let encoded = self.encode(0, value);
        if encoded.is_finite() {
            return Ok(encoded);
        }
        self.instead(0, &format!("{value:e}, which is {encoded} once encoded"), column, row, invalid)
    }

    fn encode_vectors(
        &self,
        column: &str,
        width: usize,
        values: &mut [f32],
        invalid: &mut Invalid,
    ) -> Result<()> {
        let shared = self.mean.len() == 1;
        for (row, values) in values.chunks_exact_mut(width).enumerate() {
            for (element, value) in values.iter_mut().enumerate() {
                let at = if shared { 0 } else { element };
                let encoded = self.encode(at, f64::from(*value));
                *value = if encoded.is_finite() {
                    encoded
                } else {
                    let found = format!("{value:e} in element {element}, which is {encoded} once encoded");
                    self.instead(at, &found, column, row, invalid)?
                };
            }
        }
        Ok(())
    }

    fn check(&self, column: &str, width: usize) -> Result<()> {
        let lengths = [self.mean.len(), self.deviation.len()];
        if lengths == [1, 1] || lengths == [width, width] {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "the preprocessing of column '{column}' has {} means and {} deviations, expected 1 or {width}",
            lengths[0], lengths[1]
        )))
    }
}

impl Encoding {
    /// The index of a NULL text.
    pub const NULL: u32 = 0;
    /// The index of a text that is in no vocabulary.
    pub const UNKNOWN: u32 = 1;
    /// The index of a vocabulary's first text.
    pub const FIRST: u32 = 2;
    /// The widest one-hot of a string column, the places of NULL and of unknown texts counted.
    pub const WIDEST_ONE_HOT: usize = 4096;

    /// The string column of a reconstruction.
    ///
    /// # Errors
    /// `InvalidData` naming the column and its categories, when there are too many.
    pub(crate) fn one_hot(column: String, values: Vec<String>) -> Result<Encoding> {
        let (categories, most) = (values.len(), Encoding::WIDEST_ONE_HOT - Encoding::FIRST as usize);
        if categories <= most {
            return Ok(Encoding::OneHot { column, values });
        }
        Err(Error::data(format!(
            "string column '{column}' has {categories} categories, expected at most {most} to reconstruct; \
             maxCategories or minCategoryCount let rare ones share one"
        )))
    }

    /// The column it is of.
    pub fn column(&self) -> &str {
        match self {
            Encoding::Number { column, .. }
            | Encoding::Category { column, .. }
            | Encoding::OneHot { column, .. }
            | Encoding::Vector { column, .. } => column,
        }
    }

    /// How many features it stands for.
    pub fn width(&self) -> usize {
        match self {
            Encoding::Number { .. } | Encoding::Category { .. } => 1,
            Encoding::OneHot { values, .. } => values.len() + Encoding::FIRST as usize,
            Encoding::Vector { shape, .. } => shape.iter().product(),
        }
    }

    fn holds(&self) -> &'static str {
        match self {
            Encoding::Number { .. } => "numbers",
            Encoding::Category { .. } | Encoding::OneHot { .. } => "strings",
            Encoding::Vector { .. } => "vectors",
        }
    }
}

impl Preprocessing {
    /// The inputs of the network: `numbers` first, if there are any, then the other columns by name.
    pub fn inputs(&self) -> Vec<Input> {
        let numbers = self.number_columns();
        let mut inputs = Vec::new();
        if numbers > 0 {
            let mut name = "numbers".to_string();
            while self.columns.iter().any(|c| c.column() == name) {
                name.push('_');
            }
            inputs.push(Input { name, kind: InputKind::Dense { shape: vec![numbers] } });
        }
        for column in &self.columns {
            let kind = match column {
                Encoding::Number { .. } => continue,
                Encoding::Category { values, .. } => {
                    InputKind::Index { cardinality: values.len() + Encoding::FIRST as usize }
                }
                Encoding::OneHot { .. } => InputKind::Dense { shape: vec![column.width()] },
                Encoding::Vector { shape, .. } => InputKind::Dense { shape: shape.clone() },
            };
            inputs.push(Input { name: column.column().into(), kind });
        }
        inputs
    }

    fn number_columns(&self) -> usize {
        self.columns.iter().filter(|c| matches!(c, Encoding::Number { .. })).count()
    }

    /// Values a row of all columns together.
    pub(crate) fn width(&self) -> usize {
        self.columns.iter().map(Encoding::width).sum()
    }

    /// Where the values of each column lie in the row that all inputs make, one behind the other.
    pub(crate) fn places(&self) -> Vec<Range<usize>> {
        let (mut next_number, mut next) = (0, self.number_columns());
        let place = |column: &Encoding| {
            let from = match column {
                Encoding::Number { .. } => &mut next_number,
                _ => &mut next,
            };
            let place = *from..*from + column.width();
            *from = place.end;
            place
        };
        self.columns.iter().map(place).collect()
    }

    /// Encodes columns, in the order of [`Preprocessing::inputs`]. Each is dropped once it is encoded. Rows that
    /// `invalid` does not keep afterwards hold something all the same.
    ///
    /// # Errors
    /// `InvalidData` naming the column and what it holds; as [`Invalid::found`].
    pub(crate) fn encode(
        &self,
        features: Vec<Raw>,
        rows: usize,
        invalid: &mut Invalid,
    ) -> Result<Vec<Tensor>> {
        let width = self.number_columns();
        let mut numbers = vec![0.0; rows * width];
        let mut next_number = 0;
        let mut others = Vec::new();
        for (encoding, raw) in self.columns.iter().zip(features) {
            match (encoding, raw) {
                (Encoding::Number { scaling, column }, Raw::Number(values)) => {
                    let places = numbers.iter_mut().skip(next_number).step_by(width);
                    for (row, (place, value)) in places.zip(values).enumerate() {
                        *place = scaling.encode_number(value, column, row, invalid)?;
                    }
                    next_number += 1;
                }
                (Encoding::Category { values, .. }, Raw::Text(texts)) => {
                    others.push(Tensor::Index(indices(values, texts)));
                }
                (Encoding::Category { .. }, Raw::Index(indices)) => others.push(Tensor::Index(indices)),
                (Encoding::OneHot { .. }, Raw::Index(indices)) => {
                    others.push(Tensor::OneHot { width: encoding.width(), indices });
                }
                (Encoding::OneHot { values, .. }, Raw::Text(texts)) => {
                    let indices = indices(values, texts);
                    others.push(Tensor::OneHot { width: encoding.width(), indices });
                }
                (Encoding::Vector { scaling, shape, .. }, Raw::Vector(vectors)) => {
                    others.push(encode_vectors(encoding.column(), shape, scaling, vectors, invalid)?);
                }
                (encoding, raw) => {
                    return Err(Error::data(format!(
                        "feature column '{}' holds {}, the model was trained on {}",
                        encoding.column(),
                        raw.kind().text(),
                        encoding.holds()
                    )));
                }
            }
        }
        let mut tensors = Vec::with_capacity(others.len() + 1);
        if width > 0 {
            tensors.push(Tensor::Dense { width, values: numbers });
        }
        tensors.extend(others);
        Ok(tensors)
    }

    /// Whether a stored preprocessing makes sense.
    pub(crate) fn check(&self) -> Result<()> {
        if self.columns.is_empty() {
            return Err(Error::corrupt("the preprocessing has no columns"));
        }
        self.columns.iter().try_for_each(|column| match column {
            Encoding::Category { .. } | Encoding::OneHot { .. } => Ok(()),
            Encoding::Number { column, scaling } => scaling.check(column, 1),
            Encoding::Vector { column: name, scaling, .. } => scaling.check(name, column.width()),
        })
    }
}

fn indices(values: &[String], texts: Texts) -> Vec<u32> {
    let vocabulary: HashMap<&str, u32> = values.iter().map(String::as_str).zip(Encoding::FIRST..).collect();
    let known = |text: &str| vocabulary.get(text).copied().unwrap_or(Encoding::UNKNOWN);
    let of_code: Vec<u32> = texts.distinct.iter().map(|text| known(text)).collect();
    let index = |code: u32| if code == NULL { Encoding::NULL } else { of_code[code as usize] };
    texts.codes.into_iter().map(index).collect()
}

fn encode_vectors(
    column: &str,
    shape: &[usize],
    scaling: &Scaling,
    mut vectors: VectorColumn,
    invalid: &mut Invalid,
) -> Result<Tensor> {
    let width: usize = shape.iter().product();
    if let Some(found) = vectors.width.filter(|w| *w != width) {
        return Err(Error::data(format!(
            "column '{column}' holds vectors of {found} values, the model was trained on {width}"
        )));
    }
    vectors.settle(width);
    scaling.encode_vectors(column, width, &mut vectors.values, invalid)?;
    Ok(Tensor::Dense { width, values: vectors.values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_hot(values: usize) -> Result<Encoding> {
        Encoding::one_hot("carrier".into(), (0..values).map(|v| v.to_string()).collect())
    }

    #[test]
    fn a_one_hot_has_a_widest() {
        assert_eq!(one_hot(4094).unwrap().width(), Encoding::WIDEST_ONE_HOT);
        let e = one_hot(4095).unwrap_err().to_string();
        assert!(e.starts_with("string column 'carrier' has 4095 categories, expected at most 4094"), "{e}");
    }

    #[test]
    fn columns_lie_as_the_inputs_do() {
        let scaling =
            |width| Scaling { mean: vec![0.0; width], deviation: vec![1.0; width], standardize: true };
        let number = |name: &str| Encoding::Number { column: name.into(), scaling: scaling(1) };
        let vector = Encoding::Vector { column: "v".into(), shape: vec![2, 3], scaling: scaling(6) };
        let columns = vec![one_hot(1).unwrap(), number("a"), vector, number("b")];
        let preprocessing = Preprocessing { handle_invalid: HandleInvalid::Error, columns };
        assert_eq!(preprocessing.places(), [2..5, 0..1, 5..11, 1..2]);
        assert_eq!(preprocessing.width(), 11);
        let names: Vec<String> = preprocessing.inputs().into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["numbers", "carrier", "v"]);
    }
}
