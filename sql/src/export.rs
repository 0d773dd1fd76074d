//! `EXPORT MODEL`: a version as files that another face of Firesteel, or another system, opens.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_err, plan_err};
use firesteel_train::Model;
use serde_json::json;
use ulid::Ulid;

use crate::about::About;
use crate::encode::FeatureKind;
use crate::error::outside;
use crate::import;
use crate::options::{ExportOptions, Format};

/// The key of an ONNX file's metadata for the names of the classes, as JSON.
const CLASSES: &str = "firesteel.classes";

/// The Spark that the folders are made for; it is shown, and not compared.
const SPARK_VERSION: &str = "4.1.0";

/// Writes a model's files; their paths.
///
/// # Errors
/// `Plan` for a place that is not there yet, or a column that the format cannot have; `Execution` when the directory is
/// there or cannot be written.
pub(crate) async fn write(
    options: &ExportOptions,
    about: &About,
    files: Vec<(String, Bytes)>,
) -> Result<Vec<String>> {
    let files = match options.format {
        Format::Onnx => {
            check_columns(about, "ONNX")?;
            let about = about.clone();
            let export = move || onnx(&about, &files);
            let exported = tokio::task::spawn_blocking(export).await;
            vec![exported.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??]
        }
        Format::Safetensors => files,
        Format::Spark => {
            check_columns(about, "Spark")?;
            if about.label.is_none() {
                return plan_err!(
                    "Spark has classifiers and regressors, the model is {about}; export it as onnx or safetensors"
                );
            }
            of_spark(about, files)?
        }
    };
    let directory = import::directory(&options.uri)?;
    if directory.exists() {
        return exec_err!("cannot export to {}: it is there already", directory.display());
    }
    let write = move || write_all(&directory, &files);
    tokio::task::spawn_blocking(write).await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?
}

/// Beside, and renamed when it is whole.
fn write_all(directory: &Path, files: &[(String, Bytes)]) -> Result<Vec<String>> {
    let broken =
        |e: std::io::Error| DataFusionError::Execution(format!("cannot write {}: {e}", directory.display()));
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let beside = directory.with_file_name(format!(".{name}-{}", Ulid::new()));
    let written = files.iter().try_for_each(|(name, bytes)| {
        let path = beside.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(&path, bytes)
    });
    if let Err(e) = written.and_then(|()| std::fs::rename(&beside, directory)) {
        // What is left of it helps nobody.
        _ = std::fs::remove_dir_all(&beside);
        return Err(broken(e));
    }
    Ok(files.iter().map(|(name, _)| directory.join(name).display().to_string()).collect())
}

/// That the model reads the query's columns as they are: what SQL makes of a column is in no file.
fn check_columns(about: &About, target: &str) -> Result<()> {
    if about.transform.is_some() {
        return plan_err!(
            "the model reads what TRANSFORM makes of its columns, which {target} does not know; export it as safetensors, or put the expressions into the query and train again"
        );
    }
    let made = |kind: &FeatureKind| matches!(kind, FeatureKind::Time { .. } | FeatureKind::Words { .. });
    match about.features.iter().find(|feature| made(&feature.kind)) {
        Some(feature) => plan_err!(
            "column '{}' is {}, of which SQL makes numbers that {target} does not know; train on the numbers",
            feature.column,
            feature.data_type
        ),
        None => Ok(()),
    }
}

fn onnx(about: &About, files: &[(String, Bytes)]) -> Result<(String, Bytes)> {
    let model = Model::from_files(files).map_err(outside)?;
    let classes = about.classes().map(|classes| json!(classes).to_string());
    let metadata: Vec<(&str, &str)> = classes.iter().map(|c| (CLASSES, c.as_str())).collect();
    let graph = firesteel_onnx::export_with(&model, &metadata).map_err(outside)?;
    Ok(("model.onnx".to_owned(), graph.into()))
}

/// What `NeuralClassificationModel.save` or `NeuralRegressionModel.save` would have written.
fn of_spark(about: &About, files: Vec<(String, Bytes)>) -> Result<Vec<(String, Bytes)>> {
    let handle_invalid = Model::from_files(&files).map_err(outside)?.preprocessing().handle_invalid;
    let (estimator, class) = match about.classes() {
        Some(_) => ("NeuralClassifier", "firesteel.ml.NeuralClassificationModel"),
        None => ("NeuralRegressor", "firesteel.ml.NeuralRegressionModel"),
    };
    let uid = Ulid::new().to_string().to_lowercase();
    let columns: Vec<&str> = about.features.iter().map(|f| f.column.as_str()).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
    let metadata = json!({
        "class": class,
        "timestamp": now,
        "sparkVersion": SPARK_VERSION,
        "uid": format!("{estimator}_{}", &uid[uid.len() - 12..]),
        "paramMap": {"featuresCols": columns, "labelCol": about.label()?.column, "handleInvalid": handle_invalid},
        "defaultParamMap": {},
    });
    let mut all = vec![
        ("metadata/part-00000".to_owned(), format!("{metadata}\n").into()),
        ("metadata/_SUCCESS".to_owned(), Bytes::new()),
    ];
    all.extend(files.into_iter().map(|(name, bytes)| (format!("{}/{name}", import::OF_SPARK), bytes)));
    Ok(all)
}
