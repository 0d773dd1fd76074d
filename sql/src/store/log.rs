//! What the entries of one log add up to.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};

use super::commit::{Action, Adoption, Commit, NewVersion};
use super::snapshot::{ModelEntry, VersionEntry};
use crate::ModelName;

/// The state of a log after its first `head` entries.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub name: ModelName,
    /// Entries are numbered from 1.
    pub head: u64,
    pub head_id: Option<String>,
    /// None before a create and after a drop.
    model: Option<ModelEntry>,
    /// The number of the next version. One that was given under this name is not given again, so that a name and a number
    /// mean the same in every process.
    pub next_version: u64,
    /// A rename to here that its source has neither confirmed nor refused.
    pub pending: Option<Box<Adoption>>,
    /// The other half of a rename: whoever saw this head must see that log up to that entry too.
    pub link: Option<(ModelName, u64)>,
    /// Folders of versions that were dropped, and when, in milliseconds since 1970.
    pub retired: BTreeMap<String, u64>,
    /// Why the entry after `head` cannot be read.
    pub broken: Option<String>,
}

impl Log {
    pub fn new(name: ModelName) -> Log {
        Log {
            name,
            head: 0,
            head_id: None,
            model: None,
            next_version: 1,
            pending: None,
            link: None,
            retired: BTreeMap::new(),
            broken: None,
        }
    }

    /// The model; fails when the log has an entry that cannot be read.
    pub fn live(&self) -> Result<Option<&ModelEntry>> {
        match &self.broken {
            Some(reason) => Err(DataFusionError::Execution(reason.clone())),
            None => Ok(self.model.as_ref()),
        }
    }

    /// Whether the entry is in, and what it means known.
    pub fn reached(&self, sequence: u64) -> bool {
        self.head > sequence || self.head == sequence && self.pending.is_none()
    }

    /// The folders that the log's versions need, relative to the store.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let pending = self.pending.iter().map(|adoption| &adoption.state);
        self.model.iter().chain(pending).flat_map(|model| model.versions.values()).map(|v| v.path.as_str())
    }

    /// Adds the next entry; one that cannot follow breaks the log.
    pub fn apply(&mut self, commit: Commit) {
        let follows =
            commit.sequence == self.head + 1 && commit.prev == self.head_id && self.pending.is_none();
        let added = if follows { self.add(&commit) } else { Err(contradiction(&commit)) };
        match added {
            Err(e) => self.broken = Some(e.message().into_owned()),
            Ok(()) => {
                self.head = commit.sequence;
                self.head_id = Some(commit.id);
            }
        }
    }

    fn add(&mut self, commit: &Commit) -> Result<()> {
        self.link = None;
        match commit.action.clone() {
            Action::Create(new) => self.create(*new, commit)?,
            Action::Replace(new) => add(self.existing(commit)?, *new, commit),
            Action::Activate { version } => self.existing(commit)?.active = version,
            Action::Describe { description, labels } => {
                describe(self.existing(commit)?, description, labels);
            }
            Action::DropVersion { versions } => self.drop_versions(&versions, commit)?,
            Action::Drop {} => self.drop(commit)?,
            Action::Rename { target, target_sequence, .. } => {
                self.existing(commit)?;
                self.model = None;
                self.link = Some((target, target_sequence));
            }
            Action::Adopt(adoption) => self.pending = Some(adoption),
            Action::Void {} => {}
        }
        if let Some(model) = &mut self.model {
            model.updated_at = commit.created_at;
            self.next_version = self.next_version.max(model.next_version);
        }
        Ok(())
    }

    /// Ends a pending rename.
    pub fn settle(&mut self, confirmed: bool) {
        let Some(adoption) = self.pending.take() else { return };
        if confirmed {
            let mut model = adoption.state;
            model.name = self.name.clone();
            for version in model.versions.values_mut() {
                Arc::make_mut(version).model = self.name.clone();
            }
            self.next_version = self.next_version.max(model.next_version);
            model.next_version = self.next_version;
            self.model = Some(model);
            self.link = Some((adoption.source, adoption.source_sequence));
        }
    }

    fn create(&mut self, new: NewVersion, commit: &Commit) -> Result<()> {
        if self.model.is_some() {
            return Err(contradiction(commit));
        }
        let mut model = ModelEntry::empty(self.name.clone(), commit.created_at);
        add(&mut model, new, commit);
        self.model = Some(model);
        Ok(())
    }

    fn drop_versions(&mut self, versions: &[u64], commit: &Commit) -> Result<()> {
        let model = self.existing(commit)?;
        let dropped: Vec<_> = versions.iter().filter_map(|version| model.versions.remove(version)).collect();
        self.retire(dropped, commit.created_at);
        Ok(())
    }

    fn drop(&mut self, commit: &Commit) -> Result<()> {
        let versions = std::mem::take(&mut self.existing(commit)?.versions);
        self.model = None;
        self.retire(versions.into_values(), commit.created_at);
        Ok(())
    }

    fn retire(&mut self, versions: impl IntoIterator<Item = Arc<VersionEntry>>, at: u64) {
        self.retired.extend(versions.into_iter().map(|version| (version.path.clone(), at)));
    }

    fn existing(&mut self, commit: &Commit) -> Result<&mut ModelEntry> {
        self.model.as_mut().ok_or_else(|| contradiction(commit))
    }
}

fn contradiction(commit: &Commit) -> DataFusionError {
    let Commit { sequence, model, .. } = commit;
    DataFusionError::Execution(format!(
        "log entry {sequence} of model '{model}' contradicts the entries before it"
    ))
}

/// Adds a version and makes it the active one.
fn add(model: &mut ModelEntry, new: NewVersion, commit: &Commit) {
    let NewVersion { version, path, files, info } = new;
    describe(model, info.description.clone(), info.labels.clone());
    model.active = version;
    model.next_version = version + 1;
    let entry = VersionEntry {
        model: model.name.clone(),
        version,
        path,
        files,
        info,
        created_at: commit.created_at,
        engine_version: commit.engine_version.clone(),
        format_version: commit.format_version,
    };
    model.versions.insert(version, Arc::new(entry));
}

fn describe(model: &mut ModelEntry, description: Option<String>, labels: Option<Vec<String>>) {
    model.description = description.or(model.description.take());
    model.labels = labels.unwrap_or_else(|| std::mem::take(&mut model.labels));
}
