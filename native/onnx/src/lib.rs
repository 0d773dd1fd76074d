//! A trained model as an ONNX file that gives the same predictions from the raw columns, in any runtime.
//!
//! The preprocessing is part of the file. Each feature column is an input of its name: numbers `(N, 1)` and vectors
//! `(N, width)` of f32, strings `(N, 1)`. A classification gives `probabilities`, `(N, classes)` f32, and `prediction`,
//! `(N)` i64, the class's index; a regression gives `prediction`, `(N)` f32, in the label's unit; a reconstruction gives
//! `reconstruction`, `(N, width)` f32, the encoded features as the network gives them back, and `reconstruction_loss`,
//! `(N)` f32, the mean squared error between the two. Any number of rows goes through at once.
//!
//! ONNX has no NULL. For a string the text of the metadata's `firesteel.null` stands for it: the empty one, or another
//! where a column has that among its values. So an empty string that is no column's is read as NULL, where a
//! [`firesteel_train::Predictor`] reads it as unknown. For numbers and vectors it is NaN, where the model was trained
//! with `handle_invalid` keep; other models refuse or skip such rows, which a file cannot: what NaN gives there depends
//! on the runtime. Numbers are f32, so integers beyond 2²⁴ are rounded before they are scaled.
//!
//! Training is not exported, nor are names of classes, which a model does not have; a caller may add them as metadata.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `columns` | inputs and their encoding |
//! | `layers` | the network |
//! | `outputs` | probabilities, predictions, reconstructions |
//! | `build` | nodes, constants and names of a graph |
//! | `proto` | the messages of `onnx.proto` |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod build;
mod columns;
mod layers;
mod outputs;
mod proto;
#[cfg(test)]
mod tests;

use firesteel_error::{Error, Result};
use firesteel_train::{Encoding, Model};
use prost::Message;

use build::{Builder, ML};
use proto::{File, OperatorSet, Property};

/// What runtimes since 2022 read: IR 8 and these operator sets belong to ONNX 1.12.
const IR: i64 = 8;
const OPERATORS: i64 = 17;
const ML_OPERATORS: i64 = 3;

/// A message of protobuf is shorter than 2 GiB.
const MOST_BYTES: usize = i32::MAX as usize;

/// The metadata's key for the text that stands for NULL.
const NULL_KEY: &str = "firesteel.null";

/// The model as an ONNX file.
///
/// # Errors
/// `InvalidArgument` naming the column that cannot be an input, or when the file would have 2 GiB.
pub fn export(model: &Model) -> Result<Vec<u8>> {
    export_with(model, &[])
}

/// The model as an ONNX file with metadata of the caller's, `(key, value)`.
///
/// # Errors
/// As [`export`]; `InvalidArgument` naming a key that is there twice.
pub fn export_with(model: &Model, metadata: &[(&str, &str)]) -> Result<Vec<u8>> {
    let preprocessing = model.preprocessing();
    let text = |c: &Encoding| matches!(c, Encoding::Category { .. } | Encoding::OneHot { .. });
    let strings = preprocessing.columns.iter().any(text);
    // Before anything is copied.
    check_size(size_of_val(model.weights()))?;
    let mut builder = Builder::default();
    outputs::claim(&mut builder, model.info().task);
    let null = columns::null_text(preprocessing);
    let inputs = columns::add(&mut builder, preprocessing, &null)?;
    let values = layers::add(&mut builder, model.graph(), model.weights(), model.buffers(), inputs.clone());
    outputs::add(&mut builder, model, &inputs, &values);
    let of_strings = strings.then_some((NULL_KEY, null.as_str()));
    let set = |domain: &str, version| OperatorSet { domain: domain.into(), version: Some(version) };
    let file = File {
        ir_version: Some(IR),
        producer_name: "firesteel".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(builder.finish("firesteel")),
        opset_import: [set("", OPERATORS)]
            .into_iter()
            .chain(strings.then(|| set(ML, ML_OPERATORS)))
            .collect(),
        metadata_props: properties(of_strings.iter().chain(metadata))?,
    };
    check_size(file.encoded_len())?;
    Ok(file.encode_to_vec())
}

fn check_size(bytes: usize) -> Result<()> {
    match bytes <= MOST_BYTES {
        true => Ok(()),
        false => Err(Error::argument(format!(
            "the model has {bytes} bytes as an ONNX file, which holds at most {MOST_BYTES}"
        ))),
    }
}

fn properties<'a>(pairs: impl Iterator<Item = &'a (&'a str, &'a str)>) -> Result<Vec<Property>> {
    let mut all: Vec<Property> = Vec::new();
    for (key, value) in pairs {
        if all.iter().any(|p| p.key.as_deref() == Some(*key)) {
            return Err(Error::argument(format!("the metadata's key '{key}' is given twice")));
        }
        all.push(Property { key: Some((*key).into()), value: Some((*value).into()) });
    }
    Ok(all)
}
