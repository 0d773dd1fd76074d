//! Any shape to one axis: the same values, seen otherwise. No call is emitted.

use firesteel_error::Result;

use crate::fuse::Stage;
use crate::plan::{Backward, Builder};

/// Makes the stage's value that of its source.
pub(crate) fn lower(builder: &mut Builder, stage: &Stage) -> Result<Vec<Backward>> {
    let source = builder.only_source(stage);
    builder.set(stage, source);
    Ok(Vec::new())
}
