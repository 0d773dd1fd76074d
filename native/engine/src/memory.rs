//! Aligned memory, and the shared view of it that kernels of several threads work on.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use firesteel_error::{Error, Kind, Result};

/// Samples lie in groups of this many, side by side in the innermost axis: `(blocks, features, LANES)`.
/// 64 bytes: one AVX-512 register or two of AVX2, and a cache line.
pub(crate) const LANES: usize = 16;

// Parameters end with a whole line of the flat vector: shares of the gradient are counted in lines.
const _: () = assert!(LANES == firesteel_model::graph::ALIGNMENT);

/// One cache line of f32.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// A vector of f32 that starts at a cache line and has room up to the end of its last one.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Result<Aligned> {
        Ok(Aligned { lines: filled(len.div_ceil(LANES), Line([0.0; LANES]))?, len })
    }

    /// `count` times `len` zeros.
    pub(crate) fn several(count: usize, len: usize) -> Result<Vec<Aligned>> {
        (0..count).map(|_| Aligned::zeros(len)).collect()
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the lines hold at least `len` initialised f32, contiguous by `repr(C)`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// `len` times `value`. A user says how large networks and batches are, so every vector of their size is made here:
/// the standard library ends the process when there is no memory.
pub(crate) fn filled<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut values = with_room(len)?;
    values.resize(len, value);
    Ok(values)
}

/// An empty vector with room for `len`.
pub(crate) fn with_room<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(e) => {
            let bytes = len as u128 * size_of::<T>() as u128;
            Err(Error::new(Kind::Io, format!("no memory for {bytes} bytes")).with_source(e))
        }
    }
}

/// A product of sizes, for which there must be memory.
pub(crate) fn product(a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b).ok_or_else(|| Error::new(Kind::Io, format!("no memory for {a} times {b} values")))
}

/// A mutable slice shared by the threads of one step.
///
/// Threads write disjoint ranges between two barriers; every kernel's doc says which ranges are whose.
#[derive(Debug)]
pub(crate) struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: it is a `&mut [T]` taken apart; who may touch which range when is the contract of its unsafe methods.
unsafe impl<T: Send + Sync> Send for Shared<'_, T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// A view of `values`.
    pub(crate) fn new(values: &'a mut [T]) -> Shared<'a, T> {
        Shared { start: values.as_mut_ptr(), len: values.len(), memory: PhantomData }
    }

    /// A view of nothing.
    pub(crate) fn empty() -> Shared<'a, T> {
        Shared::new(&mut [])
    }

    /// Where a range starts.
    pub(crate) fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "range inside the memory");
        self.start.wrapping_add(range.start)
    }

    /// A range to read.
    ///
    /// # Safety
    /// No thread writes the range while the result lives.
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &'a [T] {
        // SAFETY: inside the memory, checked by `pointer`; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.pointer(range.clone()), range.len()) }
    }

    /// A range to write.
    ///
    /// # Safety
    /// No other reference to the range is used while the result lives.
    pub(crate) unsafe fn slice_mut(&self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: inside the memory, checked by `pointer`; the caller keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(range.clone()), range.len()) }
    }
}

/// The share of `0..units` of worker `rank` of `of`: contiguous, sizes differ by one at most.
pub(crate) fn share(units: usize, rank: usize, of: usize) -> Range<usize> {
    let (each, more) = (units / of, units % of);
    let start = rank * each + rank.min(more);
    start..start + each + usize::from(rank < more)
}

/// The groups of at most `most` that cover `0..units`, as equal as can be.
pub(crate) fn groups(units: usize, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let count = units.div_ceil(most);
    (0..count).map(move |g| share(units, g, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_starts_at_a_cache_line() {
        let mut memory = Aligned::zeros(17).unwrap();
        assert_eq!(memory.as_ptr() as usize % 64, 0);
        memory[16] = 3.0;
        assert_eq!((memory.len(), memory[16]), (17, 3.0));
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_that_names_the_bytes() {
        let e = Aligned::zeros(usize::MAX / 8).unwrap_err();
        assert_eq!(e.kind(), Kind::Io);
        assert!(e.to_string().starts_with("no memory for 9223372036854775808 bytes: "), "{e}");
        assert!(with_room::<u64>(1 << 60).is_err());
        assert!(product(1 << 40, 1 << 40).is_err());
    }

    #[test]
    fn shares_cover_all_units_once() {
        for (units, of) in [(0, 3), (1, 3), (7, 3), (16, 2), (5, 8)] {
            let all: Vec<usize> = (0..of).flat_map(|rank| share(units, rank, of)).collect();
            assert_eq!(all, (0..units).collect::<Vec<_>>());
        }
    }

    #[test]
    fn groups_are_as_equal_as_can_be() {
        let sizes = |units, most| groups(units, most).map(|g| g.len()).collect::<Vec<_>>();
        assert_eq!(sizes(10, 6), [5, 5]);
        assert_eq!(sizes(16, 6), [6, 5, 5]);
        assert_eq!(sizes(6, 6), [6]);
        assert!(sizes(0, 6).is_empty());
    }
}
