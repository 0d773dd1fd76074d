//! Whether a batch fits the network: checked once, at the edge. Behind it nothing is checked again.

use firesteel_error::{Error, Result};
use firesteel_model::{Graph, InputKind};

use crate::batch::Values;

/// Whether `rows` of `inputs` are what the network reads.
pub(crate) fn check_inputs(graph: &Graph, rows: usize, inputs: &[Values]) -> Result<()> {
    let expected = &graph.spec().inputs;
    if inputs.len() != expected.len() {
        return Err(Error::data(format!(
            "the batch has {} inputs, the network reads {}",
            inputs.len(),
            expected.len()
        )));
    }
    for (values, input) in inputs.iter().zip(expected) {
        let name = &input.name;
        match (values, &input.kind) {
            (Values::Dense(values), InputKind::Dense { shape }) => {
                let row: usize = shape.iter().product();
                if values.len() != rows * row {
                    return Err(Error::data(format!(
                        "input '{name}' has {} values, expected {} for {rows} rows of shape {shape:?}",
                        values.len(),
                        rows * row
                    )));
                }
            }
            (Values::Index(indices), InputKind::Index { cardinality }) => {
                check_indices(name, rows, indices, *cardinality)?;
            }
            (Values::Dense(_), _) => {
                return Err(Error::data(format!("input '{name}' has dense values, expected indices")));
            }
            (Values::Index(_), _) => {
                return Err(Error::data(format!("input '{name}' has indices, expected dense values")));
            }
        }
    }
    Ok(())
}

fn check_indices(name: &str, rows: usize, indices: &[u32], cardinality: usize) -> Result<()> {
    if indices.len() != rows {
        return Err(Error::data(format!("input '{name}' has {} indices for {rows} rows", indices.len())));
    }
    match indices.iter().position(|i| *i as usize >= cardinality) {
        None => Ok(()),
        Some(row) => Err(Error::data(format!(
            "input '{name}' has index {} in row {row}, expected below {cardinality}",
            indices[row]
        ))),
    }
}

/// Whether a list beside the inputs has one entry a row.
pub(crate) fn check_length(what: &str, found: usize, rows: usize) -> Result<()> {
    if found == rows {
        return Ok(());
    }
    Err(Error::data(format!("the batch has {found} {what} for {rows} rows")))
}

/// Whether there is room for the outputs of all rows.
pub(crate) fn check_outputs(found: usize, rows: usize, outputs: usize) -> Result<()> {
    if found == rows * outputs {
        return Ok(());
    }
    Err(Error::argument(format!(
        "room for {found} outputs, expected {} for {rows} rows of {outputs}",
        rows * outputs
    )))
}
