//! The acceptance queries, as files of statements and results.
#![allow(clippy::unwrap_used, clippy::panic)]

mod slt;
