//! Training from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod autoencoder;
mod device;
mod embed;
mod faults;
mod files;
mod input;
mod learning;
mod resume;
mod rounds;
mod strategies;
mod support;
mod wide_and_deep;
mod world;
