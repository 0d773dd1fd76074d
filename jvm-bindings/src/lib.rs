//! The library that a JVM loads: the only place with JNI in it.
//!
//! It refuses to be clever: every exported function is a thin shell that takes handles and bytes, calls Rust, and turns
//! an error or a panic into a Java exception. Rust never calls Java.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`exports`] | the table of native methods, each a thin shell |
//! | [`error`] | the one error policy |
//! | [`registry`] | handles: keys into a map of `Arc`s |
//! | [`columns`] | column batches that the JVM fills by address |
//! | [`training`] | training on threads of its own, polled |
//! | [`scoring`] | scoring into memory that the JVM reads |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod columns;
pub mod error;
pub mod exports;
pub mod registry;
pub mod scoring;
pub mod training;
