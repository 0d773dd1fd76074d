//! The rows of a batch while they are scored: those that the network reads, and where their values go.

use crate::data::Tensor;

/// The rows of a batch as the network reads them.
pub(super) struct Encoded {
    pub(super) rows: usize,
    /// In the order of the network's inputs, none one-hot.
    pub(super) tensors: Vec<Tensor>,
    /// For each row of the batch which of the encoded ones it is, or none if it is skipped; absent when all are there.
    pub(super) places: Option<Vec<Option<usize>>>,
}

impl Encoded {
    /// `(rows of the batch, width)` from `(encoded rows, width)`: 0 for skipped rows.
    pub(super) fn put_back(&self, values: Vec<f32>, width: usize) -> Vec<f32> {
        let Some(places) = &self.places else { return values };
        let mut all = vec![0.0; places.len() * width];
        for (to, place) in all.chunks_exact_mut(width).zip(places) {
            if let Some(row) = place {
                to.copy_from_slice(&values[row * width..][..width]);
            }
        }
        all
    }

    /// 1 for each row of the batch that is skipped; none if none is.
    pub(super) fn skipped(&self) -> Option<Vec<u8>> {
        let places = self.places.as_ref()?;
        Some(places.iter().map(|place| u8::from(place.is_none())).collect())
    }
}

/// Which encoded row each row of a batch is: `early` marks the rows that were encoded, `late` those of them that stay.
pub(super) fn places(early: Option<Vec<bool>>, late: Option<Vec<bool>>) -> Option<Vec<Option<usize>>> {
    let rows = early.as_ref().or(late.as_ref())?.len();
    let mut encoded = 0..;
    let place = |row: usize| {
        let kept = early.as_ref().is_none_or(|keep| keep[row]);
        let place = if kept { encoded.next() } else { None };
        place.filter(|at| late.as_ref().is_none_or(|keep| keep[*at]))
    };
    Some((0..rows).map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_rows_leave_holes() {
        assert_eq!(places(None, None), None);
        let early = || Some(vec![true, false, true, true]);
        assert_eq!(places(early(), None), Some(vec![Some(0), None, Some(1), Some(2)]));
        assert_eq!(places(None, Some(vec![false, true])), Some(vec![None, Some(1)]));
        let places = places(early(), Some(vec![true, false, true]));
        assert_eq!(places, Some(vec![Some(0), None, None, Some(2)]));
        let encoded = Encoded { rows: 3, tensors: Vec::new(), places };
        let values = encoded.put_back(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
        assert_eq!(values, [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 5.0, 6.0]);
        assert_eq!(encoded.skipped(), Some(vec![0, 1, 1, 0]));
    }
}
