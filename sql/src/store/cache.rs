//! An LRU cache for what was loaded from a store.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::error::Result;
use tokio::sync::OnceCell;

/// Values by the path of the version that they were loaded from. Versions are immutable, so an entry is never stale; it
/// goes when it is the one not used for longest and the values exceed the budget.
pub struct Cache<T> {
    /// In bytes.
    budget: usize,
    slots: Mutex<Slots<T>>,
}

struct Slots<T> {
    by_path: HashMap<String, Slot<T>>,
    /// Of the values that are loaded.
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

struct Slot<T> {
    /// Empty while the first user loads the value.
    cell: Arc<OnceCell<Arc<T>>>,
    bytes: usize,
    used: u64,
}

impl<T> Cache<T> {
    /// Holds values of `budget` bytes together.
    pub fn new(budget: usize) -> Cache<T> {
        Cache { budget, slots: Mutex::new(Slots { by_path: HashMap::new(), bytes: 0, clock: 0 }) }
    }

    /// The value, if it is loaded.
    pub fn get(&self, path: &str) -> Option<Arc<T>> {
        let mut slots = self.slots();
        slots.clock += 1;
        let clock = slots.clock;
        let slot = slots.by_path.get_mut(path)?;
        slot.used = clock;
        slot.cell.get().cloned()
    }

    /// The value; `load` makes it, and says its size in bytes, if it is not there. Of callers at the same time one loads,
    /// and when that fails or is cancelled, the next. A value larger than the budget is returned but not kept.
    pub async fn get_or_load<F>(&self, path: &str, load: impl FnOnce() -> F) -> Result<Arc<T>>
    where
        F: Future<Output = Result<(T, usize)>>,
    {
        let cell = self.cell(path);
        let loaded = cell
            .get_or_try_init(|| async {
                let (value, bytes) = load().await?;
                self.slots().count(path, &cell, bytes.max(1));
                Ok(Arc::new(value))
            })
            .await;
        let mut slots = self.slots();
        match &loaded {
            Ok(_) => slots.evict(self.budget),
            Err(_) => slots.forget_empty(path),
        }
        loaded.cloned()
    }

    /// Keeps a value that was loaded elsewhere, unless the path has one or somebody is loading it.
    pub fn keep(&self, path: &str, value: &Arc<T>, bytes: usize) {
        let cell = self.cell(path);
        if cell.set(value.clone()).is_ok() {
            let mut slots = self.slots();
            slots.count(path, &cell, bytes.max(1));
            slots.evict(self.budget);
        }
    }

    /// What the loaded values take, in bytes.
    pub fn bytes(&self) -> usize {
        self.slots().bytes
    }

    /// Forgets all values; who uses one keeps it.
    pub fn clear(&self) {
        let mut slots = self.slots();
        slots.by_path.clear();
        slots.bytes = 0;
    }

    fn cell(&self, path: &str) -> Arc<OnceCell<Arc<T>>> {
        let mut slots = self.slots();
        slots.clock += 1;
        let used = slots.clock;
        let empty = || Slot { cell: Arc::default(), bytes: 0, used };
        let slot = slots.by_path.entry(path.into()).or_insert_with(empty);
        slot.used = used;
        slot.cell.clone()
    }

    fn slots(&self) -> MutexGuard<'_, Slots<T>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Slots<T> {
    /// Notes the size of a value that was loaded, unless the cache has forgotten it meanwhile.
    fn count(&mut self, path: &str, cell: &Arc<OnceCell<Arc<T>>>, bytes: usize) {
        if let Some(slot) = self.by_path.get_mut(path).filter(|slot| Arc::ptr_eq(&slot.cell, cell)) {
            slot.bytes = bytes;
            self.bytes += bytes;
        }
    }

    /// Removes the slot of a load that failed, unless others wait for their turn to load.
    fn forget_empty(&mut self, path: &str) {
        let alone = |slot: &Slot<T>| slot.cell.get().is_none() && Arc::strong_count(&slot.cell) <= 2;
        if self.by_path.get(path).is_some_and(alone) {
            self.by_path.remove(path);
        }
    }

    /// Removes what was not used for longest until the rest fits.
    fn evict(&mut self, budget: usize) {
        while self.bytes > budget {
            let loaded = self.by_path.iter().filter(|(_, slot)| slot.bytes > 0);
            let Some(oldest) = loaded.min_by_key(|(_, slot)| slot.used).map(|(path, _)| path.clone()) else {
                return;
            };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, path: &str) {
        if let Some(slot) = self.by_path.remove(path) {
            self.bytes -= slot.bytes;
        }
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots();
        f.debug_struct("Cache")
            .field("budget", &self.budget)
            .field("bytes", &slots.bytes)
            .field("values", &slots.by_path.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use datafusion::error::DataFusionError;

    use super::*;

    async fn load(cache: &Cache<String>, path: &str, bytes: usize) -> Arc<String> {
        cache.get_or_load(path, || async { Ok((path.to_string(), bytes)) }).await.unwrap()
    }

    #[tokio::test]
    async fn the_value_not_used_for_longest_goes() {
        let cache = Cache::new(100);
        load(&cache, "a", 40).await;
        load(&cache, "b", 40).await;
        assert!(cache.get("a").is_some());
        load(&cache, "c", 40).await;
        assert!(cache.get("b").is_none());
        assert!(cache.get("a").is_some() && cache.get("c").is_some());
        assert_eq!(cache.bytes(), 80);
        cache.clear();
        assert_eq!((cache.get("a"), cache.bytes()), (None, 0));
    }

    #[tokio::test]
    async fn a_value_larger_than_the_budget_is_returned_but_not_kept() {
        let cache = Cache::new(100);
        assert_eq!(*load(&cache, "large", 101).await, "large");
        assert_eq!((cache.get("large"), cache.bytes()), (None, 0));
    }

    #[tokio::test]
    async fn callers_at_the_same_time_share_one_load() {
        let cache = Cache::new(100);
        let loads = AtomicUsize::new(0);
        let get = || {
            cache.get_or_load("a", || async {
                loads.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok((1, 10))
            })
        };
        let (one, other) = tokio::join!(get(), get());
        assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
        assert_eq!((loads.load(Ordering::SeqCst), cache.bytes()), (1, 10));
    }

    #[tokio::test]
    async fn a_value_that_is_kept_counts_and_is_found() {
        let cache = Cache::new(100);
        cache.keep("a", &Arc::new("one".to_string()), 60);
        cache.keep("a", &Arc::new("two".to_string()), 60);
        assert_eq!((load(&cache, "a", 1).await.as_str(), cache.bytes()), ("one", 60));
        cache.keep("b", &Arc::new("b".to_string()), 60);
        assert_eq!((cache.get("a"), cache.bytes()), (None, 60));
    }

    #[tokio::test]
    async fn a_load_that_fails_leaves_nothing_and_the_next_may_succeed() {
        let cache = Cache::new(100);
        let failed = cache.get_or_load("a", || async { Err(DataFusionError::Plan("no".into())) }).await;
        assert!(failed.is_err());
        assert!(cache.slots().by_path.is_empty());
        assert_eq!(*load(&cache, "a", 1).await, "a");
    }
}
