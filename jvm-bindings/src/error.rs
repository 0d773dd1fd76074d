//! The one error policy: an error or a panic becomes a Java exception, the JVM lives on.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once};

use firesteel_error::{Error, Kind, Result};
use jni::Env;
use jni::errors::ErrorPolicy;
use jni::strings::{JNIStr, JNIString};

use crate::registry::lock;

/// What an exported function may fail with.
#[derive(Debug)]
pub enum Fault {
    /// From behind the boundary.
    Ours(Error),
    /// From JNI itself; a Java exception may be pending.
    Jni(jni::errors::Error),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Ours(e)
    }
}

impl From<jni::errors::Error> for Fault {
    fn from(e: jni::errors::Error) -> Fault {
        Fault::Jni(e)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Ours(e) => write!(f, "{e}"),
            Fault::Jni(e) => write!(f, "{e}"),
        }
    }
}

/// The exception class of a kind. Scala's `FiresteelException` file holds the same list, and which are worth a retry;
/// a test below holds it to [`Kind::is_retryable`].
fn class_of(kind: Kind) -> &'static JNIStr {
    use jni::jni_str;
    match kind {
        Kind::InvalidArgument | Kind::InvalidData => jni_str!("java/lang/IllegalArgumentException"),
        Kind::Corrupt => jni_str!("firesteel/ml/CorruptException"),
        Kind::PeerLost => jni_str!("firesteel/ml/PeerLostException"),
        Kind::Timeout => jni_str!("firesteel/ml/TimeoutException"),
        Kind::Unauthenticated => jni_str!("firesteel/ml/UnauthenticatedException"),
        Kind::Cancelled => jni_str!("firesteel/ml/CancelledException"),
        Kind::Diverged => jni_str!("firesteel/ml/DivergedException"),
        Kind::Io => jni_str!("firesteel/ml/NativeIOException"),
        // `Kind` may grow; what we do not know is a bug until it has a class.
        _ => jni_str!("firesteel/ml/InternalException"),
    }
}

/// The policy of every exported function.
#[derive(Debug)]
pub struct Throw;

impl<T: Default> ErrorPolicy<T, Fault> for Throw {
    type Captures<'local: 'method, 'method> = ();

    fn on_error<'local: 'method, 'method>(
        env: &mut Env<'local>,
        _: &mut (),
        fault: Fault,
    ) -> jni::errors::Result<T> {
        let kind = match &fault {
            Fault::Ours(e) => e.kind(),
            Fault::Jni(_) => Kind::Internal,
        };
        throw(env, kind, &fault.to_string())
    }

    fn on_panic<'local: 'method, 'method>(
        env: &mut Env<'local>,
        _: &mut (),
        payload: Box<dyn Any + Send + 'static>,
    ) -> jni::errors::Result<T> {
        let e = from_panic(payload);
        throw(env, e.kind(), &e.to_string())
    }
}

fn throw<T: Default>(env: &mut Env<'_>, kind: Kind, message: &str) -> jni::errors::Result<T> {
    if !env.exception_check() {
        // `throw_new` reports the exception that it threw as an error; it is on its way to Java.
        match env.throw_new(class_of(kind), JNIString::from(message)) {
            Ok(()) | Err(jni::errors::Error::JavaException) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(T::default())
}

/// Where the last panics happened. A panic's payload does not say, and a pool's panic is rethrown on another
/// thread, so the message is the key.
static PLACES: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Notes where a panic happens instead of printing it: it becomes an exception, which says more.
pub fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
            let mut places = lock(&PLACES);
            if places.len() == 16 {
                places.remove(0);
            }
            places.push((text(info.payload()), place));
        }));
    });
}

fn text(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a payload that is not text".to_owned(),
    }
}

/// A panic as an error that says where it happened.
pub fn from_panic(payload: Box<dyn Any + Send>) -> Error {
    let message = text(&*payload);
    // A payload may panic when dropped.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    let mut places = lock(&PLACES);
    let at = places.iter().rposition(|(m, _)| *m == message);
    let place = at.map_or_else(|| "an unknown place".to_owned(), |i| places.remove(i).1);
    Error::internal(format!("panic at {place}: {message} (this is a bug in Firesteel, please report it)"))
}

/// Runs what may panic; for threads that no exported function waits on.
///
/// # Errors
/// Its error, or its panic as `Internal`.
pub fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| Err(from_panic(payload)))
}

/// Fails as asked, so that the tests of the boundary can see what becomes of it.
///
/// # Errors
/// Always, unless it panics: `panic` with a `String`, `panic_str` with a literal, `index` by the standard library;
/// any other word is an error of that kind.
#[allow(clippy::panic)]
pub fn fail(how: &str) -> Result<()> {
    let kind = match how {
        "panic" => panic!("asked to panic, {} words", how.len()),
        "panic_str" => panic!("asked to panic with a literal"),
        "index" => {
            let nothing = vec![0u8; how.len() - 5];
            return Err(Error::internal(format!("index out of bounds gave {}", nothing[how.len()])));
        }
        "thread" => {
            let thread = std::thread::spawn(|| guarded(|| fail("panic")));
            return thread.join().unwrap_or_else(|payload| Err(from_panic(payload)));
        }
        "argument" => Kind::InvalidArgument,
        "data" => Kind::InvalidData,
        "corrupt" => Kind::Corrupt,
        "peer_lost" => Kind::PeerLost,
        "timeout" => Kind::Timeout,
        "unauthenticated" => Kind::Unauthenticated,
        "cancelled" => Kind::Cancelled,
        "diverged" => Kind::Diverged,
        "io" => Kind::Io,
        _ => Kind::Internal,
    };
    let cause = std::io::Error::other("the cause");
    Err(Error::new(kind, format!("asked to fail: {how}")).with_source(cause).context("self test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(name, whether it says retryable)` of each exception that Scala declares.
    fn declared() -> Vec<(String, bool)> {
        let source = include_str!("../../scala/src/main/scala/firesteel/ml/FiresteelException.scala");
        let declarations = source.split("final class ").skip(1);
        let read = |text: &str| {
            let name = text.split('(').next().unwrap().to_string();
            let says = |word: &str| text.contains(&format!("retryable = {word}"));
            assert_ne!(says("true"), says("false"), "{name} says whether it is retryable");
            (name, says("true"))
        };
        // The last is followed by the object that throws them by name.
        declarations.map(|text| read(text.split("object ").next().unwrap())).collect()
    }

    #[test]
    fn scala_retries_what_is_retryable() {
        let declared = declared();
        for kind in Kind::ALL {
            let class = class_of(kind).to_string();
            let name = class.rsplit('/').next().unwrap();
            if name == "IllegalArgumentException" {
                assert!(
                    !kind.is_retryable(),
                    "{kind:?} is an exception of Java's, which Scala does not retry"
                );
                continue;
            }
            let found: Vec<_> = declared.iter().filter(|(n, _)| n == name).collect();
            assert_eq!(found, [&(name.to_string(), kind.is_retryable())], "{kind:?}");
        }
    }

    #[test]
    fn a_panic_says_what_and_where() {
        install_panic_hook();
        for how in ["panic", "panic_str", "index", "thread"] {
            let e = guarded(|| fail(how)).unwrap_err();
            assert_eq!(e.kind(), Kind::Internal);
            let e = e.to_string();
            assert!(e.starts_with("panic at jvm-bindings/src/error.rs:"), "{e}");
            assert!(e.contains("asked to panic") || e.contains("index out of bounds: the len is 0"), "{e}");
        }
        let e = guarded(|| fail("io")).unwrap_err();
        assert_eq!(e.to_string(), "self test: asked to fail: io: the cause");
    }
}
