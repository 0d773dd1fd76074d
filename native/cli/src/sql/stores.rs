//! Where models and tables are: folders, and buckets of S3 and of what speaks its language.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::plan_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use datafusion::execution::runtime_env::RuntimeEnv;
use firesteel_sql::ModelStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

/// For how long a bucket that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(20);
const CONNECTING: &str = "5 seconds";

/// Opens a bucket the first time that a query or a model names it, with the settings of the environment variables
/// `AWS_*`.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    known: DefaultObjectStoreRegistry,
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.known.register_store(url, store)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.known.deregister_store(url)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match self.known.get_store(url) {
            Err(_) if ["s3", "s3a"].contains(&url.scheme()) => {
                let bucket = bucket(url)?;
                self.known.register_store(url, bucket.clone());
                Ok(bucket)
            }
            Err(_) => plan_err!("'{url}': expected a folder or s3://bucket/folder"),
            known => known,
        }
    }
}

fn bucket(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() };
    let bucket = AmazonS3Builder::from_env()
        .with_url(url.as_str())
        .with_retry(retry)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECTING)
        .build()
        .map_err(|e| DataFusionError::from(e).context(format!("opening '{url}'")))?;
    Ok(Arc::new(bucket))
}

/// The models of a place, for those who only look: no folder is made.
///
/// # Errors
/// When there is no such folder, or of a URL that is none.
pub(crate) fn models_there(place: &str, runtime: &RuntimeEnv) -> Result<ModelStore> {
    let folder = place.strip_prefix("file://").unwrap_or(place);
    if !folder.contains("://") && !Path::new(folder).is_dir() {
        return Err(DataFusionError::Plan(format!("there is no folder '{place}', where models would be")));
    }
    ModelStore::from_url(place, runtime)
}
