//! The options, each declared once. Hyper-parameters have their domain, default and help in
//! [`firesteel_train::params::TABLE`]; here they get the names of BigQuery ML.

use firesteel_train::Device;
use firesteel_train::params::{self, Domain, Param, Range};
use serde_json::Value;

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// In lower case.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Choices beyond those of the hyper-parameter.
    pub extra: &'static [&'static str],
    /// Choices that others have and we do not have yet.
    pub not_yet: &'static [&'static str],
    /// In words; empty takes the hyper-parameter's.
    pub default: &'static str,
    /// One line: what it does; empty takes the hyper-parameter's.
    pub help: &'static str,
}

/// The values of an option.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Those of the hyper-parameter of this name, which is another name of the option.
    Param(&'static str),
    /// One of some words, in any case.
    Choice(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A whole number from `least` on.
    Count {
        /// The smallest.
        least: u64,
    },
    /// A whole number from 1 on, or `auto`.
    CountOrAuto,
    /// A finite number within a range.
    Real(Range),
    /// A string.
    Text,
    /// A list of strings; one string is a list of one.
    Texts,
    /// A whole number from 1 to [`WIDEST`].
    Width,
    /// A list of such; one number is a list of one.
    Widths,
    /// `[STRUCT('a' AS label, 0.3 AS weight), ..]`.
    Weights,
    /// Any value that turns it on is refused; the text says what to do instead.
    NotYet(&'static str),
}

/// The widest layer: sizes of networks stay far from overflowing.
pub const WIDEST: i64 = 1 << 20;

/// Most workers; each talks to all others.
pub const MOST_WORKERS: i64 = 256;

const fn row(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Row {
    Row { name, kind, extra: &[], not_yet: &[], default, help }
}

const fn param(name: &'static str, param: &'static str, default: &'static str) -> Row {
    row(name, Kind::Param(param), default, "")
}

/// Of `CREATE MODEL` and `RETRAIN MODEL`. Every other hyper-parameter is an option of its own name.
pub const ROWS: &[Row] = &[
    Row {
        not_yet: &["kmeans", "boosted_tree_classifier", "boosted_tree_regressor"],
        ..row(
            "model_type",
            Kind::Choice(&[
                "dnn_classifier",
                "dnn_regressor",
                "logistic_reg",
                "linear_reg",
                "dnn_linear_combined_classifier",
                "dnn_linear_combined_regressor",
                "lenet5",
                "autoencoder",
                "transform_only",
            ]),
            "",
            "what is learned: a class or a number, by a network, a linear model or both together; the class of an image, by LeNet-5; the features themselves; or only the transforms; required",
        )
    },
    row("input_label_cols", Kind::Texts, "['label']", "the column that is learned; one"),
    row("feature_cols", Kind::Texts, "all others", "the columns that are learned from"),
    row("exclude_cols", Kind::Texts, "none", "columns that are not learned from"),
    row("hidden_units", Kind::Widths, "[64]", "widths of the hidden layers; of an autoencoder [32, 8, 32]"),
    row("layers", Kind::Texts, "none", "layers one behind the other, instead of hidden_units; see below"),
    row(
        "input_shape",
        Kind::Widths,
        "one axis",
        "axes of a list of numbers, of an image [channels, height, width]; of lenet5 [1, 28, 28]",
    ),
    Row {
        not_yet: &["relu6", "elu", "selu", "crelu"],
        ..row(
            "activation_fn",
            Kind::Choice(&["relu", "tanh", "sigmoid", "gelu"]),
            "relu",
            "behind each hidden layer",
        )
    },
    row(
        "dropout",
        Kind::Real(Range::Fraction),
        "0",
        "part of the values behind each hidden layer that is zeroed",
    ),
    row(
        "embedding_dims",
        Kind::Width,
        "by the number of categories",
        "width of the vector that stands for a string",
    ),
    Row {
        extra: &["momentum"],
        not_yet: &["rmsprop", "adagrad", "ftrl"],
        help: "how weights follow gradients; momentum is sgd with momentum 0.9",
        ..param("optimizer", "optimizer", "")
    },
    Row { help: "size of a step", ..param("learn_rate", "learning_rate", "0.001; 0.02 of linear models") },
    param("lr_schedule", "schedule", ""),
    param("batch_size", "batch_size", "rows / 10, from 1 to 256"),
    param("max_iterations", "epochs", "20"),
    param("l2_reg", "weight_decay", ""),
    row("early_stop", Kind::Flag, "true", "whether training stops when rows held out no longer get better"),
    param("patience", "patience", "2"),
    param("min_rel_progress", "min_improvement", "0"),
    row("auto_class_weights", Kind::Flag, "false", "whether classes count inversely to their frequency"),
    row("class_weights", Kind::Weights, "none", "how much the rows of each class count"),
    row("sample_weight_col", Kind::Text, "none", "the column that says how much a row counts"),
    row(
        "data_split_method",
        Kind::Choice(&["auto_split", "random", "custom", "seq", "no_split"]),
        "auto_split",
        "how rows are held out: auto_split by their number, random by the seed, custom by a column that is true for \
         them, seq the last ones by a column, no_split none",
    ),
    Row {
        help: "part of the rows held out for validation",
        ..param("data_split_eval_fraction", "validation_fraction", "0.2")
    },
    row(
        "data_split_test_fraction",
        Kind::Real(Range::Fraction),
        "0",
        "part of the rows held out for a last test",
    ),
    row("data_split_col", Kind::Text, "none", "the column of custom and seq"),
    row("warm_start", Kind::Flag, "false", "whether training goes on from the model's weights"),
    Row {
        help: "epochs between checkpoints; 0 makes none",
        ..param("checkpoint_every", "checkpoint_interval", "0")
    },
    row(
        "on_null",
        Kind::Choice(&["impute", "skip", "error"]),
        "impute",
        "what becomes of a row with a NULL, NaN or infinite feature: its value is the mean, it is dropped, training \
         fails",
    ),
    row(
        "on_unseen",
        Kind::Choice(&["unknown", "error"]),
        "unknown",
        "what a string that training has not seen is in a prediction: a category of its own, or an error",
    ),
    param("max_categories", "max_categories", ""),
    row("workers", Kind::CountOrAuto, "auto", "parallel workers; auto takes one a partition of the query"),
    row(
        "sync",
        Kind::Choice(&["auto", "sync", "average"]),
        "auto",
        "how workers agree: by the sum of gradients, each step; or average, by the mean of their weights, each epoch, as \
         workers can that never run at the same time: those of a cluster",
    ),
    param("device", "device", ""),
    param("precision", "precision", ""),
    param("gradient_copy", "gradient_copy", ""),
    param("strategy", "strategy", ""),
    row(
        "cache",
        Kind::Choice(&["memory_then_disk", "memory", "disk", "none"]),
        "memory_then_disk",
        "where the query's rows are kept between epochs; none runs it again",
    ),
    Row { default: "42", ..param("seed", "seed", "") },
    row("num_trials", Kind::Count { least: 1 }, "no search", "how many trainings a search makes"),
    row(
        "max_parallel_trials",
        Kind::Count { least: 1 },
        "1",
        "how many of them at once, each by all workers and with its own copy of the rows",
    ),
    Row {
        not_yet: &["vizier_default"],
        ..row(
            "hparam_tuning_algorithm",
            Kind::Choice(&["random_search", "grid_search"]),
            "random_search",
            "how a search draws: random_search any value, on a logarithmic scale where the range spans more than a factor of \
             ten; grid_search all combinations of candidates",
        )
    },
    row(
        "hparam_tuning_objectives",
        Kind::Texts,
        "log_loss or mean_squared_error",
        "the column of ML.EVALUATE, on rows held out, by which a search compares its trials; one",
    ),
    row("description", Kind::Text, "none", "a note, shown by SHOW MODELS"),
    row("labels", Kind::Texts, "none", "words to find the model by"),
    row("l1_reg", Kind::NotYet("use l2_reg"), "0", ""),
    row("l1_reg_activation", Kind::NotYet("make the narrowest layer narrower"), "0", ""),
    row("grad_clip_norm", Kind::NotYet("lower learn_rate"), "0", ""),
    row("sync_every", Kind::NotYet("workers agree each step, or each epoch with sync = 'average'"), "0", ""),
    row("encoding", Kind::NotYet("cast the column to the type that says it: a string is a category"), "", ""),
    row("enable_global_explain", Kind::NotYet("leave it out"), "false", ""),
    row("integrated_gradients_num_steps", Kind::NotYet("leave it out"), "0", ""),
];

/// Of `ALTER MODEL .. SET OPTIONS`.
pub const ALTER_ROWS: &[Row] = &[
    row(
        "active_version",
        Kind::Count { least: 1 },
        "unchanged",
        "the version that is used where none is named",
    ),
    row("description", Kind::Text, "unchanged", "a note, shown by SHOW MODELS"),
    row("labels", Kind::Texts, "unchanged", "words to find the model by"),
];

/// Of `EXPORT MODEL`.
pub const EXPORT_ROWS: &[Row] = &[
    row("uri", Kind::Text, "", "where the files go; required"),
    row(
        "format",
        Kind::Choice(&["onnx", "safetensors", "spark"]),
        "safetensors",
        "onnx: one graph; safetensors: the files of a model; spark: a folder that NeuralClassificationModel.load or \
         NeuralRegressionModel.load opens",
    ),
];

/// The hyper-parameter of this name.
pub(super) fn native(name: &str) -> Option<&'static Param> {
    params::TABLE.iter().find(|p| p.name == name)
}

impl Row {
    /// Whether an option may be written so.
    pub(super) fn answers_to(&self, name: &str) -> bool {
        self.name == name || matches!(self.kind, Kind::Param(param) if param == name)
    }

    /// What is allowed, in words.
    pub fn text(&self) -> String {
        match (self.kind, self.extra) {
            (kind, []) => kind.text(),
            (kind, extra) => format!("{}, {}", kind.text(), extra.join(", ")),
        }
    }

    /// The value as the engine takes it, when it is allowed.
    pub(super) fn check(&self, value: &Value) -> Option<Value> {
        let extra = value.as_str().map(str::to_ascii_lowercase).filter(|v| self.extra.contains(&v.as_str()));
        extra.map(Value::from).or_else(|| self.kind.check(value))
    }

    /// The choice, when it is one that we do not have yet.
    pub(super) fn lacks(&self, value: &Value) -> bool {
        let lower = value.as_str().unwrap_or_default().to_ascii_lowercase();
        self.not_yet.contains(&lower.as_str())
    }
}

impl Kind {
    /// What is allowed, in words.
    pub fn text(self) -> String {
        match self {
            Kind::Param(name) => native(name).map_or_else(String::new, |p| match p.domain {
                Domain::Real { range, .. } => real_text(range),
                domain => domain.text(),
            }),
            Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
            Kind::Flag => "true or false".into(),
            Kind::Count { least } => format!("a whole number from {least} on"),
            Kind::CountOrAuto => format!("a whole number from 1 to {MOST_WORKERS}, or auto"),
            Kind::Real(range) => real_text(range),
            Kind::Text => "a string".into(),
            Kind::Texts => "a list of strings".into(),
            Kind::Width => format!("a whole number from 1 to {WIDEST}"),
            Kind::Widths => format!("a list of whole numbers from 1 to {WIDEST}"),
            Kind::Weights => "a list of STRUCT('a' AS label, 0.3 AS weight)".into(),
            Kind::NotYet(_) => "nothing yet".into(),
        }
    }

    /// The value as the engine takes it, when it is allowed.
    fn check(self, value: &Value) -> Option<Value> {
        match self {
            Kind::Param(name) => check_domain(&native(name)?.domain, value),
            Kind::Choice(choices) => choice(choices, value),
            Kind::Flag => value.is_boolean().then(|| value.clone()),
            Kind::Count { least } => whole(value).filter(|v| *v >= least as i64).map(Value::from),
            Kind::CountOrAuto => choice(&["auto"], value)
                .or_else(|| whole(value).filter(|v| (1..=MOST_WORKERS).contains(v)).map(Value::from)),
            Kind::Real(range) => value.as_f64().filter(|v| contains(range, *v)).map(Value::from),
            Kind::Text => value.is_string().then(|| value.clone()),
            Kind::Texts => list(value, |v| v.is_string().then(|| v.clone())),
            Kind::Width => width(value),
            Kind::Widths => list(value, width),
            Kind::Weights => {
                list(value, class_weight).filter(|v| v.as_array().is_some_and(|l| !l.is_empty()))
            }
            Kind::NotYet(_) => {
                (value.as_f64() == Some(0.0) || *value == Value::Bool(false)).then_some(Value::Null)
            }
        }
    }
}

fn real_text(range: Range) -> String {
    match range {
        Range::Positive => "a positive number".into(),
        range => format!("a number {}", range.text()),
    }
}

fn check_domain(domain: &Domain, value: &Value) -> Option<Value> {
    match domain {
        Domain::Int { least, .. } => whole(value).filter(|v| v >= least).map(Value::from),
        Domain::Seed { .. } => whole(value).map(Value::from),
        Domain::Real { range, .. } => value.as_f64().filter(|v| contains(*range, *v)).map(Value::from),
        Domain::Choice { choices, .. } => choice(choices, value),
        Domain::Flag { .. } => value.is_boolean().then(|| value.clone()),
        Domain::Device { .. } => {
            let lower = value.as_str()?.to_ascii_lowercase();
            lower.parse::<Device>().ok().map(|device| device.to_string().into())
        }
        // What is wrong with it is said where parameters are read.
        Domain::Strategy { .. } => value.is_string().then(|| value.clone()),
    }
}

fn contains(range: Range, value: f64) -> bool {
    match range {
        Range::Positive => value > 0.0,
        Range::NotNegative => value >= 0.0,
        Range::Fraction => (0.0..1.0).contains(&value),
    }
}

fn choice(choices: &[&str], value: &Value) -> Option<Value> {
    let lower = value.as_str()?.to_ascii_lowercase();
    choices.contains(&lower.as_str()).then(|| lower.into())
}

/// A whole number, also when written as `10.0`.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let from_real = || value.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64);
    value.as_i64().or_else(from_real)
}

fn list(value: &Value, check: impl Fn(&Value) -> Option<Value>) -> Option<Value> {
    match value {
        Value::Array(values) => values.iter().map(check).collect::<Option<Vec<_>>>().map(Value::Array),
        one => check(one).map(|v| Value::Array(vec![v])),
    }
}

fn width(value: &Value) -> Option<Value> {
    whole(value).filter(|v| (1..=WIDEST).contains(v)).map(Value::from)
}

/// A label, as text, and a weight.
fn class_weight(value: &Value) -> Option<Value> {
    let fields = value.as_object().filter(|fields| fields.len() == 2)?;
    let label = match fields.get("label")? {
        Value::String(label) => label.clone(),
        label @ (Value::Number(_) | Value::Bool(_)) => label.to_string(),
        _ => return None,
    };
    let weight = fields.get("weight")?.as_f64().filter(|w| *w >= 0.0)?;
    Some(serde_json::json!([label, weight]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_of_one_option() {
        for rows in [ROWS, ALTER_ROWS, EXPORT_ROWS] {
            for row in rows {
                let same = rows.iter().filter(|other| other.answers_to(row.name)).count();
                assert_eq!(same, 1, "{}", row.name);
            }
        }
    }

    #[test]
    fn hyper_parameters_exist() {
        for row in ROWS {
            if let Kind::Param(name) = row.kind {
                assert!(native(name).is_some(), "{} is of {name}, which is not in the table", row.name);
                assert!(row.name == name || native(row.name).is_none(), "{} hides a parameter", row.name);
            } else {
                assert!(native(row.name).is_none(), "{} is in the table by now", row.name);
            }
        }
    }

    #[test]
    fn the_table_of_hyper_parameters_agrees() {
        let values = [-1.0, 0.0, 0.5, 1.0, 2.0, 1e9].map(Value::from);
        let words = ["adam", "cosine", "auto", "error", "x"].map(Value::from);
        let flags = [true.into(), false.into()];
        for param in params::TABLE {
            for value in values.iter().chain(&words).chain(&flags) {
                let one = std::iter::once((param.name.to_owned(), value.clone())).collect();
                // Nesterov is the one that asks for others; what is wrong with a strategy is said later.
                let later = (param.name == "nesterov" && *value == true)
                    || (param.name == "strategy" && value.is_string());
                let theirs = params::Params::from_map(&one).is_ok() || later;
                assert_eq!(check_domain(&param.domain, value).is_some(), theirs, "{} {value}", param.name);
            }
        }
    }
}
