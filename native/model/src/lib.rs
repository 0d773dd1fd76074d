//! What a network is, as data: no arithmetic happens here.
//!
//! A [`Spec`] is JSON that any face (Scala, Python, SQL, Rust) can write. [`Graph::new`] checks it, infers every
//! shape and lays all parameters out in one flat vector. [`Network`] makes specs: presets and layer lists that
//! become a spec once the inputs and the number of outputs are known.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`spec`] | [`Spec`], [`Input`], [`Layer`], [`Op`]: the serialised form |
//! | [`graph`] | [`Graph`]: checked, shaped, with the layout of the flat weight vector |
//! | [`network`] | [`Network`]: presets `mlp`, `lenet5`, `tabular`, `wide_and_deep`, `autoencoder`, and lists of layers |
//! | `build` | from spec to graph |
//! | [`json`] | reads JSON, with errors that name the field |
//! | `infer` | the shape and the parameters of each operation |
//! | `layout` | where parameters lie |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod build;
pub mod graph;
mod infer;
pub mod json;
mod layout;
pub mod network;
pub mod spec;

pub use graph::{Buffer, Graph, Init, Node, Parameter, Source, Table};
pub use network::{Activation, Network};
pub use spec::{Input, InputKind, Layer, Op, SPEC_VERSION, Spec};
