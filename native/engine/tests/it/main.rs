//! The engine from outside.
#![allow(clippy::unwrap_used, clippy::panic)]
