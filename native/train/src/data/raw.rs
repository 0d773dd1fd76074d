//! Feature columns as they come, checked, before they are encoded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use firesteel_error::{Error, Result};
use foldhash::fast::RandomState;

use super::column::{self, Kind, Vectors};
use super::vocabulary::Vocabulary;
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
    /// Texts of which is known what they are in the model.
    Index(Vec<u32>),
    Vector(VectorColumn),
}

/// Texts as indices into the distinct ones, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// One a row; [`NULL`] for NULL.
    pub(crate) codes: Vec<u32>,
    pub(crate) distinct: Vec<Box<str>>,
    places: HashMap<Box<str>, u32, RandomState>,
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
            Raw::Text(_) | Raw::Index(_) => Kind::Text,
            Raw::Vector(_) => Kind::Vector,
        }
    }
}

/// Reads the feature columns of batches, one behind the other.
#[derive(Debug)]
pub(crate) struct Reader {
    features: Vec<Feature>,
    handle_invalid: HandleInvalid,
    /// Of a model that scores: what its texts are, for each feature that holds some. Empty in training.
    known: Vec<Option<Arc<Vocabulary>>>,
    /// Empty until the first batch says what columns hold.
    pub(crate) columns: Vec<Raw>,
}

impl Reader {
    pub(crate) fn new(features: &[Feature], handle_invalid: HandleInvalid) -> Reader {
        Reader { features: features.to_vec(), handle_invalid, known: Vec::new(), columns: Vec::new() }
    }

    /// For a model that scores.
    pub(crate) fn knowing(
        features: &[Feature],
        handle_invalid: HandleInvalid,
        known: &[Option<Arc<Vocabulary>>],
    ) -> Reader {
        Reader { known: known.to_vec(), ..Reader::new(features, handle_invalid) }
    }

    /// Takes a batch in. Gives which rows were kept, when some were not.
    ///
    /// # Errors
    /// `InvalidData` naming the column, the row and what was found there.
    pub(crate) fn push(&mut self, batch: &RecordBatch, place: Where) -> Result<Option<Vec<bool>>> {
        self.settle_kinds(batch)?;
        let mut invalid = Invalid::new(self.handle_invalid, place, batch.num_rows());
        let mut columns = Vec::with_capacity(self.features.len());
        for (feature, raw) in self.features.iter().zip(&self.columns) {
            let array = column::find(batch, "feature", &feature.column)?;
            let column = Column::read(array, raw.kind())?;
            column.look_for(&feature.column, &mut invalid)?;
            columns.push(column);
        }
        for (i, column) in columns.into_iter().enumerate() {
            let known = self.known.get(i).and_then(Option::as_deref);
            column.append(&self.features[i], &mut self.columns[i], known, &invalid)?;
        }
        Ok(invalid.keep)
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
            let raw = |(i, kind)| match self.known.get(i) {
                Some(Some(_)) if kind == Kind::Text => Raw::Index(Vec::new()),
                _ => Raw::new(kind),
            };
            self.columns = kinds.into_iter().enumerate().map(raw).collect();
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
}

fn changed() -> Error {
    Error::internal("a column's type is not what it was a moment ago")
}

/// A column of a batch, converted once: looked through for invalid values, then appended.
enum Column<'a> {
    Numbers(&'a dyn Array, Cow<'a, [f64]>),
    Texts(&'a dyn Array),
    Vectors(Vectors<'a>),
}

impl<'a> Column<'a> {
    fn read(array: &'a dyn Array, kind: Kind) -> Result<Column<'a>> {
        Ok(match kind {
            Kind::Number => Column::Numbers(array, column::numbers(array).ok_or_else(changed)?),
            Kind::Text => Column::Texts(array),
            Kind::Vector => Column::Vectors(Vectors::new(array).ok_or_else(changed)?),
        })
    }

    /// Tells of every NULL, NaN and infinite value.
    fn look_for(&self, name: &str, invalid: &mut Invalid) -> Result<()> {
        match self {
            Column::Numbers(array, values) => {
                for (row, value) in values.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
                    let found = if array.is_null(row) { "NULL".to_string() } else { value.to_string() };
                    invalid.found(name, row, &found)?;
                }
            }
            Column::Vectors(vectors) => {
                for row in 0..invalid.rows {
                    if vectors.is_null(row) {
                        invalid.found(name, row, "NULL")?;
                    } else if let Some(at) = vectors.row(row).iter().position(|v| !v.is_finite()) {
                        let found = format!("{} in element {at}", vectors.row(row)[at]);
                        invalid.found(name, row, &found)?;
                    }
                }
            }
            // NULL is a text like any other.
            Column::Texts(_) => {}
        }
        Ok(())
    }

    /// Adds the rows that are kept.
    fn append(
        self,
        feature: &Feature,
        raw: &mut Raw,
        known: Option<&Vocabulary>,
        invalid: &Invalid,
    ) -> Result<()> {
        match (raw, self) {
            (Raw::Index(all), Column::Texts(array)) => {
                extend(all, &known.ok_or_else(changed)?.indices(array), invalid.keep.as_deref());
            }
            (Raw::Number(all), Column::Numbers(_, values)) => extend(all, &values, invalid.keep.as_deref()),
            (Raw::Text(all), Column::Texts(array)) => {
                let (mut row, mut outcome) = (0, Ok(()));
                column::texts(array, &mut |text| {
                    if outcome.is_ok() && invalid.keeps(row) {
                        outcome = all.push(text);
                    }
                    row += 1;
                });
                outcome?;
            }
            (Raw::Vector(all), Column::Vectors(vectors)) => {
                for row in (0..invalid.rows).filter(|row| invalid.keeps(*row)) {
                    append_vector(feature, all, &vectors, row, invalid.place)?;
                }
            }
            _ => return Err(changed()),
        }
        Ok(())
    }
}

/// Adds `values`, without those of rows that are not kept.
pub(crate) fn extend<T: Copy>(all: &mut Vec<T>, values: &[T], keep: Option<&[bool]>) {
    match keep {
        None => all.extend_from_slice(values),
        Some(keep) => all.extend(values.iter().zip(keep).filter(|(_, keep)| **keep).map(|(v, _)| *v)),
    }
}

fn append_vector(
    feature: &Feature,
    column: &mut VectorColumn,
    vectors: &Vectors,
    row: usize,
    place: Where,
) -> Result<()> {
    if vectors.is_null(row) {
        column.push_null();
        return Ok(());
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
        return Err(Error::data(format!("column '{}', {}: an empty vector", feature.column, place.row(row))));
    }
    column.values.extend_from_slice(values);
    Ok(())
}

fn ragged(feature: &Feature, row: &str, found: usize, expected: usize) -> Error {
    let why = match &feature.shape {
        Some(shape) => format!("{expected} for shape {shape:?}"),
        None => format!("{expected} as in the rows before"),
    };
    Error::data(format!("column '{}', {row}: a vector of {found} values, expected {why}", feature.column))
}

/// What becomes of rows with values that no network can take.
pub(crate) struct Invalid {
    handle: HandleInvalid,
    place: Where,
    rows: usize,
    /// Which rows stay, once one does not.
    pub(crate) keep: Option<Vec<bool>>,
}

impl Invalid {
    pub(crate) fn new(handle: HandleInvalid, place: Where, rows: usize) -> Invalid {
        Invalid { handle, place, rows, keep: None }
    }

    pub(crate) fn keeps(&self, row: usize) -> bool {
        self.keep.as_ref().is_none_or(|keep| keep[row])
    }

    /// Takes note of a row's value, or refuses it.
    ///
    /// # Errors
    /// `InvalidData` naming the column, the row and the value, unless such rows are skipped or kept.
    pub(crate) fn found(&mut self, column: &str, row: usize, value: &str) -> Result<()> {
        match self.handle {
            HandleInvalid::Keep => {}
            HandleInvalid::Skip => self.keep.get_or_insert_with(|| vec![true; self.rows])[row] = false,
            HandleInvalid::Error => {
                return Err(Error::data(format!(
                    "column '{column}', {}: {value}, expected a finite number; handleInvalid 'skip' drops such \
                     rows, 'keep' takes the mean instead",
                    self.place.row(row)
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow_array::types::Float32Type;
    use arrow_array::{ArrayRef, Float64Array, ListArray, StringArray};

    fn reader(names: &[&str], handle: HandleInvalid) -> Reader {
        let feature = |name: &&str| Feature { column: (*name).into(), shape: None };
        Reader::new(&names.iter().map(feature).collect::<Vec<_>>(), handle)
    }

    fn lists(rows: Vec<Option<Vec<f32>>>) -> ArrayRef {
        let rows = rows.into_iter().map(|row| row.map(|row| row.into_iter().map(Some)));
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
    }

    #[test]
    fn skipped_rows_leave_every_column_and_keep_the_numbers_of_the_others() {
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(1.0), Some(2.0)]));
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b")]));
        let mut reader = reader(&["x", "w", "v"], HandleInvalid::Skip);
        let first = lists(vec![Some(vec![9.0; 7]), Some(vec![1.0, 2.0]), Some(vec![3.0, 4.0])]);
        let place = Where::Rank { rank: 3, before: 10 };
        let keep = reader.push(&batch(vec![("x", numbers), ("w", words), ("v", first)]), place).unwrap();
        assert_eq!(keep, Some(vec![false, true, true]));
        let [Raw::Number(x), Raw::Text(w), Raw::Vector(v)] = reader.columns.as_slice() else { panic!() };
        assert_eq!((x.as_slice(), w.codes.as_slice()), (&[1.0, 2.0][..], &[NULL, 0][..]));
        assert_eq!(
            (w.distinct.as_slice(), v.values.as_slice()),
            (&["b".into()][..], &[1.0, 2.0, 3.0, 4.0][..])
        );
    }

    /// The rows before it in the batch were skipped; its number still counts them.
    #[test]
    fn a_ragged_or_empty_vector_is_named_by_its_own_row() {
        for (bad, what) in [
            (vec![1.0], "a vector of 1 values, expected 2 as in the rows before"),
            (Vec::new(), "a vector of 0 values, expected 2 as in the rows before"),
        ] {
            let mut reader = reader(&["v"], HandleInvalid::Skip);
            let rows = lists(vec![Some(vec![f32::NAN, 1.0]), None, Some(vec![1.0, 2.0]), Some(bad)]);
            let e = reader.push(&batch(vec![("v", rows)]), Where::Batch).unwrap_err().to_string();
            assert_eq!(e, format!("column 'v', row 3 of the batch: {what}"));
        }
        let mut reader = reader(&["v"], HandleInvalid::Skip);
        let rows = batch(vec![("v", lists(vec![None, Some(Vec::new())]))]);
        let e = reader.push(&rows, Where::Rank { rank: 0, before: 5 }).unwrap_err().to_string();
        assert_eq!(e, "column 'v', row 6 of rank 0: an empty vector");
    }

    #[test]
    fn vectors_that_are_null_before_the_width_is_known() {
        let mut reader = reader(&["v"], HandleInvalid::Keep);
        for rows in [vec![None, None], vec![None, Some(vec![1.0, 2.0]), None]] {
            assert_eq!(reader.push(&batch(vec![("v", lists(rows))]), Where::Batch).unwrap(), None);
        }
        let [Raw::Vector(v)] = reader.columns.as_slice() else { panic!() };
        assert_eq!((v.width, v.pending, v.values.len()), (Some(2), 0, 10));
        let nulls = v.values.chunks(2).map(|row| row[0].is_nan() && row[1].is_nan());
        assert_eq!(nulls.collect::<Vec<_>>(), [true, true, true, false, true]);
    }
}
