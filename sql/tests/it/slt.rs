//! Runs `tests/slt/*.slt`, each in a session and store of its own.

use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use firesteel_sql::{Firesteel, ModelStore};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

/// A session as the runner sees it.
struct Database {
    firesteel: Firesteel,
}

impl Database {
    async fn new(store: &Path) -> Result<Database, DataFusionError> {
        let config = SessionConfig::new().with_target_partitions(2).with_information_schema(true);
        let context = SessionContext::new_with_config(config).enable_url_table();
        let firesteel = Firesteel::register(&context, ModelStore::directory(store)?).await?;
        Ok(Database { firesteel })
    }
}

#[async_trait]
impl AsyncDB for Database {
    type Error = DataFusionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, DataFusionError> {
        let frame = self.firesteel.sql(sql).await?;
        let types = frame.schema().fields().iter().map(|f| kind(f.data_type())).collect::<Vec<_>>();
        let batches = frame.collect().await?;
        let mut rows = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|c| cell(c, row)).collect());
            }
        }
        if types.is_empty() {
            return Ok(DBOutput::StatementComplete(rows.len() as u64));
        }
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "firesteel"
    }
}

fn kind(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        t if t.is_integer() => DefaultColumnType::Integer,
        t if t.is_floating() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

/// Real numbers to four places: the rest is rounding.
fn cell(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) {
        return "NULL".into();
    }
    match array.data_type() {
        DataType::Float64 => format!("{:.4}", array.as_primitive::<Float64Type>().value(row)),
        _ => {
            let text =
                ArrayFormatter::try_new(array, &FormatOptions::default()).unwrap().value(row).to_string();
            if text.is_empty() { "(empty)".into() } else { text }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_give_what_their_files_say() {
    let _alone = crate::ALONE.lock().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Paths in the files are relative to the crate.
    std::env::set_current_dir(root).unwrap();
    let mut files: Vec<_> =
        std::fs::read_dir(root.join("tests/slt")).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "slt"));
    files.sort();
    assert!(!files.is_empty());
    let mut failed = Vec::new();
    for file in files {
        let store = tempfile::tempdir().unwrap();
        let mut runner = Runner::new(|| Database::new(store.path()));
        runner.set_var("DIR".into(), store.path().join("out").display().to_string());
        if let Err(e) = runner.run_file_async(&file).await {
            failed.push(e.display(false).to_string());
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
