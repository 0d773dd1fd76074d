//! Handles: what the JVM holds instead of addresses.
//!
//! A handle is a key into a map of `Arc`s. Keys are never used twice, so a stale one finds nothing; a call that is
//! running keeps its object alive while another thread closes the handle.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use firesteel_error::{Error, Result};

type Object = Arc<dyn Any + Send + Sync>;

static OBJECTS: LazyLock<Mutex<HashMap<i64, Object>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicI64 = AtomicI64::new(1);

/// Puts an object in and gives its handle, which is never 0.
pub fn open<T: Any + Send + Sync>(object: T) -> i64 {
    let handle = NEXT.fetch_add(1, Ordering::Relaxed);
    lock(&OBJECTS).insert(handle, Arc::new(object));
    handle
}

/// The object of a handle.
///
/// # Errors
/// `InvalidArgument` when the handle is closed, was never opened or belongs to something else.
pub fn get<T: Any + Send + Sync>(handle: i64) -> Result<Arc<T>> {
    let object = lock(&OBJECTS).get(&handle).cloned();
    let object = object.ok_or_else(|| {
        Error::argument(format!("handle {handle} is not open: it was closed, or it never existed"))
    })?;
    object
        .downcast::<T>()
        .map_err(|_| Error::argument(format!("handle {handle} is not a {}", std::any::type_name::<T>())))
}

/// Forgets a handle; a second time does nothing. The object ends when the last call on it does.
pub fn close(handle: i64) {
    let object = lock(&OBJECTS).remove(&handle);
    // Outside the lock: dropping a model or a training takes a while.
    drop(object);
}

/// How many handles are open.
pub fn count() -> usize {
    lock(&OBJECTS).len()
}

/// A lock whose holder panicked holds data that the panicking call may have left half-made; each object here is
/// replaced, not mended, so going on is safe.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_finds_nothing_and_closes_again() {
        let handle = open(String::from("x"));
        assert_eq!(*get::<String>(handle).unwrap(), "x");
        let held = get::<String>(handle).unwrap();
        close(handle);
        close(handle);
        assert_eq!(*held, "x");
        let e = get::<String>(handle).unwrap_err().to_string();
        assert_eq!(e, format!("handle {handle} is not open: it was closed, or it never existed"));
        assert_ne!(open(String::new()), handle);
    }

    #[test]
    fn a_handle_of_another_type_is_refused() {
        let handle = open(String::from("x"));
        let e = get::<Vec<u8>>(handle).unwrap_err().to_string();
        assert!(e.contains("is not a alloc::vec::Vec<u8>"), "{e}");
        close(handle);
    }
}
