//! A training whose workers never meet: every epoch is a job of tasks, wherever the session's queries run, and ends with
//! the mean of what they learned.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::catalog::Session as DfSession;
use datafusion::common::{Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{Extension, LogicalPlan, LogicalPlanBuilder, Union, lit};
use datafusion::physical_plan::{ExecutionPlan, collect};
use firesteel_error::{Error, Kind};
use firesteel_train::{Model, Round, Trainer};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::about::About;
use crate::encode::Vocabularies;
use crate::error::{inside, outside};
use crate::fit::{Fit, Hear, Rows, Uses};
use crate::job::{Block, Dealt, Job, Look, MlJob, Shelf, messages, written};
use crate::roles::{Role, Roles};
use crate::spool::Spool;
use crate::task::{Answer, Done, Order, Task, What, failure};
use crate::weights::Weights;

/// How often a job looks whether anybody still waits for it.
const LOOK: Duration = Duration::from_millis(50);

/// Who runs jobs: the session that planned the training, on a cluster if its queries run on one.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    state: SessionState,
}

impl Jobs {
    /// Of the session that plans.
    ///
    /// # Errors
    /// `Internal` for a session that is none of DataFusion's own.
    pub(crate) fn new(session: &dyn DfSession) -> Result<Jobs> {
        match session.as_any().downcast_ref::<SessionState>() {
            Some(state) => Ok(Jobs { state: state.clone() }),
            None => internal_err!("sync = 'average' plans the jobs of its epochs, which this session cannot"),
        }
    }

    async fn run(&self, plan: &LogicalPlan, context: &Arc<TaskContext>) -> Result<Vec<RecordBatch>> {
        let plan = self.state.create_physical_plan(plan).await?;
        collect(plan, context.clone()).await
    }
}

/// Removes what workers passed on: at the end, or when the last of those who need it is gone.
#[derive(Debug)]
pub(crate) struct Tidy {
    shelf: Option<Shelf>,
    handle: Handle,
}

impl Tidy {
    /// Makes the folder.
    ///
    /// # Errors
    /// `Execution` when the training is running already; of the store.
    pub(crate) async fn begin(shelf: &Shelf) -> Result<Tidy> {
        shelf.models.store().begin_work(&shelf.folder).await?;
        shelf.models.untidy.fetch_add(1, Ordering::Relaxed);
        Ok(Tidy { shelf: Some(shelf.clone()), handle: Handle::current() })
    }

    /// Now.
    pub(crate) async fn end(mut self) {
        if let Some(shelf) = self.shelf.take() {
            tidy(&shelf).await;
        }
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf.take() {
            self.handle.spawn(async move { tidy(&shelf).await });
        }
    }
}

/// What cannot be removed costs no training.
async fn tidy(shelf: &Shelf) {
    if let Err(e) = shelf.models.store().end_work(&shelf.folder).await {
        let e = e.strip_backtrace();
        shelf
            .models
            .notice(format!("what workers passed on is not removed ({e}); VACUUM MODELS does it in a day"));
    }
    shelf.models.untidy.fetch_sub(1, Ordering::Relaxed);
}

/// The rows of a training as workers find them, and who has the work done.
pub(crate) struct Apart {
    jobs: Jobs,
    context: Arc<TaskContext>,
    shelf: Shelf,
    blocks: Vec<Block>,
    /// As long as a task may be asked for.
    _tidy: Arc<Tidy>,
}

/// What tasks are given: the files of their [`Order`] and, for each rank, of what a column decides its rows are for.
struct Given {
    order: String,
    roles: Vec<Option<String>>,
}

/// Rows that are held out.
pub(crate) struct Held {
    evaluate: Spool,
    test: Spool,
}

impl Held {
    pub(crate) fn of(&self, role: Role) -> &Spool {
        match role {
            Role::Test => &self.test,
            Role::Train | Role::Evaluate => &self.evaluate,
        }
    }
}

/// What a training has after its query ran: who trains, the rows, what was seen of them, and how many parts they came in.
pub(crate) type Begun = (Apart, Spool, Vocabularies, usize);

impl Apart {
    /// Runs the query, which keeps its rows on the shelf.
    ///
    /// # Errors
    /// Of the query and of the store.
    pub(crate) async fn begin(
        jobs: Jobs,
        shelf: Shelf,
        deal: Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
        tidy: Arc<Tidy>,
    ) -> Result<Begun> {
        let mut dealt: Vec<Dealt> = messages(&collect(deal, context.clone()).await?, &shelf).await?;
        dealt.retain(|part| part.strands.iter().any(|blocks| !blocks.is_empty()));
        // A cluster answers in any order, and its tasks do not know which partitions of the query are theirs. What is in a
        // part depends on neither.
        let files = |part: &Dealt| part.strands.iter().flatten().map(|block| block.file.clone()).next();
        dealt.sort_by_cached_key(files);
        let parts = dealt.len();
        let strands = dealt.iter().map(|part| part.strands.len()).max().unwrap_or(0);
        let mut blocks = Vec::new();
        for strand in 0..strands {
            blocks.extend(dealt.iter().filter_map(|part| part.strands.get(strand)).flatten().cloned());
        }
        let mut seen = Vocabularies::default();
        dealt.into_iter().for_each(|part| seen.merge(part.seen));
        let spool = Spool::stored(&shelf, &blocks, 0);
        Ok((Apart { jobs, context: context.clone(), shelf, blocks, _tidy: tidy }, spool, seen, parts))
    }

    /// Looks at what `TRANSFORM` makes of the rows.
    ///
    /// # Errors
    /// Of an expression, of the cluster and of the store.
    pub(crate) async fn look(
        &self,
        about: &About,
        along: Vec<String>,
        look: Look,
        workers: usize,
    ) -> Result<Vocabularies> {
        let (roles, weights) = (Roles::default(), Weights::default());
        let order = Order { about: about.clone(), along, config: Value::Null, weights, roles };
        let given = Given { order: self.shelf.keep(order.to_bytes()?).await?, roles: vec![None; workers] };
        let mut seen = Vocabularies::default();
        for done in self.done(&given, What::Look(look)).await? {
            match done {
                Done::Look(of_part) => seen.merge(of_part),
                other => return unexpected(&other),
            }
        }
        Ok(seen)
    }

    fn rows(&self) -> u64 {
        self.blocks.iter().map(|block| block.rows).sum()
    }

    /// Has every worker do its share of the rows; what came of it, by rank.
    async fn done(&self, given: &Given, what: What) -> Result<Vec<Done>> {
        let workers = given.roles.len();
        let mut tasks = Vec::with_capacity(workers);
        for (rank, roles) in given.roles.iter().enumerate() {
            let rows = share(self.rows(), rank, workers);
            let (first, blocks) = blocks_of(&self.blocks, &rows);
            let (what, order, roles) = (what.clone(), given.order.clone(), roles.clone());
            let text = written(&Task { rank, what, order, blocks, first, rows, roles }, &self.shelf).await?;
            // One partition a task, so that each is one wherever it runs.
            tasks.push(Arc::new(LogicalPlanBuilder::values(vec![vec![lit(text)]])?.build()?));
        }
        let tasks = match tasks.len() {
            1 => Arc::unwrap_or_clone(tasks.remove(0)),
            _ => LogicalPlan::Union(Union::try_new_with_loose_types(tasks)?),
        };
        let job = MlJob::new(tasks, self.shelf.folder.clone(), Job::Work)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(job) });
        let answers = self.jobs.run(&plan, &self.context).await?;
        let mut answers: Vec<Answer> = messages(&answers, &self.shelf).await?;
        answers.sort_by_key(|answer| answer.rank);
        let ranks: Vec<usize> = answers.iter().map(|answer| answer.rank).collect();
        if !ranks.iter().copied().eq(0..workers) {
            return internal_err!("of the workers 0 to {}, these answered: {ranks:?}", workers - 1);
        }
        Ok(answers.into_iter().map(|answer| answer.done).collect())
    }

    /// [`Apart::done`], for a thread that may wait; ends when the training is cancelled.
    fn wait(&self, given: &Given, what: What, fit: &Fit) -> firesteel_error::Result<Vec<Done>> {
        let cancel = &fit.reading.cancel;
        let cancelled = async {
            while !cancel.is_cancelled() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let done = fit.reading.handle.block_on(async {
            tokio::select! {
                done = self.done(given, what) => done.map_err(inside),
                () = cancelled => Err(Error::new(Kind::Cancelled, "training was cancelled")),
            }
        })?;
        let failed = |(rank, done)| match done {
            // Rows are named with the worker's rank.
            Done::Failed { kind, message } if fit.workers > 1 && !message.contains("rank") => {
                Err(failure(kind, message).context(format!("worker {rank}")))
            }
            Done::Failed { kind, message } => Err(failure(kind, message)),
            done => Ok(done),
        };
        done.into_iter().enumerate().map(failed).collect()
    }

    /// Keeps rows apart that are held out, for the client to measure with.
    ///
    /// # Errors
    /// Of the cluster and of the store.
    pub(crate) fn hold_out(&self, fit: &Fit, roles: &Roles) -> Result<Held> {
        let (mut evaluated, mut tested) = (Vec::new(), Vec::new());
        if roles.any(Role::Evaluate) || roles.any(Role::Test) {
            let given = self.give(fit, Value::Null, roles, &Weights::default()).map_err(outside)?;
            for done in self.wait(&given, What::HoldOut, fit).map_err(outside)? {
                match done {
                    Done::HoldOut { evaluate, test } => {
                        evaluated.extend(evaluate);
                        tested.extend(test);
                    }
                    other => return unexpected(&other),
                }
            }
        }
        let spool = |blocks: &[Block]| Spool::stored(&self.shelf, blocks, 0).made_like(&fit.spool);
        Ok(Held { evaluate: spool(&evaluated), test: spool(&tested) })
    }

    /// Keeps what all tasks have in common, and what rows are for.
    fn give(
        &self,
        fit: &Fit,
        config: Value,
        roles: &Roles,
        weights: &Weights,
    ) -> firesteel_error::Result<Given> {
        let (about, along) = (fit.about.clone(), fit.spec.along());
        let order = Order { about, along, config, weights: weights.clone(), roles: roles.clone() };
        let give = async {
            let order = self.shelf.keep(order.to_bytes()?).await?;
            let mut of_ranks = Vec::with_capacity(fit.workers);
            for rank in 0..fit.workers {
                of_ranks.push(match roles.fixed_bytes(&share(self.rows(), rank, fit.workers)) {
                    Some(bytes) => Some(self.shelf.keep(bytes).await?),
                    None => None,
                });
            }
            Ok(Given { order, roles: of_ranks })
        };
        fit.reading.handle.block_on(give).map_err(inside)
    }

    /// A training.
    ///
    /// # Errors
    /// Of the rows, of the training, of the cluster and of the store.
    pub(crate) fn train(
        &self,
        fit: &Fit,
        trainer: &Trainer,
        uses: &Uses,
        held: &Held,
        hear: &Hear,
    ) -> firesteel_error::Result<Model> {
        let config = trainer.config();
        let json = serde_json::to_value(config).map_err(|e| Error::internal(e.to_string()))?;
        let given = self.give(fit, json, &uses.roles, &uses.weights)?;
        let mut statistics = Vec::new();
        for done in self.wait(&given, What::Statistics, fit)? {
            match done {
                Done::Statistics(of_part) => statistics.push(of_part),
                other => return unexpected(&other).map_err(inside),
            }
        }
        let (spool, roles) = (held.of(Role::Evaluate), Roles::all_evaluate());
        let (about, weights, reading) = (&fit.about, &uses.weights, &fit.reading);
        let rows = Rows { spool, about, roles: &roles, weights, reading, evaluation: true };
        let held_out = rows.shard(config, 0, 0..spool.rows())?;
        let mut hand_out = |state: Bytes, take: &mut dyn FnMut(Round) -> firesteel_error::Result<()>| {
            self.hand_out(fit, &given, state, take)
        };
        let (resume, start) = fit.beginning();
        let session = firesteel_train::Apart { threads: 1, cancel: reading.cancel.clone(), resume, start };
        let mut hear = fit.listener(0, config.params.epochs, hear);
        trainer.fit_by_rounds(statistics, held_out, session, &mut hand_out, &mut hear)
    }

    /// One epoch.
    fn hand_out(
        &self,
        fit: &Fit,
        given: &Given,
        state: Bytes,
        take: &mut dyn FnMut(Round) -> firesteel_error::Result<()>,
    ) -> firesteel_error::Result<()> {
        let waiting = &fit.reading.handle;
        let from = waiting.block_on(self.shelf.keep(state)).map_err(inside)?;
        let done = self.wait(given, What::Epoch(from.clone()), fit);
        // A file may be of several, who learned the same.
        let mut files = BTreeSet::from([from]);
        let mut take = |done| match done {
            Done::Epoch(None) => Ok(()),
            Done::Epoch(Some(epoch)) => {
                let state = waiting.block_on(self.shelf.read(&epoch.state)).map_err(inside)?;
                files.insert(epoch.state);
                take(Round { loss: epoch.loss, weight: epoch.weight, state })
            }
            other => unexpected(&other).map_err(inside),
        };
        let taken = done.and_then(|done| done.into_iter().try_for_each(&mut take));
        // Trials side by side may have learned the same, and share a file. What is not removed now is with all the rest.
        let alone = fit.spec.trials.as_ref().is_none_or(|trials| trials.parallel == 1);
        for file in files.iter().filter(|_| alone) {
            _ = waiting.block_on(self.shelf.remove(file));
        }
        taken
    }
}

/// The places of a worker's rows.
pub(crate) fn share(rows: u64, rank: usize, workers: usize) -> Range<u64> {
    let of = |rank: usize| (u128::from(rows) * rank as u128 / workers.max(1) as u128) as u64;
    of(rank)..of(rank + 1)
}

/// The blocks that have some of all rows, and the place of the first one's first row.
fn blocks_of(all: &[Block], rows: &Range<u64>) -> (u64, Vec<Block>) {
    let (mut first, mut at, mut blocks) = (0, 0, Vec::new());
    for block in all {
        let end = at + block.rows;
        if at < rows.end && rows.start < end {
            if blocks.is_empty() {
                first = at;
            }
            blocks.push(block.clone());
        }
        at = end;
    }
    (first, blocks)
}

fn unexpected<T>(done: &Done) -> Result<T> {
    internal_err!("a worker answered something else: {done:?}")
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, UInt64Array};
    use arrow::datatypes::UInt64Type;
    use firesteel_comm::Cancel;

    use super::*;
    use crate::job::Blocks;
    use crate::models::Models;
    use crate::spool::Reading;
    use crate::store::WorkFolder;
    use crate::{ModelName, ModelStore};

    #[tokio::test(flavor = "multi_thread")]
    async fn each_worker_reads_its_rows_and_knows_their_places() {
        let models = Arc::new(Models::open(ModelStore::memory()).await.unwrap());
        let shelf = Shelf { models, folder: WorkFolder::new(&ModelName::bare("m")) };
        shelf.models.store().begin_work(&shelf.folder).await.unwrap();
        let (mut kept, mut next) = (Vec::new(), 0);
        for rows in [3u64, 1, 5, 4] {
            let values: ArrayRef = Arc::new(UInt64Array::from_iter_values(next..next + rows));
            let mut blocks = Blocks::new(&shelf, 1);
            blocks.push(RecordBatch::try_from_iter([("place", values)]).unwrap()).await.unwrap();
            kept.extend(blocks.finish().await.unwrap());
            next += rows;
        }
        let reading = Reading { handle: Handle::current(), cancel: Cancel::new() };
        let damaged = vec![Block { rows: 4, ..kept[0].clone() }];
        let broken = (Spool::stored(&shelf, &damaged, 0), reading.clone());
        let read = move |workers: usize| {
            let mut all = Vec::new();
            for rank in 0..workers {
                let rows = share(next, rank, workers);
                let (first, blocks) = blocks_of(&kept, &rows);
                let spool = Spool::stored(&shelf, &blocks, first);
                let take = |at: u64, batch: RecordBatch| {
                    let places = batch.column(0).as_primitive::<UInt64Type>().values().to_vec();
                    assert!(places.iter().copied().eq(at..at + places.len() as u64), "{at}: {places:?}");
                    all.extend(places);
                    Ok(())
                };
                spool.read(rows, &reading, take).unwrap();
            }
            assert!(all.into_iter().eq(0..next), "{workers} workers");
        };
        let broken = move || broken.0.read(0..4, &broken.1, |_, _| Ok(())).unwrap_err().to_string();
        let e = tokio::task::spawn_blocking(broken).await.unwrap();
        assert!(e.contains("has 3 rows, expected 4"), "{e}");
        tokio::task::spawn_blocking(move || [1, 2, 3, 5, 13, 20].into_iter().for_each(read)).await.unwrap();
    }
}
