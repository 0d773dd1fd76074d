//! The engine from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod golden;

mod gradients;
mod modes;
mod networks;
mod reference;
