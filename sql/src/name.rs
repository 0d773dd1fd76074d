//! Names of models.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A model, `[schema.]name`, normalised as names of tables are; models have a namespace of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelName {
    /// `public` when not given.
    pub schema: String,
    /// Without quotes.
    pub name: String,
}

/// The schema of names without one.
pub const DEFAULT_SCHEMA: &str = "public";

impl ModelName {
    /// In the default schema.
    pub fn bare(name: impl Into<String>) -> ModelName {
        ModelName { schema: DEFAULT_SCHEMA.into(), name: name.into() }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.schema != DEFAULT_SCHEMA {
            write!(f, "{}.", self.schema)?;
        }
        f.write_str(&self.name)
    }
}
