//! One worker's rows, taken in batch by batch.

use std::borrow::Cow;

use arrow_array::{Array, RecordBatch};
use firesteel_error::{Error, Result};

use super::column;
use super::raw::{Raw, Reader, Where, extend};
use crate::config::{DataConfig, Task, TrainConfig};

/// Labels beyond this many classes are taken for a mistake: the network would need an output for each.
const MOST_CLASSES: usize = 100_000;

/// Takes one worker's batches in and checks every value of them.
#[derive(Debug)]
pub struct ShardBuilder {
    reader: Reader,
    shard: Shard,
    task: Task,
    classes: Option<usize>,
    rank: usize,
    /// Rows that came, those that were skipped counted.
    seen: u64,
}

/// One worker's rows, checked, before workers have agreed on how to encode them.
#[derive(Debug)]
pub struct Shard {
    pub(crate) data: DataConfig,
    /// One a feature; empty when no batch came.
    pub(crate) features: Vec<Raw>,
    /// Empty for a reconstruction.
    pub(crate) labels: Vec<f64>,
    /// Empty where the configuration names no such column.
    pub(crate) weights: Vec<f32>,
    pub(crate) held_out: Vec<bool>,
    rows: usize,
}

impl ShardBuilder {
    /// For the worker of this rank.
    ///
    /// # Errors
    /// `InvalidArgument` when the configuration does not fit together.
    pub fn new(config: &TrainConfig, rank: usize) -> Result<ShardBuilder> {
        config.check()?;
        let shard = Shard {
            data: config.data.clone(),
            features: Vec::new(),
            labels: Vec::new(),
            weights: Vec::new(),
            held_out: Vec::new(),
            rows: 0,
        };
        let reader = Reader::new(&config.data.features, config.params.handle_invalid);
        Ok(ShardBuilder { reader, shard, task: config.task, classes: config.classes, rank, seen: 0 })
    }

    /// Takes a batch in; other columns than those of the configuration are not looked at.
    ///
    /// # Errors
    /// `InvalidData` naming the column, the row and what was found there. The builder is of no use afterwards.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let place = Where::Rank { rank: self.rank, before: self.seen };
        let data = self.shard.data.clone();
        let labels = self.labels(batch, &data.label, place)?;
        let weights = data.weight.map(|name| weights(batch, &name, place)).transpose()?;
        let held_out = data.validation.map(|name| flags(batch, &name, place)).transpose()?;
        let keep = self.reader.push(batch, place)?;
        self.shard.rows += keep.as_ref().map_or(batch.num_rows(), |k| k.iter().filter(|k| **k).count());
        extend(&mut self.shard.labels, &labels, keep.as_deref());
        extend(&mut self.shard.weights, &weights.unwrap_or_default(), keep.as_deref());
        extend(&mut self.shard.held_out, &held_out.unwrap_or_default(), keep.as_deref());
        self.seen += batch.num_rows() as u64;
        Ok(())
    }

    fn labels<'a>(&self, batch: &'a RecordBatch, name: &str, place: Where) -> Result<Cow<'a, [f64]>> {
        if self.task == Task::Reconstruction {
            return Ok(Cow::Borrowed(&[]));
        }
        let values = numbers(batch, "label", name)?;
        let limit = self.classes.unwrap_or(MOST_CLASSES);
        for (row, value) in values.iter().enumerate() {
            let expected = match self.task {
                Task::Regression | Task::Reconstruction if value.is_finite() => continue,
                Task::Regression | Task::Reconstruction => "a finite number".to_string(),
                Task::Classification if value.fract() == 0.0 && *value >= 0.0 && *value < limit as f64 => {
                    continue;
                }
                Task::Classification => format!("a class, a whole number from 0 to {}", limit - 1),
            };
            let found = shown(batch, name, row, *value);
            return Err(Error::data(format!(
                "label column '{name}', {}: {found}, expected {expected}",
                place.row(row)
            )));
        }
        Ok(values)
    }

    /// Rows kept so far.
    pub fn rows(&self) -> usize {
        self.shard.rows
    }

    /// The rows that came.
    pub fn finish(mut self) -> Shard {
        self.shard.features = std::mem::take(&mut self.reader.columns);
        self.shard
    }
}

impl Shard {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

fn numbers<'a>(batch: &'a RecordBatch, role: &str, name: &str) -> Result<Cow<'a, [f64]>> {
    let array = column::find(batch, role, name)?;
    column::numbers(array).ok_or_else(|| {
        Error::data(format!("{role} column '{name}' has type {}, expected numbers", array.data_type()))
    })
}

/// A value as a message shows it.
fn shown(batch: &RecordBatch, name: &str, row: usize, value: f64) -> String {
    let null = batch.column_by_name(name).is_some_and(|a| a.is_null(row));
    if null { "NULL".into() } else { value.to_string() }
}

fn weights(batch: &RecordBatch, name: &str, place: Where) -> Result<Vec<f32>> {
    let values = numbers(batch, "weight", name)?;
    match values.iter().position(|w| !(*w >= 0.0 && (*w as f32).is_finite())) {
        None => Ok(values.iter().map(|w| *w as f32).collect()),
        Some(row) => Err(Error::data(format!(
            "weight column '{name}', {}: {}, expected at least 0 and finite",
            place.row(row),
            shown(batch, name, row, values[row])
        ))),
    }
}

fn flags(batch: &RecordBatch, name: &str, place: Where) -> Result<Vec<bool>> {
    let values = numbers(batch, "validation", name)?;
    match values.iter().position(|v| *v != 0.0 && *v != 1.0) {
        None => Ok(values.iter().map(|v| *v == 1.0).collect()),
        Some(row) => Err(Error::data(format!(
            "validation column '{name}', {}: {}, expected true or false",
            place.row(row),
            shown(batch, name, row, values[row])
        ))),
    }
}
