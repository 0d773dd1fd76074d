//! Errors of Firesteel as DataFusion's.

use datafusion::common::DataFusionError;
use firesteel_error::{Error, Kind};

/// An error of the training loop or the engine.
pub(crate) fn outside(e: Error) -> DataFusionError {
    match e.kind() {
        Kind::InvalidArgument => DataFusionError::Plan(e.to_string()),
        Kind::Internal => DataFusionError::Internal(e.to_string()),
        _ => DataFusionError::Execution(e.to_string()),
    }
}
