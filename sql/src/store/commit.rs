//! The entries of a model's log: one JSON file a commit.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ulid::Ulid;

use super::snapshot::ModelEntry;
use crate::ModelName;

/// The format of the commits that this engine writes. It reads this one and the two before it.
pub const FORMAT_VERSION: u32 = 1;
/// `FORMAT_VERSION - 2`, or the first.
const OLDEST_FORMAT: u32 = 1;
const ENGINE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a training has to say about the version that it made. The JSON values are opaque to the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommitInfo {
    /// The statement.
    #[serde(default)]
    pub sql: String,
    /// The options of the statement.
    #[serde(default)]
    pub options: Value,
    /// What planning needs: task, label column and its type, classes, features and their types.
    #[serde(default)]
    pub about: Value,
    /// Final metrics, and `history`, an array with one object an epoch ([`crate::tables`] names its keys).
    #[serde(default)]
    pub metrics: Value,
    /// The schema of the query.
    #[serde(default)]
    pub schema: Value,
    /// Describes the model from now on; `None` keeps what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Label the model from now on; `None` keeps what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// A file of a version, as its commit knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// A version that a commit adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NewVersion {
    pub version: u64,
    /// The folder of its files, relative to the store.
    pub path: String,
    pub files: BTreeMap<String, FileEntry>,
    #[serde(flatten)]
    pub info: CommitInfo,
}

/// The first half of a rename: a model as it was in another log. It counts from the moment that the other log has a
/// [`Action::Rename`] with the same `transfer` at `source_sequence`, and never when that entry is another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Adoption {
    pub source: ModelName,
    pub source_sequence: u64,
    /// A ulid that both halves carry.
    pub transfer: String,
    pub state: ModelEntry,
}

/// What a commit does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub(super) enum Action {
    /// The first version of a model that does not exist.
    Create(Box<NewVersion>),
    /// A further version, which becomes the active one.
    Replace(Box<NewVersion>),
    Activate {
        version: u64,
    },
    Drop {},
    DropVersion {
        versions: Vec<u64>,
    },
    Describe {
        description: Option<String>,
        labels: Option<Vec<String>>,
    },
    /// The second half of a rename, which decides it: the model leaves this log for another.
    Rename {
        target: ModelName,
        target_sequence: u64,
        transfer: String,
    },
    Adopt(Box<Adoption>),
    /// Nothing, where something else must not happen any more.
    Void {},
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Commit {
    pub format_version: u32,
    pub engine_version: String,
    /// A ulid: tells a writer whose put was answered twice that the entry is its own.
    pub id: String,
    /// The `id` of the entry before.
    pub prev: Option<String>,
    /// From 1; the name of the file.
    pub sequence: u64,
    /// Milliseconds since 1970, UTC.
    pub created_at: u64,
    pub model: ModelName,
    #[serde(flatten)]
    pub action: Action,
}

impl Commit {
    /// Of this engine, now.
    pub fn new(model: ModelName, sequence: u64, prev: Option<String>, action: Action) -> Commit {
        Commit {
            format_version: FORMAT_VERSION,
            engine_version: ENGINE_VERSION.into(),
            id: Ulid::new().to_string(),
            prev,
            sequence,
            created_at: now(),
            model,
            action,
        }
    }

    pub fn encode(&self) -> Result<Bytes> {
        serde_json::to_vec_pretty(self)
            .map(Bytes::from)
            .map_err(|e| DataFusionError::Internal(format!("the commit of model '{}': {e}", self.model)))
    }

    /// Fails with what a user can do when the entry is of a format that this engine does not read.
    pub fn decode(name: &ModelName, sequence: u64, bytes: &[u8]) -> Result<Commit> {
        let unreadable = |e: serde_json::Error| {
            DataFusionError::Execution(format!("log entry {sequence} of model '{name}' is not readable: {e}"))
        };
        let value: Value = serde_json::from_slice(bytes).map_err(unreadable)?;
        check_format(name, serde_json::from_value(value.clone()).map_err(unreadable)?)?;
        serde_json::from_value(value).map_err(unreadable)
    }
}

/// What an entry of any format has.
#[derive(Deserialize)]
struct Header {
    format_version: u32,
    #[serde(default)]
    engine_version: String,
}

fn check_format(name: &ModelName, header: Header) -> Result<()> {
    let Header { format_version: found, engine_version: writer } = header;
    let advice = match found {
        OLDEST_FORMAT..=FORMAT_VERSION => return Ok(()),
        0..OLDEST_FORMAT => "train the model again",
        _ => "upgrade this engine",
    };
    Err(DataFusionError::Execution(format!(
        "model '{name}' was written by engine {writer} in format {found}; this engine, {ENGINE_VERSION}, reads formats \
         {OLDEST_FORMAT} to {FORMAT_VERSION}: {advice}"
    )))
}

/// Milliseconds since 1970, UTC.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn iris() -> ModelName {
        ModelName::bare("iris")
    }

    fn round_trip(action: Action) -> Value {
        let commit = Commit::new(iris(), 7, Some("01".into()), action);
        let bytes = commit.encode().unwrap();
        assert_eq!(Commit::decode(&iris(), 7, &bytes).unwrap(), commit);
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_create_is_one_flat_object() {
        let info = CommitInfo {
            sql: "CREATE MODEL iris ..".into(),
            metrics: json!({"loss": 0.1, "history": []}),
            ..CommitInfo::default()
        };
        let file = FileEntry { sha256: "00".into(), bytes: 3 };
        let new = NewVersion { version: 1, path: "p".into(), files: [("f".into(), file)].into(), info };
        let value = round_trip(Action::Create(Box::new(new)));
        assert_eq!(value["action"], "create");
        assert_eq!(value["format_version"], 1);
        assert_eq!(value["prev"], "01");
        assert_eq!(value["files"]["f"]["bytes"], 3);
        assert_eq!(value["metrics"]["loss"], 0.1);
    }

    #[test]
    fn every_other_action_round_trips() {
        round_trip(Action::Activate { version: 2 });
        round_trip(Action::Drop {});
        round_trip(Action::DropVersion { versions: vec![1, 2] });
        round_trip(Action::Describe { description: Some("d".into()), labels: None });
        round_trip(Action::Rename { target: iris(), target_sequence: 1, transfer: "t".into() });
        round_trip(Action::Void {});
        let state = ModelEntry::empty(iris(), 5);
        let adoption = Adoption { source: iris(), source_sequence: 3, transfer: "t".into(), state };
        assert_eq!(round_trip(Action::Adopt(Box::new(adoption)))["action"], "adopt");
    }

    #[test]
    fn another_format_is_named_before_anything_else_is_read() {
        let newer = br#"{"format_version": 9, "engine_version": "3.1.4", "action": "teleport"}"#;
        let error = Commit::decode(&iris(), 1, newer).unwrap_err().to_string();
        assert!(error.contains("model 'iris' was written by engine 3.1.4 in format 9"), "{error}");
        assert!(error.contains("reads formats 1 to 1: upgrade this engine"), "{error}");
    }

    #[test]
    fn a_truncated_entry_is_named() {
        let error = Commit::decode(&iris(), 4, b"{\"format").unwrap_err().to_string();
        assert!(error.contains("log entry 4 of model 'iris' is not readable"), "{error}");
    }
}
