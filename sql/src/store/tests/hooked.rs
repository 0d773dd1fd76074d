//! A store in which things happen just before a commit.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::*;

/// What happens at a commit.
pub(super) enum Hook {
    Nothing,
    /// Another session acts first.
    Before(BoxFuture<'static, ()>),
    /// The commit succeeds, but its writer hears that the entry exists.
    AnswerLost,
    /// The writer dies: the commit never arrives.
    Crash,
}

#[derive(Clone)]
pub(super) struct Hooked {
    inner: Arc<dyn ObjectStore>,
    /// One for each commit to come.
    hooks: Arc<Mutex<VecDeque<Hook>>>,
}

impl Hooked {
    pub fn store(place: &Place, hooks: impl IntoIterator<Item = Hook>) -> ModelStore {
        let hooks = Arc::new(Mutex::new(hooks.into_iter().collect()));
        place.wrapped(Arc::new(Hooked { inner: place.store.clone(), hooks }))
    }

    fn next(&self, path: &Path) -> Hook {
        let commit = path.as_ref().contains("/log/");
        commit.then(|| self.hooks.lock().unwrap().pop_front()).flatten().unwrap_or(Hook::Nothing)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let path = location.to_string();
        match self.next(location) {
            Hook::Nothing => self.inner.put_opts(location, payload, options).await,
            Hook::Before(other) => {
                other.await;
                self.inner.put_opts(location, payload, options).await
            }
            Hook::AnswerLost => {
                self.inner.put_opts(location, payload, options).await?;
                Err(Error::AlreadyExists { path, source: "answer lost".into() })
            }
            Hook::Crash => Err(Error::Generic { store: "hooked", source: "killed".into() }),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl fmt::Display for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}
