//! Rows of a table, and how they travel: the row numbers, u32, then the values of all of them, f32, little-endian.

use bytes::{BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use crate::wire;

/// The shape of a table: so many rows of so many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    rows: usize,
    dims: usize,
}

impl Table {
    /// Of `rows`, up to 2³², whose width is `dims`, 1 or more.
    ///
    /// # Errors
    /// `InvalidArgument` for another shape, and for a table that no memory holds.
    pub fn new(rows: usize, dims: usize) -> Result<Table> {
        let bytes = dims.checked_add(1).and_then(|each| each.checked_mul(4)?.checked_mul(rows.max(1)));
        let numbered = rows.checked_sub(1).is_none_or(|last| u32::try_from(last).is_ok());
        match bytes {
            Some(bytes) if dims > 0 && numbered && isize::try_from(bytes).is_ok() => Ok(Table { rows, dims }),
            _ => Err(Error::argument(format!(
                "a table of {rows} rows of {dims}, expected at most 2³² of at least 1 value, within memory"
            ))),
        }
    }

    /// The number of rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// The width of a row.
    pub fn dims(self) -> usize {
        self.dims
    }

    /// The number of values.
    pub fn len(self) -> usize {
        self.rows * self.dims
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.rows == 0
    }

    /// The first of some row numbers that is none, or does not rise.
    fn fault(self, rows: &[u32]) -> Option<String> {
        let falls = rows.windows(2).find(|pair| pair[1] <= pair[0]);
        match (falls, rows.last()) {
            (Some(pair), _) => Some(format!("row {} after {}, expected a higher one", pair[1], pair[0])),
            (None, Some(last)) if *last as usize >= self.rows => {
                Some(format!("row {last} of a table of {} rows", self.rows))
            }
            _ => None,
        }
    }
}

/// Some rows of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Ascending, each once.
    pub rows: Vec<u32>,
    /// (rows, dims).
    pub values: Vec<f32>,
}

impl Rows {
    /// Refuses what a caller may not have.
    pub(super) fn check(&self, table: Table) -> Result<()> {
        let (found, expected) = (self.values.len(), self.rows.len().saturating_mul(table.dims));
        if found != expected {
            let rows = self.rows.len();
            return Err(Error::argument(format!("{found} values of {rows} rows, expected {expected}")));
        }
        table.fault(&self.rows).map_or(Ok(()), |fault| Err(Error::argument(fault)))
    }

    /// As a part.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(4 * (self.rows.len() + self.values.len()));
        match cfg!(target_endian = "little") {
            true => out.put_slice(bytemuck::cast_slice(&self.rows)),
            false => self.rows.iter().for_each(|row| out.put_u32_le(*row)),
        }
        wire::put_f32s(&mut out, &self.values);
        out.freeze()
    }

    /// The length of a part of so many.
    pub(super) fn bytes(count: usize, table: Table) -> u64 {
        4 * count as u64 * (1 + table.dims as u64)
    }

    /// Reads the part of a rank.
    ///
    /// # Errors
    /// `Corrupt` naming the rank when it has no rows of the table.
    pub(super) fn decode(part: &[u8], rank: usize, table: Table) -> Result<Rows> {
        let each = 4 * (1 + table.dims);
        if !part.len().is_multiple_of(each) {
            let len = part.len();
            return Err(Error::corrupt(format!(
                "rank {rank} sent {len} bytes of rows, expected a multiple of {each}"
            )));
        }
        let (rows, bytes) = part.split_at(part.len() / each * 4);
        let rows: Vec<u32> = rows.as_chunks::<4>().0.iter().map(|row| u32::from_le_bytes(*row)).collect();
        if let Some(fault) = table.fault(&rows) {
            return Err(Error::corrupt(format!("rank {rank} sent {fault}")));
        }
        let mut values = vec![0.0; bytes.len() / 4];
        wire::copy_f32s(bytes, &mut values, rank)?;
        Ok(Rows { rows, values })
    }

    /// Adds them to those of `all`, which has each of them; `sum` is (all, dims).
    pub(super) fn add_to(&self, all: &[u32], sum: &mut [f32], table: Table) {
        let mut place = 0;
        for (row, values) in self.rows.iter().zip(self.values.chunks_exact(table.dims)) {
            place += all[place..].iter().take_while(|other| *other < row).count();
            let sum = &mut sum[place * table.dims..(place + 1) * table.dims];
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }

    /// All that the parts of all ranks have, with their sums in rank order.
    ///
    /// # Errors
    /// Those of [`Rows::decode`].
    pub(super) fn sum_parts(parts: &[Bytes], table: Table) -> Result<Rows> {
        let read = |(rank, part): (usize, &Bytes)| Rows::decode(part, rank, table);
        let parts: Vec<Rows> = parts.iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok(Rows::sum(&parts, table))
    }

    /// All that some have, with their sums in this order.
    pub(super) fn sum(parts: &[Rows], table: Table) -> Rows {
        let mut rows: Vec<u32> = parts.iter().flat_map(|part| &part.rows).copied().collect();
        // A stable sort merges what is in order already.
        rows.sort();
        rows.dedup();
        let mut values = vec![0.0; rows.len() * table.dims];
        parts.iter().for_each(|part| part.add_to(&rows, &mut values, table));
        Rows { rows, values }
    }
}
