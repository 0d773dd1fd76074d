//! `EXPORT MODEL`: the files of a version, in a directory that any face of Firesteel opens.

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_err, plan_err};

use crate::import;
use crate::options::{ExportOptions, Format};

/// Writes the files; their paths.
///
/// # Errors
/// `Plan` for a place or format that is not there yet; `Execution` when the directory is there or cannot be written.
pub(crate) async fn write(options: &ExportOptions, files: Vec<(String, Bytes)>) -> Result<Vec<String>> {
    if options.format == Format::Onnx {
        return plan_err!("format = 'onnx' is not supported yet; use 'safetensors'");
    }
    let directory = import::directory(&options.uri)?;
    if directory.exists() {
        return exec_err!("cannot export to {}: it is there already", directory.display());
    }
    let write = move || {
        let broken = |e: std::io::Error| {
            DataFusionError::Execution(format!("cannot write {}: {e}", directory.display()))
        };
        std::fs::create_dir_all(&directory).map_err(broken)?;
        let mut written = Vec::new();
        for (name, bytes) in files {
            let path = directory.join(name);
            std::fs::write(&path, &bytes).map_err(broken)?;
            written.push(path.display().to_string());
        }
        Ok(written)
    };
    tokio::task::spawn_blocking(write).await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?
}
