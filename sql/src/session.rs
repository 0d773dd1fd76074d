//! One call registers everything on a DataFusion session.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DataFusionError, Result, plan_datafusion_err, plan_err};
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::{SQLOptions, SessionState};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{Extension, LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};
use datafusion::sql::sqlparser::dialect::dialect_from_str;

use crate::aggregate;
use crate::config::{self, MlConfig};
use crate::create::{CreateModel, Warm};
use crate::functions;
use crate::info;
use crate::models::Models;
use crate::name::ModelName;
use crate::options::ModelOptions;
use crate::parse::{self, Change, CreateModel as Create, ModelRef, Source, Statement, TransformItem};
use crate::planner::{DropProbabilities, MlQueryPlanner, PinVersions, makes_models};
use crate::relation::MlRelations;
use crate::spec::{FREE, TrainSpec};
use crate::store::ModelStore;
use crate::tables::MlSchema;
use crate::transform::Draft;
use crate::unfinished::Unfinished;

/// Firesteel on a session.
#[derive(Clone)]
pub struct Firesteel {
    context: SessionContext,
    models: Arc<Models>,
}

impl fmt::Debug for Firesteel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Firesteel").field("models", &self.models).finish_non_exhaustive()
    }
}

impl Firesteel {
    /// Registers relations, functions, the schema `ml` and the planning of our statements on a session.
    ///
    /// # Errors
    /// Of the store; `Plan` when the session has no default catalog.
    pub async fn register(context: &SessionContext, store: ModelStore) -> Result<Firesteel> {
        let models = Arc::new(Models::open(store).await?);
        let catalog = context.state().config().options().catalog.default_catalog.clone();
        let catalog = context
            .catalog(&catalog)
            .ok_or_else(|| plan_datafusion_err!("there is no catalog '{catalog}'"))?;
        if catalog.schema("ml").is_some() {
            return plan_err!(
                "the session has a schema 'ml' already: of Firesteel, if it is registered twice"
            );
        }
        catalog.register_schema("ml", Arc::new(MlSchema::new(models.clone())))?;
        for function in functions::scalar(&models) {
            context.register_udf(function);
        }
        context.register_udaf(aggregate::fit());
        aggregate::apply().into_iter().for_each(|function| context.register_udf(function));
        context.register_relation_planner(Arc::new(MlRelations { models: models.clone() }))?;
        let mut state = context.state();
        state.config_mut().options_mut().extensions.insert(MlConfig::default());
        let state = SessionStateBuilder::new_from_existing(state)
            .with_query_planner(Arc::new(MlQueryPlanner { models: models.clone() }))
            .with_analyzer_rule(Arc::new(PinVersions { models: models.clone() }))
            .with_optimizer_rule(Arc::new(DropProbabilities))
            .build();
        *context.state_ref().write() = state;
        Ok(Firesteel { context: context.clone(), models })
    }

    /// The session.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// The models of the session.
    pub fn models(&self) -> &Arc<Models> {
        &self.models
    }

    /// What happened that the user should know, since the last call.
    pub fn take_notices(&self) -> Vec<String> {
        self.models.take_notices()
    }

    /// Names of tables and models, for completion.
    pub async fn names(&self) -> Vec<String> {
        let mut names: BTreeSet<String> =
            self.models.snapshot().models().map(|m| m.name.to_string()).collect();
        for catalog in self.context.catalog_names() {
            let Some(catalog) = self.context.catalog(&catalog) else { continue };
            for schema in catalog.schema_names().into_iter().filter(|s| s != "information_schema") {
                names.extend(catalog.schema(&schema).into_iter().flat_map(|s| s.table_names()));
            }
        }
        names.into_iter().collect()
    }

    /// The statements of a text.
    ///
    /// # Errors
    /// `SQL` with the line and column of the culprit.
    pub fn parse(&self, sql: &str) -> Result<Vec<Statement>> {
        let state = self.context.state();
        let options = &state.config().options().sql_parser;
        let dialect = dialect_from_str(options.dialect)
            .ok_or_else(|| plan_datafusion_err!("there is no SQL dialect '{}'", options.dialect))?;
        parse::parse(sql, dialect.as_ref(), options.enable_ident_normalization)
    }

    /// Plans and, where it makes or changes something, runs one statement.
    ///
    /// # Errors
    /// Of parsing, planning and, for a statement that runs, running.
    pub async fn sql(&self, sql: &str) -> Result<DataFrame> {
        self.sql_with_options(sql, SQLOptions::new()).await
    }

    /// As [`Firesteel::sql`], where statements of some kinds are refused.
    ///
    /// # Errors
    /// As [`Firesteel::sql`], and `Plan` for what is refused.
    pub async fn sql_with_options(&self, sql: &str, options: SQLOptions) -> Result<DataFrame> {
        let mut statements = self.parse(sql)?;
        let (Some(statement), true) = (statements.pop(), statements.is_empty()) else {
            return plan_err!("expected one statement");
        };
        if !matches!(
            statement,
            Statement::Sql(_)
                | Statement::ShowModels { .. }
                | Statement::ShowCreateModel(_)
                | Statement::DescribeModel { .. }
                | Statement::Explain { analyze: false, .. }
        ) {
            // A statement that DataFusion knows is refused by it; ours stand for its DDL.
            options.verify_plan(&drop_nothing())?;
        }
        let trains = matches!(statement, Statement::CreateModel(_) | Statement::Retrain(_));
        let frame = self.plan_with_options(statement, &options).await?;
        if !trains {
            return Ok(frame);
        }
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await?;
        let batch = arrow::compute::concat_batches(&schema, &batches)?;
        self.rows("training_info", batch)
    }

    /// Waits until trainings that were dropped have ended and left nothing behind, for some seconds at most.
    pub async fn settled(&self) {
        const LOOK: Duration = Duration::from_millis(20);
        // One that was dropped just now says a moment later whether it can go on.
        tokio::time::sleep(5 * LOOK).await;
        for _ in 0..250 {
            if self.models.untidy.load(Ordering::Relaxed) == 0 {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Plans one statement; a training runs when its rows are asked for, other changes to models run now.
    ///
    /// # Errors
    /// Of planning and of the store.
    pub async fn plan(&self, statement: Statement) -> Result<DataFrame> {
        self.plan_with_options(statement, &SQLOptions::new()).await
    }

    async fn plan_with_options(&self, statement: Statement, options: &SQLOptions) -> Result<DataFrame> {
        self.models.refresh().await?;
        match statement {
            Statement::Sql(statement) => {
                let plan = self.context.state().statement_to_plan(*statement).await?;
                options.verify_plan(&plan)?;
                if makes_models(&plan)? {
                    options.verify_plan(&drop_nothing())?;
                }
                self.context.execute_logical_plan(plan).await
            }
            Statement::CreateModel(create) => self.create(create).await,
            Statement::Explain { analyze, verbose, create } => {
                let (state, plan) = self.training(&create, false).await?;
                let plan = LogicalPlanBuilder::from(plan).explain(verbose, analyze)?.build()?;
                Ok(DataFrame::new(state, plan))
            }
            Statement::Retrain(retrain) => self.retrain(retrain).await,
            Statement::DropModel { name, version, if_exists } => {
                self.drop_model(name, version, if_exists).await
            }
            Statement::AlterModel { name, change } => self.alter(name, change).await,
            Statement::ShowModels { like, schema } => self.show_models(like, schema).await,
            Statement::ShowCreateModel(name) => {
                let snapshot = self.models.snapshot();
                let sql = self.named(&snapshot.resolve(&name, None)?.info.sql, &name);
                self.text("create_model", &[("model", vec![name.to_string()]), ("create_model", vec![sql])])
            }
            Statement::DescribeModel { name, version } => self.describe(&name, version),
            Statement::ExportModel { name, version, options } => self.export(&name, version, options).await,
            Statement::VacuumModels { retain } => {
                let report = self.models.store().vacuum(retain).await?;
                self.models.refresh().await?;
                let counts = [
                    ("versions_dropped", report.versions_dropped),
                    ("folders_removed", report.folders_removed),
                    ("checkpoints_removed", report.checkpoints_removed),
                    ("bytes_removed", report.bytes_removed),
                    ("folders_waiting", report.folders_waiting),
                ];
                self.text("vacuum", &counts.map(|(name, n)| (name, vec![n.to_string()])))
            }
        }
    }

    /// A saved statement, with the name that its model has now.
    fn named(&self, sql: &str, name: &ModelName) -> String {
        match self.parse(sql).ok().and_then(|mut statements| statements.pop()) {
            Some(Statement::CreateModel(saved)) if saved.name != *name => {
                statement(&Create { name: name.clone(), ..saved }).unwrap_or_else(|_| sql.to_owned())
            }
            _ => sql.to_owned(),
        }
    }

    async fn create(&self, create: Create) -> Result<DataFrame> {
        let exists = self.models.snapshot().model(&create.name).is_some();
        if exists && create.if_not_exists {
            self.models.notice(format!("model '{}' already exists; nothing is done", create.name));
            return self.nothing();
        }
        if exists && !create.or_replace {
            return plan_err!(
                "model '{}' already exists; CREATE OR REPLACE makes a new version",
                create.name
            );
        }
        if let Source::Import(uri) = &create.source {
            return self.import(&create, uri).await;
        }
        let (state, plan) = self.training(&create, true).await?;
        Ok(DataFrame::new(state, plan))
    }

    /// Makes a model of files that are there.
    async fn import(&self, create: &Create, uri: &str) -> Result<DataFrame> {
        if create.transform.is_some() {
            return plan_err!("TRANSFORM does not go with FROM: the model has its preprocessing");
        }
        let options = match create.options.is_empty() {
            true => crate::options::AlterOptions::default(),
            false => crate::options::AlterOptions::read(&create.options)?,
        };
        if options.active_version.is_some() {
            return plan_err!("active_version does not go with FROM: the version is new");
        }
        let imported = crate::import::read(uri).await?;
        let model = imported.about.to_string();
        self.models.import(create, options, imported).await?;
        self.text("imported", &[("model", vec![create.name.to_string()]), ("imported", vec![model])])
    }

    /// The plan of a training, and the session state that it is to be planned with.
    async fn training(&self, create: &Create, commit: bool) -> Result<(SessionState, LogicalPlan)> {
        let Source::Query { query, .. } = &create.source else {
            return plan_err!("CREATE MODEL .. FROM 'uri' trains nothing, so there is no plan to show");
        };
        let mut state = self.context.state();
        let written = create;
        let create = Create {
            options: config::with_defaults(&create.options, state.config().options()),
            ..create.clone()
        };
        let mut spec = Arc::new(TrainSpec::new(&create, ModelOptions::read(&create.options)?)?);
        // Which rows are in which partition must not depend on who is faster.
        state.config_mut().options_mut().execution.enable_file_stream_work_stealing = false;
        if let Some(workers) = spec.workers {
            state.config_mut().options_mut().execution.target_partitions = workers;
        }
        let rows = self.query(&state, query.clone()).await?;
        let draft = match &create.transform {
            Some(items) => Some(Draft::new(items, rows.schema().as_arrow(), &spec)?),
            None if spec.task.is_none() => {
                return plan_err!("model_type '{}' needs TRANSFORM (..)", spec.model_type);
            }
            None => None,
        };
        let run = match self.models.snapshot().model(&create.name) {
            Some(model) => {
                model.versions.values().map(|v| info::training_run(v)).max().map_or(0, |last| last + 1)
            }
            None => 0,
        };
        let warm = self.warm(&spec, &create).await?;
        if let Some(Warm::Checkpoint(unfinished)) = &warm
            && !unfinished.is_warm()
        {
            // What made the model is the statement that began the training, with the number of epochs that it has now.
            let options: Vec<_> =
                written.options.iter().filter(|o| o.name != "warm_start").cloned().collect();
            Arc::make_mut(&mut spec).sql = statement(&Create { options, ..written.clone() })?;
        }
        if create.options.len() > written.options.len() && !matches!(warm, Some(Warm::Checkpoint(_))) {
            // What SET said is a part of what made the model.
            Arc::make_mut(&mut spec).sql = statement(&create)?;
        }
        let node = CreateModel::new(rows, spec, run, commit, warm, draft)?;
        Ok((state, LogicalPlan::Extension(Extension { node: Arc::new(node) })))
    }

    /// What a training goes on from: itself where it did not end, before the model that is there.
    async fn warm(&self, spec: &TrainSpec, create: &Create) -> Result<Option<Warm>> {
        let name = &spec.name;
        let keys = match spec.checkpoints {
            true => self.models.store().checkpoints(name).await?,
            false => Vec::new(),
        };
        let read = async |key: &str| Unfinished::read(&self.models, name, key).await;
        match (spec.warm_start, keys.contains(&spec.key)) {
            (true, true) => {
                let unfinished = read(&spec.key).await?;
                let epochs = unfinished.epochs();
                self.models.notice(format!("'{name}' goes on from the checkpoint of {epochs} epochs"));
                return Ok(Some(Warm::Checkpoint(Arc::new(unfinished))));
            }
            (false, true) => self.models.notice(format!(
                "this training of '{name}' has a checkpoint, which is replaced; with warm_start = TRUE it would go on from it"
            )),
            _ => {}
        }
        if !spec.warm_start {
            return Ok(None);
        }
        let snapshot = self.models.snapshot();
        match (snapshot.resolve(name, None), keys.first()) {
            (Ok(entry), other) => {
                if let Some(key) = other {
                    let differs = self.difference(read(key).await?.sql(), create);
                    self.models.notice(format!(
                        "the checkpoint of '{name}' is of another statement ({differs}); training goes on from version {}",
                        entry.version
                    ));
                }
                Ok(Some(Warm::Version(entry.clone(), Arc::new(Models::about(entry)?))))
            }
            (Err(e), None) => Err(e.context("warm_start goes on from the model")),
            (Err(_), Some(key)) => plan_err!(
                "warm_start: there is no model '{name}', and the checkpoint is of another statement: {}",
                self.difference(read(key).await?.sql(), create)
            ),
        }
    }

    /// In what the statement of a checkpoint differs from one that would go on from it.
    fn difference(&self, saved: &str, now: &Create) -> String {
        let saved = self.parse(saved).ok().and_then(|mut statements| statements.pop());
        let Some(Statement::CreateModel(saved)) = saved else { return "it cannot be read".into() };
        let saved = config::with_defaults(&saved.options, self.context.state().config().options());
        let value = |options: &[parse::ModelOption], name: &str| {
            let found = options.iter().find(|option| option.name == name);
            found.map_or_else(|| "not given".to_owned(), |option| option.value.to_string())
        };
        let names = saved.iter().chain(&now.options).map(|option| option.name.as_str());
        let differs = |name: &&str| value(&saved, name) != value(&now.options, name);
        match names.filter(|name| !FREE.contains(name)).find(differs) {
            Some(name) => {
                format!("{name} is {} there and {} here", value(&saved, name), value(&now.options, name))
            }
            None => "its query or TRANSFORM is another".into(),
        }
    }

    /// A training query, without an order that would put all rows into one partition.
    async fn query(&self, state: &SessionState, query: Box<Query>) -> Result<LogicalPlan> {
        let statement = DfStatement::Statement(Box::new(SqlStatement::Query(query)));
        let plan = state.statement_to_plan(statement).await?;
        match plan {
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                self.models.notice(
                    "ORDER BY of a training query does nothing: rows are shuffled by the seed".into(),
                );
                Ok(Arc::unwrap_or_clone(sort.input))
            }
            plan => Ok(plan),
        }
    }

    async fn retrain(&self, retrain: parse::Retrain) -> Result<DataFrame> {
        let snapshot = self.models.snapshot();
        let entry = snapshot.resolve(&retrain.name, None)?;
        let Some(Statement::CreateModel(saved)) = self.parse(&entry.info.sql)?.pop() else {
            return plan_err!("model '{}' has no CREATE MODEL statement to repeat", retrain.name);
        };
        let mut create = Create {
            or_replace: true,
            if_not_exists: false,
            name: retrain.name,
            options: crate::options::merge(&saved.options, &retrain.options),
            source: retrain.source.unwrap_or(saved.source),
            ..saved
        };
        create.sql = statement(&create)?;
        self.create(create).await
    }

    async fn drop_model(&self, name: ModelName, version: Option<u64>, if_exists: bool) -> Result<DataFrame> {
        let snapshot = self.models.snapshot();
        if version.is_none() && self.drop_checkpoints(&name).await? && snapshot.model(&name).is_none() {
            self.models
                .notice(format!("there is no model '{name}'; checkpoints of its trainings are removed"));
            return self.nothing();
        }
        // One that cannot be read is there, and its error is told.
        if if_exists && matches!(snapshot.resolve(&name, version), Err(DataFusionError::Plan(_))) {
            self.models.notice(format!("model '{name}' does not exist; nothing is done"));
            return self.nothing();
        }
        snapshot.resolve(&name, version)?;
        match version {
            Some(version) => self.models.store().drop_version(&name, version).await?,
            None => _ = self.models.store().drop_model(&name, if_exists).await?,
        };
        self.models.refresh().await?;
        self.nothing()
    }

    /// Whether there were any.
    async fn drop_checkpoints(&self, name: &ModelName) -> Result<bool> {
        let store = self.models.store();
        let keys = store.checkpoints(name).await?;
        for key in &keys {
            store.drop_checkpoint(name, key).await?;
        }
        Ok(!keys.is_empty())
    }

    async fn alter(&self, name: ModelName, change: Change) -> Result<DataFrame> {
        self.models.snapshot().resolve(&name, None)?;
        let store = self.models.store();
        match change {
            Change::RenameTo(target) => store.rename(&name, &target).await?,
            Change::SetOptions(options) => {
                let options = crate::options::AlterOptions::read(&options)?;
                if let Some(version) = options.active_version {
                    store.activate(&name, version).await?;
                }
                if options.description.is_some() || options.labels.is_some() {
                    store.describe(&name, options.description, options.labels).await?;
                }
            }
        }
        self.models.refresh().await?;
        self.nothing()
    }

    async fn show_models(&self, like: Option<String>, schema: Option<String>) -> Result<DataFrame> {
        use datafusion::prelude::{col, lit};
        for reason in self.models.snapshot().unreadable() {
            self.models.notice(reason.to_owned());
        }
        let mut frame = self.context.table("ml.models").await?;
        if let Some(pattern) = like {
            frame = frame.filter(col("model_name").like(lit(pattern)))?;
        }
        if let Some(schema) = schema {
            frame = frame.filter(col("schema_name").eq(lit(schema)))?;
        }
        frame.sort_by(vec![col("schema_name"), col("model_name")])
    }

    fn describe(&self, name: &ModelName, version: Option<u64>) -> Result<DataFrame> {
        let snapshot = self.models.snapshot();
        let entry = snapshot.resolve(name, version)?;
        let about = Models::about(entry)?;
        let (mut columns, mut roles, mut types, mut encodings) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for input in about.transform.iter().flat_map(|transform| &transform.features.inputs) {
            columns.push(input.column.clone());
            roles.push("input".to_owned());
            types.push(input.data_type.clone());
            encodings.push(String::new());
        }
        for feature in &about.features {
            columns.push(feature.column.clone());
            roles.push("feature".to_owned());
            types.push(feature.data_type.clone());
            encodings.push(feature.kind.text().to_owned());
        }
        if let Some(label) = &about.label {
            columns.push(label.column.clone());
            roles.push("label".into());
            types.push(label.data_type.clone());
            let classes = |classes: &Vec<String>| format!("{} classes", classes.len());
            encodings.push(label.classes.as_ref().map_or("number".into(), classes));
        }
        let outputs = about.label.is_some().then(|| about.predicted_fields()).transpose()?;
        for field in outputs.into_iter().flatten() {
            columns.push(field.name().clone());
            roles.push("output".into());
            types.push(field.data_type().to_string());
            encodings.push(String::new());
        }
        self.text("model", &[("column", columns), ("role", roles), ("type", types), ("encoding", encodings)])
    }

    async fn export(
        &self,
        name: &ModelName,
        version: Option<u64>,
        options: Vec<parse::ModelOption>,
    ) -> Result<DataFrame> {
        let options = crate::options::ExportOptions::read(&options)?;
        let snapshot = self.models.snapshot();
        let entry = snapshot.resolve(name, version)?;
        let mut files = self.models.store().read(entry).await?;
        files.push((crate::import::ABOUT.into(), entry.info.about.to_string().into()));
        let written = crate::export::write(&options, &Models::about(entry)?, files).await?;
        self.text("export", &[("file", written)])
    }

    /// Columns of text.
    fn text(&self, name: &str, columns: &[(&str, Vec<String>)]) -> Result<DataFrame> {
        let fields: Vec<Field> =
            columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, true)).collect();
        let arrays =
            columns.iter().map(|(_, values)| Arc::new(StringArray::from(values.clone())) as Arc<dyn Array>);
        self.rows(name, RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays.collect())?)
    }

    fn rows(&self, name: &str, batch: RecordBatch) -> Result<DataFrame> {
        Ok(DataFrame::new(self.context.state(), info::rows(name, batch)?))
    }

    fn nothing(&self) -> Result<DataFrame> {
        let plan = LogicalPlanBuilder::empty(false).build()?;
        Ok(DataFrame::new(self.context.state(), plan))
    }
}

/// A plan of DDL, for `SQLOptions` to allow or refuse.
fn drop_nothing() -> LogicalPlan {
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::{DdlStatement, DropTable};
    LogicalPlan::Ddl(DdlStatement::DropTable(DropTable {
        name: "model".into(),
        if_exists: true,
        schema: Arc::new(DFSchema::empty()),
    }))
}

/// A statement as it would be written; `sql` is not looked at.
fn statement(create: &Create) -> Result<String> {
    let query = match &create.source {
        Source::Query { sql, .. } => sql,
        Source::Import(uri) => {
            return plan_err!(
                "model '{}' came from '{uri}' and has no rows to train on; add AS query",
                create.name
            );
        }
    };
    let replace = if create.or_replace { " OR REPLACE" } else { "" };
    let name = ModelRef::encode(&create.name, None);
    let items: Vec<String> = create.transform.iter().flatten().map(TransformItem::to_string).collect();
    let transform = match items.is_empty() {
        true => String::new(),
        false => format!(" TRANSFORM ({})", items.join(", ")),
    };
    let options: Vec<String> = create.options.iter().map(ToString::to_string).collect();
    Ok(format!("CREATE{replace} MODEL {name}{transform} OPTIONS ({}) AS {query}", options.join(", ")))
}
