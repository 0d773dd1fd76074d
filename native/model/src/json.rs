//! Reads JSON that a user may have written.

use firesteel_error::{Error, Result};
use serde::de::DeserializeOwned;

/// `what` from JSON.
///
/// # Errors
/// `InvalidArgument` with the path of the first mistake, such as `mlp.hidden[1]`, its line and column, what was found and
/// what was expected.
pub fn read<T: DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        // A mistake at the top has no path, nor has what is not JSON.
        let place = if path == "." || path == "?" { String::new() } else { format!(": {path}") };
        Error::argument(format!("{what} is not valid{place}: {}", e.inner()))
    })?;
    reader.end().map_err(|e| Error::argument(format!("{what} is not valid: {e}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use crate::Network;

    #[test]
    fn the_field_is_named() {
        for (json, expected) in [
            (
                r#"{"mlp": {"hidden": [8, -3]}}"#,
                "mlp.hidden[1]: invalid value: integer `-3`, expected usize at line 1 column 25",
            ),
            (
                r#"{"mlp": {"hiden": [8]}}"#,
                "mlp.hiden: unknown field `hiden`, expected one of `hidden`, `activation`, `dropout` \
                 at line 1 column 16",
            ),
            (
                r#"{"sequential": {"layers": ["relu", {"conv2d": {"outputs": 2, "kernel": 3}}]}}"#,
                "sequential.layers[1].conv2d.kernel: invalid type: integer `3`, expected an array of length 2 \
                 at line 1 column 72",
            ),
            (
                r#""mpl""#,
                "unknown variant `mpl`, expected one of `mlp`, `lenet5`, `tabular`, `wide_and_deep`, \
                 `autoencoder`, `sequential`, `spec` at line 1 column 5",
            ),
            ("lenet5", "expected value at line 1 column 1"),
            (r#""lenet5" 3"#, "trailing characters at line 1 column 10"),
        ] {
            let e = Network::from_json(json).unwrap_err().to_string();
            assert_eq!(e, format!("the network is not valid: {expected}"));
        }
    }
}
