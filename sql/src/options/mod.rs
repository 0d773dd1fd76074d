//! What `OPTIONS (..)` says, typed and checked.
//!
//! [`table`] declares every option once; the hyper-parameters among them are those of [`firesteel_train::params`]
//! under the names of BigQuery ML, and under their own. What the engine cannot do is an error that says so.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`table`] | every option: its name, values, default and help |
//! | [`model`] | [`ModelOptions`]: those of `CREATE MODEL` |
//! | [`search`] | [`Search`]: over hyper-parameters |
//! | `given` | options of a statement, each checked alone |
//! | `layers` | a network in words |
//! | `reference` | the reference page |
//! | `nearest` | "did you mean" |

mod given;
mod layers;
pub mod model;
pub(crate) mod nearest;
mod reference;
pub mod search;
pub mod table;
#[cfg(test)]
mod tests;

use datafusion::common::{Result, plan_datafusion_err};

use crate::parse::ModelOption;
use given::Given;
pub use model::{Cache, ClassWeights, EarlyStop, ModelOptions, ModelType, OnUnseen, Split};
pub use reference::reference;
pub use search::Search;

/// `saved` options with those `given` in their place. Names of one option are one.
pub fn merge(saved: &[ModelOption], given: &[ModelOption]) -> Vec<ModelOption> {
    let name = |option: &ModelOption| match given::row_of(table::ROWS, true, &option.name) {
        Some(row) => row.name.to_owned(),
        None => option.name.clone(),
    };
    let replaced: Vec<String> = given.iter().map(name).collect();
    let kept = saved.iter().filter(|option| !replaced.contains(&name(option)));
    kept.chain(given).cloned().collect()
}

/// Of `ALTER MODEL .. SET OPTIONS`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlterOptions {
    /// The version that is used where none is named.
    pub active_version: Option<u64>,
    /// A note.
    pub description: Option<String>,
    /// Words to find the model by.
    pub labels: Option<Vec<String>>,
}

impl AlterOptions {
    /// Reads them.
    ///
    /// # Errors
    /// `Plan` naming the option and its place.
    pub fn read(options: &[ModelOption]) -> Result<AlterOptions> {
        let given = Given::read(table::ALTER_ROWS, false, options)?;
        if options.is_empty() {
            return Err(plan_datafusion_err!("SET OPTIONS () changes nothing"));
        }
        Ok(AlterOptions {
            active_version: given.whole("active_version").and_then(|v| u64::try_from(v).ok()),
            description: given.text("description").map(str::to_owned),
            labels: given.texts("labels"),
        })
    }
}

/// Of `EXPORT MODEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// Where the files go.
    pub uri: String,
    /// What is written.
    pub format: Format,
}

/// What `EXPORT MODEL` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One graph that other systems run.
    Onnx,
    /// Weights, and the model's description beside them.
    Safetensors,
    /// A saved model of Spark's.
    Spark,
}

impl ExportOptions {
    /// Reads them.
    ///
    /// # Errors
    /// `Plan` naming the option and its place.
    pub fn read(options: &[ModelOption]) -> Result<ExportOptions> {
        let given = Given::read(table::EXPORT_ROWS, false, options)?;
        let uri = given.text("uri").filter(|uri| !uri.is_empty());
        let missing = || plan_datafusion_err!("EXPORT MODEL needs OPTIONS (uri = 'file:///..')");
        Ok(ExportOptions {
            uri: uri.ok_or_else(missing)?.to_owned(),
            format: match given.text("format") {
                Some("onnx") => Format::Onnx,
                Some("spark") => Format::Spark,
                _ => Format::Safetensors,
            },
        })
    }
}

/// What SQL calls a hyper-parameter of the training loop.
pub(crate) fn name_of(param: &'static str) -> &'static str {
    match param {
        "handle_invalid" => "on_null",
        _ => {
            let of = |row: &&table::Row| matches!(row.kind, table::Kind::Param(name) if name == param);
            table::ROWS.iter().find(of).map_or(param, |row| row.name)
        }
    }
}
