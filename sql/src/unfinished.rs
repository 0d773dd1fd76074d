//! Trainings that did not end: what a checkpoint in the store holds, and who keeps it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::about::About;
use crate::models::Models;
use crate::name::ModelName;
use crate::pack::{pack, unpack};
use crate::spec::TrainSpec;

/// The files of a checkpoint: [`Header`], and what the training loop goes on from.
const HEADER: &str = "training.json";
const STATE: &str = "state.safetensors";

/// What is known of a training that did not end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    sql: String,
    warm_start: bool,
    about: Arc<About>,
    epochs: usize,
    rows: u64,
    workers: usize,
}

/// A checkpoint.
#[derive(Clone, PartialEq)]
pub struct Unfinished {
    header: Header,
    /// What the training loop goes on from.
    pub(crate) state: Bytes,
}

// The state is long.
impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Unfinished {
    /// The checkpoint of a training, which is there.
    ///
    /// # Errors
    /// Of the store, and `Execution` for a file that is none.
    pub(crate) async fn read(models: &Models, name: &ModelName, key: &str) -> Result<Unfinished> {
        let broken = || {
            exec_datafusion_err!(
                "the checkpoint of '{name}' cannot be read; leave out warm_start to begin anew, or DROP MODEL {name} to remove it"
            )
        };
        let bytes = models.store().checkpoint(name, key).await?.ok_or_else(broken)?;
        let files = unpack(&bytes).ok_or_else(broken)?;
        let file = |wanted: &str| files.iter().find(|(name, _)| name == wanted).map(|(_, bytes)| bytes);
        let header = file(HEADER).and_then(|bytes| serde_json::from_slice(bytes).ok());
        match (header, file(STATE)) {
            (Some(header), Some(state)) => Ok(Unfinished { header, state: state.clone() }),
            _ => Err(broken()),
        }
    }

    /// What the model would read and predict, as far as the rows told it.
    pub fn about(&self) -> &Arc<About> {
        &self.header.about
    }

    /// Epochs that it has behind it.
    pub fn epochs(&self) -> usize {
        self.header.epochs
    }

    /// The statement that began it.
    pub(crate) fn sql(&self) -> &str {
        &self.header.sql
    }

    /// Whether it went on from a model itself.
    pub(crate) fn is_warm(&self) -> bool {
        self.header.warm_start
    }

    /// That a training has the rows and the workers that it had: by their number rows are dealt out, and held out.
    ///
    /// # Errors
    /// `Execution` saying what differs.
    pub(crate) fn check(&self, rows: u64, workers: usize) -> Result<()> {
        let Header { rows: had, workers: by, .. } = &self.header;
        if *had != rows {
            return exec_err!(
                "the checkpoint is of a training on {had} rows, the query has {rows}; leave out warm_start to begin anew"
            );
        }
        if *by != workers {
            return exec_err!(
                "the checkpoint is of a training by {by} workers, this one has {workers}; set workers = {by}, or leave out warm_start to begin anew"
            );
        }
        Ok(())
    }
}

/// Writes the checkpoints of a training.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    pub(crate) models: Arc<Models>,
    pub(crate) spec: Arc<TrainSpec>,
    /// Where files are written.
    pub(crate) handle: Handle,
    /// Epochs behind the one that is there, 0 for none.
    pub(crate) kept: Arc<AtomicUsize>,
    /// Whether somebody was told that one could not be written.
    pub(crate) failed: Arc<AtomicBool>,
}

impl Checkpoints {
    /// Replaces the checkpoint. Blocks a thread that is none of the runtime's. One that cannot be written is a notice: the
    /// one before it is still there, and so is the training.
    pub(crate) fn keep(&self, about: &About, epochs: usize, rows: u64, workers: usize, state: &[u8]) {
        let TrainSpec { name, sql, key, warm_start, .. } = &*self.spec;
        let about = Arc::new(about.clone());
        let header = Header { sql: sql.clone(), warm_start: *warm_start, about, epochs, rows, workers };
        let put = serde_json::to_vec(&header)
            .map_err(|e| DataFusionError::External(e.into()))
            .and_then(|header| pack(&[(HEADER, &header), (STATE, state)]))
            .and_then(|packed| {
                self.handle.block_on(self.models.store().keep_checkpoint(name, key, packed.into()))
            });
        match put {
            Ok(()) => self.kept.store(epochs, Ordering::Relaxed),
            Err(e) if !self.failed.swap(true, Ordering::Relaxed) => {
                let e = e.strip_backtrace();
                self.models.notice(format!("the checkpoint of epoch {epochs} is not kept: {e}"));
            }
            Err(_) => {}
        }
    }
}

/// Says, when a training ends without a model, that it can go on.
pub(crate) struct Leftover(pub(crate) Option<Checkpoints>);

impl Drop for Leftover {
    fn drop(&mut self) {
        let Some(Checkpoints { models, spec, kept, .. }) = &self.0 else { return };
        let epochs = kept.load(Ordering::Relaxed);
        if epochs > 0 {
            let name = &spec.name;
            models.notice(format!(
                "the training of '{name}' has a checkpoint of {epochs} epochs; the same statement with warm_start = TRUE goes on from it"
            ));
        }
    }
}
