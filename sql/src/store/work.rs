//! What the workers of a training that never meet pass on: files of a folder of its own, gone when the training ends.

use bytes::Bytes;
use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
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

/// The file that is there as long as the training runs.
const OPEN: &str = "open";

impl ModelStore {
    /// Makes a folder; one that is there belongs to a training that runs.
    pub async fn begin_work(&self, folder: &WorkFolder) -> Result<()> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.work_file(folder, OPEN)?, PutPayload::new(), create).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                exec_err!("this training of '{}' is running already; plan the statement again", folder.model)
            }
            Err(e) => {
                Err(DataFusionError::from(e).context(format!("beginning a training of '{}'", folder.model)))
            }
        }
    }

    /// Keeps a file under a name that says what is in it: who keeps the same again changes nothing. Who is late, and does
    /// not know that the training has ended, leaves nothing behind.
    pub async fn keep_work(&self, folder: &WorkFolder, bytes: Bytes) -> Result<String> {
        match self.store.head(&self.work_file(folder, OPEN)?).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => {
                return exec_err!("the training of '{}' has ended", folder.model);
            }
            Err(e) => return Err(reading(format_args!("the training of '{}'", folder.model))(e)),
        }
        let name = sha256(&bytes).await?;
        self.put_whole(&self.work_file(folder, &name)?, bytes, MULTIPART).await?;
        Ok(name)
    }

    /// A file that was kept.
    pub async fn work(&self, folder: &WorkFolder, file: &str) -> Result<Bytes> {
        let path = self.work_file(folder, file)?;
        let read = async { self.store.get(&path).await?.bytes().await };
        let bytes =
            read.await.map_err(reading(format_args!("a file of the training of '{}'", folder.model)))?;
        match sha256(&bytes).await? == file {
            true => Ok(bytes),
            false => exec_err!("{path} is damaged: it does not have the checksum that is its name"),
        }
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
