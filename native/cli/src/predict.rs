//! `firesteel predict`: scores a file, CSV to standard output.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use firesteel_error::{Error, Kind, Result};
use firesteel_train::metrics::largest;
use firesteel_train::{Model, Predictions, Predictor, ReconstructionLoss, Task};

use crate::rows;

/// What `firesteel predict` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// The model's folder
    #[arg(long)]
    model: PathBuf,
    /// The rows: a .parquet, .arrow, .arrows or .csv file
    #[arg(long)]
    data: PathBuf,
    /// Threads to score with
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

/// Writes a line a row: the prediction and, of classes, the probability of each; of a reconstruction its loss and that of
/// each column. A row that the model skips is empty.
///
/// # Errors
/// Whatever is wrong with the model, the rows or standard output.
pub fn run(options: &Options) -> Result<()> {
    let model = Arc::new(Model::load(&options.model)?);
    let predictor = Predictor::new(model.clone(), options.threads.into());
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = |e: std::io::Error| Error::new(Kind::Io, "cannot write to standard output").with_source(e);
    writeln!(out, "{}", header(&model)).map_err(written)?;
    for batch in rows::open(&options.data)? {
        let batch = rows::check(batch, &options.data)?;
        let lines = match model.info().task {
            Task::Reconstruction => losses(&predictor.reconstruction_loss(&batch)?),
            task => lines(&predictor.predict(&batch)?, task),
        };
        for line in lines {
            writeln!(out, "{line}").map_err(written)?;
        }
    }
    out.flush().map_err(written)
}

fn header(model: &Model) -> String {
    let info = model.info();
    if info.task == Task::Reconstruction {
        let of_columns = info.features.iter().map(|column| quoted(&format!("loss_{column}")));
        return ["loss".to_owned()].into_iter().chain(of_columns).collect::<Vec<_>>().join(",");
    }
    let mut names = vec!["prediction".to_owned()];
    if info.task == Task::Classification {
        names.extend((0..info.outputs).map(|class| format!("probability_{class}")));
    }
    names.join(",")
}

/// A name as CSV writes it.
fn quoted(name: &str) -> String {
    match name.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.to_owned(),
    }
}

fn losses(of_rows: &ReconstructionLoss) -> Vec<String> {
    let columns = of_rows.columns.len() / of_rows.values.len().max(1);
    let row = |(row, loss): (usize, &f32)| {
        if of_rows.skipped.as_ref().is_some_and(|s| s[row] != 0) {
            return ",".repeat(columns);
        }
        let of_columns = &of_rows.columns[row * columns..][..columns];
        let numbers: Vec<String> = std::iter::once(loss).chain(of_columns).map(f32::to_string).collect();
        numbers.join(",")
    };
    of_rows.values.iter().enumerate().map(row).collect()
}

fn lines(predictions: &Predictions, task: Task) -> Vec<String> {
    let values = match task {
        Task::Classification => predictions.probabilities(),
        Task::Regression | Task::Reconstruction => predictions.values.clone(),
    };
    let row = |(row, values): (usize, &[f32])| {
        let skipped = predictions.skipped.as_ref().is_some_and(|s| s[row] != 0);
        let numbers: Vec<String> = values.iter().map(f32::to_string).collect();
        match task {
            _ if skipped => ",".repeat(if task == Task::Classification { values.len() } else { 0 }),
            Task::Classification => format!("{},{}", largest(values), numbers.join(",")),
            Task::Regression | Task::Reconstruction => numbers.join(","),
        }
    };
    values.chunks_exact(predictions.outputs).enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_row() {
        let mut scores = Predictions { outputs: 2, values: vec![0.0, 0.0, 1.0, 0.0], skipped: None };
        let written = lines(&scores, Task::Classification);
        assert_eq!(written[0], "0,0.5,0.5");
        assert!(written[1].starts_with("0,0.731"), "{written:?}");
        scores.skipped = Some(vec![1, 0]);
        assert_eq!(lines(&scores, Task::Classification)[0], ",,");
        scores = Predictions { outputs: 1, values: vec![2.5], skipped: None };
        assert_eq!(lines(&scores, Task::Regression), ["2.5"]);
    }

    #[test]
    fn a_line_a_reconstruction() {
        let skipped = Some(vec![0, 1]);
        let found = ReconstructionLoss { values: vec![2.0, 0.0], columns: vec![1.5, 2.5, 0.0, 0.0], skipped };
        assert_eq!(losses(&found), ["2,1.5,2.5", ",,"]);
        assert_eq!(quoted("loss_a,\"b\""), "\"loss_a,\"\"b\"\"\"");
    }
}
