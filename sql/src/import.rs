//! `CREATE MODEL … FROM 'uri'`: a model that another face of Firesteel made, or an exported one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err, plan_err};
use firesteel_train::Model;

use crate::about::About;
use crate::error::outside;
use crate::loaded::LoadedModel;
use crate::transform::Transformer;

/// The file of an exported model that says what only SQL knows: types of columns and names of classes.
pub(crate) const ABOUT: &str = "sql.json";

/// Where Spark keeps the network of a saved model.
pub(crate) const OF_SPARK: &str = "network";

/// A model that was read, and its files.
pub(crate) struct Imported {
    pub(crate) about: About,
    pub(crate) files: Vec<(String, Bytes)>,
}

/// Reads a directory that `firesteel train`, `EXPORT MODEL` or a Spark model's `save` wrote.
///
/// # Errors
/// `Plan` for a place that is none; `Execution` when there is no model, or a damaged one.
pub(crate) async fn read(uri: &str) -> Result<Imported> {
    let directory = directory(uri)?;
    let read = move || {
        let mut files = files(&directory)?;
        let of_sql = files.iter().position(|(name, _)| name == ABOUT).map(|at| files.swap_remove(at).1);
        let written = of_sql
            .map(|json| serde_json::from_slice::<About>(&json))
            .transpose()
            .map_err(|e| exec_datafusion_err!("{ABOUT} in {} cannot be read: {e}", directory.display()))?;
        if let (Some(about), true) = (&written, files.is_empty()) {
            // `transform_only`: all that it is stands there.
            let transform = about.transform.as_ref().filter(|_| about.label.is_none());
            let Some(transform) = transform else { return no_model(&directory) };
            Transformer::new(&transform.features)?;
            return Ok(Imported { about: about.clone(), files });
        }
        let model = Model::from_files(&files).map_err(outside)?;
        let about = written.unwrap_or_else(|| About::of(&model));
        if about.label.is_some() {
            about.predicted_fields()?;
        }
        // Refuses what does not fit together.
        LoadedModel::new(model, Arc::new(about.clone()))?;
        Ok(Imported { about, files })
    };
    tokio::task::spawn_blocking(read).await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?
}

/// A directory of this machine.
pub(crate) fn directory(uri: &str) -> Result<PathBuf> {
    match uri.split_once("://") {
        None => Ok(PathBuf::from(uri)),
        Some(("file", path)) => Ok(PathBuf::from(path)),
        Some((scheme, _)) => plan_err!("'{uri}' is in {scheme}://, expected file:// or a path"),
    }
}

fn files(directory: &Path) -> Result<Vec<(String, Bytes)>> {
    let inside = directory.join(OF_SPARK);
    let directory = if inside.is_dir() { &inside } else { directory };
    let broken = |path: &Path, e: std::io::Error| {
        DataFusionError::Execution(format!("cannot read the model in {}: {e}", path.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|e| broken(directory, e))? {
        let path = entry.map_err(|e| broken(directory, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Hadoop's checksums lie beside its files.
        if path.is_file() && !name.starts_with('.') {
            files.push((name.to_owned(), std::fs::read(&path).map_err(|e| broken(&path, e))?.into()));
        }
    }
    if !files.iter().any(|(name, _)| ["model.json", ABOUT].contains(&name.as_str())) {
        return no_model(directory);
    }
    Ok(files)
}

fn no_model<T>(directory: &Path) -> Result<T> {
    exec_err!("there is no model in {}: it has no model.json", directory.display())
}
