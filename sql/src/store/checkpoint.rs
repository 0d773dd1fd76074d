//! The states of a model's trainings that have not ended: one file a training, the newest.

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::files::MULTIPART;
use super::read::reading;
use super::{ModelStore, layout};
use crate::ModelName;

impl ModelStore {
    /// Replaces the checkpoint of a training, by its key; readers see the one before it or this one.
    pub async fn keep_checkpoint(&self, name: &ModelName, key: &str, bytes: Bytes) -> Result<()> {
        self.put_whole(&layout::checkpoint(&self.prefix, name, key)?, bytes, MULTIPART).await
    }

    /// The checkpoint of a training; none if there is none.
    pub async fn checkpoint(&self, name: &ModelName, key: &str) -> Result<Option<Bytes>> {
        let path = layout::checkpoint(&self.prefix, name, key)?;
        let read = async { self.store.get(&path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(reading(format_args!("a checkpoint of '{name}'"))(e)),
        }
    }

    /// The keys of a model's trainings that have a checkpoint.
    pub async fn checkpoints(&self, name: &ModelName) -> Result<Vec<String>> {
        let files = self.checkpoint_files(name).await?;
        Ok(files.iter().filter_map(|file| file.location.filename().map(str::to_owned)).collect())
    }

    pub(super) async fn checkpoint_files(&self, name: &ModelName) -> Result<Vec<ObjectMeta>> {
        let folder = layout::checkpoints(&self.prefix, name)?;
        self.store.list(Some(&folder)).try_collect().await.map_err(reading(&folder))
    }

    /// Removes the checkpoint of a training, if there is one.
    pub async fn drop_checkpoint(&self, name: &ModelName, key: &str) -> Result<()> {
        let path = layout::checkpoint(&self.prefix, name, key)?;
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(DataFusionError::from(e).context(format!("removing a checkpoint of '{name}'"))),
        }
    }
}
