//! Files of rows: Parquet, Arrow IPC (file or stream) and CSV with a header, by their ending.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_csv::ReaderBuilder;
use arrow_csv::reader::Format;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::ArrowError;
use firesteel_error::{Error, Kind, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Rows of a CSV file that are looked at to find its columns' types.
const CSV_SAMPLE: usize = 10_000;

/// Opens a file of rows.
///
/// # Errors
/// `Io` when it cannot be read, `InvalidArgument` for an ending that is not known; both name the file.
pub fn open(path: &Path) -> Result<Box<dyn RecordBatchReader>> {
    let unreadable = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(Kind::Io, format!("cannot read {}", path.display())).with_source(e)
    };
    let file = File::open(path).map_err(|e| unreadable(e.into()))?;
    let reader: std::result::Result<Box<dyn RecordBatchReader>, Box<dyn std::error::Error + Send + Sync>> =
        match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => parquet(file),
            Some("arrow" | "feather" | "ipc") => FileReader::try_new(BufReader::new(file), None)
                .map(|r| Box::new(r) as Box<dyn RecordBatchReader>)
                .map_err(Into::into),
            Some("arrows") => StreamReader::try_new(BufReader::new(file), None)
                .map(|r| Box::new(r) as Box<dyn RecordBatchReader>)
                .map_err(Into::into),
            Some("csv") => csv(file).map_err(Into::into),
            _ => {
                return Err(Error::argument(format!(
                    "{} ends in none of .parquet, .arrow, .arrows, .csv",
                    path.display()
                )));
            }
        };
    reader.map_err(unreadable)
}

fn parquet(
    file: File,
) -> std::result::Result<Box<dyn RecordBatchReader>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Box::new(ParquetRecordBatchReaderBuilder::try_new(file)?.build()?))
}

fn csv(mut file: File) -> std::result::Result<Box<dyn RecordBatchReader>, ArrowError> {
    let format = Format::default().with_header(true);
    let (schema, _) = format.infer_schema(&mut BufReader::new(&file), Some(CSV_SAMPLE))?;
    file.rewind()?;
    Ok(Box::new(ReaderBuilder::new(Arc::new(schema)).with_header(true).build(file)?))
}

/// A batch that was read, or why it could not be.
///
/// # Errors
/// `Corrupt` naming the file.
pub fn check(batch: std::result::Result<RecordBatch, ArrowError>, path: &Path) -> Result<RecordBatch> {
    batch.map_err(|e| Error::corrupt(format!("cannot read rows of {}", path.display())).with_source(e))
}
