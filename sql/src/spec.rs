//! What a `CREATE MODEL` asks for, checked and in the terms of the training loop.

use datafusion::common::{Result, plan_err};
use firesteel_train::Task;
use sha2::{Digest, Sha256};

use crate::name::ModelName;
use crate::options::{Cache, ClassWeights, ModelOptions, OnUnseen};
use crate::parse::{CreateModel, ModelOption, Source, TransformItem};
use crate::spool::CacheMode;
use crate::trials::{Recipe, Trials};

/// A training, as its statement asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    /// What is made.
    pub name: ModelName,
    /// The statement.
    pub sql: String,
    /// As the user gave it, `dnn_classifier` for example.
    pub model_type: String,
    /// What the training loop learns, if anything.
    pub task: Option<Task>,
    /// Whether it predicts classes.
    pub classifier: bool,
    /// The column that is learned, if one is.
    pub label: Option<String>,
    /// Columns that are learned from; all others when absent.
    pub features: Option<Vec<String>>,
    /// Columns that are not learned from.
    pub left_out: Vec<String>,
    /// The axes of the features that are lists of numbers; one when absent.
    pub input_shape: Option<Vec<usize>>,
    /// What the training is told, where no search decides.
    pub recipe: Recipe,
    /// The trainings of a search, of which the best is kept.
    pub trials: Option<Trials>,
    /// Whether training goes on from a checkpoint or the model's weights.
    pub warm_start: bool,
    /// Whether checkpoints are kept, as often as the recipe says.
    pub checkpoints: bool,
    /// Names them: the same for statements that differ in what a training may go on with.
    pub key: String,
    /// Which rows are held out.
    pub split: Split,
    /// Draws them.
    pub seed: u64,
    /// Threads that train together; as many as the query has partitions when absent.
    pub workers: Option<usize>,
    /// Whether workers may never meet: each epoch ends with the mean of their weights.
    pub average: bool,
    /// Where the rows are kept.
    pub cache: CacheMode,
    /// Whether a string that training has not seen is an error in a prediction.
    pub refuses_unseen: bool,
    /// The column that says how much a row counts.
    pub weight: Option<String>,
    /// How much the rows of each class count.
    pub class_weights: ClassWeights,
    /// Whether a model of that name is replaced.
    pub replace: bool,
    /// A note.
    pub description: Option<String>,
    /// Words to find the model by.
    pub labels: Vec<String>,
}

impl TrainSpec {
    /// From a statement and its options.
    ///
    /// # Errors
    /// `Plan` naming the option that cannot be met.
    pub fn new(create: &CreateModel, options: ModelOptions) -> Result<TrainSpec> {
        check_met(&options)?;
        let model_type = options.model_type.name();
        let task = options.model_type.task();
        let seed = options.seed.unwrap_or(DEFAULT_SEED);
        let classifier = task == Some(Task::Classification);
        let search = options.search.as_ref();
        let trials = search.map(|s| Trials::new(&create.options, s, classifier, seed as u64)).transpose()?;
        let split = Split::from(&options.split);
        let mut left_out = options.exclude_cols.clone();
        if let Split::Custom { column } = &split {
            left_out.push(column.clone());
        }
        Ok(TrainSpec {
            name: create.name.clone(),
            sql: create.sql.clone(),
            model_type: model_type.to_owned(),
            task,
            classifier,
            label: options.label().map(str::to_owned),
            features: options.feature_cols.clone(),
            left_out,
            input_shape: options.input_shape.clone(),
            recipe: Recipe::new(&options)?,
            trials,
            warm_start: options.warm_start,
            checkpoints: options.checkpoint_every > 0,
            key: key(create),
            split,
            seed: seed as u64,
            workers: options.workers,
            average: options.average,
            cache: match options.cache {
                Cache::Memory => CacheMode::Memory,
                Cache::Disk => CacheMode::Disk,
                _ => CacheMode::MemoryThenDisk,
            },
            refuses_unseen: options.on_unseen == OnUnseen::Error,
            weight: options.sample_weight_col.clone(),
            class_weights: options.class_weights.clone(),
            replace: create.or_replace,
            description: options.description.clone(),
            labels: options.labels,
        })
    }
}

impl TrainSpec {
    /// The columns of the query that training reads besides features and label.
    pub(crate) fn along(&self) -> Vec<String> {
        let split = match &self.split {
            Split::Custom { column } | Split::Sequential { column, .. } => Some(column),
            Split::Auto | Split::None | Split::Random { .. } => None,
        };
        split.into_iter().chain(&self.weight).cloned().collect()
    }
}

/// Options in which a training that goes on may differ from the one that did not end. `max_iterations` is the loop's to
/// refuse, where the learning rate depends on it.
pub(crate) const FREE: [&str; 9] = [
    "cache",
    "checkpoint_every",
    "checkpoint_interval",
    "description",
    "device",
    "epochs",
    "labels",
    "max_iterations",
    "warm_start",
];

/// 32 hexadecimal digits of the SHA-256 of what a statement says of the weights.
fn key(create: &CreateModel) -> String {
    let free = |option: &&ModelOption| !FREE.contains(&option.name.as_str());
    let mut said: Vec<String> = create.options.iter().filter(free).map(ToString::to_string).collect();
    said.sort_unstable();
    said.extend(create.transform.iter().flatten().map(TransformItem::to_string));
    if let Source::Query { query, .. } = &create.source {
        // As it was read: blanks and comments do not count.
        said.push(query.to_string());
    }
    let digest = Sha256::digest(said.join("\0"));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An option that is read and checked, and not carried out.
pub(crate) struct Unmet {
    pub(crate) option: &'static str,
    /// Of it, what is not carried out.
    pub(crate) values: &'static str,
    pub(crate) instead: &'static str,
    asked: fn(&ModelOptions) -> bool,
}

pub(crate) const UNMET: &[Unmet] = &[
    Unmet {
        option: "warm_start",
        values: "true, with a search",
        instead: "search first",
        asked: |options| options.warm_start && options.search.is_some(),
    },
    Unmet {
        option: "checkpoint_every",
        values: "above 0, with a search",
        instead: "leave it out",
        asked: |options| options.checkpoint_every > 0 && options.search.is_some(),
    },
    Unmet {
        option: "cache",
        values: "other than memory_then_disk, with sync = 'average'",
        instead: "leave it out: rows are kept in the model store",
        asked: |options| options.average && options.cache != Cache::MemoryThenDisk,
    },
    Unmet {
        option: "cache",
        values: "none",
        instead: "use 'disk'",
        asked: |options| options.cache == Cache::None,
    },
];

/// That nothing is asked for which would be passed over.
fn check_met(options: &ModelOptions) -> Result<()> {
    match UNMET.iter().find(|unmet| (unmet.asked)(options)) {
        Some(Unmet { option, values, instead, .. }) => {
            plan_err!("{option} ({values}) is not supported yet; {instead}")
        }
        None => Ok(()),
    }
}

/// Of the table of hyper-parameters.
const DEFAULT_SEED: i64 = 42;

/// Which rows are held out.
#[derive(Clone, Debug, PartialEq)]
pub enum Split {
    /// By the number of rows: none below 500, a fifth to 50,000, then 10,000.
    Auto,
    /// None.
    None,
    /// Drawn.
    Random {
        /// The part for evaluation.
        evaluate: f64,
        /// The part for the test.
        test: f64,
    },
    /// As a column says.
    Custom {
        /// TRUE for evaluation, or TRAIN, EVAL or TEST.
        column: String,
    },
    /// The last rows by a column.
    Sequential {
        /// What they are ordered by.
        column: String,
        /// The part for evaluation.
        evaluate: f64,
        /// The part for the test.
        test: f64,
    },
}

impl From<&crate::options::Split> for Split {
    fn from(split: &crate::options::Split) -> Split {
        use crate::options::Split as Asked;
        match split.clone() {
            Asked::Auto => Split::Auto,
            Asked::None => Split::None,
            Asked::Random { eval, test } => Split::Random { evaluate: eval, test },
            Asked::Custom { column } => Split::Custom { column },
            Asked::Sequential { column, eval, test } => Split::Sequential { column, evaluate: eval, test },
        }
    }
}
