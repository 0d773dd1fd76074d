//! From record batches to tensors.
//!
//! 1. [`ShardBuilder`] takes a worker's batches and keeps their columns, checked, in the form that needs the least
//!    memory.
//! 2. All workers agree on statistics, vocabularies and classes: [`Preprocessing`].
//! 3. Columns become tensors, training rows apart from held-out rows; each column is dropped once it is encoded.

mod column;
mod fit;
mod preprocess;
mod raw;
mod rows;
mod shard;
mod split;
mod statistics;
mod vocabulary;

pub use fit::Statistics;
pub(crate) use fit::{Agreed, Prepared, agree_apart, encode_alone, prepare};
pub use preprocess::{Encoding, Preprocessing, Scaling};
pub(crate) use raw::{Invalid, Reader, Where};
pub(crate) use rows::{Gather, Rows, Tensor, features};
pub use shard::{Shard, ShardBuilder};
pub(crate) use vocabulary::Vocabulary;
