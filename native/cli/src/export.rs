//! `firesteel export`: a model as an ONNX file.

use std::path::PathBuf;

use clap::Args;
use firesteel_error::Result;
use firesteel_train::Model;
use firesteel_train::disk::write_whole;

/// What `firesteel export` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// The model's folder
    #[arg(long)]
    model: PathBuf,
    /// The ONNX file; one that is there is replaced once the new one is whole
    #[arg(long)]
    out: PathBuf,
}

/// Writes the file, which is there whole or not at all.
///
/// # Errors
/// Whatever is wrong with the model or the file; what was there before is there still.
pub fn run(options: &Options) -> Result<()> {
    let model = Model::load(&options.model)?;
    let doing = || format!("exporting model {}", options.model.display());
    let file = firesteel_onnx::export(&model).map_err(|e| e.context(doing()))?;
    write_whole(&options.out, &file)
}
