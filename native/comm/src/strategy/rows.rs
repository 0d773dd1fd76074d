//! Rows of tables on the wire: for each table a count, the row numbers, and the values of those rows.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_error::{Error, Result};

use super::tables::TableLayout;
use crate::sparse::Rows;
use crate::wire;

/// The `chosen` rows of each table, with their values from the flat vector.
pub(super) fn collect(tables: &[TableLayout], chosen: &[Vec<u32>], flat: &[f32]) -> Bytes {
    let mut out = BytesMut::new();
    for (table, rows) in tables.iter().zip(chosen) {
        put_rows(&mut out, table, rows, flat);
    }
    out.freeze()
}

/// As [`collect`], one part an owner: row r belongs to worker r mod `world`. Each row is looked at once.
pub(super) fn by_owner(
    tables: &[TableLayout],
    chosen: &[Vec<u32>],
    flat: &[f32],
    world: usize,
) -> Vec<Bytes> {
    let mut parts = vec![BytesMut::new(); world];
    let mut owned: Vec<Vec<u32>> = vec![Vec::new(); world];
    for (table, chosen) in tables.iter().zip(chosen) {
        owned.iter_mut().for_each(Vec::clear);
        chosen.iter().for_each(|row| owned[*row as usize % world].push(*row));
        for (part, rows) in parts.iter_mut().zip(&owned) {
            put_rows(part, table, rows, flat);
        }
    }
    parts.into_iter().map(BytesMut::freeze).collect()
}

fn put_rows(out: &mut BytesMut, table: &TableLayout, rows: &[u32], flat: &[f32]) {
    out.reserve(8 + rows.len() * 4 * (1 + table.dims));
    out.put_u64_le(rows.len() as u64);
    rows.iter().for_each(|row| out.put_u32_le(*row));
    for row in rows {
        let start = table.range.start + *row as usize * table.dims;
        wire::put_f32s(out, &flat[start..start + table.dims]);
    }
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
    let summed: Vec<Rows> =
        tables.iter().map(|table| sum_table(&mut parts, table, owner, world)).collect::<Result<_>>()?;
    parts.iter().enumerate().try_for_each(|(rank, part)| ended(part, rank))?;
    Ok(summed)
}

fn ended(part: &Bytes, rank: usize) -> Result<()> {
    match part.len() {
        0 => Ok(()),
        more => Err(Error::corrupt(format!("rank {rank} sent {more} bytes more than its tables have"))),
    }
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

/// Writes the rows that `rank` sent, of those that it owns, into the flat vector, and notes which they are.
pub(super) fn scatter(
    mut part: Bytes,
    [rank, world]: [usize; 2],
    tables: &[TableLayout],
    flat: &mut [f32],
    changed: &mut [Vec<u32>],
) -> Result<()> {
    for (table, changed) in tables.iter().zip(changed) {
        let piece = take_piece(&mut part, rank, table)?;
        for (row, bytes) in piece.iter(table) {
            if row as usize >= table.rows {
                return Err(Error::corrupt(format!(
                    "rank {rank} sent row {row} of a table of {} rows",
                    table.rows
                )));
            }
            if row as usize % world != rank {
                let text = format!("rank {rank} sent new values of row {row}, which it does not own");
                return Err(Error::corrupt(text));
            }
            let start = table.range.start + row as usize * table.dims;
            wire::copy_f32s(bytes, &mut flat[start..start + table.dims], rank)?;
            changed.push(row);
        }
    }
    ended(&part, rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> [TableLayout; 1] {
        [TableLayout { range: 0..10, rows: 5, dims: 2 }]
    }

    #[test]
    fn rows_of_all_ranks_are_added() {
        let flat: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let part = |rows: &[u32]| by_owner(&tables(), &[rows.to_vec()], &flat, 2).swap_remove(0);
        let summed = sum(&[part(&[0, 1, 4]), part(&[4])], &tables(), 0, 2).unwrap();
        assert_eq!(summed, [Rows { rows: vec![0, 4], values: vec![0.0, 1.0, 16.0, 18.0] }]);
    }

    #[test]
    fn each_owner_gets_its_rows_of_every_table_in_order() {
        let table = |start| TableLayout { range: start..start + 21, rows: 7, dims: 3 };
        let tables = [table(0), table(21), table(42)];
        let flat: Vec<f32> = (0..63).map(|i| i as f32).collect();
        let chosen = [vec![0, 2, 3, 6], vec![], vec![1, 4, 5, 6]];
        for world in 1..=9 {
            for (owner, part) in by_owner(&tables, &chosen, &flat, world).into_iter().enumerate() {
                let owned = |rows: &Vec<u32>| {
                    rows.iter().copied().filter(|r| *r as usize % world == owner).collect::<Vec<_>>()
                };
                let owned: Vec<_> = chosen.iter().map(owned).collect();
                assert_eq!(part, collect(&tables, &owned, &flat), "owner {owner} of {world}");
            }
        }
    }

    #[test]
    fn foreign_rows_and_short_parts_are_refused() {
        let part = collect(&tables(), &[vec![1]], &[0.0; 10]);
        let e = sum(std::slice::from_ref(&part), &tables(), 0, 2).unwrap_err().to_string();
        assert_eq!(e, "rank 0 sent row 1 to rank 0, not its owner");
        let e = sum(&[part.slice(..part.len() - 1)], &tables(), 1, 2).unwrap_err().to_string();
        assert!(e.contains("ends too early"), "{e}");
    }
}
