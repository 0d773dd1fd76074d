//! Rows of tables on the wire: for each table a count, the row numbers, and the values of those rows.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::sharded::TableLayout;
use crate::wire;

/// Some rows of one table.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rows {
    /// Ascending.
    pub(super) rows: Vec<u32>,
    /// (rows, dims).
    pub(super) values: Vec<f32>,
}

/// Those of the `chosen` rows that `owner` owns, with their values from the flat vector.
pub(super) fn collect(
    tables: &[TableLayout],
    chosen: &[Vec<u32>],
    flat: &[f32],
    owner: usize,
    world: usize,
) -> Bytes {
    let mut out = BytesMut::new();
    for (table, chosen) in tables.iter().zip(chosen) {
        let owned = || chosen.iter().copied().filter(|row| *row as usize % world == owner);
        let count = owned().count();
        out.reserve(8 + count * 4 * (1 + table.dims));
        out.put_u64_le(count as u64);
        owned().for_each(|row| out.put_u32_le(row));
        for row in owned() {
            let start = table.range.start + row as usize * table.dims;
            wire::put_f32s(&mut out, &flat[start..start + table.dims]);
        }
    }
    out.freeze()
}

/// What one rank sent of one table.
struct Piece {
    rows: Bytes,
    values: Bytes,
}

fn take_piece(part: &mut Bytes, rank: usize, table: &TableLayout) -> Result<Piece> {
    let short = || Error::corrupt(format!("rank {rank} sent a part of a table that ends too early"));
    if part.len() < 8 {
        return Err(short());
    }
    let count = usize::try_from(part.get_u64_le()).unwrap_or(usize::MAX);
    if count > table.rows || part.len() < count * 4 * (1 + table.dims) {
        return Err(short());
    }
    Ok(Piece { rows: part.split_to(count * 4), values: part.split_to(count * 4 * table.dims) })
}

impl Piece {
    /// The rows, each with its values as bytes.
    fn iter<'a>(&'a self, table: &'a TableLayout) -> impl Iterator<Item = (u32, &'a [u8])> {
        let rows = self.rows.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        rows.zip(self.values.chunks_exact(4 * table.dims))
    }
}

/// Adds what all ranks sent of the rows that `owner` owns, in rank order.
pub(super) fn sum(parts: &[Bytes], tables: &[TableLayout], owner: usize, world: usize) -> Result<Vec<Rows>> {
    let mut parts = parts.to_vec();
    tables.iter().map(|table| sum_table(&mut parts, table, owner, world)).collect()
}

fn sum_table(parts: &mut [Bytes], table: &TableLayout, owner: usize, world: usize) -> Result<Rows> {
    let mut place: BTreeMap<u32, usize> = BTreeMap::new();
    let mut pieces = Vec::with_capacity(parts.len());
    for (rank, part) in parts.iter_mut().enumerate() {
        let piece = take_piece(part, rank, table)?;
        for (row, _) in piece.iter(table) {
            if row as usize >= table.rows || row as usize % world != owner {
                return Err(Error::corrupt(format!(
                    "rank {rank} sent row {row} to rank {owner}, not its owner"
                )));
            }
            place.insert(row, 0);
        }
        pieces.push(piece);
    }
    place.values_mut().enumerate().for_each(|(nth, place)| *place = nth);
    let mut values = vec![0.0; place.len() * table.dims];
    for (rank, piece) in pieces.iter().enumerate() {
        for (row, bytes) in piece.iter(table) {
            let start = place[&row] * table.dims;
            wire::add_f32s(bytes, &mut values[start..start + table.dims], rank)?;
        }
    }
    Ok(Rows { rows: place.into_keys().collect(), values })
}

/// Writes the rows that `rank` sent into the flat vector.
pub(super) fn scatter(mut part: Bytes, rank: usize, tables: &[TableLayout], flat: &mut [f32]) -> Result<()> {
    for table in tables {
        let piece = take_piece(&mut part, rank, table)?;
        for (row, bytes) in piece.iter(table) {
            if row as usize >= table.rows {
                return Err(Error::corrupt(format!(
                    "rank {rank} sent row {row} of a table of {} rows",
                    table.rows
                )));
            }
            let start = table.range.start + row as usize * table.dims;
            wire::copy_f32s(bytes, &mut flat[start..start + table.dims], rank)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_all_ranks_are_added() {
        let table = TableLayout { range: 0..10, rows: 5, dims: 2 };
        let tables = std::slice::from_ref(&table);
        let flat: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let part = |rows: &[u32]| collect(tables, &[rows.to_vec()], &flat, 0, 2);
        let summed = sum(&[part(&[0, 1, 4]), part(&[4])], tables, 0, 2).unwrap();
        assert_eq!(summed, [Rows { rows: vec![0, 4], values: vec![0.0, 1.0, 16.0, 18.0] }]);
    }

    #[test]
    fn foreign_rows_and_short_parts_are_refused() {
        let table = TableLayout { range: 0..10, rows: 5, dims: 2 };
        let tables = std::slice::from_ref(&table);
        let part = collect(tables, &[vec![1]], &[0.0; 10], 1, 2);
        let e = sum(std::slice::from_ref(&part), tables, 0, 2).unwrap_err().to_string();
        assert_eq!(e, "rank 0 sent row 1 to rank 0, not its owner");
        let e = sum(&[part.slice(..part.len() - 1)], tables, 1, 2).unwrap_err().to_string();
        assert!(e.contains("ends too early"), "{e}");
    }
}
