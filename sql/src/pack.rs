//! Several files as one value: an Arrow stream of names and bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::Schema;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use datafusion::common::Result;

/// Batches as an Arrow stream.
///
/// # Errors
/// Of Arrow.
pub(crate) fn stream(schema: &Schema, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    Ok(writer.into_inner()?)
}

/// Files by their names.
///
/// # Errors
/// Of Arrow.
pub(crate) fn pack(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let names: StringArray = files.iter().map(|(name, _)| Some(*name)).collect();
    let bytes: LargeBinaryArray = files.iter().map(|(_, bytes)| Some(*bytes)).collect();
    let columns: [(&str, ArrayRef); 2] = [("name", Arc::new(names)), ("bytes", Arc::new(bytes))];
    let batch = RecordBatch::try_from_iter(columns)?;
    stream(&batch.schema(), &[batch])
}

/// What [`pack`] was given; none when the bytes are of something else.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Vec<(String, Bytes)>> {
    let mut files = Vec::new();
    for batch in StreamReader::try_new(bytes, None).ok()? {
        let batch = batch.ok()?;
        let names = batch.column_by_name("name")?.as_string_opt::<i32>()?;
        let bytes = batch.column_by_name("bytes")?.as_binary_opt::<i64>()?;
        let pairs = names.iter().zip(bytes.iter());
        files.extend(pairs.filter_map(|(n, b)| Some((n?.to_owned(), Bytes::copy_from_slice(b?)))));
    }
    Some(files)
}
