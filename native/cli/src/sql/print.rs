//! How results and trainings are shown.

use std::io::{IsTerminal, Write, stdout};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::csv::WriterBuilder;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_schema;
use clap::ValueEnum;
use datafusion::error::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::Format;

/// Rows that a table shows.
const MOST_ROWS: usize = 10_000;

/// How training is shown while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A bar on a terminal, else lines.
    Auto,
    /// A bar.
    Bar,
    /// A line an epoch.
    Lines,
    /// Nothing.
    Off,
}

/// Shows what a session finds.
pub(crate) struct Printer {
    format: Format,
    progress: Progress,
    quiet: bool,
}

impl Printer {
    pub(crate) fn new(format: Format, progress: Progress, quiet: bool) -> Printer {
        let progress = match progress {
            Progress::Auto if quiet => Progress::Off,
            Progress::Auto if std::io::stderr().is_terminal() => Progress::Bar,
            Progress::Auto => Progress::Lines,
            other => other,
        };
        Printer { format, progress, quiet }
    }

    /// To the error output, which no pipe reads.
    pub(crate) fn notice(&self, notice: &str) {
        if !self.quiet {
            eprintln!("note: {notice}");
        }
    }

    pub(crate) fn output(&self, schema: SchemaRef) -> Output {
        Output { format: self.format, schema, batches: Vec::new(), rows: 0, header: true }
    }

    pub(crate) fn progress(&self) -> Epochs {
        let bar = (self.progress == Progress::Bar).then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
            let bar = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar.set_message("reading rows");
            bar
        });
        Epochs { lines: self.progress == Progress::Lines, bar }
    }
}

/// The result of one statement.
pub(crate) struct Output {
    format: Format,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    rows: usize,
    header: bool,
}

impl Output {
    pub(crate) fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        let mut out = stdout().lock();
        match self.format {
            Format::Table => {
                let room = MOST_ROWS.saturating_sub(self.rows);
                self.rows += batch.num_rows();
                self.batches.push(batch.slice(0, batch.num_rows().min(room)));
            }
            Format::Csv => {
                let mut writer = WriterBuilder::new().with_header(self.header).build(&mut out);
                writer.write(&flat(&batch)?)?;
                self.header = false;
            }
            Format::Json => {
                let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut out);
                writer.write(&batch)?;
                writer.finish()?;
            }
        }
        Ok(())
    }

    pub(crate) fn end(mut self) -> Result<()> {
        let mut out = stdout().lock();
        match self.format {
            Format::Table if self.schema.fields().is_empty() => {}
            Format::Table => {
                let table = pretty_format_batches_with_schema(self.schema.clone(), &self.batches)?;
                writeln!(out, "{table}")?;
                if self.rows > MOST_ROWS {
                    writeln!(out, "{MOST_ROWS} of {} rows; --format csv shows all", self.rows)?;
                }
            }
            // A header even without rows.
            Format::Csv if self.header && !self.schema.fields().is_empty() => {
                self.header = false;
                let mut writer = WriterBuilder::new().with_header(true).build(&mut out);
                writer.write(&flat(&RecordBatch::new_empty(self.schema.clone()))?)?;
            }
            _ => {}
        }
        out.flush()?;
        Ok(())
    }
}

/// With lists and structs as the text that a table shows: CSV has none.
fn flat(batch: &RecordBatch) -> Result<RecordBatch> {
    let column = |(field, array): (&FieldRef, &ArrayRef)| -> Result<(FieldRef, ArrayRef)> {
        if !field.data_type().is_nested() {
            return Ok((field.clone(), array.clone()));
        }
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
        let texts = (0..array.len()).map(|row| array.is_valid(row).then(|| formatter.value(row).to_string()));
        let texts: StringArray = texts.collect();
        Ok((Arc::new(Field::new(field.name(), DataType::Utf8, true)), Arc::new(texts)))
    };
    let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(column);
    let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) =
        columns.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// The epochs of a training while they come.
pub(crate) struct Epochs {
    lines: bool,
    bar: Option<ProgressBar>,
}

impl Epochs {
    pub(crate) fn epoch(&mut self, batch: &RecordBatch) {
        for row in 0..batch.num_rows() {
            let line = line(batch, row);
            if let Some(bar) = &self.bar {
                bar.set_message(line);
            } else if self.lines {
                eprintln!("{line}");
            }
        }
    }

    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            let last = bar.message();
            bar.finish_and_clear();
            eprintln!("{last}");
        }
    }
}

fn line(batch: &RecordBatch, row: usize) -> String {
    let real = |name: &str| {
        let column = batch.column_by_name(name)?.as_primitive_opt::<Float64Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let epoch = batch.column_by_name("iteration").and_then(|c| c.as_primitive_opt::<Int64Type>());
    let mut line = format!("epoch {:3}", epoch.map_or(0, |c| c.value(row) + 1));
    for (name, label) in [("loss", "loss"), ("eval_loss", "eval"), ("eval_metric", "metric")] {
        if let Some(value) = real(name) {
            line += &format!("  {label} {value:.5}");
        }
    }
    real("rows_per_second").map_or(line.clone(), |rate| format!("{line}  {rate:.0} rows/s"))
}
