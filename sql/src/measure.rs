//! `ML.EVALUATE`, `ML.CONFUSION_MATRIX` and `ML.ROC_CURVE` over the rows of a query.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err, plan_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements, PlanProperties,
};
use futures::{StreamExt, stream};

use crate::about::About;
use crate::evaluate::{Scores, confusion_schema, measures_schema, no_measures, roc_schema};
use crate::models::Models;
use crate::name::ModelName;
use crate::store::VersionEntry;

/// Points of a ROC curve at most.
const POINTS: usize = 1000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub enum Measure {
    /// `ML.EVALUATE`.
    Evaluate,
    /// `ML.CONFUSION_MATRIX`.
    Confusion,
    /// `ML.ROC_CURVE`.
    Roc,
}

impl Measure {
    pub(crate) fn function(self) -> &'static str {
        match self {
            Measure::Evaluate => "ML.EVALUATE",
            Measure::Confusion => "ML.CONFUSION_MATRIX",
            Measure::Roc => "ML.ROC_CURVE",
        }
    }

    /// The columns of the result.
    ///
    /// # Errors
    /// `Plan` when the model cannot be measured so.
    pub(crate) fn schema(self, about: &About) -> Result<SchemaRef> {
        let label = about.label()?;
        let classes = label.classes.as_ref().map(Vec::len);
        match (self, classes) {
            (Measure::Evaluate, _) => Ok(measures_schema(classes.is_some())),
            (Measure::Confusion, Some(_)) => confusion_schema(label),
            (Measure::Roc, Some(2)) => Ok(roc_schema()),
            (Measure::Confusion, None) => plan_err!("ML.CONFUSION_MATRIX is for classifiers"),
            (Measure::Roc, _) => plan_err!("ML.ROC_CURVE is for models of two classes"),
        }
    }

    fn batch(self, scores: &Scores, about: &About, threshold: Option<f64>) -> Result<RecordBatch> {
        let classifier = about.classes().is_some();
        match self {
            Measure::Evaluate => match scores.measures(classifier, threshold) {
                Some(measures) => measures.batch(),
                None => Ok(no_measures(classifier)),
            },
            Measure::Confusion => scores.confusion(about.label()?, threshold),
            Measure::Roc => scores.roc(POINTS),
        }
    }
}

/// The logical node.
#[derive(Clone, Debug)]
pub struct MlMeasure {
    pub(crate) measure: Measure,
    pub(crate) input: Arc<LogicalPlan>,
    pub(crate) model: ModelName,
    pub(crate) asked: Option<u64>,
    pub(crate) version: Option<u64>,
    pub(crate) about: Arc<About>,
    pub(crate) threshold: Option<f64>,
    pub(crate) schema: DFSchemaRef,
}

impl MlMeasure {
    /// Checks that the input has what the model reads, and the label.
    ///
    /// # Errors
    /// `Plan` naming the column.
    pub fn new(
        measure: Measure,
        input: Arc<LogicalPlan>,
        (model, asked): (ModelName, Option<u64>),
        about: Arc<About>,
        threshold: Option<f64>,
    ) -> Result<MlMeasure> {
        let (arrow, shown) = (input.schema().as_arrow(), format!("{}({model})", measure.function()));
        about.check(&shown, arrow)?;
        about.check_label(&shown, arrow)?;
        if threshold.is_some() && !about.is_binary() {
            return plan_err!("threshold is for models of two classes; {model} is no such model");
        }
        let schema = Arc::new(DFSchema::try_from(measure.schema(&about)?.as_ref().clone())?);
        Ok(MlMeasure { measure, input, model, asked, version: asked, about, threshold, schema })
    }

    /// As it is with a version of the model.
    ///
    /// # Errors
    /// `Plan` when the version has other features or classes than the query was planned for.
    pub(crate) fn of_version(&self, version: u64, about: Arc<About>) -> Result<MlMeasure> {
        let model = (self.model.clone(), self.asked);
        let node = MlMeasure::new(self.measure, self.input.clone(), model, about, self.threshold)?;
        if node.schema != self.schema {
            let name = &self.model;
            return plan_err!(
                "version {version} of model '{name}' has other classes than when this view was made; make the view again"
            );
        }
        Ok(MlMeasure { version: Some(version), ..node })
    }

    fn key(&self) -> (Measure, &ModelName, Option<u64>, Option<u64>, &About, Option<u64>) {
        let threshold = self.threshold.map(f64::to_bits);
        (self.measure, &self.model, self.asked, self.version, &self.about, threshold)
    }
}

impl PartialEq for MlMeasure {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key() && self.input == other.input
    }
}

impl Eq for MlMeasure {}

impl PartialOrd for MlMeasure {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.key().partial_cmp(&other.key())?.then(self.input.partial_cmp(&other.input)?))
    }
}

impl Hash for MlMeasure {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.input.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for MlMeasure {
    fn name(&self) -> &str {
        "MlMeasure"
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
        write!(f, "MlMeasure: {} model={}", self.measure.function(), self.model)?;
        self.version.map_or(Ok(()), |version| write!(f, "@{version}"))
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("MlMeasure has one input") };
        Ok(MlMeasure { input: Arc::new(input), ..self.clone() })
    }

    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        let schema = self.input.schema().as_arrow();
        let needed: HashSet<&str> = self.about.reads().into_iter().chain(self.about.reads_label()).collect();
        let is_needed = |i: &usize| needed.contains(schema.field(*i).name().as_str());
        Some(vec![(0..schema.fields().len()).filter(is_needed).collect()])
    }
}

/// The physical operator: one partition in, one row or table out.
#[derive(Debug, Clone)]
pub struct MeasureExec {
    node: MlMeasure,
    entry: Arc<VersionEntry>,
    input: Arc<dyn ExecutionPlan>,
    models: Arc<Models>,
    properties: Arc<PlanProperties>,
}

impl MeasureExec {
    pub(crate) fn new(
        node: &MlMeasure,
        input: Arc<dyn ExecutionPlan>,
        models: Arc<Models>,
    ) -> Result<MeasureExec> {
        let Some(version) = node.version else {
            return internal_err!("the version of model {} was not settled before planning", node.model);
        };
        // From here on the version is there, whatever becomes of its name.
        let entry = models.snapshot().resolve(&node.model, Some(version))?.clone();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(node.measure.schema(&node.about)?),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(MeasureExec { node: node.clone(), entry, input, models, properties: Arc::new(properties) })
    }

    async fn measure(self, mut rows: SendableRecordBatchStream) -> Result<RecordBatch> {
        let MlMeasure { measure, about, threshold, .. } = self.node;
        let loaded = self.models.load(&self.entry).await?;
        let mut scores = Scores::default();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let labels = loaded.labels(&batch)?;
            scores.push(&loaded.predict(&batch)?, &labels, about.classes().is_some());
        }
        measure.batch(&scores, &about, threshold)
    }
}

impl DisplayAs for MeasureExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "MeasureExec: {} model={}@{}",
            self.node.measure.function(),
            self.entry.model,
            self.entry.version
        )
    }
}

impl ExecutionPlan for MeasureExec {
    fn name(&self) -> &str {
        "MeasureExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
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
        let Some(input) = children.pop() else { return internal_err!("MeasureExec has one input") };
        Ok(Arc::new(MeasureExec { input, ..(*self).clone() }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let result = stream::once(self.clone().measure(rows));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), result)))
    }
}
