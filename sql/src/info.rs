//! Relations that come from a commit: no weights are read, no rows scored.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Result, TableReference, exec_datafusion_err};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use firesteel_train::EpochRecord;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::about::About;
use crate::create::training_rows;
use crate::evaluate::{Measures, no_measures};
use crate::profile::FeatureInfo;
use crate::store::VersionEntry;
use crate::trials::TrialInfo;

/// Rows that are already there.
pub(crate) fn rows(name: &str, batch: RecordBatch) -> Result<LogicalPlan> {
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
    let name = TableReference::bare(name);
    LogicalPlanBuilder::scan(name, provider_as_source(Arc::new(table)), None)?.build()
}

/// What a commit says of a version. DataFusion takes two scans of one name for the same, so the name says which it is.
fn rows_of(name: &str, entry: &VersionEntry, batch: RecordBatch) -> Result<LogicalPlan> {
    rows(&format!("{name}({}@{})", entry.model, entry.version), batch)
}

fn read<T: DeserializeOwned>(entry: &VersionEntry, key: &str) -> Result<Option<T>> {
    match entry.info.metrics.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value.clone()).map(Some).map_err(|e| {
            exec_datafusion_err!("'{key}' in the commit of version {} cannot be read: {e}", entry.version)
        }),
    }
}

/// The epochs of a version.
pub(crate) fn history(entry: &VersionEntry) -> Result<Vec<EpochRecord>> {
    Ok(read(entry, "history")?.unwrap_or_default())
}

/// Which training of its model made a version, from 0.
pub(crate) fn training_run(entry: &VersionEntry) -> i64 {
    entry.info.metrics.get("training_run").and_then(Value::as_i64).unwrap_or(0)
}

/// `ML.TRAINING_INFO`.
pub(crate) fn training(entry: &VersionEntry) -> Result<LogicalPlan> {
    rows_of("training_info", entry, training_rows(training_run(entry), &history(entry)?)?)
}

/// `ML.EVALUATE` without rows: what was measured on the rows that were held out.
pub(crate) fn evaluation(entry: &VersionEntry, about: &About) -> Result<LogicalPlan> {
    let batch = match read::<Measures>(entry, "evaluation")? {
        Some(measures) => measures.batch()?,
        None => no_measures(about.classes().is_some()),
    };
    rows_of("evaluate", entry, batch)
}

/// `ML.FEATURE_INFO`.
pub(crate) fn features(entry: &VersionEntry, about: &About) -> Result<LogicalPlan> {
    let plain = || -> Vec<FeatureInfo> {
        let of = |f: &crate::encode::Feature| FeatureInfo {
            input: f.column.clone(),
            min: None,
            max: None,
            mean: None,
            median: None,
            stddev: None,
            category_count: None,
            null_count: 0,
            dimension: None,
            encoding: f.kind.text().into(),
        };
        about.features.iter().map(of).collect()
    };
    rows_of("feature_info", entry, feature_rows(&read(entry, "features")?.unwrap_or_else(plain))?)
}

/// `ML.TRIAL_INFO`: no rows where nothing was searched.
pub(crate) fn trials(entry: &VersionEntry) -> Result<LogicalPlan> {
    let trials: Vec<TrialInfo> = read(entry, "trials")?.unwrap_or_default();
    let text = |of: &dyn Fn(&TrialInfo) -> Option<String>| -> ArrayRef {
        Arc::new(trials.iter().map(of).collect::<StringArray>())
    };
    let real = |of: &dyn Fn(&TrialInfo) -> Option<f64>| -> ArrayRef {
        Arc::new(trials.iter().map(of).collect::<Float64Array>())
    };
    let status = |t: &TrialInfo| if t.error.is_none() { "SUCCEEDED" } else { "FAILED" };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("trial_id", Arc::new(trials.iter().map(|t| Some(t.trial_id)).collect::<Int64Array>())),
        ("hyperparameters", text(&|t| Some(t.shown()))),
        ("objective", text(&|t| Some(t.objective.clone()))),
        ("value", real(&|t| t.value)),
        ("loss", real(&|t| t.loss)),
        ("eval_loss", real(&|t| t.eval_loss)),
        ("status", text(&|t| Some(status(t).into()))),
        ("error", text(&|t| t.error.clone())),
        ("is_optimal", Arc::new(trials.iter().map(|t| Some(t.is_optimal)).collect::<BooleanArray>())),
    ];
    rows_of(
        "trial_info",
        entry,
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))?,
    )
}

fn feature_rows(features: &[FeatureInfo]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&FeatureInfo) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(features.iter().map(of)))
    };
    let real = |of: &dyn Fn(&FeatureInfo) -> Option<f64>| -> ArrayRef {
        Arc::new(features.iter().map(of).collect::<Float64Array>())
    };
    let whole = |of: &dyn Fn(&FeatureInfo) -> Option<i64>| -> ArrayRef {
        Arc::new(features.iter().map(of).collect::<Int64Array>())
    };
    let columns: Vec<(&str, DataType, ArrayRef)> = vec![
        ("input", DataType::Utf8, text(&|f| f.input.clone())),
        ("min", DataType::Float64, real(&|f| f.min)),
        ("max", DataType::Float64, real(&|f| f.max)),
        ("mean", DataType::Float64, real(&|f| f.mean)),
        ("median", DataType::Float64, real(&|f| f.median)),
        ("stddev", DataType::Float64, real(&|f| f.stddev)),
        ("category_count", DataType::Int64, whole(&|f| f.category_count)),
        ("null_count", DataType::Int64, whole(&|f| Some(f.null_count))),
        ("dimension", DataType::Int64, whole(&|f| f.dimension)),
        ("encoding", DataType::Utf8, text(&|f| f.encoding.clone())),
    ];
    let field =
        |(name, data_type, _): &(&str, DataType, ArrayRef)| Field::new(*name, data_type.clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    Ok(RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, _, c)| c).collect())?)
}
