//! What the client runs by itself, and what it sends.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ballista::prelude::SessionContextExt;
use ballista_core::extension::SessionConfigExt;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::{MemTable, source_as_provider};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{QueryPlanner, SessionState};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Extension, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion::prelude::{SessionConfig, SessionContext};
use firesteel_sql::create::CreateModel;
use firesteel_sql::job::{Job, MlJob};
use firesteel_sql::measure::MlMeasure;
use firesteel_sql::models::Models;
use firesteel_sql::planner::{MlExtensionPlanner, prepare};
use firesteel_sql::{Firesteel, ModelStore};

use crate::codec::LogicalCodec;

/// A session whose queries run on a cluster; `url` is the scheduler's, `df://host:50050`.
///
/// # Errors
/// `Configuration` when the URL names no host; of the store.
pub async fn connect(url: &str, store: ModelStore) -> Result<Firesteel> {
    let config = SessionConfig::new_with_ballista();
    let state = SessionStateBuilder::new().with_default_features().with_config(config).build();
    connect_with(url, state, store).await
}

/// The same from a session's state: its tables, functions and settings.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(url: &str, state: SessionState, store: ModelStore) -> Result<Firesteel> {
    let codec = Arc::new(LogicalCodec::new(state.config().ballista_logical_extension_codec()));
    let config = state.config().clone().with_ballista_logical_extension_codec(codec);
    let state = SessionStateBuilder::new_from_existing(state).with_config(config).build();
    let context = SessionContext::remote_with_state(url, state).await?;
    let cluster = context.state().query_planner().clone();
    // It puts its own planner there, for which everything is local.
    let firesteel = Firesteel::register(&context, store).await?;
    let planner = ClientPlanner { models: firesteel.models().clone(), cluster };
    let state = SessionStateBuilder::new_from_existing(context.state()).with_query_planner(Arc::new(planner));
    *context.state_ref().write() = state.build();
    Ok(firesteel)
}

type Cluster = Arc<dyn QueryPlanner + Send + Sync>;

/// Sends queries to the cluster. Trainings and measures stay, over rows that come from there, or over what its tasks learn
/// of them; so does what reads only what the client has.
#[derive(Clone)]
struct ClientPlanner {
    models: Arc<Models>,
    cluster: Cluster,
}

impl fmt::Debug for ClientPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPlanner").field("models", &self.models).finish_non_exhaustive()
    }
}

#[async_trait]
impl QueryPlanner for ClientPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !ends_here(plan)? && !starts_here(plan)? {
            return self.cluster.create_physical_plan(plan, session).await;
        }
        prepare(plan).await?;
        let ours: Arc<dyn ExtensionPlanner + Send + Sync> = Arc::new(self.clone());
        DefaultPhysicalPlanner::with_extension_planners(vec![ours]).create_physical_plan(plan, session).await
    }
}

#[async_trait]
impl ExtensionPlanner for ClientPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical: &[&LogicalPlan],
        physical: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let mut inputs = physical.to_vec();
        if let (true, [rows]) = (consumes(node), logical)
            && !starts_here(rows)?
        {
            inputs = vec![self.cluster.create_physical_plan(rows, session).await?];
        }
        let ours = MlExtensionPlanner::new(&self.models);
        ours.plan_extension(planner, node, logical, &inputs, session, context).await
    }
}

/// Whether a node takes rows to where the client is.
fn consumes(node: &dyn UserDefinedLogicalNode) -> bool {
    node.as_any().is::<CreateModel>() || node.as_any().is::<MlMeasure>()
}

fn is_work(node: &dyn UserDefinedLogicalNode) -> bool {
    node.as_any().downcast_ref::<MlJob>().is_some_and(|job| *job.job() == Job::Work)
}

fn ends_here(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::Extension(Extension { node }) = plan {
            found |= consumes(node.as_ref());
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether all that a plan reads is in the client's memory, which no other machine sees: constants, what a statement of
/// ours answers, and the schema `ml`. Tasks of a training are constants too, and are for others to do.
fn starts_here(plan: &LogicalPlan) -> Result<bool> {
    let mut here = true;
    plan.apply_with_subqueries(|plan| {
        here &= match plan {
            LogicalPlan::TableScan(scan) => {
                scan.table_name.schema() == Some("ml") || source_as_provider(&scan.source)?.is::<MemTable>()
            }
            LogicalPlan::Copy(_) | LogicalPlan::Dml(_) => false,
            LogicalPlan::Extension(Extension { node }) => !is_work(node.as_ref()),
            _ => true,
        };
        Ok(if here { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(here)
}
