//! Where things lie in a store.
//!
//! ```text
//! <prefix>/<schema>/<name>/
//!    v/0000000007-<ulid>/<file>   the files of a version, immutable
//!    log/0000000012.json          a commit
//!    checkpoint/<key>             the state of a training that has not ended
//!    work/<ulid>/<sha256>         what the workers of a running training pass on, where they never meet
//! ```
//!
//! Schema and name are path segments made by [`encode`].

use datafusion::error::{DataFusionError, Result};
use object_store::path::{Path, PathPart};
use ulid::Ulid;

use crate::ModelName;

const LOG: &str = "log";
const VERSIONS: &str = "v";
const CHECKPOINTS: &str = "checkpoint";
const WORK: &str = "work";
/// What file systems allow.
const LONGEST_SEGMENT: usize = 255;

/// A name as a path segment. Reversible ([`decode`]), and two names never share a segment, also where the file system
/// ignores case or normalises Unicode: all but `a-z`, `0-9`, `_` and `-` becomes `%` and two hexadecimal digits a byte.
pub(super) fn encode(name: &str) -> Result<String> {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => segment.push(byte.into()),
            _ => segment.push_str(&format!("%{byte:02x}")),
        }
    }
    match segment.len() {
        0 => Err(DataFusionError::Plan("the name of a model or its schema is empty".into())),
        1..=LONGEST_SEGMENT => Ok(segment),
        long => Err(DataFusionError::Plan(format!(
            "model name '{name}' is too long: {long} bytes as a name of a folder, {LONGEST_SEGMENT} are possible"
        ))),
    }
}

/// The name that [`encode`] made the segment of; none for a folder that is not ours.
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? * 16 + digit(rest.next()?)?,
            plain => plain,
        });
    }
    let name = String::from_utf8(bytes).ok()?;
    (encode(&name).ok()? == segment).then_some(name)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16)?.try_into().ok()
}

/// The folder of a model, relative to the store.
fn model(name: &ModelName) -> Result<String> {
    Ok(format!("{}/{}", encode(&name.schema)?, encode(&name.name)?))
}

/// The folder of a version, relative to the store.
pub(super) fn version(name: &ModelName, version: u64, id: Ulid) -> Result<String> {
    Ok(format!("{}/{VERSIONS}/{version:010}-{id}", model(name)?))
}

/// When the writer of a folder of a version, or of a training, began; none for a folder that is not ours.
pub(super) fn started(folder: &Path) -> Option<u64> {
    let name = folder.filename()?;
    let id = name.split_once('-').map_or(name, |(_, id)| id);
    Ulid::from_string(id).ok().map(|id| id.timestamp_ms())
}

/// The folder of a model's log.
pub(super) fn log(prefix: &Path, name: &ModelName) -> Result<Path> {
    within(prefix, &format!("{}/{LOG}", model(name)?))
}

/// The folder that holds the versions of a model.
pub(super) fn versions(prefix: &Path, name: &ModelName) -> Result<Path> {
    within(prefix, &format!("{}/{VERSIONS}", model(name)?))
}

/// The folder of the checkpoints of a model's trainings.
pub(super) fn checkpoints(prefix: &Path, name: &ModelName) -> Result<Path> {
    within(prefix, &format!("{}/{CHECKPOINTS}", model(name)?))
}

/// The checkpoint of a training.
pub(super) fn checkpoint(prefix: &Path, name: &ModelName, key: &str) -> Result<Path> {
    within(prefix, &format!("{}/{CHECKPOINTS}/{key}", model(name)?))
}

/// The folder of what trainings of a model pass on.
pub(super) fn works(prefix: &Path, name: &ModelName) -> Result<Path> {
    within(prefix, &format!("{}/{WORK}", model(name)?))
}

/// The folder of one of them.
pub(super) fn work(prefix: &Path, name: &ModelName, id: &str) -> Result<Path> {
    within(&works(prefix, name)?, id)
}

/// An entry of a log.
pub(super) fn entry(log: &Path, sequence: u64) -> Path {
    log.clone().join(format!("{sequence:010}.json"))
}

/// The sequence number of an entry of a log; none for a file that is not ours.
pub(super) fn sequence(entry: &Path) -> Option<u64> {
    let digits = entry.filename()?.strip_suffix(".json")?;
    (digits.len() == 10).then(|| digits.parse().ok())?
}

/// A path that is relative to the store, in the object store.
pub(super) fn within(prefix: &Path, relative: &str) -> Result<Path> {
    let mut path = prefix.clone();
    for segment in relative.split('/') {
        let part = PathPart::parse(segment).map_err(|e| {
            DataFusionError::Execution(format!("'{relative}' is no path in a model store: {e}"))
        })?;
        path = path.join(part);
    }
    Ok(path)
}

/// Fails when a file's name is not a relative path of plain segments.
pub(super) fn check_file(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = |segment: &str| !segment.is_empty() && !segment.starts_with('.') && segment.chars().all(plain);
    match name.split('/').all(good) {
        true => Ok(()),
        false => Err(DataFusionError::Internal(format!("'{name}' cannot name a file of a model"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_segments_and_back() {
        for name in
            ["iris", "Iris", "a/b", "..", ".", "a\"b", "it's", "über", "花", "%41", "a b", "\n", "m#1", "a.b"]
        {
            let segment = encode(name).unwrap();
            assert!(
                segment.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"%_-".contains(&b))
            );
            assert_eq!(decode(&segment).as_deref(), Some(name));
        }
        assert_eq!(encode("Iris").unwrap(), "%49ris");
    }

    #[test]
    fn a_segment_that_no_name_has_is_not_ours() {
        for segment in ["", "Iris", "%4", "%zz", "%61", "%4A", "a b", "%ff"] {
            assert_eq!(decode(segment), None, "{segment}");
        }
    }

    #[test]
    fn empty_and_long_names_are_refused() {
        assert!(encode("").is_err());
        assert!(encode(&"x".repeat(255)).is_ok());
        assert!(encode(&"X".repeat(86)).unwrap_err().to_string().contains("too long: 258 bytes"));
    }

    #[test]
    fn entries_of_a_log_are_numbered() {
        let log = Path::from("p/log");
        assert_eq!(entry(&log, 7).as_ref(), "p/log/0000000007.json");
        assert_eq!(sequence(&entry(&log, 7)), Some(7));
        assert_eq!(sequence(&Path::from("p/log/7.json")), None);
        assert_eq!(sequence(&Path::from("p/log/0000000007.tmp")), None);
    }

    #[test]
    fn files_have_plain_names() {
        assert!(check_file("checkpoints/e0005.safetensors").is_ok());
        for name in ["", "/a", "a//b", "../a", ".hidden", "a#1", "a b"] {
            assert!(check_file(name).is_err(), "{name}");
        }
    }
}
