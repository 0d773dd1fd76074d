//! The acceptance queries, as files of statements and results, and what needs more than statements.
#![allow(clippy::unwrap_used, clippy::panic)]

mod apart;
mod sessions;
mod slt;

/// What looks at the process's threads and memory runs by itself.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
