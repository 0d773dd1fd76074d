//! Removes what nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use datafusion::error::{DataFusionError, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::commit::{Action, now};
use super::log::Log;
use super::read::reading;
use super::snapshot::Snapshot;
use super::write::Outcome;
use super::{ModelStore, layout};
use crate::ModelName;

/// How long a folder is safe that no log names: its writer may be about to commit it, or a query to read it. The clocks
/// of the machines that share a store must agree to well within this.
pub const GRACE: Duration = Duration::from_secs(60 * 60);

/// How many times the grace a checkpoint stays: a week. Whoever goes on from it may come back on Monday.
const CHECKPOINT_GRACES: u32 = 7 * 24;

/// How many times the grace the folder of a training stays to which nothing is added: a day. An epoch may be long.
const WORK_GRACES: u32 = 24;

/// What a vacuum did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VacuumReport {
    /// Versions dropped because the model had more than were to be retained.
    pub versions_dropped: u64,
    /// Folders removed: dropped versions and uncommitted trainings.
    pub folders_removed: u64,
    /// Checkpoints removed.
    pub checkpoints_removed: u64,
    /// Files removed with the folders.
    pub files_removed: u64,
    /// The size of all that was removed.
    pub bytes_removed: u64,
    /// Folders that a vacuum will remove when their grace is over.
    pub folders_waiting: u64,
}

impl ModelStore {
    /// Drops all but the newest `retain` versions of each model (the active one always stays), then removes the folders
    /// of dropped versions, and of trainings that were never committed, after [`GRACE`], and checkpoints that nobody went on
    /// from for a week. What the workers of a training pass on is removed a day after the last of it.
    pub async fn vacuum(&self, retain: Option<u64>) -> Result<VacuumReport> {
        self.vacuum_after(retain, GRACE).await
    }

    /// [`ModelStore::vacuum`] with another grace. With none, a training that another session is about to commit is lost.
    pub async fn vacuum_after(&self, retain: Option<u64>, grace: Duration) -> Result<VacuumReport> {
        let mut report = VacuumReport::default();
        if let Some(retain) = retain {
            report.versions_dropped = self.drop_old_versions(retain).await?;
        }
        // Folders before logs: what is committed in between is then named by a log.
        let names = self.names().await?;
        let folders = self.folders_of(&names, layout::versions).await?;
        let needs = Needs::new(&*self.look().await?, &self.prefix)?;
        for folder in folders {
            self.vacuum_folder(&folder, &needs, grace, &mut report).await?;
        }
        for folder in self.folders_of(&names, layout::works).await? {
            self.vacuum_folder(&folder, &needs, grace * WORK_GRACES, &mut report).await?;
        }
        for name in names {
            self.vacuum_checkpoints(&name, grace * CHECKPOINT_GRACES, &mut report).await?;
        }
        Ok(report)
    }

    async fn drop_old_versions(&self, retain: u64) -> Result<u64> {
        let names: Vec<_> = self.look().await?.models().map(|model| model.name.clone()).collect();
        let mut dropped = 0;
        for name in names {
            let mut versions = Vec::new();
            let decide = |log: &Log| {
                versions = old_versions(log, retain)?;
                Ok((!versions.is_empty()).then(|| Action::DropVersion { versions: versions.clone() }))
            };
            if let Outcome::Committed = self.commit(&name, 3, decide).await? {
                dropped += versions.len() as u64;
            }
        }
        Ok(dropped)
    }

    /// What is in a folder of each model.
    async fn folders_of(
        &self,
        names: &[ModelName],
        of: fn(&Path, &ModelName) -> Result<Path>,
    ) -> Result<Vec<Path>> {
        let mut folders = Vec::new();
        for name in names {
            let path = of(&self.prefix, name)?;
            let listed = self.store.list_with_delimiter(Some(&path)).await.map_err(reading(&path))?;
            folders.extend(listed.common_prefixes);
        }
        Ok(folders)
    }

    async fn vacuum_folder(
        &self,
        folder: &Path,
        needs: &Needs,
        grace: Duration,
        report: &mut VacuumReport,
    ) -> Result<()> {
        let Some(started) = layout::started(folder) else { return Ok(()) };
        if needs.used.contains(folder) {
            return Ok(());
        }
        let files: Vec<_> = self.store.list(Some(folder)).try_collect().await.map_err(reading(folder))?;
        let since = needs.retired.get(folder).copied().unwrap_or_else(|| last_upload(started, &files));
        if Duration::from_millis(now().saturating_sub(since)) < grace {
            report.folders_waiting += 1;
            return Ok(());
        }
        self.remove(folder, &files).await?;
        report.folders_removed += 1;
        report.files_removed += files.len() as u64;
        report.bytes_removed += files.iter().map(|file| file.size).sum::<u64>();
        Ok(())
    }

    async fn vacuum_checkpoints(
        &self,
        name: &ModelName,
        grace: Duration,
        report: &mut VacuumReport,
    ) -> Result<()> {
        for file in self.checkpoint_files(name).await? {
            let Some(key) = file.location.filename() else { continue };
            let written = file.last_modified.timestamp_millis().try_into().unwrap_or(u64::MAX);
            if Duration::from_millis(now().saturating_sub(written)) >= grace {
                self.drop_checkpoint(name, key).await?;
                report.checkpoints_removed += 1;
                report.bytes_removed += file.size;
            }
        }
        match &self.root {
            Some(root) => remove_unfinished(&local(root, &layout::checkpoints(&self.prefix, name)?), grace),
            None => Ok(()),
        }
    }

    pub(super) async fn remove(&self, folder: &Path, files: &[ObjectMeta]) -> Result<()> {
        let paths: Vec<_> = files.iter().map(|file| Ok(file.location.clone())).collect();
        let mut removed = self.store.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(file) = removed.next().await {
            match file {
                // Another session vacuums too.
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(DataFusionError::from(e).context(format!("removing {folder}"))),
            }
        }
        self.remove_local(folder)
    }

    /// What an object store does not show: the folder itself, and files that a dead writer had not finished.
    fn remove_local(&self, folder: &Path) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let path = local(root, folder);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(DataFusionError::from(e).context(format!("removing {}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

/// A path of a store on this machine.
pub(super) fn local(root: &std::path::Path, path: &Path) -> PathBuf {
    path.parts().fold(root.to_owned(), |local, part| local.join(part.as_ref()))
}

/// Removes files that a dead writer had not finished: their names have a `#`, and no store shows them.
fn remove_unfinished(folder: &std::path::Path, grace: Duration) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|about| about.modified());
        let old = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= grace));
        if old && entry.file_name().to_string_lossy().contains('#') {
            let path = entry.path();
            std::fs::remove_file(&path)
                .map_err(|e| DataFusionError::from(e).context(format!("removing {}", path.display())))?;
        }
    }
    Ok(())
}

/// What the logs say about folders.
struct Needs {
    used: BTreeSet<Path>,
    /// When the version was dropped.
    retired: BTreeMap<Path, u64>,
}

impl Needs {
    /// Fails when a log cannot be read: a model that was renamed may need a folder of another.
    fn new(snapshot: &Snapshot, prefix: &Path) -> Result<Needs> {
        let mut needs = Needs { used: BTreeSet::new(), retired: BTreeMap::new() };
        for log in snapshot.logs.values() {
            log.live()?;
            for path in log.paths() {
                needs.used.insert(layout::within(prefix, path)?);
            }
            for (path, at) in &log.retired {
                needs.retired.insert(layout::within(prefix, path)?, *at);
            }
        }
        Ok(needs)
    }
}

fn old_versions(log: &Log, retain: u64) -> Result<Vec<u64>> {
    let Some(model) = log.live()? else { return Ok(Vec::new()) };
    let retain = usize::try_from(retain.max(1)).unwrap_or(usize::MAX);
    let older = model.versions.keys().rev().skip(retain);
    Ok(older.copied().filter(|version| *version != model.active).collect())
}

/// When the last file was uploaded, or the first was about to be; milliseconds since 1970.
fn last_upload(started: u64, files: &[ObjectMeta]) -> u64 {
    let modified = files.iter().filter_map(|file| file.last_modified.timestamp_millis().try_into().ok());
    modified.fold(started, u64::max)
}
