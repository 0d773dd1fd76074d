//! The options of `CREATE MODEL`.

use datafusion::common::{Result, plan_datafusion_err, plan_err};
use firesteel_model::Network;
use firesteel_train::{Params, Task};
use serde_json::{Map, Value};

use super::search::Search;
use super::{Given, layers, table};
use crate::parse::ModelOption;

/// What a `CREATE MODEL` is told.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelOptions {
    /// What is learned.
    pub model_type: ModelType,
    /// The column that is learned: one, and none for [`ModelType::TransformOnly`].
    pub label_cols: Vec<String>,
    /// The columns that are learned from; all others when absent.
    pub feature_cols: Option<Vec<String>>,
    /// Columns that are not learned from.
    pub exclude_cols: Vec<String>,
    /// The axes of the features that are lists of numbers; one when absent.
    pub input_shape: Option<Vec<usize>>,
    /// The network; none for [`ModelType::TransformOnly`].
    pub network: Option<Network>,
    /// For [`firesteel_train::TrainConfig`], by the names of [`firesteel_train::params::TABLE`]: those given, and those
    /// whose default in SQL is another. Without `validation_fraction` and `patience`, which depend on the rows that
    /// `split` holds out; without `batch_size` it is rows / 10, from 1 to 256.
    pub params: Map<String, Value>,
    /// Which rows are held out.
    pub split: Split,
    /// When training ends early; only where rows are held out.
    pub stop: Option<EarlyStop>,
    /// Also in `params`; the table's default when absent.
    pub seed: Option<i64>,
    /// Parallel workers; one a partition of the query when absent.
    pub workers: Option<usize>,
    /// Whether workers agree by the mean of their weights, once an epoch.
    pub average: bool,
    /// Where the query's rows are kept between epochs.
    pub cache: Cache,
    /// What a string that training has not seen is in a prediction.
    pub on_unseen: OnUnseen,
    /// How much the rows of each class count.
    pub class_weights: ClassWeights,
    /// The column that says how much a row counts.
    pub sample_weight_col: Option<String>,
    /// Whether training goes on from the model's weights.
    pub warm_start: bool,
    /// Epochs between checkpoints; 0 makes none.
    pub checkpoint_every: usize,
    /// The search that is made; the rest then has defaults where values are drawn.
    pub search: Option<Search>,
    /// A note.
    pub description: Option<String>,
    /// Words to find the model by.
    pub labels: Vec<String>,
}

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// A class, by a network.
    DnnClassifier,
    /// A number, by a network.
    DnnRegressor,
    /// A class, by one linear layer.
    LogisticReg,
    /// A number, by one linear layer.
    LinearReg,
    /// A class, by a network and a linear model together.
    WideAndDeepClassifier,
    /// A number, by a network and a linear model together.
    WideAndDeepRegressor,
    /// The class of an image, by LeNet-5.
    Lenet5,
    /// The features themselves, by a network that is narrow in the middle.
    Autoencoder,
    /// Nothing but the statistics of the transforms.
    TransformOnly,
}

/// Each type as the option has it, and what the engine learns, if it does.
const TYPES: [(ModelType, &str, Option<Task>); 9] = [
    (ModelType::DnnClassifier, "dnn_classifier", Some(Task::Classification)),
    (ModelType::DnnRegressor, "dnn_regressor", Some(Task::Regression)),
    (ModelType::LogisticReg, "logistic_reg", Some(Task::Classification)),
    (ModelType::LinearReg, "linear_reg", Some(Task::Regression)),
    (ModelType::WideAndDeepClassifier, "dnn_linear_combined_classifier", Some(Task::Classification)),
    (ModelType::WideAndDeepRegressor, "dnn_linear_combined_regressor", Some(Task::Regression)),
    (ModelType::Lenet5, "lenet5", Some(Task::Classification)),
    (ModelType::Autoencoder, "autoencoder", Some(Task::Reconstruction)),
    (ModelType::TransformOnly, "transform_only", None),
];

// `ModelType::row` reads the table by place.
const _: () = {
    let mut at = 0;
    while at < TYPES.len() {
        assert!(TYPES[at].0 as usize == at);
        at += 1;
    }
};

impl ModelType {
    /// As the option has it.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// What the engine learns, if it does.
    pub fn task(self) -> Option<Task> {
        self.row().2
    }

    fn row(self) -> &'static (ModelType, &'static str, Option<Task>) {
        &TYPES[self as usize]
    }

    fn of(name: &str) -> Option<ModelType> {
        TYPES.iter().find(|(_, known, _)| *known == name).map(|(of, ..)| *of)
    }
}

/// Which rows are held out. Fractions are of all rows and their sum is below 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Split {
    /// By the number of rows: none of few.
    Auto,
    /// None.
    None,
    /// By a hash of the row and the seed.
    Random {
        /// For validation.
        eval: f64,
        /// For a last test.
        test: f64,
    },
    /// Those in which this column is true.
    Custom {
        /// The column, no feature.
        column: String,
    },
    /// The last ones by this column, the test behind the validation.
    Sequential {
        /// The column.
        column: String,
        /// For validation.
        eval: f64,
        /// For a last test.
        test: f64,
    },
}

/// When training ends early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStop {
    /// Epochs that may pass without a better one; at least 1.
    pub patience: usize,
}

/// Where the query's rows are kept between epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// In memory, and on disk when it does not suffice.
    MemoryThenDisk,
    /// In memory.
    Memory,
    /// On disk.
    Disk,
    /// Nowhere: the query runs again.
    None,
}

/// What a string that training has not seen is in a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnseen {
    /// A category of its own.
    Unknown,
    /// An error.
    Error,
}

/// The images of LeNet-5, unless it is told otherwise.
const MNIST: [usize; 3] = [1, 28, 28];

/// The hidden layers of an autoencoder, unless it is told otherwise.
const NARROW: [usize; 3] = [32, 8, 32];

/// How much the rows of each class count.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// All the same.
    Equal,
    /// Inversely to the frequency of the class.
    Balanced,
    /// As given: label, as text, and weight.
    Given(Vec<(String, f64)>),
}

const DEFAULT_EPOCHS: i64 = 20;
/// Of one linear layer, which takes longer steps than a network without harm.
const LINEAR_LEARN_RATE: f64 = 0.02;
const DEFAULT_PATIENCE: usize = 2;
const DEFAULT_EVAL: f64 = 0.2;
const DEFAULT_WIDTH: usize = 64;
/// Of the optimizer that BigQuery ML calls so.
const MOMENTUM: f64 = 0.9;

/// What says how a network looks.
const NETWORK: [&str; 5] = ["layers", "hidden_units", "activation_fn", "dropout", "embedding_dims"];
/// What `transform_only` takes.
const OF_TRANSFORM_ONLY: [&str; 6] = ["cache", "description", "labels", "model_type", "seed", "workers"];

/// What `autoencoder` does not take: it has no label, and its strings are one-hot.
const NOT_OF_AUTOENCODER: [&str; 7] = [
    "auto_class_weights",
    "class_weights",
    "embedding_dims",
    "hparam_tuning_algorithm",
    "hparam_tuning_objectives",
    "input_label_cols",
    "num_trials",
];

impl ModelOptions {
    /// Reads options as [`crate::parse`] gives them.
    ///
    /// # Errors
    /// `Plan` naming the option, its place, what was expected and what was found.
    pub fn read(options: &[ModelOption]) -> Result<ModelOptions> {
        let given = Given::read(table::ROWS, true, options)?;
        let model_type = model_type(&given)?;
        check_suits(&given, model_type)?;
        let (label_cols, feature_cols, exclude_cols) = columns(&given, model_type)?;
        let split = split(&given)?;
        let input_shape = input_shape(&given, model_type)?;
        Ok(ModelOptions {
            model_type,
            label_cols,
            feature_cols,
            exclude_cols,
            input_shape,
            network: network(&given, model_type)?,
            params: params(&given, model_type)?,
            stop: stop(&given, &split)?,
            split,
            seed: given.whole("seed"),
            workers: given.count("workers"),
            average: given.text("sync") == Some("average"),
            cache: cache(&given),
            on_unseen: match given.text("on_unseen") {
                Some("error") => OnUnseen::Error,
                _ => OnUnseen::Unknown,
            },
            class_weights: class_weights(&given, model_type)?,
            sample_weight_col: given.text("sample_weight_col").map(str::to_owned),
            warm_start: given.flag("warm_start", false),
            checkpoint_every: given.count("checkpoint_every").unwrap_or(0),
            search: Search::read(&given)?,
            description: given.text("description").map(str::to_owned),
            labels: given.texts("labels").unwrap_or_default(),
        })
    }

    /// The column that is learned.
    pub fn label(&self) -> Option<&str> {
        self.label_cols.first().map(String::as_str)
    }
}

fn model_type(given: &Given) -> Result<ModelType> {
    given.text("model_type").and_then(ModelType::of).ok_or_else(|| {
        let row = table::ROWS.iter().find(|row| row.name == "model_type");
        plan_datafusion_err!("model_type is required: {}", row.map_or_else(String::new, table::Row::text))
    })
}

/// That no option is without effect on a model of this type.
fn check_suits(given: &Given, model_type: ModelType) -> Result<()> {
    let mut searched = given.space.iter().map(|d| d.option.as_str());
    let without_effect = match model_type {
        ModelType::TransformOnly => {
            let stray = |name: &&str| !OF_TRANSFORM_ONLY.contains(name);
            searched.next().or_else(|| given.names().find(stray))
        }
        ModelType::Lenet5 => {
            let stray = |name: &&str| NETWORK.contains(name);
            searched.find(stray).or_else(|| given.names().find(stray))
        }
        ModelType::LogisticReg | ModelType::LinearReg => {
            let hidden = |name: &&str| NETWORK.contains(name) && *name != "embedding_dims";
            searched.find(hidden).or_else(|| given.names().find(hidden))
        }
        ModelType::Autoencoder => {
            let stray = |name: &&str| NOT_OF_AUTOENCODER.contains(name);
            searched.next().or_else(|| given.names().find(stray))
        }
        ModelType::WideAndDeepClassifier | ModelType::WideAndDeepRegressor => {
            given.names().find(|name| *name == "layers")
        }
        ModelType::DnnClassifier | ModelType::DnnRegressor => None,
    };
    match without_effect {
        None => Ok(()),
        Some(name) if given.space.iter().any(|d| d.option == name) => {
            plan_err!("{name} cannot be searched for a model_type '{}'", model_type.name())
        }
        Some(name) => {
            let place = given.option(name).map(ModelOption::place).unwrap_or_default();
            plan_err!("{name} does not go with model_type '{}'{place}", model_type.name())
        }
    }
}

type Columns = (Vec<String>, Option<Vec<String>>, Vec<String>);

fn columns(given: &Given, model_type: ModelType) -> Result<Columns> {
    let labels = match (given.texts("input_label_cols"), model_type) {
        (None, ModelType::TransformOnly | ModelType::Autoencoder) => vec![],
        (None, _) => vec!["label".to_owned()],
        (Some(labels), _) if labels.len() == 1 => labels,
        (Some(labels), _) => {
            return plan_err!("input_label_cols has {} columns, expected one", labels.len());
        }
    };
    let features = given.texts("feature_cols");
    let excluded = given.texts("exclude_cols");
    if let (Some(_), Some(option)) = (&features, given.option("exclude_cols")) {
        return plan_err!("exclude_cols does not go with feature_cols{}", option.place());
    }
    if features.as_ref().is_some_and(Vec::is_empty) {
        return plan_err!("feature_cols is empty, expected at least one column");
    }
    if let Some(label) = labels.first().filter(|label| features.iter().flatten().any(|f| f == *label)) {
        return plan_err!("column '{label}' is in feature_cols and in input_label_cols");
    }
    Ok((labels, features, excluded.unwrap_or_default()))
}

fn input_shape(given: &Given, model_type: ModelType) -> Result<Option<Vec<usize>>> {
    let default = (model_type == ModelType::Lenet5).then(|| MNIST.to_vec());
    let Some(shape) = given.counts("input_shape").or(default) else { return Ok(None) };
    let values = shape.iter().try_fold(1, |all: usize, axis| all.checked_mul(*axis));
    match values.filter(|values| *values <= table::WIDEST as usize) {
        Some(_) => Ok(Some(shape)),
        None => plan_err!("input_shape {shape:?} has more than {} values", table::WIDEST),
    }
}

fn network(given: &Given, model_type: ModelType) -> Result<Option<Network>> {
    let activation = given.text("activation_fn").and_then(layers::activation).unwrap_or_default();
    let dropout = given.real("dropout").unwrap_or(0.0) as f32;
    let hidden = match model_type {
        ModelType::TransformOnly => return Ok(None),
        ModelType::Lenet5 => return Ok(Some(Network::Lenet5)),
        ModelType::LogisticReg | ModelType::LinearReg => vec![],
        ModelType::Autoencoder => given.counts("hidden_units").unwrap_or_else(|| NARROW.to_vec()),
        _ => given.counts("hidden_units").unwrap_or_else(|| vec![DEFAULT_WIDTH]),
    };
    if let (Some(words), Some(option)) = (given.texts("layers"), given.option("layers")) {
        if let Some(other) = given.first_of(&["hidden_units", "dropout", "embedding_dims"]) {
            let instead = match other.name.as_str() {
                "hidden_units" => "write dense(64) for each",
                "dropout" => "write dropout(0.1) where it belongs",
                _ => "the number of categories decides there",
            };
            return plan_err!("{} does not go with layers{}; {instead}", other.name, other.place());
        }
        let ops = layers::parse(&words, activation);
        let ops = ops.map_err(|message| plan_datafusion_err!("layers{}: {message}", option.place()))?;
        return Ok(Some(Network::Sequential { layers: ops }));
    }
    match model_type {
        ModelType::Autoencoder => return Ok(Some(Network::Autoencoder { hidden, activation, dropout })),
        ModelType::WideAndDeepClassifier | ModelType::WideAndDeepRegressor => {
            let embedding_dims = given.count("embedding_dims").unwrap_or(0);
            return Ok(Some(Network::WideAndDeep { hidden, activation, dropout, embedding_dims }));
        }
        _ => {}
    }
    Ok(Some(match given.count("embedding_dims") {
        None => Network::Mlp { hidden, activation, dropout },
        Some(embedding_dims) => Network::Tabular { hidden, embedding_dims, dropout, activation },
    }))
}

/// Hyper-parameters, checked together.
fn params(given: &Given, model_type: ModelType) -> Result<Map<String, Value>> {
    let mut params = given.params();
    for held_apart in ["validation_fraction", "patience"] {
        params.remove(held_apart);
    }
    if given.count("checkpoint_every") == Some(0) {
        params.remove("checkpoint_interval");
    }
    if given.text("optimizer") == Some("momentum") {
        params.insert("optimizer".into(), "sgd".into());
        params.entry("momentum").or_insert(MOMENTUM.into());
    }
    params.entry("epochs").or_insert(DEFAULT_EPOCHS.into());
    if matches!(model_type, ModelType::LogisticReg | ModelType::LinearReg) {
        params.entry("learning_rate").or_insert(LINEAR_LEARN_RATE.into());
    }
    if let (Some(ours), Some(theirs)) = (given.option("on_null"), given.option("handle_invalid")) {
        return plan_err!("{} and {} are two words for one thing{}", ours.name, theirs.name, theirs.place());
    }
    let invalid = match given.text("on_null") {
        Some("skip") => "skip",
        Some("error") => "error",
        _ => "keep",
    };
    params.entry("handle_invalid").or_insert(invalid.into());
    let read = Params::from_map(&params).map_err(|e| plan_datafusion_err!("{e}"))?;
    if given.text("sync") == Some("average") && read.strategy != Params::default().strategy {
        return plan_err!(
            "strategy is {}, which sync = 'average' does not have: its workers never meet",
            read.strategy
        );
    }
    Ok(params)
}

fn split(given: &Given) -> Result<Split> {
    let fractions = ["data_split_eval_fraction", "data_split_test_fraction"];
    let fraction = given.first_of(&fractions);
    let column = given.option("data_split_col");
    let method = given.text("data_split_method").unwrap_or(match (column, fraction) {
        (Some(_), _) => "custom",
        (None, Some(_)) => "random",
        (None, None) => "auto_split",
    });
    let stray = match method {
        "custom" => fraction,
        "random" => column,
        "seq" => None,
        _ => fraction.or(column),
    };
    if let Some(option) = stray {
        return plan_err!("{} does not go with data_split_method '{method}'{}", option.name, option.place());
    }
    let eval = given.real(fractions[0]).unwrap_or(DEFAULT_EVAL);
    let test = given.real(fractions[1]).unwrap_or(0.0);
    if eval + test >= 1.0 {
        return plan_err!("{} of the rows are held out, expected less than all", eval + test);
    }
    let column = || {
        let name = given.text("data_split_col").map(str::to_owned);
        name.ok_or_else(|| plan_datafusion_err!("data_split_method '{method}' needs data_split_col"))
    };
    Ok(match method {
        "no_split" => Split::None,
        "random" | "seq" if eval + test == 0.0 => Split::None,
        "random" => Split::Random { eval, test },
        "custom" => Split::Custom { column: column()? },
        "seq" => Split::Sequential { column: column()?, eval, test },
        _ => Split::Auto,
    })
}

fn stop(given: &Given, split: &Split) -> Result<Option<EarlyStop>> {
    let patience = given.count("patience").unwrap_or(DEFAULT_PATIENCE);
    let min_rel_progress = given.real("min_rel_progress").unwrap_or(0.0);
    let (off, nothing_held) = (!given.flag("early_stop", true), *split == Split::None);
    let stray = match given.option("patience") {
        Some(option) if patience > 0 => Some(option),
        _ => given.option("min_rel_progress").filter(|_| min_rel_progress > 0.0),
    };
    match stray {
        Some(option) if off => {
            plan_err!("{} does not go with early_stop = FALSE{}", option.name, option.place())
        }
        Some(option) if nothing_held => {
            plan_err!("{} needs rows that are held out, there are none{}", option.name, option.place())
        }
        _ if off || nothing_held || patience == 0 => Ok(None),
        _ => Ok(Some(EarlyStop { patience })),
    }
}

fn cache(given: &Given) -> Cache {
    match given.text("cache") {
        Some("memory") => Cache::Memory,
        Some("disk") => Cache::Disk,
        Some("none") => Cache::None,
        _ => Cache::MemoryThenDisk,
    }
}

fn class_weights(given: &Given, model_type: ModelType) -> Result<ClassWeights> {
    let balanced = given.flag("auto_class_weights", false);
    let option = given.option("class_weights").or(given.option("auto_class_weights").filter(|_| balanced));
    let Some(option) = option else { return Ok(ClassWeights::Equal) };
    if model_type.task() != Some(Task::Classification) {
        let (name, place) = (&option.name, option.place());
        return plan_err!("{name} does not go with model_type '{}'{place}", model_type.name());
    }
    let Some(weights) = given.value("class_weights").and_then(Value::as_array) else {
        return Ok(ClassWeights::Balanced);
    };
    if balanced {
        return plan_err!("class_weights does not go with auto_class_weights{}", option.place());
    }
    let pair = |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_f64()?));
    let weights: Vec<(String, f64)> = weights.iter().filter_map(pair).collect();
    if let Some(i) =
        (1..weights.len()).find(|i| weights[..*i].iter().any(|(label, _)| *label == weights[*i].0))
    {
        return plan_err!("class_weights names '{}' twice{}", weights[i].0, option.place());
    }
    Ok(ClassWeights::Given(weights))
}
