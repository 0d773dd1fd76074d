//! The command from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod emulated;
mod fake;
