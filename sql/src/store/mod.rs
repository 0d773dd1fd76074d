//! The model store: versions of models in an object store, and a log of commits for each model.
//!
//! # Protocol
//!
//! A writer uploads the files of a version to a folder of its own, then puts the next entry of the model's log, *if
//! absent* (`PutMode::Create`: local file systems, memory, S3, GCS, Azure). The put is the commit: before it nobody sees
//! the version, after it everybody does, and of two writers one is told that the entry exists. That one reads the new
//! entries and decides again: a plain create fails, a replace goes on top. A writer that dies leaves a folder that no log
//! names, which [`ModelStore::vacuum`] removes. There is nothing to lock and no state to get stuck in. A training that is
//! to survive its process keeps a checkpoint beside, a file that its writer alone replaces and its commit removes.
//!
//! A reader folds the logs into a [`Snapshot`] and takes all its models from there. Files are checked against the
//! checksums of their commit.
//!
//! # Versions and entries
//!
//! Entries of a log and versions of a model are numbered from 1 for ever. A model that was dropped leaves its log behind, a
//! few kilobytes that tell the next writer the numbers to go on from, but no other trace.
//!
//! # Rename
//!
//! A rename writes to two logs. First the target log *adopts* the model (with its versions, whose folders stay where they
//! are); this entry counts for nothing until the source log has, at the very next sequence number, the *rename* entry that
//! belongs to it. That second put is the commit. If the source moves on with another entry, the adoption is void for ever;
//! if the writer died in between, the source is as it was, and whoever wants to write to the target first puts a *void*
//! entry there, so that the old rename cannot come to life later.
//!
//! # Layout
//!
//! - [`cache`]: an LRU cache for what was loaded
//! - `layout`: paths
//! - `commit`: the entries of a log
//! - `log`, [`Snapshot`]: what they add up to
//! - `read`: logs to a snapshot
//! - `write`, `rename`: commits
//! - `files`: upload, and read with checksums
//! - `checkpoint`: the states of trainings that have not ended
//! - `vacuum`: removes what nobody needs

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;

use self::log::Log;
use crate::ModelName;

pub mod cache;
mod checkpoint;
mod commit;
mod files;
mod layout;
mod log;
mod read;
mod rename;
mod snapshot;
#[cfg(test)]
mod tests;
mod vacuum;
mod work;
mod write;

pub use cache::Cache;
pub use commit::{CommitInfo, FORMAT_VERSION, FileEntry};
pub use snapshot::{ModelEntry, Snapshot, VersionEntry};
pub use vacuum::{GRACE, VacuumReport};
pub use work::WorkFolder;
pub use write::CreateMode;

/// Models in an object store. Share it by `Arc`; any number of processes may use the same folder.
pub struct ModelStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Where `store` is rooted, when that is a folder of this machine.
    root: Option<PathBuf>,
    ttl: Duration,
    known: Mutex<Known>,
}

/// What was read or written last; only a cache.
#[derive(Default)]
struct Known {
    logs: BTreeMap<ModelName, Arc<Log>>,
    snapshot: Option<Arc<Snapshot>>,
    /// When `snapshot` was looked up; nothing after a write, so that a session sees what it wrote.
    taken: Option<Instant>,
    /// Commits of this store.
    writes: u64,
}

impl ModelStore {
    /// The models under `prefix`.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> ModelStore {
        ModelStore { store, prefix, root: None, ttl: Duration::ZERO, known: Mutex::default() }
    }

    /// The models in a folder of this machine, which is made if it does not exist.
    pub fn directory(path: impl AsRef<std::path::Path>) -> Result<ModelStore> {
        let path = path.as_ref();
        let failed = |e: std::io::Error| {
            DataFusionError::from(e).context(format!("opening the model store '{}'", path.display()))
        };
        std::fs::create_dir_all(path).map_err(failed)?;
        let root = path.canonicalize().map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(&root)?;
        Ok(ModelStore { root: Some(root), ..ModelStore::new(Arc::new(store), Path::default()) })
    }

    /// Models that are gone with the process.
    pub fn memory() -> ModelStore {
        ModelStore::new(Arc::new(InMemory::new()), Path::default())
    }

    /// A path or `file://` URL is a folder of this machine; any other URL belongs to an object store that is registered
    /// with `runtime`.
    pub fn from_url(url: &str, runtime: &RuntimeEnv) -> Result<ModelStore> {
        if !url.contains("://") {
            return ModelStore::directory(url);
        }
        let parsed = ListingTableUrl::parse(url)?;
        if parsed.scheme() == "file" {
            let not_local = |()| DataFusionError::Plan(format!("'{url}' is not a folder of this machine"));
            return ModelStore::directory(parsed.get_url().to_file_path().map_err(not_local)?);
        }
        let store = runtime.object_store(parsed.object_store())?;
        Ok(ModelStore::new(store, parsed.prefix().clone()))
    }

    /// For how long a snapshot may be used again without a look at the store; zero, the default, always looks.
    pub fn with_ttl(mut self, ttl: Duration) -> ModelStore {
        self.ttl = ttl;
        self
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Replaced as a whole, so another thread's panic leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelStore({self})")
    }
}

impl fmt::Display for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            Some(root) => write!(f, "{}", root.display()),
            None => write!(f, "{}/{}", self.store, self.prefix),
        }
    }
}
