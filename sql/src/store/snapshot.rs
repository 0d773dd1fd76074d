//! What a store holds at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::error::{DataFusionError, Result};
use serde::{Deserialize, Serialize};

use super::commit::{CommitInfo, FileEntry};
use super::log::Log;
use crate::ModelName;

/// A version of a model; immutable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionEntry {
    /// The model, by the name it has now.
    pub model: ModelName,
    /// From 1.
    pub version: u64,
    /// The folder of its files, relative to the store. No other version ever has the same.
    pub path: String,
    /// Its files by name.
    pub files: BTreeMap<String, FileEntry>,
    /// What its training said.
    pub info: CommitInfo,
    /// Milliseconds since 1970, UTC.
    pub created_at: u64,
    /// The version of the engine that trained it.
    pub engine_version: String,
    /// The format of its commit.
    pub format_version: u32,
}

impl VersionEntry {
    /// The size of its files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// Its name.
    pub name: ModelName,
    /// The version that a query gets which names none.
    pub active: u64,
    /// Of the next training; the number of a dropped version is not given again.
    pub next_version: u64,
    /// By number; never empty.
    #[serde(with = "version_list")]
    pub versions: BTreeMap<u64, Arc<VersionEntry>>,
    /// In the words of its owner.
    pub description: Option<String>,
    /// In the words of its owner.
    pub labels: Vec<String>,
    /// Milliseconds since 1970, UTC.
    pub created_at: u64,
    /// Of the last commit; milliseconds since 1970, UTC.
    pub updated_at: u64,
}

impl ModelEntry {
    /// Before its first version.
    pub(super) fn empty(name: ModelName, created_at: u64) -> ModelEntry {
        ModelEntry {
            name,
            active: 0,
            next_version: 1,
            versions: BTreeMap::new(),
            description: None,
            labels: Vec::new(),
            created_at,
            updated_at: created_at,
        }
    }

    /// The version, or the active one.
    pub fn version(&self, version: Option<u64>) -> Result<&Arc<VersionEntry>> {
        let version = version.unwrap_or(self.active);
        self.versions.get(&version).ok_or_else(|| {
            let has: Vec<_> = self.versions.keys().map(u64::to_string).collect();
            let has = has.join(", ");
            DataFusionError::Plan(format!("model '{}' has no version {version}; it has {has}", self.name))
        })
    }
}

/// Versions as a list: they carry their numbers.
mod version_list {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::VersionEntry;

    pub fn serialize<S: Serializer>(
        versions: &BTreeMap<u64, Arc<VersionEntry>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(versions.values().map(AsRef::as_ref))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u64, Arc<VersionEntry>>, D::Error> {
        let versions = Vec::<VersionEntry>::deserialize(deserializer)?;
        Ok(versions.into_iter().map(|version| (version.version, Arc::new(version))).collect())
    }
}

/// The models of a store at one moment. A query takes its models from one snapshot, so that it never mixes two states.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) logs: BTreeMap<ModelName, Arc<Log>>,
}

impl Snapshot {
    /// The model, unless there is none or its log is not readable, which [`Snapshot::resolve`] tells apart.
    pub fn model(&self, name: &ModelName) -> Option<&ModelEntry> {
        self.logs.get(name)?.live().ok()?
    }

    /// The readable models, by schema and name.
    pub fn models(&self) -> impl Iterator<Item = &ModelEntry> {
        self.logs.values().filter_map(|log| log.live().ok()?)
    }

    /// What keeps models from being read.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.logs.values().filter_map(|log| log.broken.as_deref())
    }

    /// The version of a model, or the active one. The error names a model of a similar name, the versions there are, or
    /// what keeps the model from being read.
    pub fn resolve(&self, name: &ModelName, version: Option<u64>) -> Result<&Arc<VersionEntry>> {
        match self.logs.get(name).map(|log| log.live()).transpose()?.flatten() {
            Some(model) => model.version(version),
            None => Err(self.not_found(name)),
        }
    }

    /// The error for a model that is not there.
    pub fn not_found(&self, name: &ModelName) -> DataFusionError {
        let count = self.models().count();
        DataFusionError::Plan(match (self.similar(name), count) {
            (_, 0) => format!("model '{name}' not found; there are no models yet"),
            (None, _) => format!("model '{name}' not found; SHOW MODELS lists {count}"),
            (Some(near), _) => {
                format!("model '{name}' not found; did you mean '{near}'? SHOW MODELS lists {count}")
            }
        })
    }

    /// The model whose name differs least, in less than every second letter.
    fn similar(&self, name: &ModelName) -> Option<&ModelName> {
        let wanted = name.to_string().to_lowercase();
        let distance = |other: &ModelName| levenshtein(&wanted, &other.to_string().to_lowercase());
        let limit = wanted.chars().count().div_ceil(2);
        self.models()
            .map(|model| (distance(&model.name), &model.name))
            .filter(|(distance, _)| *distance < limit)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, name)| name)
    }
}
