//! The scheduler's and the executors' share.

use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::extension::ballista_scalar_functions;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use ballista_core::utils::default_session_builder;
use ballista_executor::executor_process::ExecutorProcessConfig;
use ballista_scheduler::config::SchedulerConfig;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::execution::context::{QueryPlanner, SessionState};
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use firesteel_sql::models::Models;
use firesteel_sql::planner::MlExtensionPlanner;
use firesteel_sql::{ModelStore, hosted};

use crate::codec::{LogicalCodec, PhysicalCodec};

/// A scheduler that plans our queries. It keeps what the configuration overrides already: codecs and sessions go inside
/// ours, except for the planner of the sessions, of which there can be only one.
///
/// # Errors
/// Of the store.
pub async fn scheduler(mut config: SchedulerConfig, store: ModelStore) -> Result<SchedulerConfig> {
    let models = Arc::new(Models::open(store).await?);
    config.override_logical_codec = Some(logical(config.override_logical_codec));
    config.override_physical_codec = Some(physical(config.override_physical_codec, &models));
    let build = config.override_session_builder.unwrap_or_else(|| Arc::new(default_session_builder));
    config.override_session_builder = Some(Arc::new(move |session| planning(build(session)?, &models)));
    Ok(config)
}

/// An executor that predicts.
///
/// # Errors
/// Of the store.
pub async fn executor(mut config: ExecutorProcessConfig, store: ModelStore) -> Result<ExecutorProcessConfig> {
    let models = Arc::new(Models::open(store).await?);
    config.override_logical_codec = Some(logical(config.override_logical_codec));
    config.override_physical_codec = Some(physical(config.override_physical_codec, &models));
    let mut registry = match config.override_function_registry {
        Some(found) => BallistaFunctionRegistry {
            scalar_functions: found.scalar_functions.clone(),
            aggregate_functions: found.aggregate_functions.clone(),
            window_functions: found.window_functions.clone(),
            higher_order_functions: found.higher_order_functions.clone(),
        },
        None => BallistaFunctionRegistry::default(),
    };
    // An executor knows less than a scheduler by default: `predicted_late_probs[1]` is a function it has not got.
    for nested in ballista_scalar_functions() {
        registry.scalar_functions.entry(nested.name().to_owned()).or_insert(nested);
    }
    let functions = hosted::functions_of(&models).into_iter();
    registry.scalar_functions.extend(functions.map(|f| (f.name().to_owned(), Arc::new(f))));
    let aggregates = hosted::aggregates().into_iter();
    registry.aggregate_functions.extend(aggregates.map(|f| (f.name().to_owned(), Arc::new(f))));
    config.override_function_registry = Some(Arc::new(registry));
    Ok(config)
}

fn logical(inner: Option<Arc<dyn LogicalExtensionCodec>>) -> Arc<dyn LogicalExtensionCodec> {
    let inner = inner.unwrap_or_else(|| Arc::new(BallistaLogicalExtensionCodec::default()));
    Arc::new(LogicalCodec::new(inner))
}

fn physical(
    inner: Option<Arc<dyn PhysicalExtensionCodec>>,
    models: &Arc<Models>,
) -> Arc<dyn PhysicalExtensionCodec> {
    let inner = inner.unwrap_or_else(|| Arc::new(BallistaPhysicalExtensionCodec::default()));
    Arc::new(PhysicalCodec::new(inner, models.clone()))
}

/// A session of the scheduler's. It gives no model a version: the client has.
fn planning(mut state: SessionState, models: &Arc<Models>) -> Result<SessionState> {
    for function in hosted::functions_of(models) {
        state.register_udf(Arc::new(function))?;
    }
    for aggregate in hosted::aggregates() {
        state.register_udaf(Arc::new(aggregate))?;
    }
    let planner = Arc::new(Planner { models: models.clone() });
    Ok(SessionStateBuilder::new_from_existing(state).with_query_planner(planner).build())
}

#[derive(Debug)]
struct Planner {
    models: Arc<Models>,
}

#[async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let ours: Arc<dyn ExtensionPlanner + Send + Sync> = Arc::new(MlExtensionPlanner::new(&self.models));
        DefaultPhysicalPlanner::with_extension_planners(vec![ours]).create_physical_plan(plan, session).await
    }
}
