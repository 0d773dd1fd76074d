//! What the workers of a training that never meet pass on: files of a folder of its own, gone when the training ends.

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::files::{MULTIPART, sha256};
use super::read::reading;
use super::vacuum::local;
use super::{ModelStore, layout};
use crate::ModelName;

/// The folder of a training.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkFolder {
    model: ModelName,
    id: String,
}

impl WorkFolder {
    /// A new one.
    pub fn new(model: &ModelName) -> WorkFolder {
        WorkFolder { model: model.clone(), id: Ulid::new().to_string() }
    }
}

impl ModelStore {
    /// Keeps a file under a name that says what is in it: who keeps the same again changes nothing.
    pub async fn keep_work(&self, folder: &WorkFolder, bytes: Bytes) -> Result<String> {
        let name = sha256(&bytes).await?;
        self.put_whole(&self.work_file(folder, &name)?, bytes, MULTIPART).await?;
        Ok(name)
    }

    /// A file that was kept.
    pub async fn work(&self, folder: &WorkFolder, file: &str) -> Result<Bytes> {
        let path = self.work_file(folder, file)?;
        let read = async { self.store.get(&path).await?.bytes().await };
        read.await.map_err(reading(format_args!("a file of the training of '{}'", folder.model)))
    }

    /// Removes a file, if it is there.
    pub async fn drop_work(&self, folder: &WorkFolder, file: &str) -> Result<()> {
        match self.store.delete(&self.work_file(folder, file)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(DataFusionError::from(e).context(format!("removing {file}"))),
        }
    }

    /// Removes all that is in a folder, and the folder.
    pub async fn end_work(&self, folder: &WorkFolder) -> Result<()> {
        let path = layout::work(&self.prefix, &folder.model, &folder.id)?;
        let files: Vec<_> = self.store.list(Some(&path)).try_collect().await.map_err(reading(&path))?;
        self.remove(&path, &files).await?;
        if let Some(root) = &self.root {
            // Those that are empty: of a training that made no model, nothing is left.
            for folder in local(root, &path).ancestors().skip(1).take(2) {
                _ = std::fs::remove_dir(folder);
            }
        }
        Ok(())
    }

    fn work_file(&self, folder: &WorkFolder, file: &str) -> Result<Path> {
        layout::within(&layout::work(&self.prefix, &folder.model, &folder.id)?, file)
    }
}
