//! `ML.TRANSFORM` until the version of its model is settled; then it is a projection.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchemaRef, Result, internal_err, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore};

use crate::about::About;
use crate::name::ModelName;

/// The logical node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub(crate) struct MlTransform {
    input: Arc<LogicalPlan>,
    pub(crate) model: ModelName,
    pub(crate) asked: Option<u64>,
    /// Follows from the model.
    projection: Arc<LogicalPlan>,
}

impl MlTransform {
    /// Checks that the input has what the expressions read.
    ///
    /// # Errors
    /// `Plan` naming the column, or when the model was made without `TRANSFORM`.
    pub(crate) fn new(
        input: Arc<LogicalPlan>,
        (model, asked): (ModelName, Option<u64>),
        about: &About,
    ) -> Result<MlTransform> {
        let Some(transform) = &about.transform else {
            return plan_err!("ML.TRANSFORM: model '{model}' was made without TRANSFORM");
        };
        transform.features.check(&format!("ML.TRANSFORM({model})"), input.schema().as_arrow())?;
        let exprs = transform.features.over(input.schema())?;
        let projection = LogicalPlanBuilder::from(input.as_ref().clone()).project(exprs)?.build()?;
        Ok(MlTransform { input, model, asked, projection: Arc::new(projection) })
    }

    /// What it is with a version of the model.
    ///
    /// # Errors
    /// `Plan` when the version makes other columns than the query was planned for.
    pub(crate) fn of_version(&self, version: u64, about: &About) -> Result<LogicalPlan> {
        let node = MlTransform::new(self.input.clone(), (self.model.clone(), self.asked), about)?;
        // Whether there may be NULLs is known better when a statement's parameters have values.
        let columns = |plan: &LogicalPlan| -> Vec<(String, DataType)> {
            let fields = plan.schema().fields().iter();
            fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        if columns(&node.projection) != columns(&self.projection) {
            let name = &self.model;
            return plan_err!(
                "version {version} of model '{name}' makes other columns than when this view was made; make the view again"
            );
        }
        Ok(Arc::unwrap_or_clone(node.projection))
    }
}

impl UserDefinedLogicalNodeCore for MlTransform {
    fn name(&self) -> &str {
        "MlTransform"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.projection.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "MlTransform: model={}", self.model)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("MlTransform has one input") };
        Ok(MlTransform { input: Arc::new(input), ..self.clone() })
    }
}
