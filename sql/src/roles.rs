//! Which rows of a training are for what.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::common::{Result, exec_err, internal_err};
use serde::{Deserialize, Serialize};

use crate::draw::draw;
use crate::encode::{Encoder, HELD_OUT, Vocabularies};
use crate::spec::{Split, TrainSpec};
use crate::spool::{Reading, Spool};
use crate::weights::Weights;

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Train,
    Evaluate,
    Test,
}

impl Role {
    /// By the bytes that stand for them.
    const ALL: [Role; 3] = [Role::Train, Role::Evaluate, Role::Test];
}

/// Which rows are trained on, by their place in the query's result.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Roles {
    seed: u64,
    evaluate: f64,
    test: f64,
    /// Of rows that a column decides on; all others are drawn. It is long, and travels by itself.
    #[serde(skip)]
    fixed: Option<Vec<Role>>,
    /// The row that `fixed` begins with.
    #[serde(skip)]
    first: u64,
    #[serde(skip)]
    pub(crate) notice: Option<String>,
}

impl Roles {
    /// As a training asks for.
    ///
    /// # Errors
    /// `Execution` when a column does not say what a row is for, and when no row is left to train on.
    pub(crate) fn new(
        spec: &TrainSpec,
        spool: &Spool,
        seen: &Vocabularies,
        reading: &Reading,
    ) -> Result<Roles> {
        let labelled = seen.rows - seen.unlabelled;
        let mut roles = Roles { seed: spec.seed, ..Roles::default() };
        match &spec.split {
            Split::None => {}
            Split::Auto if labelled < 500 => {
                roles.notice = Some(format!("no evaluation rows: {labelled} rows are fewer than 500"));
            }
            Split::Auto if labelled <= 50_000 => roles.evaluate = 0.2,
            Split::Auto => roles.evaluate = 10_000.0 / labelled as f64,
            Split::Random { evaluate, test } => (roles.evaluate, roles.test) = (*evaluate, *test),
            Split::Custom { column } => roles.fixed = Some(custom(spool, column, reading)?),
            Split::Sequential { column, evaluate, test } => {
                roles.fixed = Some(sequential(spool, column, *evaluate, *test, reading)?);
            }
        }
        if !(0..spool.rows()).any(|row| roles.of(row) == Role::Train) {
            return exec_err!("no rows are left to train on: all {} are held out", spool.rows());
        }
        Ok(roles)
    }

    /// Of rows that are all for evaluation.
    pub(crate) fn all_evaluate() -> Roles {
        Roles { evaluate: 1.0, ..Roles::default() }
    }

    /// What a column decides of a range of rows; nothing where none does.
    pub(crate) fn fixed_bytes(&self, rows: &Range<u64>) -> Option<Vec<u8>> {
        let fixed = self.fixed.as_ref()?;
        let of = |row: u64| fixed.get(row as usize).map_or(0, |role| *role as u8);
        Some(rows.clone().map(of).collect())
    }

    /// What [`Roles::fixed_bytes`] gave of these rows.
    ///
    /// # Errors
    /// `Internal` for too few bytes, or one that stands for no role.
    pub(crate) fn take_fixed(&mut self, rows: &Range<u64>, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != rows.end - rows.start {
            return internal_err!("{} roles came for the rows {rows:?}", bytes.len());
        }
        let role = |byte: &u8| match Role::ALL.get(usize::from(*byte)) {
            Some(role) => Ok(*role),
            None => internal_err!("{byte} stands for no role of a row"),
        };
        self.fixed = Some(bytes.iter().map(role).collect::<Result<_>>()?);
        self.first = rows.start;
        Ok(())
    }

    /// Of a row that roles are known of.
    pub(crate) fn of(&self, row: u64) -> Role {
        if let Some(fixed) = &self.fixed {
            return fixed[(row - self.first) as usize];
        }
        let drawn = draw(self.seed, row);
        if drawn < self.evaluate {
            Role::Evaluate
        } else if drawn < self.evaluate + self.test {
            Role::Test
        } else {
            Role::Train
        }
    }

    pub(crate) fn any(&self, role: Role) -> bool {
        match (&self.fixed, role) {
            (Some(fixed), _) => fixed.contains(&role),
            (None, Role::Evaluate) => self.evaluate > 0.0,
            (None, Role::Test) => self.test > 0.0,
            (None, Role::Train) => true,
        }
    }

    /// The rows of a batch that are for something; the batch begins at row `first`.
    pub(crate) fn only(&self, role: Role, first: u64, batch: &RecordBatch) -> Result<RecordBatch> {
        let keep: BooleanArray =
            (0..batch.num_rows() as u64).map(|row| Some(self.of(first + row) == role)).collect();
        Ok(filter_record_batch(batch, &keep)?)
    }

    /// A batch as the training loop reads it: without test rows, evaluation rows marked if they come along.
    pub(crate) fn training(
        &self,
        first: u64,
        batch: &RecordBatch,
        encoder: &Encoder,
        weights: &Weights,
        evaluation: bool,
    ) -> Result<RecordBatch> {
        let roles: Vec<Role> = (0..batch.num_rows() as u64).map(|r| self.of(first + r)).collect();
        let held_out: BooleanArray = roles.iter().map(|r| Some(*r == Role::Evaluate)).collect();
        let mut extra: Vec<(Field, ArrayRef)> =
            vec![(Field::new(HELD_OUT, DataType::Boolean, false), Arc::new(held_out))];
        extra.extend(weights.of(batch, encoder)?);
        let keep: BooleanArray =
            roles.iter().map(|r| Some(*r == Role::Train || (evaluation && *r == Role::Evaluate))).collect();
        // `labelled` drops rows too: mark first, drop then.
        let kept = filter_record_batch(batch, &keep)?;
        for (_, array) in &mut extra {
            *array = arrow::compute::filter(array, &keep)?;
        }
        encoder.labelled(&kept, extra)
    }
}

/// TRUE is for evaluation; a text says TRAIN, EVAL or TEST.
fn custom(spool: &Spool, column: &str, reading: &Reading) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    spool.read(0..spool.rows(), reading, |first, batch| {
        let Some(array) = batch.column_by_name(column) else { return exec_err!("there is no column '{column}'") };
        if *array.data_type() == DataType::Boolean {
            let flags = array.as_boolean();
            roles.extend(flags.iter().map(|f| if f == Some(true) { Role::Evaluate } else { Role::Train }));
            return Ok(());
        }
        let words = cast(array, &DataType::Utf8)?;
        for (row, word) in words.as_string::<i32>().iter().enumerate() {
            roles.push(match word.map(str::to_ascii_uppercase).as_deref() {
                Some("TRAIN") => Role::Train,
                Some("EVAL") => Role::Evaluate,
                Some("TEST") => Role::Test,
                other => {
                    return exec_err!(
                        "data_split_col '{column}' is {} in row {}, expected TRUE, FALSE, TRAIN, EVAL or TEST",
                        other.unwrap_or("NULL"),
                        first + row as u64
                    );
                }
            });
        }
        Ok(())
    })?;
    Ok(roles)
}

/// The rows of the largest values are for the test, those below for evaluation.
fn sequential(spool: &Spool, column: &str, evaluate: f64, test: f64, reading: &Reading) -> Result<Vec<Role>> {
    let mut keys = Vec::new();
    spool.read(0..spool.rows(), reading, |_, batch| {
        let Some(array) = batch.column_by_name(column) else {
            return exec_err!("there is no column '{column}'");
        };
        let numbers = match array.data_type() {
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => cast(
                &cast(array, &DataType::Int64)
                    .or_else(|_| cast(&cast(array, &DataType::Int32)?, &DataType::Int64))?,
                &DataType::Float64,
            )?,
            _ => cast(array, &DataType::Float64)?,
        };
        let numbers: &Float64Array = numbers.as_primitive::<Float64Type>();
        keys.extend(numbers.iter().map(|k| k.unwrap_or(f64::NEG_INFINITY)));
        Ok(())
    })?;
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]).then(a.cmp(b)));
    let mut roles = vec![Role::Train; keys.len()];
    let share = |fraction: f64| (fraction * keys.len() as f64).round() as usize;
    let (tested, evaluated) = (share(test), share(evaluate));
    for (place, row) in order.into_iter().rev().enumerate() {
        roles[row] = match place {
            p if p < tested => Role::Test,
            p if p < tested + evaluated => Role::Evaluate,
            _ => break,
        };
    }
    Ok(roles)
}
