//! One suite for all stores, in memory and on disk.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::error::Result;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;
use tempfile::TempDir;

use super::*;

mod basics;
mod hooked;
mod races;
mod renames;
mod vacuums;

/// Runs tests on every kind of store.
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                super::$test(super::Place::memory()).await
            })*
        }
        mod local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                super::$test(super::Place::local()).await
            })*
        }
    };
}
use suite;

/// Where sessions meet.
struct Place {
    store: Arc<dyn ObjectStore>,
    folder: Option<TempDir>,
}

impl Place {
    fn memory() -> Place {
        Place { store: Arc::new(InMemory::new()), folder: None }
    }

    fn local() -> Place {
        let folder = TempDir::new().unwrap();
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        Place { store, folder: Some(folder) }
    }

    /// A session of its own.
    fn open(&self) -> ModelStore {
        match &self.folder {
            Some(folder) => ModelStore::directory(folder.path()).unwrap(),
            None => self.wrapped(self.store.clone()),
        }
    }

    /// A session that sees the place through `store`.
    fn wrapped(&self, store: Arc<dyn ObjectStore>) -> ModelStore {
        let prefix = if self.folder.is_some() { Path::default() } else { Path::from("some/prefix") };
        ModelStore::new(store, prefix)
    }

    /// The paths of all files.
    async fn files(&self) -> Vec<String> {
        let files: Vec<_> = futures::TryStreamExt::try_collect(self.store.list(None)).await.unwrap();
        files.into_iter().map(|file: object_store::ObjectMeta| file.location.to_string()).collect()
    }

    /// The files of versions.
    async fn version_files(&self) -> Vec<String> {
        self.files().await.into_iter().filter(|path| path.contains("/v/")).collect()
    }
}

fn name(name: &str) -> ModelName {
    ModelName::bare(name)
}

/// Two files that say the same, so that a mixture shows.
fn files(content: &str) -> Vec<(String, Bytes)> {
    let content = Bytes::from(content.to_string());
    vec![("model.json".into(), content.clone()), ("weights.safetensors".into(), content)]
}

fn info(sql: &str) -> CommitInfo {
    CommitInfo { sql: sql.into(), about: json!({"task": "classification"}), ..CommitInfo::default() }
}

async fn create(store: &ModelStore, model: &str, content: &str) -> Result<u64> {
    store.create(&name(model), files(content), info(content), CreateMode::New).await
}

async fn replace(store: &ModelStore, model: &str, content: &str) -> Result<u64> {
    store.create(&name(model), files(content), info(content), CreateMode::Replace).await
}

/// What the active version of a model says.
async fn content(store: &ModelStore, model: &str) -> Result<String> {
    let snapshot = store.snapshot().await?;
    let read = store.read(snapshot.resolve(&name(model), None)?).await?;
    assert_eq!(read[0].1, read[1].1, "the files of a version belong together");
    Ok(String::from_utf8(read[0].1.to_vec()).unwrap())
}

async fn models(store: &ModelStore) -> Vec<String> {
    store.snapshot().await.unwrap().models().map(|model| model.name.to_string()).collect()
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

fn assert_says<T: std::fmt::Debug>(result: Result<T>, part: &str) {
    let message = message(result);
    assert!(message.contains(part), "{message:?} does not contain {part:?}");
}
