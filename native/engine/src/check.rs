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
                if rows.checked_mul(row) != Some(values.len()) {
                    return Err(Error::data(format!(
                        "input '{name}' has {} values, expected {} for {rows} rows of shape {shape:?}",
                        values.len(),
                        rows as u128 * row as u128
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
    if rows.checked_mul(outputs) == Some(found) {
        return Ok(());
    }
    Err(Error::argument(format!(
        "room for {found} outputs, expected {} for {rows} rows of {outputs}",
        rows as u128 * outputs as u128
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use firesteel_model::Spec;

    #[test]
    fn rows_whose_values_cannot_be_counted_are_refused() {
        let spec = r#"{"version":1,"inputs":[{"name":"x","kind":{"dense":{"shape":[4]}}}],
            "layers":[{"name":"a","op":"relu"}]}"#;
        let graph = Graph::new(&Spec::from_json(spec).unwrap()).unwrap();
        // 2⁶² rows of 4 values would be 0 values.
        let rows = 1 << 62;
        let e = check_inputs(&graph, rows, &[Values::Dense(&[])]).unwrap_err().to_string();
        assert!(e.contains("has 0 values, expected 18446744073709551616 for"), "{e}");
        assert!(check_outputs(0, rows, 4).is_err());
    }
}
