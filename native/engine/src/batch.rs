//! What a step reads and what it reports.

/// The rows of one input.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// f32 values, row-major: `(rows, shape…)`.
    Dense(&'a [f32]),
    /// One index a row: `(rows)`.
    Index(&'a [u32]),
}

/// What the network should have said.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// One class a row, `(rows)`, for softmax cross-entropy.
    Classes(&'a [u32]),
    /// `(rows, outputs)`, for every other loss.
    Values(&'a [f32]),
}

/// The rows of one training step that this worker computes.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// How many; may be 0.
    pub rows: usize,
    /// In the order of the spec's inputs.
    pub inputs: &'a [Values<'a>],
    /// One or `outputs` values a row.
    pub targets: Targets<'a>,
    /// The weight of each row, `(rows)`; 1 when absent.
    pub weights: Option<&'a [f32]>,
    /// The place of each row in the global batch, `(rows)`. It keys dropout, so that a row drops the same values
    /// at any world size.
    pub positions: &'a [u64],
}

/// What a step sums over its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Σ wᵢ·lossᵢ.
    pub loss: f64,
    /// Σ wᵢ.
    pub weight: f64,
}
