//! The one error type of every Firesteel crate.
//!
//! [`Kind`] alone decides what happens to an error: whether a job is worth retrying, which Java exception it
//! becomes. It is set where the error is made; nobody reads message text to decide. The message names the culprit
//! (column, layer, option, rank), what was found and what was expected; [`Error::context`] adds, on the way up,
//! what was being done.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

use std::fmt;

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A spec, option or argument is wrong. Fixing the program is the only remedy.
    InvalidArgument,
    /// A row or column of the data is wrong: unknown, NULL, NaN, ragged, out of range.
    InvalidData,
    /// A stored model, checkpoint or message cannot be read: damaged, or of another version or shape.
    Corrupt,
    /// Another worker died or left. The job may be run again from its last checkpoint.
    PeerLost,
    /// A deadline passed. The job may be run again.
    Timeout,
    /// A peer did not prove that it knows the job's secret.
    Unauthenticated,
    /// The caller asked to stop.
    Cancelled,
    /// Training diverged: a loss or weight is no longer finite.
    Diverged,
    /// The operating system refused: a file, a socket, memory.
    Io,
    /// A broken invariant of Firesteel itself: a bug worth reporting.
    Internal,
}

impl Kind {
    /// Every kind. The place of a kind here is its number on the wire: new ones go to the end.
    pub const ALL: [Kind; 10] = [
        Kind::Internal,
        Kind::InvalidArgument,
        Kind::InvalidData,
        Kind::Corrupt,
        Kind::PeerLost,
        Kind::Timeout,
        Kind::Unauthenticated,
        Kind::Cancelled,
        Kind::Diverged,
        Kind::Io,
    ];

    /// Whether running the same job again may succeed. Scala's exceptions say it once more, where Spark decides; a
    /// test of the JVM bindings holds them to this.
    pub fn is_retryable(self) -> bool {
        matches!(self, Kind::PeerLost | Kind::Timeout | Kind::Io)
    }
}

/// What went wrong, what was being done, and why.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// `Result` with our [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` whose `message` names the culprit, what was found and what was expected.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    /// Shorthand for [`Kind::InvalidArgument`].
    pub fn argument(message: impl Into<String>) -> Error {
        Error::new(Kind::InvalidArgument, message)
    }

    /// Shorthand for [`Kind::InvalidData`].
    pub fn data(message: impl Into<String>) -> Error {
        Error::new(Kind::InvalidData, message)
    }

    /// Shorthand for [`Kind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    /// Shorthand for [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Kind::Internal, message)
    }

    /// The same error with the one that caused it.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with what was being done, said by a caller further up.
    pub fn context(mut self, doing: impl Into<String>) -> Error {
        self.0.context.push(doing.into());
        self
    }

    /// The kind, which alone decides what happens to the error.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message without context or source.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    /// `context: context: message: source: source of the source`, outermost context first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doing in self.0.context.iter().rev() {
            write!(f, "{doing}: ")?;
        }
        f.write_str(&self.0.message)?;
        let mut source = self.0.source.as_ref().map(|s| &**s as &(dyn std::error::Error + 'static));
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

// `source()` stays the default: `Display` already prints the whole chain, and printing it twice helps nobody.
impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::new(Kind::Io, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_context_outermost_first_then_the_whole_chain() {
        let disk = std::io::Error::other("disk full");
        let e = Error::new(Kind::Io, "cannot write weights").with_source(disk);
        let e = e.context("saving model m").context("job 7");
        assert_eq!(e.to_string(), "job 7: saving model m: cannot write weights: disk full");
        assert_eq!(e.kind(), Kind::Io);
        assert_eq!(e.message(), "cannot write weights");
    }

    #[test]
    fn only_transient_kinds_are_retryable() {
        assert!(Kind::PeerLost.is_retryable());
        assert!(!Kind::InvalidData.is_retryable());
        assert!(!Kind::Cancelled.is_retryable());
    }
}
