//! The operator of `CREATE MODEL`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::runtime::JoinSet;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet, SpillMetrics};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use firesteel_comm::Cancel;
use firesteel_train::device::choose_all;
use firesteel_train::{Gpu, Params};
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;

use crate::about::About;
use crate::apart::{Apart, Jobs, Tidy};
use crate::create::{CreateModel, Warm, look, training_rows, training_schema};
use crate::encode::Vocabularies;
use crate::error::outside;
use crate::fit::{CancelOnDrop, Fit, Fitted, Start};
use crate::job::Shelf;
use crate::models::Models;
use crate::options::table::MOST_WORKERS;
use crate::spec::TrainSpec;
use crate::spool::{Keeper, Reading, Spool};
use crate::store::WorkFolder;
use crate::transform::{Draft, Training, Transform, ask};
use crate::unfinished::{Checkpoints, Leftover};

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

    /// What the workers of this process compute on. Those of other processes see to that themselves.
    async fn gpus(&self) -> Result<Vec<Option<Gpu>>> {
        if self.apart.is_some() || self.spec.task.is_none() {
            return Ok(Vec::new());
        }
        let (workers, params) = (self.workers(), self.spec.recipe.params.clone());
        let choose = move || {
            let params = Params::from_map(&params)?;
            params.check_workers(workers)?;
            choose_all(&params, workers)
        };
        let gpus = tokio::task::spawn_blocking(choose).await;
        gpus.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?.map_err(outside)
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
        Ok((spool, seen, Some(apart), self.spec.workers.unwrap_or(parts.clamp(1, MOST_WORKERS as usize))))
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
            // What is made of it is looked at when it can be made.
            let look = self.draft.is_none().then(|| look(&self.spec, &self.about));
            tasks.spawn(async move {
                let mut seen = Vocabularies::default();
                let look = |batch: &RecordBatch| match &look {
                    Some(look) => look.at(batch, &mut seen),
                    None => Ok(()),
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
        let look = look(&self.spec, &self.about);
        if let Some((apart, workers)) = apart {
            let about = About { transform: Some(transform.clone()), ..(*self.about).clone() };
            let seen = apart.look(&about, self.spec.along(), look, workers).await?;
            return Ok((transform, spool, seen));
        }
        let reading = reading.clone();
        let look = move || {
            let mut seen = Vocabularies::default();
            spool.read(0..spool.rows(), &reading, |_, batch| look.at(&batch, &mut seen))?;
            Ok((transform, spool, seen))
        };
        tokio::task::spawn_blocking(look).await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?
    }

    async fn train(self, context: Arc<TaskContext>, out: Out) -> Result<()> {
        let tidy = match &self.apart {
            Some((shelf, _)) => Some(Arc::new(Tidy::begin(shelf).await?)),
            None => None,
        };
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
        let gpus = self.gpus().await?;
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
        let fit = Fit { workers, gpus, apart, spec, about, spool, seen, warm, checkpoints, reading, hear };
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
