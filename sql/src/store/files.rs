//! The files of a version: upload, and read with checksums.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::commit::FileEntry;
use super::read::reading;
use super::snapshot::VersionEntry;
use super::{ModelStore, layout};
use crate::ModelName;

/// Files at a time.
const CONCURRENCY: usize = 4;
/// Larger files go up in parts, which stores limit less.
pub(super) const MULTIPART: usize = 64 << 20;
/// The size of a part; stores want 5 MiB or more.
const PART: usize = 8 << 20;
/// Parts of a file at a time.
const PARTS: usize = 8;
/// Larger files are hashed off the runtime's threads, at some 500 MB/s.
const HASH_INLINE: usize = 1 << 20;

/// The files of a version that is not committed yet.
pub(super) struct Upload {
    pub id: Ulid,
    pub started: Instant,
    /// The folder, relative to the store.
    pub path: String,
    pub files: BTreeMap<String, FileEntry>,
}

impl ModelStore {
    /// Reads the files of a version, by name, and checks them against its commit.
    pub async fn read(&self, version: &VersionEntry) -> Result<Vec<(String, Bytes)>> {
        let mut reads = Vec::with_capacity(version.files.len());
        for (name, entry) in &version.files {
            reads.push(async move { Ok((name.clone(), self.read_file(version, name, entry).await?)) });
        }
        stream::iter(reads).buffered(CONCURRENCY).try_collect().await
    }

    async fn read_file(&self, version: &VersionEntry, name: &str, entry: &FileEntry) -> Result<Bytes> {
        let path = layout::within(&self.prefix, &format!("{}/{name}", version.path))?;
        let VersionEntry { model, version, .. } = version;
        let file = format!("{name} of model '{model}' version {version}");
        let read = async { self.store.get(&path).await?.bytes().await };
        let bytes = read.await.map_err(|e| match e {
            object_store::Error::NotFound { .. } => {
                DataFusionError::Execution(format!("{file} is gone; was the version dropped and vacuumed?"))
            }
            e => reading(&file)(e),
        })?;
        match sha256(&bytes).await? == entry.sha256 {
            true => Ok(bytes),
            false => {
                Err(DataFusionError::Execution(format!("{file} does not have the checksum of its commit")))
            }
        }
    }

    /// Uploads the files of a version to a folder of their own.
    pub(super) async fn upload(
        &self,
        name: &ModelName,
        version: u64,
        files: Vec<(String, Bytes)>,
    ) -> Result<Upload> {
        check_files(&files)?;
        let (id, started) = (Ulid::new(), Instant::now());
        let path = layout::version(name, version, id)?;
        let files =
            stream::iter(files)
                .map(|(file, bytes)| {
                    let path = layout::within(&self.prefix, &format!("{path}/{file}"));
                    async move {
                        Ok::<_, DataFusionError>((file, self.upload_file(&path?, bytes, MULTIPART).await?))
                    }
                })
                .buffer_unordered(CONCURRENCY)
                .try_collect()
                .await?;
        Ok(Upload { id, started, path, files })
    }

    async fn upload_file(&self, path: &Path, bytes: Bytes, multipart: usize) -> Result<FileEntry> {
        let entry = FileEntry { sha256: sha256(&bytes).await?, bytes: bytes.len() as u64 };
        self.put_whole(path, bytes, multipart).await?;
        Ok(entry)
    }

    /// Nobody sees a part of it, however it goes up.
    pub(super) async fn put_whole(&self, path: &Path, bytes: Bytes, multipart: usize) -> Result<()> {
        let put = match bytes.len() > multipart {
            true => self.upload_parts(path, bytes).await,
            false => self.store.put(path, bytes.into()).await.map(|_| ()),
        };
        put.map_err(|e| DataFusionError::from(e).context(format!("uploading {path}")))
    }

    async fn upload_parts(&self, path: &Path, bytes: Bytes) -> object_store::Result<()> {
        let mut upload = WriteMultipart::new_with_chunk_size(self.store.put_multipart(path).await?, PART);
        for start in (0..bytes.len()).step_by(PART) {
            if let Err(e) = upload.wait_for_capacity(PARTS).await {
                upload.abort().await?;
                return Err(e);
            }
            upload.put(bytes.slice(start..bytes.len().min(start + PART)));
        }
        upload.finish().await.map(|_| ())
    }

    /// Fails when an uploaded file is not there any more.
    pub(super) async fn check_upload(&self, upload: &Upload) -> Result<()> {
        for file in upload.files.keys() {
            let path = layout::within(&self.prefix, &format!("{}/{file}", upload.path))?;
            self.store.head(&path).await.map_err(|e| {
                DataFusionError::from(e).context(format!("the upload took so long that {path} was vacuumed"))
            })?;
        }
        Ok(())
    }
}

/// Fails for names that no store can keep, or that a file system would take for the same.
fn check_files(files: &[(String, Bytes)]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for (name, _) in files {
        layout::check_file(name)?;
        if !seen.insert(name.to_lowercase()) {
            return Err(DataFusionError::Internal(format!("two files of a model are called '{name}'")));
        }
    }
    Ok(())
}

pub(super) async fn sha256(bytes: &Bytes) -> Result<String> {
    let hash = |bytes: Bytes| format!("{:x}", Sha256::digest(&bytes));
    let bytes = bytes.clone();
    if bytes.len() <= HASH_INLINE {
        return Ok(hash(bytes));
    }
    SpawnedTask::spawn_blocking(move || hash(bytes))
        .await
        .map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn large_files_go_up_in_parts_and_have_the_same_checksum() {
        let store = ModelStore::new(Arc::new(InMemory::new()), Path::default());
        let bytes = Bytes::from(vec![7; 11 << 20]);
        let (parts, whole) = (Path::from("parts"), Path::from("whole"));
        let one = store.upload_file(&parts, bytes.clone(), 1 << 20).await.unwrap();
        let other = store.upload_file(&whole, bytes.clone(), MULTIPART).await.unwrap();
        assert_eq!(one, other);
        assert_eq!(store.store.get(&parts).await.unwrap().bytes().await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn the_checksum_is_the_well_known_one() {
        let abc = sha256(&Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(abc, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn files_of_one_name_are_refused() {
        let file = |name: &str| (name.to_string(), Bytes::new());
        assert!(check_files(&[file("a"), file("b")]).is_ok());
        assert!(check_files(&[file("a"), file("A")]).is_err());
    }
}
