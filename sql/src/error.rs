//! Errors of Firesteel as DataFusion's.

use datafusion::common::DataFusionError;
use firesteel_error::{Error, Kind};
use firesteel_train::params::{TABLE, camel_case};

use crate::options;

/// An error of the training loop or the engine.
pub(crate) fn outside(e: Error) -> DataFusionError {
    // What the loop calls keep, SQL calls impute.
    let message = in_sql(&e.to_string()).replace("'keep' takes the mean", "'impute' takes the mean");
    match e.kind() {
        Kind::InvalidArgument => DataFusionError::Plan(message),
        Kind::Internal => DataFusionError::Internal(message),
        _ => DataFusionError::Execution(message),
    }
}

/// An error of DataFusion or the store, as the training loop has them.
pub(crate) fn inside(e: DataFusionError) -> Error {
    let message = e.strip_backtrace();
    match e.find_root() {
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => Error::new(Kind::Io, message),
        _ => Error::data(message),
    }
}

/// The loop speaks of `learningRate`, as Spark does; SQL calls it `learn_rate`.
pub(crate) fn in_sql(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, behind) = rest.split_at(word.max(rest.chars().next().map_or(0, char::len_utf8)));
        // What is in quotes is the user's own.
        let quoted = out.ends_with('\'');
        let param =
            TABLE.iter().filter(|_| !quoted).find(|p| p.name.contains('_') && camel_case(p.name) == word);
        out.push_str(param.map_or(word, |param| options::name_of(param.name)));
        rest = behind;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_their_names() {
        let message = "training diverged – a smaller learningRate may help; handleInvalid 'skip' drops rows";
        let wanted = "training diverged – a smaller learn_rate may help; on_null 'skip' drops rows";
        assert_eq!(in_sql(message), wanted);
        assert_eq!(in_sql("column 'batchSize' is 1"), "column 'batchSize' is 1");
        assert_eq!(in_sql("column 'learningRates' is é"), "column 'learningRates' is é");
    }
}
