//! The schema `ml`: models, their versions and their trainings as tables.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray,
    UInt32Array, UInt64Array,
};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{MemTable, SchemaProvider, Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use serde_json::Value;

use crate::create::{training_rows, training_schema};
use crate::info::{history, training_run};
use crate::store::{ModelEntry, Snapshot, VersionEntry};

/// The name to register [`MlSchema`] by.
pub const SCHEMA: &str = "ml";

/// Who knows the snapshot that a query is to see.
pub trait Snapshots: Debug + Send + Sync {
    /// The snapshot of the query that is being planned.
    fn current(&self) -> Arc<Snapshot>;
}

/// `ml.models`, `ml.model_versions` and `ml.training_info`.
#[derive(Debug)]
pub struct MlSchema {
    snapshots: Arc<dyn Snapshots>,
}

impl MlSchema {
    /// Tables of the snapshots that are current when they are scanned.
    pub fn new(snapshots: Arc<dyn Snapshots>) -> MlSchema {
        MlSchema { snapshots }
    }
}

#[async_trait]
impl SchemaProvider for MlSchema {
    fn table_names(&self) -> Vec<String> {
        Table::ALL.iter().map(|table| table.name().into()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let snapshots = self.snapshots.clone();
        Ok(Table::find(name).map(|table| Arc::new(SystemTable { table, snapshots }) as _))
    }

    fn table_exist(&self, name: &str) -> bool {
        Table::find(name).is_some()
    }
}

/// Rows are made when a scan is planned, so that a prepared statement sees the snapshot of its execution.
#[derive(Debug)]
struct SystemTable {
    table: Table,
    snapshots: Arc<dyn Snapshots>,
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.table.rows(&self.snapshots.current())?;
        MemTable::try_new(self.schema(), vec![vec![rows]])?.scan(state, projection, filters, limit).await
    }
}

#[derive(Clone, Copy, Debug)]
enum Table {
    Models,
    ModelVersions,
    TrainingInfo,
}

impl Table {
    const ALL: [Table; 3] = [Table::Models, Table::ModelVersions, Table::TrainingInfo];

    fn name(self) -> &'static str {
        match self {
            Table::Models => "models",
            Table::ModelVersions => "model_versions",
            Table::TrainingInfo => "training_info",
        }
    }

    fn find(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }

    fn schema(self) -> SchemaRef {
        let nothing = Snapshot::default();
        let fields = match self {
            Table::TrainingInfo => {
                let of = versions_of(&[]).into_iter().map(|c| c.field);
                of.chain(training_schema().fields().iter().map(|f| f.as_ref().clone())).collect()
            }
            _ => self.columns(&nothing).into_iter().map(|c| c.field).collect::<Vec<_>>(),
        };
        Arc::new(Schema::new(fields))
    }

    fn rows(self, snapshot: &Snapshot) -> Result<RecordBatch> {
        let Table::TrainingInfo = self else {
            let columns = self.columns(snapshot).into_iter().map(|c| c.values).collect();
            return Ok(RecordBatch::try_new(self.schema(), columns)?);
        };
        let mut batches = Vec::new();
        for version in versions(snapshot) {
            let epochs = training_rows(training_run(version.1), &history(version.1)?)?;
            let of = versions_of(&vec![version; epochs.num_rows()]).into_iter().map(|c| c.values);
            let columns = of.chain(epochs.columns().iter().cloned()).collect();
            batches.push(RecordBatch::try_new(self.schema(), columns)?);
        }
        Ok(concat_batches(&self.schema(), &batches)?)
    }

    fn columns(self, snapshot: &Snapshot) -> Vec<Column> {
        match self {
            Table::Models => models(&snapshot.models().collect::<Vec<_>>()),
            Table::ModelVersions => model_versions(&versions(snapshot)),
            Table::TrainingInfo => versions_of(&versions(snapshot)),
        }
    }
}

/// A model and one of its versions.
type Version<'a> = (&'a ModelEntry, &'a VersionEntry);

fn versions(snapshot: &Snapshot) -> Vec<Version<'_>> {
    snapshot.models().flat_map(|model| model.versions.values().map(move |v| (model, &**v))).collect()
}

/// What a row is of.
fn versions_of(versions: &[Version<'_>]) -> Vec<Column> {
    vec![
        names("schema_name", versions, |(model, _)| &model.name.schema),
        names("model_name", versions, |(model, _)| &model.name.name),
        numbers("version", versions, |(_, version)| Some(version.version)),
    ]
}

/// A column is declared where its values are made.
struct Column {
    field: Field,
    values: ArrayRef,
}

fn models(models: &[&ModelEntry]) -> Vec<Column> {
    let active = |model: &&ModelEntry| model.versions.get(&model.active).cloned();
    let label = |model: &&ModelEntry, key: &str| active(model)?.info.about.get("label")?.get(key).cloned();
    // A classifier's label has classes.
    let task = |model: &&ModelEntry| match label(model, "classes")? {
        Value::Null => Some("regression".to_owned()),
        _ => Some("classification".to_owned()),
    };
    vec![
        names("schema_name", models, |model| &model.name.schema),
        names("model_name", models, |model| &model.name.name),
        numbers("active_version", models, |model| Some(model.active)),
        numbers("versions", models, |model| Some(model.versions.len() as u64)),
        texts("model_type", models, |model| text(active(model)?.info.options.get("model_type")?)),
        texts("task", models, task),
        texts("label", models, |model| text(&label(model, "column")?)),
        texts("description", models, |model| model.description.clone()),
        lists("labels", models, |model| &model.labels),
        numbers("bytes", models, |model| Some(model.versions.values().map(|version| version.bytes()).sum())),
        times("created_at", models, |model| Some(model.created_at)),
        times("updated_at", models, |model| Some(model.updated_at)),
    ]
}

fn model_versions(versions: &[Version<'_>]) -> Vec<Column> {
    let mut columns = versions_of(versions);
    columns.extend([
        flags("active", versions, |(model, version)| model.active == version.version),
        texts("sql", versions, |(_, version)| Some(version.info.sql.clone())),
        texts("options", versions, |(_, version)| text(&version.info.options)),
        texts("about", versions, |(_, version)| text(&version.info.about)),
        texts("metrics", versions, |(_, version)| text(&without_history(&version.info.metrics))),
        names("path", versions, |(_, version)| &version.path),
        numbers("bytes", versions, |(_, version)| Some(version.bytes())),
        times("created_at", versions, |(_, version)| Some(version.created_at)),
        names("engine_version", versions, |(_, version)| &version.engine_version),
        counts("format_version", versions, |(_, version)| version.format_version),
    ]);
    columns
}

fn names<R>(name: &str, rows: &[R], value: impl Fn(&R) -> &String) -> Column {
    let values = StringArray::from_iter_values(rows.iter().map(value));
    Column { field: Field::new(name, DataType::Utf8, false), values: Arc::new(values) }
}

fn texts<R>(name: &str, rows: &[R], value: impl Fn(&R) -> Option<String>) -> Column {
    let values: StringArray = rows.iter().map(value).collect();
    Column { field: Field::new(name, DataType::Utf8, true), values: Arc::new(values) }
}

fn numbers<R>(name: &str, rows: &[R], value: impl Fn(&R) -> Option<u64>) -> Column {
    let values: UInt64Array = rows.iter().map(value).collect();
    Column { field: Field::new(name, DataType::UInt64, true), values: Arc::new(values) }
}

fn counts<R>(name: &str, rows: &[R], value: impl Fn(&R) -> u32) -> Column {
    let values = UInt32Array::from_iter_values(rows.iter().map(value));
    Column { field: Field::new(name, DataType::UInt32, false), values: Arc::new(values) }
}

fn flags<R>(name: &str, rows: &[R], value: impl Fn(&R) -> bool) -> Column {
    let values: BooleanArray = rows.iter().map(|row| Some(value(row))).collect();
    Column { field: Field::new(name, DataType::Boolean, false), values: Arc::new(values) }
}

/// `value` in milliseconds since 1970.
fn times<R>(name: &str, rows: &[R], value: impl Fn(&R) -> Option<u64>) -> Column {
    let millis = rows.iter().map(|row| value(row).and_then(|millis| millis.try_into().ok()));
    let values = millis.collect::<TimestampMillisecondArray>().with_timezone("UTC");
    let kind = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Column { field: Field::new(name, kind, true), values: Arc::new(values) }
}

fn lists<R>(name: &str, rows: &[R], value: impl Fn(&R) -> &Vec<String>) -> Column {
    let mut values = ListBuilder::new(StringBuilder::new());
    for row in rows {
        values.append_value(value(row).iter().map(Some));
    }
    let item = Field::new_list_field(DataType::Utf8, true);
    Column { field: Field::new_list(name, item, false), values: Arc::new(values.finish()) }
}

/// A string as it is, nothing for null, anything else as JSON.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn without_history(metrics: &Value) -> Value {
    let mut metrics = metrics.clone();
    if let Some(object) = metrics.as_object_mut() {
        object.remove("history");
    }
    metrics
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;
    use object_store::memory::InMemory;
    use serde_json::json;

    use super::*;
    use crate::ModelName;
    use crate::store::{CommitInfo, CreateMode, ModelStore};

    /// A session whose snapshot the test refreshes.
    struct Fixture {
        store: ModelStore,
        current: Arc<Current>,
        session: SessionContext,
    }

    #[derive(Debug, Default)]
    struct Current(Mutex<Arc<Snapshot>>);

    impl Snapshots for Current {
        fn current(&self) -> Arc<Snapshot> {
            self.0.lock().unwrap().clone()
        }
    }

    impl Fixture {
        fn new() -> Fixture {
            let store = ModelStore::new(Arc::new(InMemory::new()), "models".into());
            let (current, session) = (Arc::new(Current::default()), SessionContext::new());
            let schema = Arc::new(MlSchema::new(current.clone()));
            session.catalog("datafusion").unwrap().register_schema(SCHEMA, schema).unwrap();
            Fixture { store, current, session }
        }

        async fn train(&self, name: &str) {
            let info = CommitInfo {
                sql: format!("CREATE MODEL {name}"),
                options: json!({"model_type": "dnn_classifier"}),
                about: json!({"label": {"column": "species", "classes": ["a", "b"]}}),
                metrics: json!({"accuracy": 0.5, "training_run": 3, "history": [
                    {"epoch": 1, "step": 2, "loss": 1.5, "validation_loss": 2.5, "metric": "accuracy",
                     "validation_metric": 0.5, "samples_per_second": 100.0, "seconds": 0.0116},
                    {"epoch": 2, "step": 4, "loss": 1.0, "validation_loss": null, "metric": null,
                     "validation_metric": null, "samples_per_second": 50.0, "seconds": 2.0},
                ]}),
                description: Some("flowers".into()),
                labels: Some(vec!["a".into(), "b".into()]),
                ..CommitInfo::default()
            };
            let files = vec![("model.json".into(), Bytes::from_static(b"{}"))];
            self.store.create(&ModelName::bare(name), files, info, CreateMode::Replace).await.unwrap();
            *self.current.0.lock().unwrap() = self.store.snapshot().await.unwrap();
        }

        async fn query(&self, sql: &str) -> String {
            let batches = self.session.sql(sql).await.unwrap().collect().await.unwrap();
            let table = pretty_format_batches(&batches).unwrap().to_string();
            // Without the frame.
            let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
            let cells = |line: &str| {
                line.split('|').map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" ")
            };
            rows.map(cells).collect::<Vec<_>>().join("\n")
        }
    }

    #[tokio::test]
    async fn without_models_the_tables_are_empty() {
        let fixture = Fixture::new();
        for table in ["models", "model_versions", "training_info"] {
            assert_eq!(fixture.query(&format!("SELECT count(*) FROM ml.{table}")).await, "0");
            assert_eq!(fixture.query(&format!("SELECT * FROM ml.{table}")).await, "");
        }
    }

    #[tokio::test]
    async fn models_and_versions_are_listed() {
        let fixture = Fixture::new();
        for name in ["iris", "iris", "churn"] {
            fixture.train(name).await;
        }
        let models = "SELECT schema_name, model_name, active_version, versions, model_type, task, label, description, \
                      labels, bytes, created_at <= updated_at FROM ml.models WHERE model_name LIKE 'ir%'";
        assert_eq!(
            fixture.query(models).await,
            "public iris 2 2 dnn_classifier classification species flowers [a, b] 4 true"
        );
        let versions = "SELECT model_name, version, active, sql, metrics, bytes, format_version FROM ml.model_versions \
                        ORDER BY model_name, version";
        assert_eq!(
            fixture.query(versions).await,
            "churn 1 true CREATE MODEL churn {\"accuracy\":0.5,\"training_run\":3} 2 1\n\
             iris 1 false CREATE MODEL iris {\"accuracy\":0.5,\"training_run\":3} 2 1\n\
             iris 2 true CREATE MODEL iris {\"accuracy\":0.5,\"training_run\":3} 2 1"
        );
    }

    #[tokio::test]
    async fn epochs_are_rows_and_what_they_lack_is_null() {
        let fixture = Fixture::new();
        fixture.train("iris").await;
        assert_eq!(
            fixture.query("SELECT * FROM ml.training_info ORDER BY iteration").await,
            "public iris 1 3 0 1.5 2.5 0.5 12 100.0\npublic iris 1 3 1 1.0 2000 50.0"
        );
    }

    #[tokio::test]
    async fn a_prepared_statement_sees_the_snapshot_of_its_execution() {
        let fixture = Fixture::new();
        fixture.query("PREPARE p AS SELECT count(*) FROM ml.models").await;
        assert_eq!(fixture.query("EXECUTE p").await, "0");
        fixture.train("iris").await;
        assert_eq!(fixture.query("EXECUTE p").await, "1");
    }

    #[tokio::test]
    async fn the_schema_is_listed() {
        let fixture = Fixture::new();
        let schema = MlSchema::new(fixture.current.clone());
        assert_eq!(schema.table_names(), ["models", "model_versions", "training_info"]);
        assert!(schema.table_exist("models") && !schema.table_exist("nope"));
        assert!(schema.table("nope").await.unwrap().is_none());
    }
}
