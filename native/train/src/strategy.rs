//! How workers train together, as it is asked for.

use std::fmt;
use std::str::FromStr;

use firesteel_comm::strategy::{Layout, Spec, TableLayout, Tensor};
use firesteel_error::{Error, Result};
use firesteel_model::Graph;
use serde::{Deserialize, Serialize};

/// What a strategy may be, in words.
pub(crate) const EXPECTED: &str = "a strategy as `firesteel strategies` lists them";

/// The default, in which workers share nothing but exact sums.
pub(crate) const DEFAULT: &str = "sharded";

/// A strategy with all of its arguments; its text is the same for what is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Strategy(Spec);

impl Strategy {
    /// What makes it.
    pub fn spec(&self) -> &Spec {
        &self.0
    }

    /// Whether it is the default.
    pub(crate) fn is_default(&self) -> bool {
        self.0.name() == DEFAULT
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Strategy {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` naming what is wrong in the text, what was found and what was expected.
    fn from_str(text: &str) -> Result<Strategy> {
        let spec: Spec = text.parse()?;
        // What no world can have is refused at once.
        spec.check(1)?;
        Ok(Strategy(spec))
    }
}

impl TryFrom<String> for Strategy {
    type Error = Error;

    fn try_from(text: String) -> Result<Strategy> {
        text.parse()
    }
}

impl From<Strategy> for String {
    fn from(strategy: Strategy) -> String {
        strategy.to_string()
    }
}

/// A network's flat vector, as strategies see it.
pub(crate) fn layout(graph: &Graph, bucket_bytes: usize) -> Layout {
    let of_tables: Vec<usize> = graph.tables().iter().map(|table| table.parameter).collect();
    let dense = graph.parameters().iter().enumerate().filter(|(nth, _)| !of_tables.contains(nth));
    let mut tensors: Vec<Tensor> =
        dense.map(|(_, p)| Tensor { range: p.range.clone(), shape: p.shape.clone() }).collect();
    tensors.sort_by_key(|tensor| tensor.range.start);
    let table = |table: &firesteel_model::Table| TableLayout {
        range: table.range.clone(),
        rows: table.rows,
        dims: table.dims,
    };
    Layout {
        len: graph.len(),
        dense_len: graph.dense_len(),
        tensors,
        tables: graph.tables().iter().map(table).collect(),
        bucket_len: bucket_bytes / 4,
    }
}
