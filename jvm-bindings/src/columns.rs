//! Column batches: memory that Rust allocates and the JVM fills by address.
//!
//! The layout is Arrow's, so filled buffers become a record batch without a copy. Between [`ColumnBatch::addresses`]
//! and [`ColumnBatch::take`] the JVM's task thread may write; afterwards the buffers belong to the record batch and
//! the next `addresses` speaks of new ones.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float32Array, Float64Array, ListArray, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use firesteel_error::{Error, Result};
use serde::Deserialize;

/// Values a row that a column with offsets has room for at first.
const GUESS: usize = 8;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// One f64 a row.
    Double,
    /// One f32 a row.
    Float,
    /// UTF-8 text: i32 offsets and bytes.
    Text,
    /// f32 vectors of any length: i32 offsets and values. Ragged ones are refused behind, where rows can be named.
    Vector,
}

impl ColumnKind {
    /// Bytes of a value, an element or a character.
    fn width(self) -> usize {
        match self {
            ColumnKind::Double => 8,
            ColumnKind::Float | ColumnKind::Vector => 4,
            ColumnKind::Text => 1,
        }
    }

    /// Bytes of values to begin with for so many rows; texts and vectors grow from there.
    fn room(self, capacity: usize) -> usize {
        capacity * self.width() * if self.has_offsets() { GUESS } else { 1 }
    }

    /// The most bytes of values: an i32 counts them, or the elements that they are.
    fn most(self, capacity: usize) -> usize {
        if self.has_offsets() { self.width() * i32::MAX as usize } else { self.room(capacity) }
    }

    fn has_offsets(self) -> bool {
        matches!(self, ColumnKind::Text | ColumnKind::Vector)
    }

    fn data_type(self) -> DataType {
        match self {
            ColumnKind::Double => DataType::Float64,
            ColumnKind::Float => DataType::Float32,
            ColumnKind::Text => DataType::Utf8,
            ColumnKind::Vector => DataType::List(element()),
        }
    }
}

fn element() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Float32, false))
}

/// One column: its name and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    /// As in the DataFrame.
    pub name: String,
    /// What it holds.
    pub kind: ColumnKind,
}

/// Buffers for up to `capacity` rows.
#[derive(Debug)]
pub struct ColumnBatch {
    columns: Vec<Column>,
    schema: SchemaRef,
    capacity: usize,
    /// Bytes of values that each column begins a batch with: what it had at the end of the last.
    rooms: Vec<usize>,
    buffers: Vec<Buffers>,
}

/// The memory of one column.
#[derive(Debug)]
struct Buffers {
    /// A bit a row, all set: the JVM clears those of NULLs.
    validity: MutableBuffer,
    /// `capacity + 1` i32, the first 0; empty for numbers.
    offsets: MutableBuffer,
    /// Zeroed, so that reading what the JVM did not write is defined.
    values: MutableBuffer,
}

impl Buffers {
    fn new(kind: ColumnKind, capacity: usize, values: usize) -> Buffers {
        let offsets = if kind.has_offsets() { (capacity + 1) * 4 } else { 0 };
        let validity = capacity.div_ceil(8);
        Buffers {
            validity: MutableBuffer::new(validity).with_bitset(validity, true),
            offsets: MutableBuffer::from_len_zeroed(offsets),
            values: MutableBuffer::from_len_zeroed(values),
        }
    }
}

impl ColumnBatch {
    /// A batch for these columns.
    ///
    /// # Errors
    /// `InvalidArgument` when the capacity is 0 or a column's offsets would not fit in an i32.
    pub fn new(columns: Vec<Column>, capacity: usize) -> Result<ColumnBatch> {
        if capacity == 0 || capacity > i32::MAX as usize / 16 {
            return Err(Error::argument(format!("a batch of {capacity} rows cannot be allocated")));
        }
        let fields: Vec<Field> =
            columns.iter().map(|c| Field::new(&c.name, c.kind.data_type(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let rooms = columns.iter().map(|c| c.kind.room(capacity)).collect();
        Ok(ColumnBatch { columns, schema, capacity, rooms, buffers: Vec::new() })
    }

    /// Addresses of validity, offsets (0 for numbers) and values, and bytes of values, column by column.
    /// The memory stays until [`ColumnBatch::take`], except values that [`ColumnBatch::reserve`] moved.
    pub fn addresses(&mut self) -> Vec<i64> {
        if self.buffers.is_empty() {
            let capacity = self.capacity;
            let fresh = |(c, room): (&Column, &usize)| Buffers::new(c.kind, capacity, *room);
            self.buffers = self.columns.iter().zip(&self.rooms).map(fresh).collect();
        }
        let of = |b: &mut Buffers| {
            let offsets = if b.offsets.is_empty() { 0 } else { b.offsets.as_mut_ptr() as i64 };
            [b.validity.as_mut_ptr() as i64, offsets, b.values.as_mut_ptr() as i64, b.values.len() as i64]
        };
        self.buffers.iter_mut().flat_map(of).collect()
    }

    /// Makes room for at least `bytes` bytes of values in a column, keeps what was written and gives the address.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown column; `InvalidData` for more bytes than its offsets can count.
    pub fn reserve(&mut self, column: usize, bytes: usize) -> Result<i64> {
        let (Some(buffers), Some(known)) = (self.buffers.get_mut(column), self.columns.get(column)) else {
            return Err(Error::argument(format!("the batch has no column {column}")));
        };
        let most = known.kind.most(self.capacity);
        if bytes > most {
            return Err(Error::data(format!(
                "column {} needs {bytes} bytes for one batch of up to {} rows, more than {most}",
                known.name, self.capacity
            )));
        }
        if bytes > buffers.values.len() {
            buffers.values.resize(bytes, 0);
            self.rooms[column] = bytes;
        }
        Ok(buffers.values.as_mut_ptr() as i64)
    }

    /// The first `rows` rows as a record batch; no copy.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no room for that many rows; `InvalidData` when text is not UTF-8.
    pub fn take(&mut self, rows: usize) -> Result<RecordBatch> {
        if rows > self.capacity || (self.buffers.is_empty() && rows > 0 && !self.columns.is_empty()) {
            return Err(Error::argument(format!("a batch of {} rows cannot hold {rows}", self.capacity)));
        }
        let buffers = std::mem::take(&mut self.buffers);
        let arrays: Result<Vec<ArrayRef>> =
            self.columns.iter().zip(buffers).map(|(column, buffers)| array(column, buffers, rows)).collect();
        let arrays = match arrays {
            Ok(arrays) if rows > 0 || arrays.len() == self.columns.len() => arrays,
            Ok(_) => return Ok(RecordBatch::new_empty(self.schema.clone())),
            Err(e) => return Err(e),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|e| Error::internal(format!("a filled batch is not one: {e}")))
    }
}

fn array(column: &Column, buffers: Buffers, rows: usize) -> Result<ArrayRef> {
    let Buffers { validity, offsets, values } = buffers;
    let nulls = Some(NullBuffer::new(BooleanBuffer::new(validity.into(), 0, rows)));
    let nulls = nulls.filter(|n| n.null_count() > 0);
    let values: Buffer = values.into();
    Ok(match column.kind {
        ColumnKind::Double => Arc::new(Float64Array::new(ScalarBuffer::new(values, 0, rows), nulls)),
        ColumnKind::Float => Arc::new(Float32Array::new(ScalarBuffer::new(values, 0, rows), nulls)),
        ColumnKind::Text => {
            let offsets = checked_offsets(column, offsets, rows, values.len())?;
            let text = StringArray::try_new(offsets, values, nulls).map_err(|e| {
                Error::data(format!("column {} holds text that is not UTF-8: {e}", column.name))
            })?;
            Arc::new(text)
        }
        ColumnKind::Vector => {
            let offsets = checked_offsets(column, offsets, rows, values.len() / 4)?;
            let end = offsets.last().copied().unwrap_or(0) as usize;
            let values = Float32Array::new(ScalarBuffer::new(values, 0, end), None);
            Arc::new(ListArray::new(element(), offsets, Arc::new(values), nulls))
        }
    })
}

/// The JVM wrote the offsets: they are checked once, here, and trusted behind.
fn checked_offsets(
    column: &Column,
    offsets: MutableBuffer,
    rows: usize,
    end: usize,
) -> Result<OffsetBuffer<i32>> {
    let offsets: ScalarBuffer<i32> = ScalarBuffer::new(offsets.into(), 0, rows + 1);
    let ordered = offsets[0] == 0 && offsets.windows(2).all(|w| w[0] <= w[1]);
    if !ordered || offsets[rows] as usize > end {
        return Err(Error::internal(format!("the offsets of column {} are out of order", column.name)));
    }
    Ok(OffsetBuffer::new(offsets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float32Type, Float64Type};

    fn column(name: &str, kind: ColumnKind) -> Column {
        Column { name: name.into(), kind }
    }

    /// Writes as the JVM does: by address.
    fn put<T: Copy>(address: i64, values: &[T]) {
        // SAFETY: the tests pass addresses of buffers that hold at least these values.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), address as *mut T, values.len()) };
    }

    fn clear_bit(address: i64, row: usize) {
        // SAFETY: as in `put`.
        unsafe { *((address as *mut u8).add(row / 8)) &= !(1 << (row % 8)) };
    }

    #[test]
    fn what_was_written_by_address_comes_out() {
        let kinds = [ColumnKind::Double, ColumnKind::Float, ColumnKind::Text, ColumnKind::Vector];
        let columns = kinds.iter().map(|k| column(&format!("{k:?}"), *k)).collect();
        let mut batch = ColumnBatch::new(columns, 10).unwrap();
        for round in 0..2 {
            let a = batch.addresses();
            put(a[2], &[1.5f64, 0.0, -2.5]);
            clear_bit(a[0], 1);
            put(a[6], &[1f32, 2.0, 3.0]);
            put(a[9], &[0i32, 2, 2, 5]);
            put(a[10], b"abcde");
            let vectors = batch.reserve(3, 4 * 6).unwrap();
            put(a[13], &[0i32, 2, 4, 6]);
            put(vectors, &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
            let taken = batch.take(3).unwrap();
            assert_eq!(taken.num_rows(), 3, "round {round}");
            let doubles = taken.column(0).as_primitive::<Float64Type>();
            assert_eq!(doubles.iter().collect::<Vec<_>>(), [Some(1.5), None, Some(-2.5)]);
            assert_eq!(taken.column(1).as_primitive::<Float32Type>().values(), &[1.0, 2.0, 3.0]);
            let text: Vec<_> = taken.column(2).as_string::<i32>().iter().flatten().collect();
            assert_eq!(text, ["ab", "", "cde"]);
            let list = taken.column(3).as_list::<i32>();
            assert_eq!(list.value(1).as_primitive::<Float32Type>().values(), &[3.0, 4.0]);
        }
    }

    #[test]
    fn reserve_keeps_what_was_written() {
        let mut batch = ColumnBatch::new(vec![column("t", ColumnKind::Text)], 1).unwrap();
        let a = batch.addresses();
        put(a[2], b"seven...");
        let moved = batch.reserve(0, 1 << 20).unwrap();
        put(moved + 8, b"tail");
        put(a[1], &[0i32, 12]);
        assert_eq!(batch.take(1).unwrap().column(0).as_string::<i32>().value(0), "seven...tail");
        batch.addresses();
        let e = batch.reserve(0, 1 << 40).unwrap_err().to_string();
        assert!(e.contains("column t needs 1099511627776 bytes"), "{e}");
        assert_eq!(batch.reserve(1, 1).unwrap_err().to_string(), "the batch has no column 1");
    }

    #[test]
    fn numbers_take_what_they_need_and_others_what_they_took_before() {
        let kinds = [ColumnKind::Double, ColumnKind::Float, ColumnKind::Text, ColumnKind::Vector];
        let columns = kinds.iter().map(|k| column(&format!("{k:?}"), *k)).collect();
        let mut batch = ColumnBatch::new(columns, 100).unwrap();
        let rooms = |batch: &mut ColumnBatch| batch.addresses().chunks(4).map(|c| c[3]).collect::<Vec<_>>();
        assert_eq!(rooms(&mut batch), [800, 400, 800, 3200]);
        batch.reserve(2, 5000).unwrap();
        batch.reserve(3, 100).unwrap();
        batch.take(0).unwrap();
        assert_eq!(rooms(&mut batch), [800, 400, 5000, 3200]);
        // An i32 counts bytes of text and elements of vectors.
        assert_eq!(ColumnKind::Text.most(100), i32::MAX as usize);
        assert_eq!(ColumnKind::Vector.most(100), 4 * i32::MAX as usize);
        assert!(batch.reserve(0, 801).unwrap_err().to_string().ends_with("more than 800"));
    }

    #[test]
    fn damaged_buffers_are_refused() {
        let mut batch = ColumnBatch::new(vec![column("t", ColumnKind::Text)], 4).unwrap();
        let a = batch.addresses();
        put(a[1], &[0i32, 900]);
        assert!(batch.take(1).unwrap_err().to_string().contains("out of order"));
        let a = batch.addresses();
        put(a[1], &[0i32, 1]);
        put(a[2], &[0xffu8]);
        let e = batch.take(1).unwrap_err().to_string();
        assert!(e.starts_with("column t holds text that is not UTF-8"), "{e}");
        assert!(batch.take(5).is_err());
        assert!(ColumnBatch::new(Vec::new(), 0).is_err());
    }

    #[test]
    fn a_batch_without_rows_or_nulls() {
        let mut batch = ColumnBatch::new(vec![column("x", ColumnKind::Float)], 4).unwrap();
        assert_eq!(batch.take(0).unwrap().num_rows(), 0);
        batch.addresses();
        assert_eq!(batch.take(0).unwrap().num_rows(), 0);
        batch.addresses();
        assert_eq!(batch.take(4).unwrap().column(0).nulls(), None);
    }
}
