//! Trainings that did not end: what a checkpoint in the store holds, and who keeps it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};
use tokio::runtime::Handle;

use crate::about::About;
use crate::models::Models;
use crate::name::ModelName;
use crate::pack::{pack, unpack};

const ABOUT: &str = "about.json";
const EPOCHS: &str = "epochs";
const STATE: &str = "state.safetensors";

/// A checkpoint.
#[derive(Clone, PartialEq)]
pub struct Unfinished {
    /// What the model would read and predict, as far as the rows told it.
    pub about: Arc<About>,
    /// Epochs that it has behind it.
    pub epochs: usize,
    /// What the training loop goes on from.
    pub(crate) state: Bytes,
}

// The state is long.
impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unfinished { about, epochs, .. } = self;
        f.debug_struct("Unfinished").field("about", about).field("epochs", epochs).finish_non_exhaustive()
    }
}

impl Unfinished {
    /// The checkpoint of a model, if there is one.
    ///
    /// # Errors
    /// Of the store, and `Execution` for a file that is none.
    pub(crate) async fn read(models: &Models, name: &ModelName) -> Result<Option<Unfinished>> {
        let Some(bytes) = models.store().checkpoint(name).await? else { return Ok(None) };
        let broken = || exec_datafusion_err!("the checkpoint of model '{name}' is damaged");
        let files = unpack(&bytes).ok_or_else(broken)?;
        let file = |wanted: &str| files.iter().find(|(name, _)| name == wanted).map(|(_, bytes)| bytes);
        let epochs = file(EPOCHS).and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok());
        let about = file(ABOUT).and_then(|bytes| serde_json::from_slice(bytes).ok());
        match (about, epochs, file(STATE)) {
            (Some(about), Some(epochs), Some(state)) => {
                Ok(Some(Unfinished { about: Arc::new(about), epochs, state: state.clone() }))
            }
            _ => Err(broken()),
        }
    }
}

/// Writes the checkpoints of a training.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    pub(crate) models: Arc<Models>,
    pub(crate) name: ModelName,
    /// Where files are written.
    pub(crate) handle: Handle,
    /// Epochs behind the one that is there, 0 for none.
    pub(crate) kept: Arc<AtomicUsize>,
}

impl Checkpoints {
    /// Replaces the checkpoint. Blocks a thread that is none of the runtime's.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn keep(&self, about: &About, epochs: usize, state: Bytes) -> Result<()> {
        let about = serde_json::to_vec(about).map_err(|e| DataFusionError::External(e.into()))?;
        let files = [(ABOUT, about.as_slice()), (EPOCHS, epochs.to_string().as_bytes()), (STATE, &state)]
            .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
        let packed = pack(&files)?;
        self.handle.block_on(self.models.store().keep_checkpoint(&self.name, packed.into()))?;
        self.kept.store(epochs, Ordering::Relaxed);
        Ok(())
    }
}

/// Says, when a training ends without a model, that it can go on.
pub(crate) struct Leftover(pub(crate) Option<Checkpoints>);

impl Drop for Leftover {
    fn drop(&mut self) {
        let Some(Checkpoints { models, name, kept, .. }) = &self.0 else { return };
        let epochs = kept.load(Ordering::Relaxed);
        if epochs > 0 {
            models.notice(format!(
                "the training of '{name}' has a checkpoint of {epochs} epochs; the same statement with warm_start = TRUE goes on from it"
            ));
        }
    }
}
