//! The models of a session: the store, what of it is known, and what of it is in memory.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, plan_err};
use firesteel_train::Model;
use serde_json::{Value, json};

use crate::about::About;
use crate::error::outside;
use crate::fit::Fitted;
use crate::import::Imported;
use crate::loaded::LoadedModel;
use crate::options::AlterOptions;
use crate::parse::CreateModel;
use crate::spec::TrainSpec;
use crate::store::{Cache, CommitInfo, CreateMode, ModelStore, Snapshot, VersionEntry};
use crate::tables::Snapshots;
use crate::wait::wait;

/// Bytes of models that are kept in memory between queries.
const CACHE_BYTES: usize = 1 << 30;

/// The models of a session.
#[derive(Debug)]
pub struct Models {
    store: ModelStore,
    current: RwLock<Arc<Snapshot>>,
    cache: Cache<LoadedModel>,
    notices: Mutex<Vec<String>>,
    /// Held by the thread that reads a model for all that wait for one.
    reading: Mutex<()>,
    /// Trainings whose files are not removed yet.
    pub(crate) untidy: AtomicUsize,
}

impl Models {
    /// Reads what the store has.
    ///
    /// # Errors
    /// Of the store.
    pub async fn open(store: ModelStore) -> Result<Models> {
        let current = RwLock::new(store.snapshot().await?);
        Ok(Models {
            store,
            current,
            cache: Cache::new(CACHE_BYTES),
            notices: Mutex::default(),
            reading: Mutex::default(),
            untidy: AtomicUsize::new(0),
        })
    }

    /// Looks what other sessions did.
    ///
    /// # Errors
    /// Of the store.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>> {
        let snapshot = self.store.snapshot().await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = snapshot.clone();
        Ok(snapshot)
    }

    /// What was known at the last look.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store.
    pub fn store(&self) -> &ModelStore {
        &self.store
    }

    /// What planning needs to know of a version.
    ///
    /// # Errors
    /// `Execution` when its commit cannot be read.
    pub fn about(entry: &VersionEntry) -> Result<About> {
        serde_json::from_value(entry.info.about.clone())
            .map_err(|e| exec_datafusion_err!("the commit of version {} cannot be read: {e}", entry.version))
    }

    /// A version that is in memory.
    pub(crate) fn loaded(&self, entry: &VersionEntry) -> Option<Arc<LoadedModel>> {
        self.cache.get(&entry.path)
    }

    /// A version, from memory or the store; of several who ask, one reads.
    pub(crate) async fn load(&self, entry: &VersionEntry) -> Result<Arc<LoadedModel>> {
        let load = || async {
            let loaded = self.read(entry).await?;
            let bytes = loaded.bytes();
            Ok((loaded, bytes))
        };
        self.cache.get_or_load(&entry.path, load).await
    }

    /// As [`Models::load`], for a thread that cannot await. It shares no reading with tasks of the caller's runtime, which
    /// may stand still as long as this thread waits.
    pub(crate) fn load_waiting(self: &Arc<Self>, entry: &Arc<VersionEntry>) -> Result<Arc<LoadedModel>> {
        if let Some(loaded) = self.loaded(entry) {
            return Ok(loaded);
        }
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have read it meanwhile.
        if let Some(loaded) = self.loaded(entry) {
            return Ok(loaded);
        }
        let (models, wanted) = (self.clone(), entry.clone());
        let loaded = Arc::new(wait(async move { models.read(&wanted).await })?);
        self.cache.keep(&entry.path, &loaded, loaded.bytes());
        Ok(loaded)
    }

    /// A version from the store.
    pub(crate) async fn read(&self, entry: &VersionEntry) -> Result<LoadedModel> {
        let about = Arc::new(Models::about(entry)?);
        if entry.files.is_empty() {
            return plan_err!("model '{}' is {}: it has no network", entry.model, about.model_type);
        }
        let files = self.store.read(entry).await?;
        let read = move || LoadedModel::new(Model::from_files(&files).map_err(outside)?, about);
        tokio::task::spawn_blocking(read).await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?
    }

    /// Makes what a training gave the newest version of its model.
    pub(crate) async fn commit(&self, spec: &TrainSpec, fitted: Fitted, run: i64) -> Result<u64> {
        let Fitted { model, about, recipe, mut metrics } = fitted;
        metrics["training_run"] = run.into();
        for notice in metrics["notices"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.notice(notice.to_owned());
        }
        let files = match model {
            Some(model) => model.files().map_err(outside)?,
            None => Vec::new(),
        };
        let files = files.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))).collect();
        let commit = CommitInfo {
            sql: spec.sql.clone(),
            options: json!({"model_type": spec.model_type, "network": recipe.network, "params": recipe.params}),
            about: serde_json::to_value(&about).map_err(|e| DataFusionError::External(e.into()))?,
            metrics,
            schema: Value::Null,
            description: spec.description.clone(),
            labels: (!spec.labels.is_empty()).then(|| spec.labels.clone()),
        };
        let mode = if spec.replace { CreateMode::Replace } else { CreateMode::New };
        let version = self.store.create(&spec.name, files, commit, mode).await?;
        if spec.checkpoints
            && let Err(e) = self.store.drop_checkpoint(&spec.name, &spec.key).await
        {
            // The version is there all the same.
            self.notice(e.strip_backtrace());
        }
        self.refresh().await?;
        Ok(version)
    }

    /// Makes an imported model the newest version of its name.
    pub(crate) async fn import(
        &self,
        create: &CreateModel,
        options: AlterOptions,
        model: Imported,
    ) -> Result<u64> {
        let commit = CommitInfo {
            sql: create.sql.clone(),
            options: json!({"model_type": model.about.model_type}),
            about: serde_json::to_value(&model.about).map_err(|e| DataFusionError::External(e.into()))?,
            metrics: json!({"training_run": 0}),
            schema: Value::Null,
            description: options.description,
            labels: options.labels,
        };
        let mode = if create.or_replace { CreateMode::Replace } else { CreateMode::New };
        let version = self.store.create(&create.name, model.files, commit, mode).await?;
        self.refresh().await?;
        Ok(version)
    }

    /// Something that the user should know.
    pub(crate) fn notice(&self, notice: String) {
        tracing::info!(notice, "note");
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
    }

    pub(crate) fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Snapshots for Models {
    fn current(&self) -> Arc<Snapshot> {
        self.snapshot()
    }
}
