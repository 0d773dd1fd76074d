//! One training: from the rows of a query to a model and what is to be kept with it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use arrow::array::Array;
use arrow::compute::{filter_record_batch, is_not_null};
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_err, internal_err};
use firesteel_comm::{Cancel, Fabric, Mesh, Options, local_world};
use firesteel_error::{Error, Kind};
use firesteel_train::{
    EpochRecord, Event, Gpu, Model, Predictor, Session, Shard, ShardBuilder, TrainConfig, Trainer,
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::about::{About, Label};
use crate::apart::{Apart, Held, share};
use crate::encode::{Encoder, Feature, FeatureKind, HELD_OUT, Vocabularies};
use crate::error::{in_sql, inside, outside};
use crate::evaluate::{Measures, Scores};
use crate::loaded::LoadedModel;
use crate::roles::{Role, Roles};
use crate::spec::TrainSpec;
use crate::spool::{Reading, Spool};
use crate::trials::{Recipe, TrialInfo, Trials};
use crate::unfinished::{Checkpoints, Unfinished};
use crate::weights::Weights;

/// Rows that are scored at once.
const BATCH: usize = 8192;

/// The part of the loss that the last epoch takes away where more epochs are worth a word.
const STILL_FALLING: f64 = 0.02;

/// A training that is about to start.
pub(crate) struct Fit {
    pub(crate) spec: Arc<TrainSpec>,
    pub(crate) about: About,
    pub(crate) spool: Spool,
    pub(crate) seen: Vocabularies,
    pub(crate) warm: Option<Start>,
    /// Who keeps checkpoints, if they are wanted.
    pub(crate) checkpoints: Option<Checkpoints>,
    pub(crate) workers: usize,
    /// What they compute on, by rank; the CPU where absent.
    pub(crate) gpus: Vec<Option<Gpu>>,
    /// Who trains where workers never meet; absent where they are threads of this process.
    pub(crate) apart: Option<Apart>,
    pub(crate) reading: Reading,
    pub(crate) hear: UnboundedSender<EpochRecord>,
}

/// Stops a training that nobody waits for.
pub(crate) struct CancelOnDrop(pub(crate) Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What each row is for, and what it counts.
pub(crate) struct Uses {
    pub(crate) roles: Roles,
    pub(crate) weights: Weights,
    /// The rows that are held out, where they had to be brought here.
    held: Option<Held>,
}

/// The rows of a training, and what they are for.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) spool: &'a Spool,
    pub(crate) about: &'a About,
    pub(crate) roles: &'a Roles,
    pub(crate) weights: &'a Weights,
    pub(crate) reading: &'a Reading,
    /// Whether rows to evaluate by come along, marked.
    pub(crate) evaluation: bool,
}

/// What training goes on from.
pub(crate) enum Start {
    Version(Arc<LoadedModel>),
    Checkpoint(Arc<Unfinished>),
}

impl Start {
    fn about(&self) -> &Arc<About> {
        match self {
            Start::Version(model) => model.about(),
            Start::Checkpoint(unfinished) => unfinished.about(),
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Fitted {
    /// None where nothing is learned.
    pub(crate) model: Option<Arc<Model>>,
    pub(crate) about: About,
    /// What the training was told.
    pub(crate) recipe: Recipe,
    /// Measures, epochs, notices and the like, for the commit.
    pub(crate) metrics: Value,
}

/// Who hears of epochs.
pub(crate) type Hear<'a> = dyn Fn(EpochRecord) + Sync + 'a;

/// The model of a trial and its measures, or why it has none.
type Tried = std::result::Result<(Arc<Model>, Measures), String>;

/// A model, and how it was found.
struct Found {
    model: Arc<Model>,
    recipe: Recipe,
    /// Of a search.
    trials: Vec<TrialInfo>,
}

impl Fit {
    /// Trains. Blocks for as long as it takes; `reading.cancel` ends it.
    ///
    /// # Errors
    /// Of the rows, naming the column; `Diverged`; `Cancelled`.
    pub(crate) fn run(mut self) -> Result<Fitted> {
        if self.spec.task.is_none() {
            return self.only_transforms();
        }
        if let Some(Start::Checkpoint(unfinished)) = &self.warm {
            unfinished.check(self.seen.rows, self.workers)?;
        }
        let mut notices = self.settle()?;
        let roles = Roles::new(&self.spec, &self.spool, &self.seen, &self.reading)?;
        notices.extend(roles.notice.clone());
        let held = match &self.apart {
            Some(apart) => Some(apart.hold_out(&self, &roles)?),
            None => None,
        };
        let classes = self.classes();
        let weights = Weights::new(self.spec.weight.as_deref(), &self.spec.class_weights, &classes)?;
        let uses = Uses { roles, weights, held };
        let Found { model, recipe, trials } = match &self.spec.trials {
            None => {
                let model = self.train(&self.spec.recipe, &uses, &|epoch| _ = self.hear.send(epoch));
                let model = model.map_err(|e| outside(self.told(e)))?;
                Found { model: Arc::new(model), recipe: self.spec.recipe.clone(), trials: Vec::new() }
            }
            Some(trials) => self.search(trials, &uses)?,
        };
        if let Some(best) = trials.iter().find(|trial| trial.is_optimal) {
            notices.push(format!("trial {} of {} is kept: {}", best.trial_id, trials.len(), best.shown()));
        }
        notices.extend(self.ended(&recipe, model.history()));
        let mut metrics = Map::new();
        metrics.insert("history".into(), json(&model.history())?);
        metrics.insert("rows".into(), json(&self.seen.rows)?);
        metrics.insert("workers".into(), json(&self.workers)?);
        let features = self.about.features.iter().zip(&self.seen.profiles);
        let info: Vec<_> = features.map(|(f, profile)| profile.info(f, model.preprocessing())).collect();
        metrics.insert("features".into(), json(&info)?);
        for (name, role) in [("evaluation", Role::Evaluate), ("test", Role::Test)] {
            if let Some(measures) = self.measure(&model, &uses, role)? {
                metrics.insert(name.into(), json(&measures)?);
            }
        }
        if !trials.is_empty() {
            metrics.insert("trials".into(), json(&trials)?);
        }
        metrics.insert("notices".into(), json(&notices)?);
        let model = Some(model);
        Ok(Fitted { model, about: self.about, recipe, metrics: Value::Object(metrics) })
    }

    /// What a user would want to know of how a training ended.
    fn ended(&self, recipe: &Recipe, history: &[EpochRecord]) -> Option<String> {
        let epochs = recipe.params.get("epochs").and_then(Value::as_u64)? as usize;
        let [.., before, last] = history else { return None };
        if last.epoch < epochs {
            let metric = last.metric.as_deref().unwrap_or("loss");
            return Some(format!(
                "training ended after {} of {epochs} epochs: {metric} and loss of the rows held out got no better",
                last.epoch
            ));
        }
        let fell = (before.loss - last.loss) / before.loss.abs().max(f64::MIN_POSITIVE);
        (fell > STILL_FALLING).then(|| {
            format!(
                "the loss was still falling, by {:.0} % in the last epoch: more max_iterations or a larger learn_rate may help",
                100.0 * fell
            )
        })
    }

    /// What to do about a checkpoint that cannot be used.
    fn told(&self, e: Error) -> Error {
        match &self.warm {
            Some(Start::Checkpoint(_)) if e.kind() == Kind::Corrupt => {
                e.context("warm_start goes on from the checkpoint; leave it out to begin anew")
            }
            _ => e,
        }
    }

    /// A model of nothing but what `TRANSFORM` knows of the rows.
    fn only_transforms(self) -> Result<Fitted> {
        let metrics = serde_json::json!({"rows": self.seen.rows});
        Ok(Fitted { model: None, about: self.about, recipe: self.spec.recipe.clone(), metrics })
    }

    /// Fills in what only the rows tell: vocabularies and classes.
    fn settle(&mut self) -> Result<Vec<String>> {
        let (rows, unlabelled) = (self.seen.rows, self.seen.unlabelled);
        if rows == 0 {
            return exec_err!("the training query returned 0 rows");
        }
        if unlabelled == rows && self.spec.label.is_some() {
            let column = &self.about.label()?.column;
            return exec_err!("label column '{column}' is NULL in all {rows} rows: nothing to learn");
        }
        match &self.warm {
            Some(start) => {
                let about = (**start.about()).clone();
                // The model's order of columns counts.
                let place = |f: &Feature| self.about.features.iter().position(|g| g.column == f.column);
                let profile =
                    |f: &Feature| place(f).map(|i| self.seen.profiles[i].clone()).unwrap_or_default();
                self.seen.profiles = about.features.iter().map(profile).collect();
                self.about = about;
            }
            None => self.seen.settle(&mut self.about.features),
        }
        let mut notices = Vec::new();
        if unlabelled > 0 {
            let percent = 100.0 * unlabelled as f64 / rows as f64;
            notices.push(format!("{percent:.1} % of rows dropped: NULL label (n={unlabelled})"));
        }
        if let (true, Some(label)) = (self.spec.classifier, &mut self.about.label) {
            let classes = self.seen.classes();
            if let [(class, _)] = classes.as_slice() {
                return exec_err!(
                    "label '{}' has one distinct value ('{class}'): nothing to learn",
                    label.column
                );
            }
            match &label.classes {
                None => label.classes = Some(classes.into_iter().map(|(class, _)| class).collect()),
                Some(known) => check_known(label, known, &classes)?,
            }
        }
        Ok(notices)
    }

    /// The classes in the order of the network's outputs, and their rows.
    fn classes(&self) -> Vec<(String, u64)> {
        let seen = self.seen.classes();
        let rows = |class: &String| seen.iter().find(|(c, _)| c == class).map_or(0, |(_, n)| *n);
        let classes = self.about.classes().unwrap_or_default().iter();
        classes.map(|class| (class.clone(), rows(class))).collect()
    }

    fn config(&self, recipe: &Recipe, uses: &Uses) -> firesteel_error::Result<TrainConfig> {
        let Uses { roles, weights, .. } = uses;
        let feature = |feature: &Feature| -> Vec<Value> {
            let columns = feature.kind.columns(&feature.column).into_iter();
            match (&feature.kind, &self.spec.input_shape) {
                (FeatureKind::Vector { .. }, Some(shape)) => {
                    columns.map(|column| json!({"column": column, "shape": shape})).collect()
                }
                _ => columns.map(|column| json!({"column": column})).collect(),
            }
        };
        let features: Vec<Value> = self.about.features.iter().flat_map(feature).collect();
        let mut data = json!({"features": features});
        if let Some(label) = &self.spec.label {
            data["label"] = label.as_str().into();
        }
        if roles.any(Role::Evaluate) {
            data["validation"] = HELD_OUT.into();
        }
        if let Some(weight) = weights.name() {
            data["weight"] = weight.into();
        }
        let mut params = recipe.params.clone();
        if !params.contains_key("batch_size") {
            params.insert("batch_size".into(), (self.spool.rows() / 10).clamp(1, 256).into());
        }
        if let (Some(patience), true) = (recipe.patience, roles.any(Role::Evaluate)) {
            params.insert("patience".into(), patience.into());
        }
        let mut config = json!({
            "task": self.spec.task,
            "network": recipe.network,
            "params": params,
            "data": data,
            "checkpoints": self.checkpoints.is_some(),
        });
        if let Some(classes) = self.about.classes() {
            config["classes"] = classes.len().into();
        }
        TrainConfig::from_json(&config.to_string())
    }

    /// Runs every trial, and keeps the best by its measures on the rows held out.
    fn search(&self, trials: &Trials, uses: &Uses) -> Result<Found> {
        if !uses.roles.any(Role::Evaluate) {
            return exec_err!(
                "a search compares its trials on rows held out, and none are; set data_split_method"
            );
        }
        let mut told: Vec<TrialInfo> = Vec::new();
        let mut best: Option<(f64, Arc<Model>, usize)> = None;
        for some in trials.trials.chunks(trials.parallel) {
            for tried in self.try_at_once(some, uses)? {
                let i = told.len();
                let (model, measures) = match tried {
                    Ok(tried) => tried,
                    Err(why) => {
                        told.push(trials.told(i, Err(why)));
                        continue;
                    }
                };
                let info = trials.told(i, Ok((model.history(), &measures)));
                if let Some(value) = info.value
                    && best.as_ref().is_none_or(|(best, ..)| trials.objective.better(value, *best))
                {
                    best = Some((value, model, i));
                }
                told.push(info);
            }
        }
        let Some((_, model, i)) = best else {
            let why = told.iter().find_map(|trial| trial.error.clone());
            let (count, objective) = (told.len(), &trials.objective.name);
            return exec_err!("none of {count} trials has a {objective}: {}", why.unwrap_or_default());
        };
        told[i].is_optimal = true;
        Ok(Found { model, recipe: trials.trials[i].1.clone(), trials: told })
    }

    /// Some trials side by side; what came of each, in their order. Their epochs are told one trial after the other.
    fn try_at_once(&self, some: &[(Vec<String>, Recipe)], uses: &Uses) -> Result<Vec<Tried>> {
        if let [(_, recipe)] = some {
            return Ok(vec![self.attempt(recipe, uses, &|epoch| _ = self.hear.send(epoch))?]);
        }
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let start = |(_, recipe): &'_ (Vec<String>, Recipe)| {
                let recipe = recipe.clone();
                let work = move || {
                    let epochs = Mutex::new(Vec::new());
                    let hear = |epoch| epochs.lock().unwrap_or_else(PoisonError::into_inner).push(epoch);
                    let tried = self.attempt(&recipe, uses, &hear);
                    (tried, epochs.into_inner().unwrap_or_else(PoisonError::into_inner))
                };
                std::thread::Builder::new().name("trial".into()).spawn_scoped(scope, work)
            };
            let threads: Vec<_> = some.iter().map(start).collect();
            threads.into_iter().map(|thread| thread.map(ScopedJoinHandle::join)).collect()
        });
        let mut all = Vec::with_capacity(some.len());
        for outcome in outcomes {
            let Ok((tried, epochs)) = outcome? else { return internal_err!("a trial panicked") };
            epochs.into_iter().for_each(|epoch| _ = self.hear.send(epoch));
            all.push(tried?);
        }
        Ok(all)
    }

    /// One trial.
    fn attempt(&self, recipe: &Recipe, uses: &Uses, hear: &Hear) -> Result<Tried> {
        let model = match self.train(recipe, uses, hear) {
            Ok(model) => Arc::new(model),
            Err(e) if e.kind() == Kind::Diverged => return Ok(Err(in_sql(&e.to_string()))),
            Err(e) => return Err(outside(e)),
        };
        match self.measure(&model, uses, Role::Evaluate)? {
            Some(measures) => Ok(Ok((model, measures))),
            None => exec_err!("none of the rows held out has a label to compare trials by"),
        }
    }

    fn train(&self, recipe: &Recipe, uses: &Uses, hear: &Hear) -> firesteel_error::Result<Model> {
        let trainer = Trainer::new(self.config(recipe, uses)?)?;
        match (&self.apart, &uses.held) {
            (Some(apart), Some(held)) => apart.train(self, &trainer, uses, held, hear),
            _ => self.train_together(&trainer, uses, hear),
        }
    }

    /// By threads of this process.
    fn train_together(&self, trainer: &Trainer, uses: &Uses, hear: &Hear) -> firesteel_error::Result<Model> {
        let deadline = Duration::from_secs_f64(trainer.config().params.timeout_seconds.min(1e9));
        let meshes = local_world(self.workers, &Options { deadline, ..Options::default() })?;
        let outcomes: Vec<firesteel_error::Result<Model>> = std::thread::scope(|scope| {
            let start = |(rank, mesh): (usize, Mesh)| {
                let work = move || self.work(trainer, mesh, uses, hear);
                std::thread::Builder::new().name(format!("train-{rank}")).spawn_scoped(scope, work)
            };
            // A worker whose thread cannot start has no mesh any more, which the others hear of.
            let workers: Vec<_> = meshes.into_iter().enumerate().map(start).collect();
            let end = |worker: std::io::Result<ScopedJoinHandle<'_, firesteel_error::Result<Model>>>| {
                let broken = |e| Error::new(Kind::Io, "a worker's thread cannot start").with_source(e);
                worker.map_err(broken)?.join().unwrap_or_else(|_| Err(Error::internal("a worker panicked")))
            };
            workers.into_iter().map(end).collect()
        });
        first_cause(outcomes)
    }

    /// One worker, on a thread of its own.
    fn work(
        &self,
        trainer: &Trainer,
        mesh: Mesh,
        uses: &Uses,
        hear: &Hear,
    ) -> firesteel_error::Result<Model> {
        let (rank, config) = (mesh.rank(), trainer.config());
        let Uses { roles, weights, .. } = uses;
        let Fit { spool, about, reading, .. } = self;
        let rows = Rows { spool, about, roles, weights, reading, evaluation: true };
        let shard = rows.shard(config, rank, share(spool.rows(), rank, self.workers));
        let mut hear = self.listener(rank, config.params.epochs, hear);
        let (resume, start) = self.beginning();
        let fabric: Arc<dyn Fabric> = Arc::new(mesh);
        let gpu = self.gpus.get(rank).cloned().flatten();
        let session = Session { fabric, threads: 1, cancel: reading.cancel.clone(), resume, start, gpu };
        trainer.fit(shard, session, &mut hear)
    }

    /// What the training loop begins with: a checkpoint or a model.
    pub(crate) fn beginning(&self) -> (Option<Bytes>, Option<Arc<Model>>) {
        match &self.warm {
            None => (None, None),
            Some(Start::Version(model)) => (None, Some(model.model().clone())),
            Some(Start::Checkpoint(unfinished)) => (Some(unfinished.state.clone()), None),
        }
    }

    /// Hands on what a worker tells.
    pub(crate) fn listener<'a>(
        &'a self,
        rank: usize,
        last: usize,
        hear: &'a Hear<'a>,
    ) -> impl FnMut(Event) + 'a {
        move |event| match (event, &self.checkpoints) {
            // Whoever listened may be gone; then `cancel` is set.
            (Event::Epoch(epoch), _) if rank == 0 => hear(epoch),
            // After the last epoch there is a model.
            (Event::Checkpoint { epoch, bytes, .. }, Some(checkpoints)) if epoch < last => {
                checkpoints.keep(&self.about, epoch, self.seen.rows, self.workers, &bytes);
            }
            _ => {}
        }
    }

    /// How good the model is on rows that it was not trained on.
    fn measure(&self, model: &Arc<Model>, uses: &Uses, role: Role) -> Result<Option<Measures>> {
        let Uses { roles, held, .. } = uses;
        if !roles.any(role) || self.spec.label.is_none() {
            return Ok(None);
        }
        let predictor = Predictor::new(model.clone(), 1);
        let encoder = Encoder::new(&self.about);
        let mut scores = Scores::default();
        let apart = held.as_ref().map(|held| held.of(role));
        let spool = apart.unwrap_or(&self.spool);
        spool.read(0..spool.rows(), &self.reading, |first, batch| {
            let batch = match apart {
                Some(_) => batch,
                None => roles.only(role, first, &batch)?,
            };
            for start in (0..batch.num_rows()).step_by(BATCH) {
                let mut part = batch.slice(start, BATCH.min(batch.num_rows() - start));
                let mut labels = encoder.labels(&part)?;
                if labels.null_count() > 0 {
                    // Nobody looks at what a row without a label has in its features.
                    part = filter_record_batch(&part, &is_not_null(&labels)?)?;
                    labels = encoder.labels(&part)?;
                }
                let predictions = predictor.predict(&encoder.features(&part)?).map_err(outside)?;
                scores.push(&predictions, &labels, self.spec.classifier);
            }
            Ok(())
        })?;
        Ok(scores.measures(self.spec.classifier, None))
    }
}

impl Rows<'_> {
    /// What the worker of a rank reads of them.
    ///
    /// # Errors
    /// `InvalidData` naming the column, `Cancelled`, and what reading them says.
    pub(crate) fn shard(
        &self,
        config: &TrainConfig,
        rank: usize,
        rows: Range<u64>,
    ) -> firesteel_error::Result<Shard> {
        let Rows { spool, about, roles, weights, reading, evaluation } = *self;
        let mut builder = ShardBuilder::new(config, rank)?;
        let encoder = Encoder::new(about);
        let mut error = None;
        let read = spool.read(rows, reading, |first, batch| {
            if reading.cancel.is_cancelled() {
                error = Some(Error::new(Kind::Cancelled, "training was cancelled while rows were read"));
                return exec_err!("cancelled");
            }
            let batch = roles.training(first, &batch, &encoder, weights, evaluation)?;
            if batch.num_rows() > 0
                && let Err(e) = builder.push(&batch)
            {
                error = Some(e);
                return exec_err!("the rows are not usable");
            }
            Ok(())
        });
        match (error, read) {
            (Some(e), _) => Err(e),
            (None, Err(e)) => Err(inside(e)),
            (None, Ok(())) => Ok(builder.finish()),
        }
    }
}

/// That a model which training goes on from has an output for every class.
fn check_known(label: &Label, known: &[String], classes: &[(String, u64)]) -> Result<()> {
    match classes.iter().find(|(class, _)| !known.contains(class)) {
        Some((class, _)) => exec_err!(
            "warm_start: label '{}' has the class '{class}', which the model does not know (classes: {})",
            label.column,
            known.join(", ")
        ),
        None => Ok(()),
    }
}

/// The model, or the error of the first worker that knows more than that another failed.
fn first_cause(outcomes: Vec<firesteel_error::Result<Model>>) -> firesteel_error::Result<Model> {
    let (mut model, mut cause): (_, Option<Error>) = (None, None);
    for outcome in outcomes {
        match outcome {
            Ok(m) => model = model.or(Some(m)),
            Err(e) if cause.as_ref().is_none_or(|c| c.kind() == Kind::PeerLost) => cause = Some(e),
            Err(_) => {}
        }
    }
    match (cause, model) {
        (Some(e), _) => Err(e),
        (None, Some(model)) => Ok(model),
        (None, None) => Err(Error::internal("no worker ran")),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| DataFusionError::External(e.into()))
}
