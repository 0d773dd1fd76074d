//! Commits to one log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use object_store::{ObjectStore, PutMode, PutOptions};

use super::commit::{Action, Commit, CommitInfo, NewVersion};
use super::files::Upload;
use super::log::Log;
use super::{ModelStore, layout};
use crate::ModelName;

/// How often a writer that was overtaken goes on top of the one that overtook it.
const REBASES: usize = 3;
/// The same for commits without a training behind them, which are quick to try again.
const QUICK_REBASES: usize = 20;
/// After an upload that took longer, a writer makes sure that nobody vacuumed what it uploaded first.
const SLOW_UPLOAD: Duration = Duration::from_secs(15 * 60);

/// What to do about a model that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// Fail.
    New,
    /// Add a version and activate it; without a model, create it.
    Replace,
}

/// How a commit ended.
pub(super) enum Outcome {
    /// With the log after it.
    Committed,
    /// There was nothing to do.
    Unchanged,
    /// Others were always first; with the log that they left.
    Overtaken(Arc<Log>),
}

impl ModelStore {
    /// Adds a version of a model and returns its number. The files are uploaded first; when the commit fails, they stay as
    /// an uncommitted training until a vacuum.
    pub async fn create(
        &self,
        name: &ModelName,
        files: Vec<(String, Bytes)>,
        info: CommitInfo,
        mode: CreateMode,
    ) -> Result<u64> {
        let log = self.refresh(name).await?;
        if log.live()?.is_some() && mode == CreateMode::New {
            return Err(DataFusionError::Plan(format!("model '{name}' already exists")));
        }
        let upload = self.upload(name, next_version(&log)?, files).await?;
        if upload.started.elapsed() > SLOW_UPLOAD {
            self.check_upload(&upload).await?;
        }
        let mut version = 0;
        let decide = |log: &Log| {
            version = next_version(log)?;
            create_action(log, &upload, &info, mode).map(Some)
        };
        match self.commit(name, REBASES, decide).await? {
            Outcome::Overtaken(log) => Err(overtaken(&log, Some(&upload))),
            _ => Ok(version),
        }
    }

    /// Drops a model with all its versions, and says whether there was one; `if_exists` allows that there is none.
    /// The files go with a later vacuum.
    pub async fn drop_model(&self, name: &ModelName, if_exists: bool) -> Result<bool> {
        let decide = |log: &Log| Ok(log.live()?.map(|_| Action::Drop {}));
        match self.commit(name, QUICK_REBASES, decide).await? {
            Outcome::Committed => Ok(true),
            Outcome::Unchanged if if_exists => Ok(false),
            Outcome::Unchanged => Err(self.not_found(name).await),
            Outcome::Overtaken(log) => Err(overtaken(&log, None)),
        }
    }

    /// Drops a version that is not the active one.
    pub async fn drop_version(&self, name: &ModelName, version: u64) -> Result<()> {
        self.alter(name, |log| {
            let Some(model) = log.live()? else { return Ok(None) };
            model.version(Some(version))?;
            if version == model.active {
                return Err(DataFusionError::Plan(format!(
                    "version {version} of model '{name}' is the active one; activate another first, or drop the model"
                )));
            }
            Ok(Some(Action::DropVersion { versions: vec![version] }))
        })
        .await
    }

    /// Makes a version the active one.
    pub async fn activate(&self, name: &ModelName, version: u64) -> Result<()> {
        self.alter(name, |log| {
            let Some(model) = log.live()? else { return Ok(None) };
            model.version(Some(version))?;
            Ok((version != model.active).then_some(Action::Activate { version }))
        })
        .await
    }

    /// Changes what is given.
    pub async fn describe(
        &self,
        name: &ModelName,
        description: Option<String>,
        labels: Option<Vec<String>>,
    ) -> Result<()> {
        let empty = description.is_none() && labels.is_none();
        let action = Action::Describe { description, labels };
        self.alter(name, |log| Ok(log.live()?.filter(|_| !empty).map(|_| action.clone()))).await
    }

    /// A commit to a model that must exist.
    async fn alter(
        &self,
        name: &ModelName,
        decide: impl FnMut(&Log) -> Result<Option<Action>>,
    ) -> Result<()> {
        match self.commit(name, QUICK_REBASES, decide).await? {
            Outcome::Committed => Ok(()),
            Outcome::Unchanged => match self.refresh(name).await?.live()? {
                Some(_) => Ok(()),
                None => Err(self.not_found(name).await),
            },
            Outcome::Overtaken(log) => Err(overtaken(&log, None)),
        }
    }

    /// Commits what `decide` says to the log as it is; when somebody else is first, asks again.
    pub(super) async fn commit(
        &self,
        name: &ModelName,
        rebases: usize,
        mut decide: impl FnMut(&Log) -> Result<Option<Action>>,
    ) -> Result<Outcome> {
        for _ in 0..=rebases {
            let log = self.decided(name).await?;
            let Some(action) = decide(&log)? else { return Ok(Outcome::Unchanged) };
            if self.put(&log, action).await?.is_some() {
                return Ok(Outcome::Committed);
            }
        }
        Ok(Outcome::Overtaken(self.refresh(name).await?))
    }

    /// The log with no rename pending: one whose writer has not confirmed it yet will not happen.
    pub(super) async fn decided(&self, name: &ModelName) -> Result<Arc<Log>> {
        loop {
            let log = self.refresh(name).await?;
            let Some(adoption) = &log.pending else { return Ok(log) };
            let source = self.refresh(&adoption.source).await?;
            source.live()?;
            if source.head + 1 < adoption.source_sequence {
                let from = &source.name;
                return Err(DataFusionError::Execution(format!(
                    "model '{name}' waits for its rename from '{from}', whose log is gone"
                )));
            }
            if source.head + 1 == adoption.source_sequence {
                // Whoever is first decides; if that is not us, the log is settled all the same.
                self.put(&source, Action::Void {}).await?;
            }
        }
    }

    /// Puts the next entry; nothing when somebody else did.
    pub(super) async fn put(&self, log: &Log, action: Action) -> Result<Option<Arc<Log>>> {
        let commit = Commit::new(log.name.clone(), log.head + 1, log.head_id.clone(), action);
        if !self.put_entry(&commit).await? {
            return Ok(None);
        }
        let mut next = log.clone();
        next.apply(commit);
        let next = Arc::new(next);
        self.remember(&next);
        let mut known = self.known();
        known.taken = None;
        known.writes += 1;
        Ok(Some(next))
    }

    async fn put_entry(&self, commit: &Commit) -> Result<bool> {
        let Commit { model: name, sequence, id, .. } = commit;
        let path = layout::entry(&layout::log(&self.prefix, name)?, *sequence);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let failed = |e| DataFusionError::from(e).context(format!("committing to model '{name}'"));
        match self.store.put_opts(&path, commit.encode()?.into(), create).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                // Ours, if a client tried again because the first answer was lost.
                let there = self.entry(name, *sequence).await?;
                Ok(there
                    .is_some_and(|bytes| Commit::decode(name, *sequence, &bytes).is_ok_and(|c| c.id == *id)))
            }
            Err(e @ object_store::Error::NotImplemented { .. }) => Err(failed(e)
                .context(format!("the object store of {self} has no put-if-absent, which models need"))),
            Err(e) => Err(failed(e)),
        }
    }

    /// The error for a model that is not there.
    pub(super) async fn not_found(&self, name: &ModelName) -> DataFusionError {
        match self.look().await {
            Ok(snapshot) => snapshot.not_found(name),
            Err(e) => e,
        }
    }
}

fn next_version(log: &Log) -> Result<u64> {
    log.live()?;
    Ok(log.next_version)
}

fn create_action(log: &Log, upload: &Upload, info: &CommitInfo, mode: CreateMode) -> Result<Action> {
    let new = Box::new(NewVersion {
        version: next_version(log)?,
        path: upload.path.clone(),
        files: upload.files.clone(),
        info: info.clone(),
    });
    match (log.live()?, mode) {
        (None, _) => Ok(Action::Create(new)),
        (Some(_), CreateMode::Replace) => Ok(Action::Replace(new)),
        (Some(_), CreateMode::New) => Err(DataFusionError::Execution(format!(
            "model '{}' already exists (created by another session); {}",
            log.name,
            saved(upload)
        ))),
    }
}

fn saved(upload: &Upload) -> String {
    format!("your run is saved as uncommitted training {}", upload.id)
}

fn overtaken(log: &Log, upload: Option<&Upload>) -> DataFusionError {
    let name = &log.name;
    let what = match log.live() {
        Ok(Some(model)) => {
            format!("model '{name}' was replaced by another session (version {})", model.active)
        }
        Ok(None) => format!("model '{name}' was dropped by another session"),
        Err(e) => return e,
    };
    let rest = upload.map_or("try again".into(), saved);
    DataFusionError::Execution(format!("{what}; {rest}"))
}
