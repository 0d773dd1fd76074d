//! The state of a model's training that has not ended: one file a model, the newest.

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use object_store::ObjectStoreExt;

use super::read::reading;
use super::{ModelStore, layout};
use crate::ModelName;

impl ModelStore {
    /// Replaces the checkpoint of a model; readers see the one before it or this one.
    pub async fn keep_checkpoint(&self, name: &ModelName, bytes: Bytes) -> Result<()> {
        let path = layout::checkpoint(&self.prefix, name)?;
        let put = self.store.put(&path, bytes.into()).await;
        put.map_err(|e| DataFusionError::from(e).context(format!("keeping the checkpoint of '{name}'")))?;
        Ok(())
    }

    /// The checkpoint of a model; none if there is none.
    pub async fn checkpoint(&self, name: &ModelName) -> Result<Option<Bytes>> {
        let path = layout::checkpoint(&self.prefix, name)?;
        let read = async { self.store.get(&path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(reading(format_args!("the checkpoint of '{name}'"))(e)),
        }
    }

    /// Removes the checkpoint of a model, if there is one.
    pub async fn drop_checkpoint(&self, name: &ModelName) -> Result<()> {
        let path = layout::checkpoint(&self.prefix, name)?;
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(DataFusionError::from(e).context(format!("removing the checkpoint of '{name}'"))),
        }
    }
}
