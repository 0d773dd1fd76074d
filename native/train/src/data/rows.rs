//! Encoded rows, and picking the rows of a batch from them.

use firesteel_engine::{Batch, Targets, Values};

/// One input of all rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tensor {
    /// `(rows, width)`
    Dense { width: usize, values: Vec<f32> },
    /// `(rows)`
    Index(Vec<u32>),
    /// `(rows)`, for a dense input of `width`: 1 at the index, 0 elsewhere. Whoever reads it makes it dense first.
    OneHot { width: usize, indices: Vec<u32> },
}

/// The targets of all rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// `(rows)`
    Classes(Vec<u32>),
    /// `(rows)`, or `(rows, outputs)` in a batch of a reconstruction.
    Values(Vec<f32>),
    /// What the inputs hold; written out only in batches.
    Features,
}

/// Rows that a network can read.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) len: usize,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) target: Target,
    pub(crate) weights: Option<Vec<f32>>,
}

impl Tensor {
    fn like(&self) -> Tensor {
        match self {
            Tensor::Dense { width, .. } | Tensor::OneHot { width, .. } => {
                Tensor::Dense { width: *width, values: Vec::new() }
            }
            Tensor::Index(_) => Tensor::Index(Vec::new()),
        }
    }

    /// As the network reads it.
    pub(crate) fn dense(self) -> Tensor {
        let Tensor::OneHot { width, indices } = self else { return self };
        let mut values = vec![0.0; indices.len() * width];
        for (row, index) in values.chunks_exact_mut(width).zip(indices) {
            row[index as usize] = 1.0;
        }
        Tensor::Dense { width, values }
    }

    pub(crate) fn view(&self) -> Values<'_> {
        match self {
            Tensor::Dense { values, .. } => Values::Dense(values),
            Tensor::Index(indices) | Tensor::OneHot { indices, .. } => Values::Index(indices),
        }
    }

    /// Moves the rows that `held` marks to a tensor of their own; the order stays.
    fn split_off(&mut self, held: &[bool]) -> Tensor {
        match self {
            Tensor::Dense { width, values } => {
                Tensor::Dense { width: *width, values: split_rows(values, *width, held) }
            }
            Tensor::Index(indices) => Tensor::Index(split_rows(indices, 1, held)),
            Tensor::OneHot { width, indices } => {
                Tensor::OneHot { width: *width, indices: split_rows(indices, 1, held) }
            }
        }
    }
}

/// Moves rows of `width` values that `held` marks out of `values`.
fn split_rows<T: Copy>(values: &mut Vec<T>, width: usize, held: &[bool]) -> Vec<T> {
    let mut out = Vec::with_capacity(held.iter().filter(|h| **h).count() * width);
    let mut kept = 0;
    for (row, held) in held.iter().enumerate() {
        let from = row * width..(row + 1) * width;
        if *held {
            out.extend_from_slice(&values[from]);
        } else {
            values.copy_within(from, kept * width);
            kept += 1;
        }
    }
    values.truncate(kept * width);
    out
}

impl Rows {
    /// Moves the rows that `held` marks to rows of their own; the order stays.
    pub(crate) fn split_off(&mut self, held: &[bool]) -> Rows {
        let inputs: Vec<Tensor> = self.inputs.iter_mut().map(|t| t.split_off(held)).collect();
        let target = match &mut self.target {
            Target::Classes(classes) => Target::Classes(split_rows(classes, 1, held)),
            Target::Values(values) => Target::Values(split_rows(values, 1, held)),
            Target::Features => Target::Features,
        };
        let weights = self.weights.as_mut().map(|w| split_rows(w, 1, held));
        let len = held.iter().filter(|h| **h).count();
        self.len -= len;
        Rows { len, inputs, target, weights }
    }

    pub(crate) fn views(&self) -> Vec<Values<'_>> {
        self.inputs.iter().map(Tensor::view).collect()
    }

    /// The weight of a row.
    pub(crate) fn weight(&self, row: usize) -> f32 {
        self.weights.as_ref().map_or(1.0, |w| w[row])
    }
}

/// Some rows, picked from all; as the network reads them, so without one-hot tensors. Its memory is used again from step to step.
#[derive(Debug)]
pub(crate) struct Gather {
    rows: Rows,
    positions: Vec<u64>,
}

impl Gather {
    pub(crate) fn new(all: &Rows) -> Gather {
        let target = match all.target {
            Target::Classes(_) => Target::Classes(Vec::new()),
            Target::Values(_) | Target::Features => Target::Values(Vec::new()),
        };
        let inputs = all.inputs.iter().map(Tensor::like).collect();
        let weights = all.weights.as_ref().map(|_| Vec::new());
        Gather { rows: Rows { len: 0, inputs, target, weights }, positions: Vec::new() }
    }

    /// Picks rows; `picks` holds (position in the epoch, row), `first` is the position of the batch's first row.
    pub(crate) fn fill(&mut self, all: &Rows, picks: &[(u64, u32)], first: u64) {
        self.rows.len = picks.len();
        self.positions.clear();
        self.positions.extend(picks.iter().map(|(position, _)| position - first));
        for (to, from) in self.rows.inputs.iter_mut().zip(&all.inputs) {
            match (to, from) {
                (Tensor::Dense { width, values: to }, Tensor::Dense { values: from, .. }) => {
                    to.clear();
                    for (_, row) in picks {
                        to.extend_from_slice(&from[*row as usize * *width..][..*width]);
                    }
                }
                (Tensor::Dense { width, values: to }, Tensor::OneHot { indices: from, .. }) => {
                    to.clear();
                    to.resize(picks.len() * *width, 0.0);
                    for (to, (_, row)) in to.chunks_exact_mut(*width).zip(picks) {
                        to[from[*row as usize] as usize] = 1.0;
                    }
                }
                (Tensor::Index(to), Tensor::Index(from)) => pick(to, from, picks),
                // `new` made them alike.
                _ => {}
            }
        }
        match (&mut self.rows.target, &all.target) {
            (Target::Classes(to), Target::Classes(from)) => pick(to, from, picks),
            (Target::Values(to), Target::Values(from)) => pick(to, from, picks),
            (Target::Values(to), Target::Features) => {
                to.clear();
                (0..picks.len()).flat_map(|row| features(&self.rows.inputs, row)).for_each(|part| {
                    to.extend_from_slice(part);
                });
            }
            _ => {}
        }
        if let (Some(to), Some(from)) = (&mut self.rows.weights, &all.weights) {
            pick(to, from, picks);
        }
    }

    /// The picked rows as the engine reads them; `inputs` are [`Gather::inputs`].
    pub(crate) fn batch<'a>(&'a self, inputs: &'a [Values<'a>]) -> Batch<'a> {
        Batch {
            rows: self.rows.len,
            inputs,
            targets: match &self.rows.target {
                Target::Classes(classes) => Targets::Classes(classes),
                Target::Values(values) => Targets::Values(values),
                // `new` made room for values.
                Target::Features => Targets::Values(&[]),
            },
            weights: self.rows.weights.as_deref(),
            positions: &self.positions,
        }
    }

    pub(crate) fn inputs(&self) -> Vec<Values<'_>> {
        self.rows.views()
    }
}

/// What a row holds of each dense input.
pub(crate) fn features(inputs: &[Tensor], row: usize) -> impl Iterator<Item = &[f32]> {
    inputs.iter().filter_map(move |input| match input {
        Tensor::Dense { width, values } => Some(&values[row * width..][..*width]),
        Tensor::Index(_) | Tensor::OneHot { .. } => None,
    })
}

fn pick<T: Copy>(to: &mut Vec<T>, from: &[T], picks: &[(u64, u32)]) {
    to.clear();
    to.extend(picks.iter().map(|(_, row)| from[*row as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows {
            len: 4,
            inputs: vec![
                Tensor::Dense { width: 2, values: vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5] },
                Tensor::Index(vec![10, 11, 12, 13]),
            ],
            target: Target::Classes(vec![0, 1, 0, 1]),
            weights: Some(vec![1.0, 2.0, 3.0, 4.0]),
        }
    }

    #[test]
    fn held_out_rows_leave_in_order() {
        let mut all = rows();
        let held = all.split_off(&[false, true, false, true]);
        assert_eq!((all.len, held.len), (2, 2));
        assert_eq!(all.inputs[0], Tensor::Dense { width: 2, values: vec![0.0, 0.5, 2.0, 2.5] });
        assert_eq!(held.inputs[1], Tensor::Index(vec![11, 13]));
        assert_eq!(held.target, Target::Classes(vec![1, 1]));
        assert_eq!(all.weights, Some(vec![1.0, 3.0]));
    }

    #[test]
    fn a_batch_has_the_picked_rows_at_their_positions() {
        let all = rows();
        let mut gather = Gather::new(&all);
        gather.fill(&all, &[(8, 3), (9, 0)], 8);
        let inputs = gather.inputs();
        let batch = gather.batch(&inputs);
        assert_eq!((batch.rows, batch.positions), (2, &[0, 1][..]));
        assert!(matches!(batch.inputs[0], Values::Dense([3.0, 3.5, 0.0, 0.5])));
        assert!(matches!(batch.inputs[1], Values::Index([13, 10])));
        assert!(matches!(batch.targets, Targets::Classes([1, 0])));
        assert_eq!(batch.weights, Some(&[4.0, 1.0][..]));
    }

    #[test]
    fn a_batch_of_a_reconstruction_writes_out_its_features() {
        let mut all = Rows {
            inputs: vec![
                Tensor::Dense { width: 1, values: vec![0.5, 1.5, 2.5, 3.5] },
                Tensor::OneHot { width: 3, indices: vec![0, 1, 2, 1] },
            ],
            target: Target::Features,
            ..rows()
        };
        let held = all.split_off(&[false, true, false, false]);
        assert_eq!(held.inputs[1], Tensor::OneHot { width: 3, indices: vec![1] });
        assert_eq!(held.inputs[1].clone().dense(), Tensor::Dense { width: 3, values: vec![0.0, 1.0, 0.0] });
        let mut gather = Gather::new(&all);
        // Twice: nothing of an earlier batch stays.
        for _ in 0..2 {
            gather.fill(&all, &[(0, 2), (1, 0)], 0);
            let inputs = gather.inputs();
            let batch = gather.batch(&inputs);
            assert!(matches!(batch.inputs[1], Values::Dense([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])));
            assert!(matches!(batch.targets, Targets::Values([3.5, 0.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.0])));
        }
    }
}
