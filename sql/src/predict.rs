//! `ML.PREDICT` and the like: a node of its own, so that the network sees each row once whatever is done with its answers.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err, plan_err};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::{Stream, StreamExt, ready};
use serde::{Deserialize, Serialize};

use crate::about::About;
use crate::answer::Answer;
use crate::loaded::LoadedModel;
use crate::models::Models;
use crate::name::ModelName;
use crate::store::VersionEntry;

/// What is asked for besides model and rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictSettings {
    /// What is said of each row.
    pub answer: Answer,
    /// Whether the input's columns are kept.
    pub keep_original_columns: bool,
}

/// The logical node.
#[derive(Clone, Debug)]
pub struct MlPredict {
    pub(crate) input: Arc<LogicalPlan>,
    pub(crate) model: ModelName,
    /// Set by the user.
    pub(crate) asked: Option<u64>,
    /// Set by the user or when the query starts.
    pub(crate) version: Option<u64>,
    pub(crate) about: Arc<About>,
    pub(crate) settings: PredictSettings,
    pub(crate) schema: DFSchemaRef,
}

impl MlPredict {
    /// Checks that the input has what the model reads.
    ///
    /// # Errors
    /// `Plan` naming the column that is missing, of another type, or in the way.
    pub fn new(
        input: Arc<LogicalPlan>,
        model: ModelName,
        asked: Option<u64>,
        about: Arc<About>,
        settings: PredictSettings,
    ) -> Result<MlPredict> {
        let arrow = input.schema().as_arrow();
        let shown = asked.map_or_else(|| model.to_string(), |v| format!("{model}@{v}"));
        let function = settings.answer.function();
        let made = settings.answer.fields(&about)?;
        about.check(&format!("{function}({shown})"), arrow)?;
        if matches!(settings.answer, Answer::Predict { threshold: Some(_), .. }) && !about.is_binary() {
            return plan_err!("threshold is for models of two classes; {shown} is no such model");
        }
        for name in made.iter().map(Field::name) {
            if settings.keep_original_columns && arrow.field_with_name(name).is_ok() {
                return plan_err!(
                    "input of {function} has a column '{name}'; rename it or use keep_original_columns => FALSE"
                );
            }
        }
        let schema = schema(&input, &about, &settings)?;
        Ok(MlPredict { input, model, asked, version: asked, about, settings, schema })
    }

    fn key(&self) -> (&ModelName, Option<u64>, Option<u64>, &About) {
        (&self.model, self.asked, self.version, &self.about)
    }

    /// Only the predictions, without the list of probabilities.
    pub(crate) fn without_probabilities(&self) -> Result<MlPredict> {
        let mut settings = self.settings.clone();
        if let Answer::Predict { probabilities, .. } = &mut settings.answer {
            *probabilities = false;
        }
        let schema = schema(&self.input, &self.about, &settings)?;
        Ok(MlPredict { settings, schema, ..self.clone() })
    }

    /// Which columns of the input are read to predict.
    fn read(&self) -> Vec<usize> {
        let schema = self.input.schema().as_arrow();
        let read: HashSet<&str> = self.about.reads().into_iter().collect();
        (0..schema.fields().len()).filter(|i| read.contains(schema.field(*i).name().as_str())).collect()
    }

    fn originals(&self) -> usize {
        if self.settings.keep_original_columns { self.input.schema().fields().len() } else { 0 }
    }
}

fn schema(input: &LogicalPlan, about: &About, settings: &PredictSettings) -> Result<DFSchemaRef> {
    let mut fields: Vec<_> = match settings.keep_original_columns {
        true => input.schema().iter().map(|(q, f)| (q.cloned(), f.clone())).collect(),
        false => Vec::new(),
    };
    let made = settings.answer.fields(about)?;
    fields.extend(made.into_iter().map(|f| (None, Arc::new(f))));
    Ok(Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?))
}

impl PartialEq for MlPredict {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key() && self.settings == other.settings && self.input == other.input
    }
}

impl Eq for MlPredict {}

impl PartialOrd for MlPredict {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let inputs = self.input.partial_cmp(&other.input)?;
        Some(
            self.key()
                .partial_cmp(&other.key())?
                .then(self.settings.partial_cmp(&other.settings)?)
                .then(inputs),
        )
    }
}

impl Hash for MlPredict {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.settings.hash(state);
        self.input.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for MlPredict {
    fn name(&self) -> &str {
        "MlPredict"
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

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let made = self.schema.fields().iter().skip(self.originals());
        made.map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "MlPredict: {} model={}", self.settings.answer.function(), self.model)?;
        match self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("MlPredict has one input") };
        let schema = schema(&input, &self.about, &self.settings)?;
        Ok(MlPredict { input: Arc::new(input), schema, ..self.clone() })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed = self.read();
        needed.extend(output_columns.iter().filter(|c| **c < self.originals()));
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }
}

/// The physical operator: partition by partition, in the input's order.
#[derive(Debug, Clone)]
pub struct PredictExec {
    input: Arc<dyn ExecutionPlan>,
    entry: Arc<VersionEntry>,
    settings: PredictSettings,
    models: Arc<Models>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PredictExec {
    pub(crate) fn new(
        node: &MlPredict,
        input: Arc<dyn ExecutionPlan>,
        models: Arc<Models>,
    ) -> Result<PredictExec> {
        let Some(version) = node.version else {
            return internal_err!("the version of model {} was not settled before planning", node.model);
        };
        // From here on the version is there, whatever becomes of its name.
        let entry = models.snapshot().resolve(&node.model, Some(version))?.clone();
        let properties = properties(node.schema.as_arrow(), &input);
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(PredictExec { input, entry, settings: node.settings.clone(), models, properties, metrics })
    }

    /// As another process planned it.
    ///
    /// # Errors
    /// `Execution` when the version's commit cannot be read.
    pub(crate) fn of_version(
        input: Arc<dyn ExecutionPlan>,
        entry: Arc<VersionEntry>,
        settings: PredictSettings,
        models: Arc<Models>,
    ) -> Result<PredictExec> {
        let read = input.schema();
        let mut fields = match settings.keep_original_columns {
            true => read.fields().to_vec(),
            false => Vec::new(),
        };
        fields.extend(settings.answer.fields(&Models::about(&entry)?)?.into_iter().map(Arc::new));
        let schema = Schema::new_with_metadata(fields, read.metadata().clone());
        let properties = properties(&schema, &input);
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(PredictExec { input, entry, settings, models, properties, metrics })
    }

    /// The version that predicts, and what is asked of it.
    pub(crate) fn parts(&self) -> (&VersionEntry, &PredictSettings) {
        (&self.entry, &self.settings)
    }
}

fn properties(schema: &Schema, input: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(Arc::new(schema.clone())),
        input.output_partitioning().clone(),
        input.pipeline_behavior(),
        input.boundedness(),
    ))
}

impl DisplayAs for PredictExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let VersionEntry { model, version, .. } = &*self.entry;
        write!(f, "PredictExec: {} model={model}@{version}", self.settings.answer.function())?;
        f.write_str(&self.settings.answer.told())
    }
}

impl ExecutionPlan for PredictExec {
    fn name(&self) -> &str {
        "PredictExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        let Some(input) = children.pop() else { return internal_err!("PredictExec has one input") };
        let properties = properties(&self.schema(), &input);
        Ok(Arc::new(PredictExec {
            input,
            properties,
            metrics: ExecutionPlanMetricsSet::new(),
            ..(*self).clone()
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (models, entry) = (self.models.clone(), self.entry.clone());
        let loading = async move { models.load(&entry).await };
        Ok(Box::pin(Predicted {
            input,
            loading: Some(Box::pin(loading)),
            model: None,
            settings: self.settings.clone(),
            schema: self.schema(),
            rows: MetricBuilder::new(&self.metrics).counter("rows_predicted", partition),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

type Loading = Pin<Box<dyn Future<Output = Result<Arc<LoadedModel>>> + Send>>;

/// A partition with its predictions.
struct Predicted {
    input: SendableRecordBatchStream,
    loading: Option<Loading>,
    model: Option<Arc<LoadedModel>>,
    settings: PredictSettings,
    schema: SchemaRef,
    rows: Count,
    metrics: BaselineMetrics,
}

impl Predicted {
    fn poll_model(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<LoadedModel>>> {
        if let Some(loading) = &mut self.loading {
            let model = ready!(loading.as_mut().poll(cx));
            self.loading = None;
            self.model = Some(model?);
        }
        match &self.model {
            Some(model) => Poll::Ready(Ok(model.clone())),
            None => Poll::Ready(internal_err!("a stream that failed was polled again")),
        }
    }

    fn predict(&self, model: &LoadedModel, batch: &RecordBatch) -> Result<RecordBatch> {
        let _timer = self.metrics.elapsed_compute().timer();
        let mut columns =
            if self.settings.keep_original_columns { batch.columns().to_vec() } else { Vec::new() };
        columns.extend(self.settings.answer.columns(model, batch)?);
        self.rows.add(batch.num_rows());
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Stream for Predicted {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let model = match ready!(self.poll_model(cx)) {
            Ok(model) => model,
            Err(e) => return Poll::Ready(Some(Err(e))),
        };
        let found = ready!(self.input.poll_next_unpin(cx));
        let made = found.map(|batch| self.predict(&model, &batch?));
        self.metrics.record_poll(Poll::Ready(made))
    }
}

impl RecordBatchStream for Predicted {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
