//! Strategies: who sends what to whom, and who updates which weights.

mod rows;
mod sharded;

pub use sharded::{Sharded, TableLayout, Totals, Update};
