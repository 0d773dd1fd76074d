//! Logs to a snapshot.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt};

use super::commit::{Action, Commit};
use super::log::Log;
use super::snapshot::Snapshot;
use super::{ModelStore, layout};
use crate::ModelName;

/// Requests at a time.
const CONCURRENCY: usize = 32;

impl ModelStore {
    /// The models as they are now. Costs one LIST for each schema and each model, and one GET for each entry that is new
    /// since the last call; the same `Arc` when nothing is.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        match self.recent() {
            Some(snapshot) => Ok(snapshot),
            None => self.look().await,
        }
    }

    fn recent(&self) -> Option<Arc<Snapshot>> {
        let known = self.known();
        known.snapshot.clone().filter(|_| known.taken.is_some_and(|taken| taken.elapsed() < self.ttl))
    }

    /// A snapshot that is not older than the call.
    pub(super) async fn look(&self) -> Result<Arc<Snapshot>> {
        let writes = self.known().writes;
        let names = self.names().await?;
        let mut logs: BTreeMap<_, _> = stream::iter(names)
            .map(|name| async move { self.refresh(&name).await.map(|log| (name, log)) })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        self.follow_links(&mut logs).await?;
        Ok(self.publish(logs, writes))
    }

    /// Logs are read one after another, so that one may be from before a rename and another from after it.
    async fn follow_links(&self, logs: &mut BTreeMap<ModelName, Arc<Log>>) -> Result<()> {
        let mut followed = Vec::new();
        while let Some(link) = open_link(logs, &followed) {
            logs.insert(link.0.clone(), self.refresh(&link.0).await?);
            followed.push(link);
        }
        Ok(())
    }

    /// `writes` as it was before the look: what was written since may be missing, and the session must see it next time.
    fn publish(&self, logs: BTreeMap<ModelName, Arc<Log>>, writes: u64) -> Arc<Snapshot> {
        let mut known = self.known();
        known.logs.retain(|name, _| logs.contains_key(name));
        let snapshot = match &known.snapshot {
            Some(last) if same(&last.logs, &logs) => last.clone(),
            _ => Arc::new(Snapshot { logs }),
        };
        known.snapshot = Some(snapshot.clone());
        known.taken = (known.writes == writes).then(Instant::now);
        snapshot
    }

    /// All names that have a folder, also those of models that were dropped.
    pub(super) async fn names(&self) -> Result<Vec<ModelName>> {
        let mut names = Vec::new();
        for schema in self.folders(&self.prefix).await? {
            let path = layout::within(&self.prefix, &layout::encode(&schema)?)?;
            let models = self.folders(&path).await?;
            names.extend(models.into_iter().map(|name| ModelName { schema: schema.clone(), name }));
        }
        Ok(names)
    }

    async fn folders(&self, path: &object_store::path::Path) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(path)).await.map_err(reading(self))?;
        Ok(listed.common_prefixes.iter().filter_map(|folder| layout::decode(folder.filename()?)).collect())
    }

    /// The log as it is now.
    pub(super) async fn refresh(&self, name: &ModelName) -> Result<Arc<Log>> {
        let known = self.known().logs.get(name).cloned();
        let log = match known {
            Some(log) => match self.advance(&log).await? {
                Some(log) => log,
                // Not the log that it was: somebody removed the folder and began anew.
                None => self.load(name).await?,
            },
            None => self.load(name).await?,
        };
        self.remember(&log);
        Ok(log)
    }

    /// An older log that takes the place of a newer one costs a request, no more.
    pub(super) fn remember(&self, log: &Arc<Log>) {
        self.known().logs.insert(log.name.clone(), log.clone());
    }

    async fn load(&self, name: &ModelName) -> Result<Arc<Log>> {
        let empty = Arc::new(Log::new(name.clone()));
        Ok(self.advance(&empty).await?.unwrap_or(empty))
    }

    /// Adds the entries after the head; none when the head is not in the store any more.
    async fn advance(&self, log: &Arc<Log>) -> Result<Option<Arc<Log>>> {
        let entries = self.entries(&log.name, log.head).await?;
        if log.head > 0 && entries.first() != Some(&log.head) {
            return Ok(None);
        }
        let newest = entries.last().copied().unwrap_or(0);
        if newest == log.head && log.pending.is_none() && log.broken.is_none() {
            return Ok(Some(log.clone()));
        }
        let commits = self.fetch(&log.name, log.head + 1..=newest).await?;
        let mut next = Log::clone(log);
        next.broken = None;
        for (sequence, bytes) in commits {
            // Nobody adds to a log before what is pending is decided.
            self.settle(&mut next).await?;
            if next.broken.is_some() {
                break;
            }
            let Some(commit) = decode(&mut next, sequence, bytes) else { break };
            if commit.prev != next.head_id && log.head > 0 {
                return Ok(None);
            }
            next.apply(commit);
        }
        self.settle(&mut next).await?;
        Ok(Some(Arc::new(next)))
    }

    /// The sequence numbers in a log from `head` on, sorted.
    async fn entries(&self, name: &ModelName, head: u64) -> Result<Vec<u64>> {
        let log = layout::log(&self.prefix, name)?;
        let offset = layout::entry(&log, head.saturating_sub(1));
        let listed: Vec<_> = self
            .store
            .list_with_offset(Some(&log), &offset)
            .try_collect()
            .await
            .map_err(reading(format_args!("the log of model '{name}'")))?;
        let mut entries: Vec<_> = listed.iter().filter_map(|file| layout::sequence(&file.location)).collect();
        entries.sort_unstable();
        Ok(entries)
    }

    async fn fetch(
        &self,
        name: &ModelName,
        entries: RangeInclusive<u64>,
    ) -> Result<Vec<(u64, Option<Bytes>)>> {
        stream::iter(entries)
            .map(|sequence| async move { Ok((sequence, self.entry(name, sequence).await?)) })
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// An entry of a log; none if it does not exist.
    pub(super) async fn entry(&self, name: &ModelName, sequence: u64) -> Result<Option<Bytes>> {
        let path = layout::entry(&layout::log(&self.prefix, name)?, sequence);
        let read = async { self.store.get(&path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(reading(format_args!("log entry {sequence} of model '{name}'"))(e)),
        }
    }

    /// Looks whether the source of a pending rename has decided it.
    pub(super) async fn settle(&self, log: &mut Log) -> Result<()> {
        let Some(adoption) = &log.pending else { return Ok(()) };
        let (source, sequence) = (&adoption.source, adoption.source_sequence);
        let Some(bytes) = self.entry(source, sequence).await? else { return Ok(()) };
        match Commit::decode(source, sequence, &bytes).map(|commit| commit.action) {
            Ok(Action::Rename { transfer, .. }) => log.settle(transfer == adoption.transfer),
            Ok(_) => log.settle(false),
            Err(e) => log.broken = Some(e.message().into_owned()),
        }
        Ok(())
    }
}

/// The entry, unless it cannot be read, which breaks the log.
fn decode(log: &mut Log, sequence: u64, bytes: Option<Bytes>) -> Option<Commit> {
    let name = &log.name;
    let decoded = match bytes {
        Some(bytes) => Commit::decode(name, sequence, &bytes).map_err(|e| e.message().into_owned()),
        None => Err(format!("log entry {sequence} of model '{name}' is missing")),
    };
    decoded.map_err(|reason| log.broken = Some(reason)).ok()
}

/// The other half of a rename that `logs` are not up to.
fn open_link(
    logs: &BTreeMap<ModelName, Arc<Log>>,
    followed: &[(ModelName, u64)],
) -> Option<(ModelName, u64)> {
    let open =
        |(name, sequence): &&(ModelName, u64)| !logs.get(name).is_some_and(|log| log.reached(*sequence));
    logs.values()
        .filter_map(|log| log.link.as_ref())
        .filter(open)
        .find(|link| !followed.contains(link))
        .cloned()
}

fn same(one: &BTreeMap<ModelName, Arc<Log>>, other: &BTreeMap<ModelName, Arc<Log>>) -> bool {
    one.len() == other.len() && one.values().zip(other.values()).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Says what was read when it failed.
pub(super) fn reading(what: impl std::fmt::Display) -> impl FnOnce(object_store::Error) -> DataFusionError {
    move |e| DataFusionError::from(e).context(format!("reading {what}"))
}
