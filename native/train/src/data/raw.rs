//! Feature columns as they come, checked, before they are encoded.

use std::collections::HashMap;

use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use firesteel_error::{Error, Result};

use super::column::{self, Kind, Vectors};
use crate::config::Feature;
use crate::params::HandleInvalid;

/// The code of a NULL text.
pub(crate) const NULL: u32 = u32::MAX;

/// One feature column.
#[derive(Debug)]
pub(crate) enum Raw {
    /// NaN where a value is missing and rows are kept.
    Number(Vec<f64>),
    Text(Texts),
    Vector(VectorColumn),
}

/// Texts as indices into the distinct ones, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// One a row; [`NULL`] for NULL.
    pub(crate) codes: Vec<u32>,
    pub(crate) distinct: Vec<Box<str>>,
    places: HashMap<Box<str>, u32>,
    bytes: usize,
}

/// Vectors of one width, row by row.
#[derive(Debug, Default)]
pub(crate) struct VectorColumn {
    /// Known from the first vector on.
    pub(crate) width: Option<usize>,
    /// NULL vectors that came before the width was known.
    pub(crate) pending: usize,
    /// NaN where an element is missing and rows are kept.
    pub(crate) values: Vec<f32>,
}

/// Names rows in messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Where {
    /// A worker's partition, whose rows before this batch are counted.
    Rank { rank: usize, before: u64 },
    /// A batch to be scored.
    Batch,
}

impl Where {
    pub(crate) fn row(self, row: usize) -> String {
        match self {
            Where::Rank { rank, before } => format!("row {} of rank {rank}", before + row as u64),
            Where::Batch => format!("row {row} of the batch"),
        }
    }
}

impl Texts {
    fn push(&mut self, text: Option<&str>) -> Result<()> {
        let code = match text {
            None => NULL,
            Some(text) => match self.places.get(text) {
                Some(code) => *code,
                None => {
                    let code =
                        u32::try_from(self.distinct.len()).ok().filter(|c| *c < NULL).ok_or_else(|| {
                            Error::data("a string column has more than 4,294,967,294 distinct values")
                        })?;
                    self.distinct.push(text.into());
                    self.places.insert(text.into(), code);
                    self.bytes += 2 * text.len() + 64;
                    code
                }
            },
        };
        self.codes.push(code);
        Ok(())
    }
}

impl VectorColumn {
    fn push_null(&mut self) {
        match self.width {
            Some(width) => self.values.extend(std::iter::repeat_n(f32::NAN, width)),
            None => self.pending += 1,
        }
    }

    /// Fixes the width; vectors that were NULL before are filled in.
    pub(crate) fn settle(&mut self, width: usize) {
        self.width = Some(width);
        for _ in 0..std::mem::take(&mut self.pending) {
            self.push_null();
        }
    }
}

impl Raw {
    fn new(kind: Kind) -> Raw {
        match kind {
            Kind::Number => Raw::Number(Vec::new()),
            Kind::Text => Raw::Text(Texts::default()),
            Kind::Vector => Raw::Vector(VectorColumn::default()),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Raw::Number(_) => Kind::Number,
            Raw::Text(_) => Kind::Text,
            Raw::Vector(_) => Kind::Vector,
        }
    }

    /// Bytes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Raw::Number(values) => 8 * values.capacity(),
            Raw::Text(texts) => 4 * texts.codes.capacity() + texts.bytes,
            Raw::Vector(vectors) => 4 * vectors.values.capacity(),
        }
    }
}

/// Reads the feature columns of batches, one behind the other.
#[derive(Debug)]
pub(crate) struct Reader {
    features: Vec<Feature>,
    handle_invalid: HandleInvalid,
    /// Empty until the first batch says what columns hold.
    pub(crate) columns: Vec<Raw>,
}

impl Reader {
    pub(crate) fn new(features: &[Feature], handle_invalid: HandleInvalid) -> Reader {
        Reader { features: features.to_vec(), handle_invalid, columns: Vec::new() }
    }

    /// Takes a batch in. Gives which rows were kept, when some were not.
    ///
    /// # Errors
    /// `InvalidData` naming the column, the row and what was found there.
    pub(crate) fn push(&mut self, batch: &RecordBatch, place: Where) -> Result<Option<Vec<bool>>> {
        self.settle_kinds(batch)?;
        let mut keep: Option<Vec<bool>> = None;
        for (feature, raw) in self.features.iter().zip(&self.columns) {
            let array = column::find(batch, "feature", &feature.column)?;
            let mut invalid = Invalid {
                feature,
                place,
                rows: batch.num_rows(),
                handle: self.handle_invalid,
                keep: &mut keep,
            };
            match raw.kind() {
                Kind::Number => invalid.numbers(array)?,
                Kind::Vector => invalid.vectors(array)?,
                Kind::Text => {}
            }
        }
        match keep {
            None => self.append(batch, place)?,
            Some(ref keep) => {
                let mask = BooleanArray::from(keep.clone());
                let kept = filter_record_batch(batch, &mask)
                    .map_err(|e| Error::internal(format!("rows could not be dropped: {e}")))?;
                self.append(&kept, place)?;
            }
        }
        Ok(keep)
    }

    /// Learns from the first batch what columns hold, and holds later ones to it.
    fn settle_kinds(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut kinds = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            let (name, array) = (&feature.column, column::find(batch, "feature", &feature.column)?);
            let kind = Kind::of(array.data_type()).ok_or_else(|| {
                Error::data(format!(
                    "feature column '{name}' has type {}, expected numbers, booleans, strings or lists of numbers",
                    array.data_type()
                ))
            })?;
            if feature.shape.is_some() && kind != Kind::Vector {
                return Err(Error::data(format!(
                    "feature column '{name}' has a shape and holds {}, expected vectors",
                    kind.text()
                )));
            }
            kinds.push(kind);
        }
        if self.columns.is_empty() {
            self.columns = kinds.into_iter().map(Raw::new).collect();
            return Ok(());
        }
        for ((feature, raw), kind) in self.features.iter().zip(&self.columns).zip(kinds) {
            if raw.kind() != kind {
                return Err(Error::data(format!(
                    "feature column '{}' holds {}, before it held {}",
                    feature.column,
                    kind.text(),
                    raw.kind().text()
                )));
            }
        }
        Ok(())
    }

    /// Adds all rows of a batch whose invalid rows are gone.
    fn append(&mut self, batch: &RecordBatch, place: Where) -> Result<()> {
        for (feature, raw) in self.features.iter().zip(&mut self.columns) {
            let array = column::find(batch, "feature", &feature.column)?;
            match raw {
                Raw::Number(values) => values.extend(column::numbers(array).ok_or_else(changed)?),
                Raw::Text(texts) => {
                    let mut outcome = Ok(());
                    column::texts(array, &mut |text| {
                        if let Err(e) = texts.push(text) {
                            outcome = Err(e);
                        }
                    });
                    outcome?;
                }
                Raw::Vector(vectors) => append_vectors(feature, array, vectors, place)?,
            }
        }
        Ok(())
    }
}

fn changed() -> Error {
    Error::internal("a column's type is not what it was a moment ago")
}

fn append_vectors(
    feature: &Feature,
    array: &dyn Array,
    column: &mut VectorColumn,
    place: Where,
) -> Result<()> {
    let vectors = Vectors::new(array).ok_or_else(changed)?;
    for row in 0..array.len() {
        if vectors.is_null(row) {
            column.push_null();
            continue;
        }
        let values = vectors.row(row);
        if column.width.is_none() {
            let wanted = feature.shape.as_ref().map(|s| s.iter().product());
            column.settle(wanted.unwrap_or(values.len()));
        }
        if Some(values.len()) != column.width {
            return Err(ragged(feature, &place.row(row), values.len(), column.width.unwrap_or(0)));
        }
        if values.is_empty() {
            return Err(Error::data(format!(
                "column '{}', {}: an empty vector",
                feature.column,
                place.row(row)
            )));
        }
        column.values.extend_from_slice(values);
    }
    Ok(())
}

fn ragged(feature: &Feature, row: &str, found: usize, expected: usize) -> Error {
    let why = match &feature.shape {
        Some(shape) => format!("{expected} for shape {shape:?}"),
        None => format!("{expected} as in the rows before"),
    };
    Error::data(format!("column '{}', {row}: a vector of {found} values, expected {why}", feature.column))
}

/// Looks for NULL, NaN and infinite values of one column.
struct Invalid<'a> {
    feature: &'a Feature,
    place: Where,
    rows: usize,
    handle: HandleInvalid,
    keep: &'a mut Option<Vec<bool>>,
}

impl Invalid<'_> {
    fn numbers(&mut self, array: &dyn Array) -> Result<()> {
        let values = column::numbers(array).ok_or_else(changed)?;
        for (row, value) in values.iter().enumerate() {
            if !value.is_finite() {
                let found = if array.is_null(row) { "NULL".to_string() } else { value.to_string() };
                self.found(row, &found)?;
            }
        }
        Ok(())
    }

    fn vectors(&mut self, array: &dyn Array) -> Result<()> {
        let vectors = Vectors::new(array).ok_or_else(changed)?;
        for row in 0..self.rows {
            if vectors.is_null(row) {
                self.found(row, "NULL")?;
            } else if let Some(at) = vectors.row(row).iter().position(|v| !v.is_finite()) {
                self.found(row, &format!("{} in element {at}", vectors.row(row)[at]))?;
            }
        }
        Ok(())
    }

    fn found(&mut self, row: usize, value: &str) -> Result<()> {
        match self.handle {
            HandleInvalid::Keep => {}
            HandleInvalid::Skip => self.keep.get_or_insert_with(|| vec![true; self.rows])[row] = false,
            HandleInvalid::Error => {
                return Err(Error::data(format!(
                    "column '{}', {}: {value}, expected a finite number; handleInvalid 'skip' drops such rows, \
                     'keep' takes the mean instead",
                    self.feature.column,
                    self.place.row(row)
                )));
            }
        }
        Ok(())
    }
}
