//! Training from outside.
#![allow(clippy::unwrap_used, clippy::panic)]
