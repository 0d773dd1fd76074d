//! From record batches to tensors.
//!
//! 1. [`ShardBuilder`] takes a worker's batches and keeps their columns, checked, in the form that needs the least
//!    memory.
//! 2. All workers agree on statistics, vocabularies and classes: [`Preprocessing`].
//! 3. Columns become tensors, training rows apart from held-out rows; each column is dropped once it is encoded.

mod apart;
mod column;
mod fit;
mod preprocess;
mod raw;
mod rows;
mod shard;
mod split;
mod statistics;
mod vocabulary;

pub use apart::Statistics;
pub(crate) use apart::{encode_alone, prepare_apart};
pub(crate) use fit::{Agreed, Prepared, prepare};
pub use preprocess::{Encoding, Preprocessing, Scaling};
pub(crate) use raw::{Invalid, Reader, Where};
pub(crate) use rows::{Gather, Rows, Tensor, features};
pub use shard::{Shard, ShardBuilder};
pub(crate) use vocabulary::Vocabulary;
