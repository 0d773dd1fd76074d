//! Which places of an arena are free.

use std::collections::BTreeMap;

/// Places begin at multiples of this, so that vectors in them are aligned and no two share a cache line.
const ALIGNMENT: usize = 64;

/// The free spans of an arena: where they begin and how long they are, none next to another.
#[derive(Debug)]
pub(super) struct Free(BTreeMap<usize, usize>);

impl Free {
    /// All of `size` bytes.
    pub(super) fn all(size: usize) -> Free {
        Free(BTreeMap::from([(0, size)]))
    }

    /// The lowest place for `len` bytes, as memory that was used lately is in a cache; none where none is long enough.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        let len = rounded(len)?;
        let (at, found) = self.0.iter().map(|(at, found)| (*at, *found)).find(|(_, found)| *found >= len)?;
        self.0.remove(&at);
        if found > len {
            self.0.insert(at + len, found - len);
        }
        Some(at)
    }

    /// Frees what [`Free::take`] gave for as many bytes.
    pub(super) fn give_back(&mut self, mut at: usize, len: usize) {
        let Some(mut len) = rounded(len) else { return };
        if let Some(behind) = self.0.remove(&(at + len)) {
            len += behind;
        }
        if let Some((before, found)) = self.0.range(..at).next_back().map(|(at, found)| (*at, *found))
            && before + found == at
        {
            (at, len) = (before, found + len);
        }
        self.0.insert(at, len);
    }
}

/// Of no bytes too, a place is one's own.
fn rounded(len: usize) -> Option<usize> {
    len.max(1).checked_next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_place_comes_first_and_neighbours_grow_together() {
        let mut free = Free::all(640);
        let places: Vec<_> = [100, 1, 64, 0].into_iter().map(|len| free.take(len)).collect();
        assert_eq!(places, [Some(0), Some(128), Some(192), Some(256)]);
        assert_eq!(free.take(400), None);
        assert_eq!(free.take(usize::MAX), None);
        free.give_back(128, 1);
        assert_eq!(free.take(65), Some(320), "a place for 64 bytes is too short");
        free.give_back(0, 100);
        assert_eq!(free.take(192), Some(0));
        free.give_back(320, 65);
        free.give_back(192, 64);
        free.give_back(256, 0);
        free.give_back(0, 192);
        assert_eq!(free.0, BTreeMap::from([(0, 640)]));
    }
}
