//! What sketches left of rows, which is added when they are touched again.

use std::collections::HashMap;

use firesteel_error::{Error, Result};

use super::{Rows, Table};
use crate::reduce::State;

/// Of the values that were left, and of their row numbers: two f32 a row, which hold its upper and its lower 16 bits, as one does
/// not hold all.
const VALUES: &str = "left";
const NUMBERS: &str = "rows of left";

/// One worker's; grows to all rows that any worker ever touched.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Where a row is among the values.
    places: HashMap<u32, usize>,
    /// (places, dims).
    values: Vec<f32>,
    /// Of its table, as far as it is known: where rows end, and the width of one.
    end: usize,
    dims: usize,
}

impl Left {
    /// Begins a step.
    ///
    /// # Errors
    /// `Internal` when what is left is of a table of another shape.
    pub(super) fn check(&self, table: Table) -> Result<()> {
        match self.end <= table.rows() && (self.dims == table.dims() || self.places.is_empty()) {
            true => Ok(()),
            false => {
                let (found, end, dims) = (table, self.end, self.dims);
                Err(Error::internal(format!("{found:?}, and there were {end} rows or more of {dims}")))
            }
        }
    }

    /// Adds what is left of `rows` to their `values`, (rows, dims).
    pub(super) fn add_to(&self, rows: &[u32], values: &mut [f32], table: Table) {
        for (row, values) in rows.iter().zip(values.chunks_exact_mut(table.dims())) {
            if let Some(place) = self.places.get(row) {
                let left = &self.values[place * self.dims..(place + 1) * self.dims];
                values.iter_mut().zip(left).for_each(|(value, left)| *value += left);
            }
        }
    }

    /// Of `rows`, that is left now: (rows, dims).
    pub(super) fn keep(&mut self, rows: &[u32], left: &[f32], table: Table) {
        self.dims = table.dims();
        for (row, left) in rows.iter().zip(left.chunks_exact(table.dims())) {
            match self.places.get(row) {
                Some(place) => {
                    self.values[place * self.dims..(place + 1) * self.dims].copy_from_slice(left);
                }
                None => {
                    self.places.insert(*row, self.places.len());
                    self.values.extend_from_slice(left);
                    self.end = self.end.max(*row as usize + 1);
                }
            }
        }
    }

    /// Of `rows`, nothing is left now.
    pub(super) fn forget(&mut self, rows: &[u32]) {
        for place in rows.iter().filter_map(|row| self.places.get(row)) {
            self.values[place * self.dims..(place + 1) * self.dims].fill(0.0);
        }
    }

    /// As [`super::SumRows::state`].
    pub(super) fn state(&self) -> State {
        let of = |place: &usize| &self.values[place * self.dims..(place + 1) * self.dims];
        let is_left = |(_, place): &(&u32, &usize)| of(place).iter().any(|value| *value != 0.0);
        let mut places: Vec<(&u32, &usize)> = self.places.iter().filter(is_left).collect();
        places.sort_unstable();
        if places.is_empty() {
            return State::new();
        }
        let numbers = places.iter().flat_map(|(row, _)| [*row >> 16, *row & 0xffff]).map(|half| half as f32);
        let values = places.iter().flat_map(|(_, place)| of(place)).copied();
        State::from([(NUMBERS.to_owned(), numbers.collect()), (VALUES.to_owned(), values.collect())])
    }

    /// As [`super::SumRows::resume`].
    pub(super) fn resume(states: &[State], rank: usize, world: usize) -> Result<Left> {
        let mut parts = states.iter().map(read).collect::<Result<Vec<_>>>()?;
        let owed = match states.len() == world {
            true => parts.swap_remove(rank),
            false => shared(&parts, world)?,
        };
        let mut left = Left::default();
        if let Some((Rows { rows, values }, table)) = owed {
            left.keep(&rows, &values, table);
        }
        Ok(left)
    }
}

/// What all together still owe, in equal shares.
fn shared(parts: &[Option<(Rows, Table)>], world: usize) -> Result<Option<(Rows, Table)>> {
    let Some(table) = parts.iter().flatten().map(|(_, table)| *table).max_by_key(|table| table.rows()) else {
        return Ok(None);
    };
    if let Some((_, other)) = parts.iter().flatten().find(|(_, other)| other.dims() != table.dims()) {
        let (found, expected) = (other.dims(), table.dims());
        return Err(Error::corrupt(format!("a state of rows of {found}, and another of {expected}")));
    }
    let rows: Vec<Rows> = parts.iter().flatten().map(|(rows, _)| rows.clone()).collect();
    let mut owed = Rows::sum(&rows, table);
    owed.values.iter_mut().for_each(|owed| *owed /= world as f32);
    Ok(Some((owed, table)))
}

/// What a state says is left, and the least table that has such rows; none of an empty one.
fn read(state: &State) -> Result<Option<(Rows, Table)>> {
    if state.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = state.keys().map(String::as_str).collect();
    let (Some(numbers), Some(values), 2) = (state.get(NUMBERS), state.get(VALUES), names.len()) else {
        let text = format!("a state with {names:?}, expected {:?}", [VALUES, NUMBERS]);
        return Err(Error::corrupt(text));
    };
    let misfit = || {
        let (values, numbers) = (values.len(), numbers.len());
        Error::corrupt(format!("a state of {values} values of rows by {numbers} numbers, which are no rows"))
    };
    let half =
        |half: &f32| (*half >= 0.0 && *half <= 65_535.0 && half.fract() == 0.0).then_some(*half as u32);
    let row = |[upper, lower]: &[f32; 2]| Some(half(upper)? << 16 | half(lower)?);
    let (pairs, odd) = numbers.as_chunks::<2>();
    let rows: Vec<u32> = pairs.iter().map(row).collect::<Option<_>>().ok_or_else(misfit)?;
    let last = rows.last().ok_or_else(misfit)?;
    let table = Table::new(*last as usize + 1, values.len() / rows.len()).map_err(|_| misfit())?;
    let rows = Rows { rows, values: values.clone() };
    match odd.is_empty() && rows.check(table).is_ok() {
        true => Ok(Some((rows, table))),
        false => Err(misfit()),
    }
}
