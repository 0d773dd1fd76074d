//! `CREATE MODEL` as a plan: its rows are the epochs, and after the last one the model is committed.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::runtime::JoinSet;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result, internal_err, plan_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet, SpillMetrics};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use firesteel_comm::Cancel;
use firesteel_train::EpochRecord;
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;

use crate::about::{About, Label};
use crate::apart::{Apart, Jobs, Tidy};
use crate::encode::{Feature, FeatureKind, Vocabularies, find_type};
use crate::fit::{CancelOnDrop, Fit, Fitted, Start};
use crate::job::{Job, Look, MlJob, Shelf};
use crate::models::Models;
use crate::spec::{Split, TrainSpec};
use crate::spool::{Keeper, Reading, Spool};
use crate::store::{VersionEntry, WorkFolder};
use crate::transform::{Draft, Training, Transform, ask};
use crate::unfinished::{Checkpoints, Leftover, Unfinished};

/// The logical node.
#[derive(Clone, Debug)]
pub struct CreateModel {
    input: Arc<LogicalPlan>,
    spec: Arc<TrainSpec>,
    about: Arc<About>,
    /// Which training of this model it is, from 0.
    run: i64,
    /// Whether the model is kept.
    commit: bool,
    /// The version that training goes on from.
    warm: Option<Warm>,
    /// What becomes of the query's columns, if they are not read as they are.
    draft: Option<Arc<Draft>>,
    /// The query's columns.
    query: SchemaRef,
    /// Where its rows are kept, if workers never meet; then the input is a job that keeps them.
    folder: Option<WorkFolder>,
    schema: DFSchemaRef,
}

/// What a training goes on from.
#[derive(Clone, Debug, PartialEq)]
pub enum Warm {
    /// The weights of a version, and what it reads and predicts.
    Version(Arc<VersionEntry>, Arc<About>),
    /// A training of this model that did not end.
    Checkpoint(Arc<Unfinished>),
}

impl Warm {
    /// What it reads and predicts.
    pub fn about(&self) -> &Arc<About> {
        match self {
            Warm::Version(_, about) => about,
            Warm::Checkpoint(unfinished) => unfinished.about(),
        }
    }
}

impl fmt::Display for Warm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warm::Version(entry, _) => write!(f, "version {}", entry.version),
            Warm::Checkpoint(unfinished) => write!(f, "the checkpoint of {} epochs", unfinished.epochs()),
        }
    }
}

impl CreateModel {
    /// Checks what the query's columns tell before a row is read.
    ///
    /// # Errors
    /// `Plan` naming the label or the column.
    pub(crate) fn new(
        input: LogicalPlan,
        spec: Arc<TrainSpec>,
        run: i64,
        commit: bool,
        warm: Option<Warm>,
        draft: Option<Draft>,
    ) -> Result<CreateModel> {
        let query = input.schema().as_arrow();
        let transform = draft.as_ref().map(Draft::typed).transpose()?;
        let about = match &transform {
            None => about(query, &spec, &[])?,
            Some(transform) => {
                let training = Training::new(transform, &spec.along())?;
                about(&training.schema(query)?, &spec, training.along())?
            }
        };
        let about = Arc::new(About { transform, ..about });
        if let Some(warm) = &warm {
            check_same(&spec, warm, &about)?;
        }
        let schema = Arc::new(DFSchema::try_from(training_schema().as_ref().clone())?);
        let query = Arc::new(query.clone());
        let folder = spec.average.then(|| WorkFolder::new(&spec.name));
        let input = match &folder {
            None => input,
            Some(folder) => {
                // What is made of the rows is looked at when it can be made.
                let look = draft.is_none().then(|| look(&spec, &about));
                let node = Arc::new(MlJob::new(input, folder.clone(), Job::Deal { look })?);
                LogicalPlan::Extension(Extension { node })
            }
        };
        let (input, draft) = (Arc::new(input), draft.map(Arc::new));
        Ok(CreateModel { input, spec, about, run, commit, warm, draft, query, folder, schema })
    }

    fn key(&self) -> (&str, i64, bool) {
        (&self.spec.sql, self.run, self.commit)
    }
}

/// What is to be learned of the rows before they can be encoded.
fn look(spec: &TrainSpec, about: &About) -> Look {
    Look { features: about.features.clone(), label: spec.label.clone(), classifier: spec.classifier }
}

/// What is known of the model before its rows are.
///
/// `along`: columns that no feature is made of.
pub(crate) fn about(schema: &Schema, spec: &TrainSpec, along: &[String]) -> Result<About> {
    let label = spec.label.as_ref().map(|column| label(schema, spec, column)).transpose()?;
    let mut left_out: Vec<&str> = spec.label.iter().chain(along).map(String::as_str).collect();
    for column in spec.left_out.iter().chain(&spec.weight) {
        if schema.field_with_name(column).is_err() {
            return plan_err!("column '{column}' is not in the query");
        }
        left_out.push(column);
    }
    if let Split::Sequential { column, .. } = &spec.split {
        check_order(column, find_type(schema, column))?;
    }
    let lists = |field: &Arc<Field>| {
        matches!(FeatureKind::of(field.name(), field.data_type()), Ok(FeatureKind::Vector { .. }))
    };
    if spec.input_shape.is_some() && !schema.fields().iter().any(lists) {
        return plan_err!("input_shape is for a list of numbers, and the query has none");
    }
    if let Some(wanted) = &spec.features {
        if let Some(column) = wanted.iter().find(|w| schema.field_with_name(w).is_err()) {
            return plan_err!("feature column '{column}' is not in the query");
        }
        left_out.extend(
            schema.fields().iter().map(|f| f.name().as_str()).filter(|f| !wanted.iter().any(|w| w == f)),
        );
    }
    let features = Feature::of_schema(schema, &left_out)?;
    let refuses_unseen = spec.refuses_unseen;
    Ok(About { model_type: spec.model_type.clone(), label, features, refuses_unseen, transform: None })
}

fn label(schema: &Schema, spec: &TrainSpec, column: &str) -> Result<Label> {
    let Some(data_type) = find_type(schema, column) else {
        let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return plan_err!("label column '{column}' is not in the query (columns: {})", columns.join(", "));
    };
    check_label(spec, column, &data_type)?;
    Ok(Label { column: column.to_owned(), data_type: data_type.to_string(), classes: None })
}

/// That a query has what the model to go on from reads.
fn check_same(spec: &TrainSpec, warm: &Warm, now: &About) -> Result<()> {
    let before = warm.about();
    let name = match warm {
        Warm::Version(..) => format!("model '{}'", spec.name),
        Warm::Checkpoint(_) => format!("the checkpoint of '{}'", spec.name),
    };
    let columns = |about: &About| -> Vec<(String, String)> {
        let label = about.label.iter().map(|label| (label.column.clone(), label.data_type.clone()));
        about.features.iter().map(|f| (f.column.clone(), f.data_type.clone())).chain(label).collect()
    };
    let written = |about: &About| -> Option<Vec<(String, String)>> {
        let transform = about.transform.as_ref()?;
        let items = transform.features.items.iter();
        let items = items.chain(transform.label.iter().flat_map(|label| &label.items));
        Some(items.map(|item| (item.name.clone(), item.written.clone())).collect())
    };
    if written(before) != written(now) {
        return plan_err!("warm_start: TRANSFORM is another than that of {name}");
    }
    let (before, now) = (columns(before.as_ref()), columns(now));
    for (column, was) in &before {
        match now.iter().find(|(other, _)| other == column) {
            None => return plan_err!("warm_start: {name} has column '{column}', the query does not"),
            Some((_, is)) if is != was => {
                return plan_err!("warm_start: column '{column}' is {is}, {name} was trained on {was}");
            }
            Some(_) => {}
        }
    }
    match now.iter().find(|column| !before.contains(column)) {
        Some((column, _)) => {
            plan_err!("warm_start: the query has column '{column}', {name} does not")
        }
        None => Ok(()),
    }
}

fn check_order(column: &str, data_type: Option<DataType>) -> Result<()> {
    match data_type {
        None => plan_err!("data_split_col '{column}' is not in the query"),
        Some(t) if t.is_numeric() || t.is_temporal() => Ok(()),
        Some(t) => plan_err!("data_split_col '{column}' is {t}; seq needs a number, a date or a time"),
    }
}

fn check_label(spec: &TrainSpec, label: &str, data_type: &DataType) -> Result<()> {
    let model_type = &spec.model_type;
    let text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let numeric = data_type.is_numeric();
    match (spec.classifier, data_type) {
        (true, DataType::Boolean) => Ok(()),
        (true, _) if text || data_type.is_integer() => Ok(()),
        (true, _) if numeric => {
            plan_err!("label '{label}' is {data_type}: use a regressor, or cast it to an integer or a string")
        }
        (false, _) if numeric || *data_type == DataType::Boolean => Ok(()),
        (false, _) if text => plan_err!("label '{label}' is text: use dnn_classifier or cast it to a number"),
        _ => plan_err!("label '{label}' is {data_type}, which {model_type} cannot learn"),
    }
}

impl PartialEq for CreateModel {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
            && self.spec == other.spec
            && self.warm == other.warm
            && self.input == other.input
    }
}

// A specification holds no NaN: its numbers come from literals.
impl Eq for CreateModel {}

impl PartialOrd for CreateModel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.key().partial_cmp(&other.key())
    }
}

impl Hash for CreateModel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.input.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for CreateModel {
    fn name(&self) -> &str {
        "CreateModel"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CreateModel: {}, {}", self.spec.name, self.about)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("CreateModel has one input") };
        Ok(CreateModel { input: Arc::new(input), ..self.clone() })
    }
}

/// The columns of a training, those of `ML.TRAINING_INFO`.
pub(crate) fn training_schema() -> SchemaRef {
    let whole = |name| Field::new(name, DataType::Int64, true);
    let real = |name| Field::new(name, DataType::Float64, true);
    Arc::new(Schema::new(vec![
        whole("training_run"),
        whole("iteration"),
        real("loss"),
        real("eval_loss"),
        real("eval_metric"),
        whole("duration_ms"),
        real("rows_per_second"),
    ]))
}

/// Epochs as rows of [`training_schema`].
///
/// # Errors
/// Of Arrow.
pub(crate) fn training_rows(run: i64, epochs: &[EpochRecord]) -> Result<RecordBatch> {
    let whole = |of: &dyn Fn(&EpochRecord) -> i64| -> ArrayRef {
        Arc::new(epochs.iter().map(|e| Some(of(e))).collect::<Int64Array>())
    };
    let real = |of: &dyn Fn(&EpochRecord) -> Option<f64>| -> ArrayRef {
        Arc::new(epochs.iter().map(of).collect::<Float64Array>())
    };
    let columns = vec![
        whole(&|_| run),
        whole(&|e| e.epoch as i64 - 1),
        real(&|e| Some(e.loss)),
        real(&|e| e.validation_loss),
        real(&|e| e.validation_metric),
        whole(&|e| (e.seconds * 1e3).round() as i64),
        real(&|e| Some(e.samples_per_second)),
    ];
    Ok(RecordBatch::try_new(training_schema(), columns)?)
}

/// Where the epochs go.
type Out = tokio::sync::mpsc::Sender<Result<RecordBatch>>;

/// The physical operator.
#[derive(Debug, Clone)]
pub struct TrainExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<TrainSpec>,
    about: Arc<About>,
    run: i64,
    commit: bool,
    warm: Option<Warm>,
    draft: Option<Arc<Draft>>,
    query: SchemaRef,
    /// Where workers that never meet pass things on, and who runs their jobs.
    apart: Option<(Shelf, Jobs)>,
    models: Arc<Models>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TrainExec {
    pub(crate) fn new(
        node: &CreateModel,
        input: Arc<dyn ExecutionPlan>,
        models: Arc<Models>,
        session: &dyn Session,
    ) -> Result<TrainExec> {
        let apart = |folder: &WorkFolder| {
            let shelf = Shelf { models: models.clone(), folder: folder.clone() };
            Ok::<_, DataFusionError>((shelf, Jobs::new(session)?))
        };
        let apart = node.folder.as_ref().map(apart).transpose()?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(training_schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(TrainExec {
            input,
            spec: node.spec.clone(),
            about: node.about.clone(),
            run: node.run,
            commit: node.commit,
            warm: node.warm.clone(),
            draft: node.draft.clone(),
            query: node.query.clone(),
            apart,
            models,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    fn workers(&self) -> usize {
        self.spec.workers.unwrap_or_else(|| self.input.output_partitioning().partition_count())
    }

    /// The rows, what was seen of them, who trains if workers never meet, and how many there are.
    async fn begin(
        &self,
        context: &Arc<TaskContext>,
        tidy: Option<Arc<Tidy>>,
    ) -> Result<(Spool, Vocabularies, Option<Apart>, usize)> {
        let (Some((shelf, jobs)), Some(tidy)) = (&self.apart, tidy) else {
            let (spool, seen) = self.spool(context).await?;
            return Ok((spool, seen, None, self.workers()));
        };
        let begun = Apart::begin(jobs.clone(), shelf.clone(), self.input.clone(), context, tidy).await?;
        let (apart, spool, seen, parts) = begun;
        Ok((spool, seen, Some(apart), self.spec.workers.unwrap_or(parts).max(1)))
    }

    /// Runs the query once; every partition is kept by a task of its own.
    async fn spool(&self, context: &Arc<TaskContext>) -> Result<(Spool, Vocabularies)> {
        let mut tasks = JoinSet::new();
        for partition in 0..self.input.output_partitioning().partition_count() {
            let stream = self.input.execute(partition, context.clone())?;
            let keeper = Keeper {
                mode: self.spec.cache,
                partition,
                runtime: context.runtime_env(),
                metrics: SpillMetrics::new(&self.metrics, partition),
            };
            let (spec, about, as_it_is) = (self.spec.clone(), self.about.clone(), self.draft.is_none());
            tasks.spawn(async move {
                let mut seen = Vocabularies::default();
                let look = |batch: &RecordBatch| match as_it_is {
                    true => seen.push(batch, &about.features, spec.label.as_deref(), spec.classifier),
                    // What is made of it is looked at when it can be made.
                    false => Ok(()),
                };
                let part = keeper.keep(stream, look).await?;
                Ok::<_, DataFusionError>((partition, part, seen))
            });
        }
        let mut parts = Vec::new();
        while let Some(done) = tasks.join_next().await {
            parts.push(done.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??);
        }
        parts.sort_by_key(|(partition, ..)| *partition);
        let (mut kept, mut seen) = (Vec::new(), Vocabularies::default());
        for (_, part, of_part) in parts {
            kept.push(part);
            seen.merge(of_part);
        }
        Ok((Spool::new(kept), seen))
    }

    /// Settles what becomes of the query's columns, and looks at what does.
    async fn transformed(
        &self,
        draft: &Draft,
        spool: &Spool,
        context: &Arc<TaskContext>,
        reading: &Reading,
        apart: Option<(&Apart, usize)>,
    ) -> Result<(Transform, Spool, Vocabularies)> {
        // A model that training goes on from has its own statistics.
        let before = self.warm.as_ref().and_then(|warm| warm.about().transform.clone());
        let transform = match before {
            Some(transform) => transform,
            None => draft.settle(&ask(&draft.statistics(), spool, self.query.clone(), context).await?)?,
        };
        let spool = spool.through(Arc::new(Training::new(&transform, &self.spec.along())?));
        if let Some((apart, workers)) = apart {
            let about = About { transform: Some(transform.clone()), ..(*self.about).clone() };
            let look = look(&self.spec, &about);
            let seen = apart.look(&about, self.spec.along(), look, workers).await?;
            return Ok((transform, spool, seen));
        }
        let (spec, about, reading) = (self.spec.clone(), self.about.clone(), reading.clone());
        let look = move || {
            let mut seen = Vocabularies::default();
            spool.read(0..spool.rows(), &reading, |_, batch| {
                seen.push(&batch, &about.features, spec.label.as_deref(), spec.classifier)
            })?;
            Ok((transform, spool, seen))
        };
        tokio::task::spawn_blocking(look).await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?
    }

    async fn train(self, context: Arc<TaskContext>, out: Out) -> Result<()> {
        let tidy = self.apart.as_ref().map(|(shelf, _)| Arc::new(Tidy::new(shelf.clone())));
        let outcome = self.train_with(context, out, tidy.clone()).await;
        if let Some(tidy) = tidy.and_then(Arc::into_inner) {
            tidy.end().await;
        }
        outcome
    }

    async fn train_with(&self, context: Arc<TaskContext>, out: Out, tidy: Option<Arc<Tidy>>) -> Result<()> {
        let cancel = CancelOnDrop(Cancel::new());
        let reading = Reading { handle: Handle::current(), cancel: cancel.0.clone() };
        let checkpoints = (self.spec.checkpoints && self.commit).then(|| Checkpoints {
            models: self.models.clone(),
            spec: self.spec.clone(),
            handle: Handle::current(),
            kept: Arc::new(AtomicUsize::new(match &self.warm {
                Some(Warm::Checkpoint(unfinished)) => unfinished.epochs(),
                _ => 0,
            })),
            failed: Arc::default(),
        });
        let mut leftover = Leftover(checkpoints.clone());
        let warm = match &self.warm {
            Some(Warm::Version(entry, _)) => Some(Start::Version(self.models.load(entry).await?)),
            Some(Warm::Checkpoint(unfinished)) => Some(Start::Checkpoint(unfinished.clone())),
            None => None,
        };
        let (mut spool, mut seen, apart, workers) = self.begin(&context, tidy).await?;
        let mut about = (*self.about).clone();
        if let Some(draft) = &self.draft {
            let elsewhere = apart.as_ref().map(|apart| (apart, workers));
            let made = self.transformed(draft, &spool, &context, &reading, elsewhere).await?;
            let (transform, made, looked) = made;
            (spool, seen) = (made, looked);
            about.transform = Some(transform);
        }
        let (hear, mut epochs) = unbounded_channel();
        let spec = self.spec.clone();
        let fit = Fit { workers, apart, spec, about, spool, seen, warm, checkpoints, reading, hear };
        // Not on the threads that queries run on.
        let training = tokio::task::spawn_blocking(move || fit.run());
        while let Some(epoch) = epochs.recv().await {
            if out.send(training_rows(self.run, &[epoch])).await.is_err() {
                return Ok(());
            }
        }
        let fitted: Fitted = training.await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??;
        if self.commit {
            self.models.commit(&self.spec, fitted, self.run).await?;
            leftover.0 = None;
        }
        Ok(())
    }
}

impl DisplayAs for TrainExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TrainExec: model={}", self.spec.name)?;
        match (&self.apart, self.spec.workers) {
            (Some(_), None) => f.write_str(", sync=average")?,
            (Some(_), Some(workers)) => write!(f, ", workers={workers}, sync=average")?,
            (None, _) => write!(f, ", workers={}", self.workers())?,
        }
        if let Some(trials) = &self.spec.trials {
            write!(f, ", trials={}", trials.trials.len())?;
        }
        match &self.warm {
            Some(warm) => write!(f, ", warm_start={warm}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for TrainExec {
    fn name(&self) -> &str {
        "TrainExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// The number of workers is the user's to choose, not the machine's.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(input) = children.pop() else { return internal_err!("TrainExec has one input") };
        Ok(Arc::new(TrainExec { input, metrics: ExecutionPlanMetricsSet::new(), ..(*self).clone() }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("TrainExec has one partition, {partition} was asked for");
        }
        // Dropping the stream ends the task, and with it the training.
        let mut builder = RecordBatchReceiverStreamBuilder::new(training_schema(), 2);
        let out = builder.tx();
        builder.spawn(self.clone().train(context, out));
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
