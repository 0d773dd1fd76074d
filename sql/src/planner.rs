//! Where our nodes are settled and become operators.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, plan_err};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, ScalarUDF, UserDefinedLogicalNode};
use datafusion::optimizer::{AnalyzerRule, ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use crate::about::About;
use crate::aggregate;
use crate::answer::Answer;
use crate::create::CreateModel;
use crate::functions::of_models;
use crate::job::{JobExec, MlJob};
use crate::measure::{MeasureExec, MlMeasure};
use crate::models::Models;
use crate::predict::{MlPredict, PredictExec};
use crate::train::TrainExec;
use crate::transform::MlTransform;

/// Gives every node the version that its model has when the query starts, so that no query mixes two.
#[derive(Debug)]
pub(crate) struct PinVersions {
    pub(crate) models: Arc<Models>,
}

impl AnalyzerRule for PinVersions {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let pinned = plan.transform_up_with_subqueries(|plan| self.pin(plan))?;
        Ok(pinned.data)
    }

    fn name(&self) -> &str {
        "pin_model_versions"
    }
}

impl PinVersions {
    fn pin(&self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Extension(Extension { node }) = &plan else { return self.pin_functions(plan) };
        let any = node.as_any();
        let pinned: Arc<dyn UserDefinedLogicalNode> = if let Some(node) = any.downcast_ref::<MlPredict>() {
            let (version, about) = self.version(&node.model, node.asked, &node.about)?;
            let shown = format!("{}({})", node.settings.answer.function(), node.model);
            about.check(&shown, node.input.schema().as_arrow())?;
            Arc::new(MlPredict { version: Some(version), about, ..node.clone() })
        } else if let Some(node) = any.downcast_ref::<MlMeasure>() {
            let (version, about) = self.version(&node.model, node.asked, &node.about)?;
            Arc::new(node.of_version(version, about)?)
        } else if let Some(node) = any.downcast_ref::<MlTransform>() {
            let snapshot = self.models.snapshot();
            let entry = snapshot.resolve(&node.model, node.asked)?;
            return Ok(Transformed::yes(node.of_version(entry.version, &Models::about(entry)?)?));
        } else {
            return Ok(Transformed::no(plan));
        };
        Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: pinned })))
    }

    /// As for nodes: `'m'` becomes `'m@7'`. Columns keep the names that they were planned with.
    fn pin_functions(&self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|expr| self.pin_function(expr))?.update_data(|expr| name.restore(expr)))
        })
    }

    fn pin_function(&self, mut expr: Expr) -> Result<Transformed<Expr>> {
        match &expr {
            Expr::AggregateFunction(call) => aggregate::check(call)?,
            Expr::WindowFunction(call) if call.fun.name() == aggregate::FIT => {
                return plan_err!("{} is no window function; use GROUP BY", aggregate::FIT);
            }
            _ => {}
        }
        let Expr::ScalarFunction(call) = &mut expr else { return Ok(Transformed::no(expr)) };
        let (Some(function), Some(Expr::Literal(model, _))) = (of_models(&call.func), call.args.first_mut())
        else {
            return Ok(Transformed::no(expr));
        };
        let Some((pinned, shown)) = function.pin(model)? else { return Ok(Transformed::no(expr)) };
        (call.func, *model) = (Arc::new(pinned), shown);
        Ok(Transformed::yes(expr))
    }

    fn version(
        &self,
        model: &crate::ModelName,
        asked: Option<u64>,
        planned: &About,
    ) -> Result<(u64, Arc<About>)> {
        let snapshot = self.models.snapshot();
        let entry = snapshot.resolve(model, asked)?;
        let about = Arc::new(Models::about(entry)?);
        let made = |about: &About| about.label.is_some().then(|| about.predicted_fields()).transpose();
        if made(&about)? != made(planned)? {
            return plan_err!(
                "model '{model}' predicts other columns in version {} than when this view was made; make the view again",
                entry.version
            );
        }
        Ok((entry.version, about))
    }
}

/// Does not have lists of probabilities made that nobody reads.
#[derive(Debug)]
pub(crate) struct DropProbabilities;

impl OptimizerRule for DropProbabilities {
    fn name(&self) -> &str {
        "drop_unread_probabilities"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if !matches!(plan, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_)) {
            return Ok(Transformed::no(plan));
        }
        let mut read: Vec<Column> = plan.expressions().iter().flat_map(columns).collect();
        let Some(child) = plan.inputs().first().map(|p| (*p).clone()) else {
            return Ok(Transformed::no(plan));
        };
        let changed = below(child, &mut read)?;
        if !changed.transformed {
            return Ok(Transformed::no(plan));
        }
        let plan = plan.with_new_exprs(plan.expressions(), vec![changed.data])?;
        Ok(Transformed::yes(plan))
    }
}

fn columns(expr: &Expr) -> Vec<Column> {
    expr.column_refs().into_iter().cloned().collect()
}

/// Through what hands columns on as they are, down to the node.
fn below(plan: LogicalPlan, read: &mut Vec<Column>) -> Result<Transformed<LogicalPlan>> {
    match &plan {
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_) => {
            read.extend(plan.expressions().iter().flat_map(columns));
            let child = plan.inputs()[0].clone();
            below(child, read)?.map_data(|child| plan.with_new_exprs(plan.expressions(), vec![child]))
        }
        LogicalPlan::Extension(Extension { node }) => {
            let Some(predict) = node.as_any().downcast_ref::<MlPredict>() else {
                return Ok(Transformed::no(plan));
            };
            let name = predict.about.probabilities();
            if !matches!(predict.settings.answer, Answer::Predict { probabilities: true, .. })
                || predict.about.classes().is_none()
                || read.iter().any(|c| c.name == name)
            {
                return Ok(Transformed::no(plan));
            }
            let node = Arc::new(predict.without_probabilities()?);
            Ok(Transformed::yes(LogicalPlan::Extension(Extension { node })))
        }
        _ => Ok(Transformed::no(plan)),
    }
}

/// Plans our nodes; a host with extensions of its own adds it to its planner.
#[derive(Debug)]
pub struct MlExtensionPlanner {
    models: Arc<Models>,
}

impl MlExtensionPlanner {
    /// For the models of a session.
    pub fn new(models: &Arc<Models>) -> MlExtensionPlanner {
        MlExtensionPlanner { models: models.clone() }
    }
}

#[async_trait]
impl ExtensionPlanner for MlExtensionPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let [input] = inputs else { return Ok(None) };
        let (input, models) = (input.clone(), self.models.clone());
        let any = node.as_any();
        if let Some(node) = any.downcast_ref::<MlPredict>() {
            // A version that another process gave it may be newer than what is known here.
            if models.snapshot().resolve(&node.model, node.version).is_err() {
                models.refresh().await?;
            }
            return Ok(Some(Arc::new(PredictExec::new(node, input, models)?)));
        }
        if let Some(node) = any.downcast_ref::<MlMeasure>() {
            return Ok(Some(Arc::new(MeasureExec::new(node, input, models)?)));
        }
        if let Some(node) = any.downcast_ref::<CreateModel>() {
            return Ok(Some(Arc::new(TrainExec::new(node, input, models, session)?)));
        }
        if let Some(node) = any.downcast_ref::<MlJob>() {
            let (folder, job) = node.parts();
            return Ok(Some(Arc::new(JobExec::new(input, folder.clone(), job.clone(), models))));
        }
        Ok(None)
    }
}

/// DataFusion's planner with ours.
#[derive(Debug)]
pub(crate) struct MlQueryPlanner {
    pub(crate) models: Arc<Models>,
}

#[async_trait]
impl QueryPlanner for MlQueryPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        prepare(plan).await?;
        let extension: Arc<dyn ExtensionPlanner + Send + Sync> =
            Arc::new(MlExtensionPlanner::new(&self.models));
        DefaultPhysicalPlanner::with_extension_planners(vec![extension])
            .create_physical_plan(plan, session)
            .await
    }
}

/// Reads the models that functions of a plan name, so that no batch has to wait for one. A host with a planner of its own
/// calls it before planning; without it the first batch waits.
///
/// # Errors
/// Of the store.
pub async fn prepare(plan: &LogicalPlan) -> Result<()> {
    let mut functions: Vec<Arc<ScalarUDF>> = Vec::new();
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(call) = expr
                    && of_models(&call.func).is_some()
                {
                    functions.push(call.func.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    for function in functions {
        if let Some(function) = of_models(&function) {
            function.prepare().await?;
        }
    }
    Ok(())
}

/// Whether a plan makes models, which `SQLOptions` that forbid DDL forbid too.
pub(crate) fn makes_models(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::Extension(Extension { node }) = plan {
            found |= node.as_any().is::<CreateModel>();
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
