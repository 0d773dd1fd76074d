//! Tables whose rows everyone learns the mean gradient of, and updates.

use std::sync::Arc;

use firesteel_error::{Error, Result};

use super::pipeline::number;
use super::{Layout, State, TableLayout, Update};
use crate::fabric::{Fabric, Key};
use crate::sparse::{Rows, SumRows, Table};

/// All tables of a network, each with a sum of its own. Each worker keeps the optimizer's state of all rows.
#[derive(Debug)]
pub(super) struct Summed {
    tables: Vec<One>,
    /// Of each table, the rows that the last step has changed.
    changed: Vec<Vec<u32>>,
}

#[derive(Debug)]
struct One {
    layout: TableLayout,
    table: Table,
    sum: Box<dyn SumRows>,
}

impl Summed {
    /// # Errors
    /// `InvalidArgument` for a table that has no such shape, and those of `make`.
    pub(super) fn new(layout: &Layout, make: &dyn Fn() -> Result<Box<dyn SumRows>>) -> Result<Summed> {
        let one = |layout: &TableLayout| {
            let table = Table::new(layout.rows, layout.dims)?;
            Ok(One { layout: layout.clone(), table, sum: make()? })
        };
        let tables = layout.tables.iter().map(one).collect::<Result<_>>()?;
        Ok(Summed { tables, changed: vec![Vec::new(); layout.tables.len()] })
    }

    pub(super) fn changed(&self) -> &[Vec<u32>] {
        &self.changed
    }

    /// Sums the touched rows of all tables, whose gradient is first scaled, in buckets from the key's on. Tables are summed beside each
    /// other, as each waits for several rounds of messages.
    pub(super) fn sum(
        &mut self,
        fabric: &dyn Fabric,
        key: Key,
        scale: f32,
        (gradient, touched): (&[f32], &[Vec<u32>]),
    ) -> Result<Vec<Rows>> {
        let of_table = |((nth, one), touched): ((usize, &mut One), &Vec<u32>)| {
            let One { layout, table, sum } = one;
            let of_row = |row: &u32| gradient[layout.row(*row)].iter().map(|g| scale * g);
            let values = touched.iter().flat_map(of_row).collect();
            let key = Key { bucket: key.bucket.saturating_add(number(nth)), ..key };
            sum.sum(fabric, key, *table, Rows { rows: touched.clone(), values })
        };
        let tables = self.tables.iter_mut().enumerate().zip(touched);
        // A clock that is simulated is set back for each, so that times do not depend on how threads are scheduled.
        if let Some(begins) = fabric.time() {
            let mut ends = begins;
            let mut sums = Vec::new();
            for table in tables {
                fabric.set_time(begins);
                sums.push(of_table(table)?);
                ends = fabric.time().map_or(ends, |time| time.max(ends));
            }
            fabric.set_time(ends);
            return Ok(sums);
        }
        if tables.len() < 2 {
            return tables.map(of_table).collect();
        }
        let of_table = &of_table;
        std::thread::scope(|scope| {
            let threads: Vec<_> = tables.map(|table| scope.spawn(move || of_table(table))).collect();
            let panicked = |_| Err(Error::internal("a sum of rows panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        })
    }

    /// Updates what the sums have, which are means.
    pub(super) fn update(&mut self, means: Vec<Rows>, weights: &mut [f32], update: &mut dyn Update) {
        self.changed.iter_mut().for_each(Vec::clear);
        for ((One { layout, .. }, means), changed) in self.tables.iter().zip(means).zip(&mut self.changed) {
            for (row, mean) in means.rows.iter().zip(means.values.chunks_exact(layout.dims)) {
                let range = layout.row(*row);
                update.update(range.start, 1.0, &mut weights[range], mean);
            }
            *changed = means.rows;
        }
    }

    /// Of each table, with its number before the names.
    pub(super) fn state(&self) -> State {
        let of_table = |(nth, one): (usize, &One)| {
            one.sum.state().into_iter().map(move |(name, values)| (format!("table {nth}/{name}"), values))
        };
        self.tables.iter().enumerate().flat_map(of_table).collect()
    }

    /// As [`SumRows::resume`].
    pub(super) fn resume(&mut self, states: &[State], fabric: &Arc<dyn Fabric>) -> Result<()> {
        for (nth, one) in self.tables.iter_mut().enumerate() {
            let states = super::pipeline::named(states, &format!("table {nth}/"));
            if !states.iter().all(State::is_empty) {
                one.sum.resume(&states, fabric.rank(), fabric.world())?;
            }
        }
        Ok(())
    }
}
