//! The hyper-parameters, each declared once.
//!
//! [`Params`] and [`TABLE`] come from the one list below; the Scala params, the Python properties and the reference
//! page are generated from [`TABLE`]. A name has two spellings, `learning_rate` and, in Spark, `learningRate`; both
//! are read.

use firesteel_engine::{GradientCopy, Precision};
use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::device::{self, Device};
use crate::nearest::distance;
use crate::strategy::{self, Strategy};

/// One row of [`TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// In snake case.
    pub name: &'static str,
    /// What values it takes.
    pub domain: Domain,
    /// One line: what it does, its unit.
    pub help: &'static str,
}

/// The values of a parameter.
#[derive(Clone, Copy, Debug)]
pub enum Domain {
    /// A whole number from `least` on.
    Int {
        /// When not given.
        default: i64,
        /// The smallest.
        least: i64,
    },
    /// Any 64-bit number.
    Seed {
        /// When not given.
        default: i64,
    },
    /// A finite number within a range.
    Real {
        /// When not given.
        default: f64,
        /// Which are allowed.
        range: Range,
        /// The largest, where there is one.
        most: Option<f64>,
    },
    /// One of some words.
    Choice {
        /// When not given.
        default: &'static str,
        /// All of them.
        choices: &'static [&'static str],
    },
    /// True or false.
    Flag {
        /// When not given.
        default: bool,
    },
    /// A word, or `cuda:N`.
    Device {
        /// When not given.
        default: &'static str,
    },
    /// A name with arguments, as [`Strategy`] reads it.
    Strategy {
        /// When not given.
        default: &'static str,
    },
}

/// Which real numbers are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Above 0.
    Positive,
    /// 0 and above.
    NotNegative,
    /// 0 and above, below 1.
    Fraction,
}

impl Range {
    fn contains(self, value: f64) -> bool {
        match self {
            Range::Positive => value > 0.0,
            Range::NotNegative => value >= 0.0,
            Range::Fraction => (0.0..1.0).contains(&value),
        }
    }

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Range::Positive => "above 0",
            Range::NotNegative => "at least 0",
            Range::Fraction => "at least 0 and below 1",
        }
    }
}

/// Declares an enum whose variants have names in JSON.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub enum $name {
                $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)*
            }

            impl $name {
                const NAMES: &'static [&'static str] = &[$($text),*];
            }
        )*
    };
}

choices! {
    /// Which optimizer.
    OptimizerName {
        /// Kingma & Ba 2015.
        Adam = "adam",
        /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
        Adamw = "adamw",
        /// Stochastic gradient descent, with momentum where asked.
        Sgd = "sgd",
    }
    /// How the learning rate changes after its warm-up.
    Schedule {
        /// It stays.
        Constant = "constant",
        /// Half a cosine that would reach 0 one step after the last (Loshchilov & Hutter 2017).
        Cosine = "cosine",
        /// A straight line that would reach 0 one step after the last.
        Linear = "linear",
    }
    /// What is minimised.
    LossName {
        /// Softmax cross-entropy for classes, mean squared error for numbers.
        Auto = "auto",
        /// Any number of classes.
        SoftmaxCrossEntropy = "softmax_cross_entropy",
        /// Two classes, one output.
        BinaryCrossEntropy = "binary_cross_entropy",
        /// Numbers.
        MeanSquaredError = "mean_squared_error",
        /// Numbers with outliers.
        Huber = "huber",
    }
    /// Which values share a mean and a deviation.
    Standardization {
        /// All of an image (a vector of two or more axes), else each feature its own.
        Auto = "auto",
        /// Each element of a vector has its own.
        PerFeature = "per_feature",
        /// All elements of a column share one.
        PerColumn = "per_column",
        /// Values are taken as they are.
        None = "none",
    }
    /// What becomes of a row with a NULL, NaN or infinite number or vector. A NULL string is never invalid: it is a
    /// category of its own.
    HandleInvalid {
        /// The job fails and names the row.
        Error = "error",
        /// The row is dropped.
        Skip = "skip",
        /// The value is replaced by the mean.
        Keep = "keep",
    }
    /// How a plan uses its threads.
    ModeName {
        /// By the network's size.
        Auto = "auto",
        /// Each thread takes a few rows at a time through the whole network.
        Tiled = "tiled",
        /// Each kernel uses all threads on the whole batch.
        Wide = "wide",
    }
}

/// One entry of the list: the Rust type, then the domain.
macro_rules! domain {
    (int $default:literal from $least:literal) => {
        Domain::Int { default: $default, least: $least }
    };
    (seed $default:literal) => {
        Domain::Seed { default: $default }
    };
    (real $default:literal $range:ident) => {
        Domain::Real { default: $default, range: Range::$range, most: None }
    };
    (real $default:literal $range:ident to $most:literal) => {
        Domain::Real { default: $default, range: Range::$range, most: Some($most) }
    };
    (choice $type:ident $default:literal) => {
        Domain::Choice { default: $default, choices: $type::NAMES }
    };
    (flag $default:literal) => {
        Domain::Flag { default: $default }
    };
    (device $default:literal) => {
        Domain::Device { default: $default }
    };
    (strategy $default:expr) => {
        Domain::Strategy { default: $default }
    };
}

macro_rules! rust_type {
    (int $($rest:tt)*) => {
        usize
    };
    (seed $($rest:tt)*) => {
        i64
    };
    (real $($rest:tt)*) => {
        f64
    };
    (choice $type:ident $default:literal) => {
        $type
    };
    (flag $($rest:tt)*) => {
        bool
    };
    (device $($rest:tt)*) => {
        Device
    };
    (strategy $($rest:tt)*) => {
        Strategy
    };
}

macro_rules! params {
    ($($name:ident: [$($domain:tt)*], $help:literal;)*) => {
        /// The hyper-parameters of a training, checked.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(into = "Whole", try_from = "Map<String, Value>")]
        pub struct Params {
            $(#[doc = $help] pub $name: rust_type!($($domain)*),)*
        }

        /// As JSON with every name present and every value in its domain.
        #[derive(Serialize, Deserialize)]
        struct Whole {
            $($name: rust_type!($($domain)*),)*
        }

        impl From<Whole> for Params {
            fn from(whole: Whole) -> Params {
                Params { $($name: whole.$name,)* }
            }
        }

        impl From<Params> for Whole {
            fn from(params: Params) -> Whole {
                Whole { $($name: params.$name,)* }
            }
        }

        /// Every hyper-parameter, in the order of the reference page.
        pub const TABLE: &[Param] = &[
            $(Param { name: stringify!($name), domain: domain!($($domain)*), help: $help },)*
        ];
    };
}

params! {
    epochs: [int 10 from 1], "passes over the training rows";
    batch_size: [int 256 from 1], "rows of one step, over all workers";
    learning_rate: [real 1e-3 Positive to 1e30], "size of a step";
    optimizer: [choice OptimizerName "adam"], "how weights follow gradients";
    momentum: [real 0.0 Fraction], "how much of its last step sgd repeats";
    nesterov: [flag false], "whether sgd looks ahead along its momentum";
    weight_decay: [real 0.0 NotNegative to 1e30], "how strongly weights are pulled to zero";
    beta1: [real 0.9 Fraction], "decay of the mean gradient of adam and adamw";
    beta2: [real 0.999 Fraction], "decay of the mean squared gradient of adam and adamw";
    epsilon: [real 1e-8 Positive to 1e30], "keeps adam and adamw from dividing by zero";
    schedule: [choice Schedule "constant"], "how the learning rate changes after its warm-up";
    warmup_steps: [int 0 from 0], "steps in which the learning rate rises from 0";
    loss: [choice LossName "auto"], "what is minimised; auto chooses by the task";
    huber_delta: [real 1.0 Positive to 1e30], "where the huber loss turns linear, in standard deviations of the label";
    seed: [seed 42], "draws initial weights, order of rows, held-out rows and dropout";
    standardization: [choice Standardization "auto"],
        "which values share a mean and a deviation; auto takes an image as a whole, else each feature";
    handle_invalid: [choice HandleInvalid "error"],
        "what becomes of a row with a NULL, NaN or infinite number: error, skip the row, keep it with the mean";
    min_category_count: [int 1 from 1], "rows a string must occur in to get a category of its own";
    max_categories: [int 100_000 from 1], "most categories of a string column; rarer ones share one";
    validation_fraction: [real 0.0 Fraction], "part of the rows held out for validation, chosen by the seed";
    patience: [int 0 from 0],
        "epochs in which neither the validation metric nor the loss gets better, before training stops with the weights of the \
         best metric; 0 never stops";
    min_improvement: [real 0.0 Fraction],
        "relative improvement of the validation metric or loss that an epoch needs to count as better";
    mode: [choice ModeName "auto"], "how a plan uses its threads";
    threads: [int 0 from 0], "threads of a worker; 0 takes the cores its task has";
    device: [device "auto"],
        "what computes: auto takes a GPU where one can be had, else the CPU; cuda demands one, cuda:0 the machine's first";
    precision: [choice Precision "f32"], "the numbers that a step computes with; all but f32 need a GPU";
    gradient_copy: [choice GradientCopy "f32"],
        "the numbers in which gradients leave a GPU for other workers; bf16 and f16 are half the bytes";
    strategy: [strategy strategy::DEFAULT],
        "how workers train together: what they send, when and to whom; a lone worker has nobody to send to";
    bucket_bytes: [int 1_048_576 from 64], "bytes of gradient that travel together";
    timeout_seconds: [real 300.0 Positive to 1e9], "a worker that says nothing for so long is lost";
    checkpoint_interval: [int 1 from 0], "epochs between checkpoints, where they are kept; 0 makes none";
}

impl Params {
    /// Reads hyper-parameters; those that are absent have their defaults.
    ///
    /// # Errors
    /// `InvalidArgument` naming the option, its value and what is allowed; an unknown option names the nearest.
    pub fn from_map(given: &Map<String, Value>) -> Result<Params> {
        let mut whole = Map::new();
        for param in TABLE {
            whole.insert(param.name.into(), param.domain.default_value());
        }
        for (name, value) in given {
            let snake = snake_case(name);
            let param = TABLE.iter().find(|p| p.name == snake).ok_or_else(|| unknown(name))?;
            param.domain.check(name, value)?;
            whole.insert(snake, param.domain.normal(value));
        }
        let whole: Whole = serde_json::from_value(Value::Object(whole))
            .map_err(|e| Error::argument(format!("the hyper-parameters are not valid: {e}")))?;
        let params = Params::from(whole);
        params.check_together()?;
        Ok(params)
    }

    /// Whether every value is in its domain and they fit each other, also when no one read them from JSON.
    ///
    /// # Errors
    /// As [`Params::from_map`].
    pub fn check(&self) -> Result<()> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => Params::from_map(&map).map(drop),
            _ => Err(Error::internal("the hyper-parameters are no JSON object")),
        }
    }

    /// Refuses a number of workers that the strategy cannot have.
    ///
    /// # Errors
    /// `InvalidArgument` naming the strategy, the number and what it needs.
    pub fn check_workers(&self, workers: usize) -> Result<()> {
        self.strategy.spec().check(workers)
    }

    /// What no single option can tell.
    fn check_together(&self) -> Result<()> {
        if self.nesterov && (self.optimizer != OptimizerName::Sgd || self.momentum == 0.0) {
            return Err(Error::argument(
                "nesterov is true, which needs optimizer sgd with a momentum above 0",
            ));
        }
        if self.device == Device::Cpu && self.precision != Precision::F32 {
            return Err(Error::argument(format!(
                "precision is {}, which needs a GPU, and device is cpu; expected f32",
                self.precision
            )));
        }
        let spec = self.strategy.spec();
        if spec.entry().plain_sgd && (self.optimizer != OptimizerName::Sgd || self.momentum != 0.0) {
            return Err(Error::argument(format!(
                "strategy is {spec}, which has its own momentum and needs optimizer sgd with momentum 0"
            )));
        }
        Ok(())
    }
}

impl Default for Params {
    fn default() -> Params {
        Params::from_map(&Map::new())
            .expect("the defaults of the table are in their domains; a test reads them")
    }
}

impl TryFrom<Map<String, Value>> for Params {
    type Error = Error;

    fn try_from(map: Map<String, Value>) -> Result<Params> {
        Params::from_map(&map)
    }
}

impl Domain {
    /// The default as JSON.
    pub fn default_value(&self) -> Value {
        match *self {
            Domain::Int { default, .. } | Domain::Seed { default } => default.into(),
            Domain::Real { default, .. } => default.into(),
            Domain::Choice { default, .. } | Domain::Device { default } | Domain::Strategy { default } => {
                default.into()
            }
            Domain::Flag { default } => default.into(),
        }
    }

    /// What is allowed, in words.
    pub fn text(&self) -> String {
        match self {
            Domain::Int { least, .. } => format!("a whole number from {least} on"),
            Domain::Seed { .. } => "a whole number".into(),
            Domain::Real { range, most: None, .. } => format!("a number {}", range.text()),
            Domain::Real { range, most: Some(most), .. } => {
                format!("a number {} and at most {most:e}", range.text())
            }
            Domain::Choice { choices, .. } => format!("one of {}", choices.join(", ")),
            Domain::Flag { .. } => "true or false".into(),
            Domain::Device { .. } => device::EXPECTED.into(),
            Domain::Strategy { .. } => strategy::EXPECTED.into(),
        }
    }

    fn check(&self, name: &str, value: &Value) -> Result<()> {
        let fits = match self {
            Domain::Int { least, .. } => whole(value).is_some_and(|v| v >= *least),
            Domain::Seed { .. } => whole(value).is_some(),
            Domain::Real { range, most, .. } => value
                .as_f64()
                .is_some_and(|v| v.is_finite() && range.contains(v) && most.is_none_or(|most| v <= most)),
            Domain::Choice { choices, .. } => value.as_str().is_some_and(|v| choices.contains(&v)),
            Domain::Flag { .. } => value.is_boolean(),
            Domain::Device { .. } => value.as_str().is_some_and(|v| v.parse::<Device>().is_ok()),
            Domain::Strategy { .. } => match value.as_str().map(str::parse::<Strategy>) {
                None => false,
                Some(Ok(_)) => true,
                Some(Err(e)) => return Err(Error::argument(format!("{name}: {e}"))),
            },
        };
        if fits {
            return Ok(());
        }
        Err(Error::argument(format!("{name} is {value}, expected {}", self.text())))
    }

    /// A value that fits, in the form that serde reads.
    fn normal(&self, value: &Value) -> Value {
        match self {
            Domain::Int { .. } | Domain::Seed { .. } => whole(value).map_or(Value::Null, Value::from),
            _ => value.clone(),
        }
    }
}

/// A whole number, also when written as `10.0`.
fn whole(value: &Value) -> Option<i64> {
    let from_real = || value.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64);
    value.as_i64().or_else(from_real)
}

fn unknown(name: &str) -> Error {
    let snake = snake_case(name);
    let nearest = TABLE.iter().map(|p| (distance(&snake, p.name), p.name)).min();
    let hint = match nearest {
        Some((edits, near)) if edits <= near.len() / 2 => {
            let near = if snake == name { near.to_string() } else { camel_case(near) };
            format!("did you mean '{near}'?")
        }
        _ => format!("there are {}", TABLE.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")),
    };
    Error::argument(format!("there is no option '{name}'; {hint}"))
}

/// `learningRate` to `learning_rate`.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// `learning_rate` to `learningRate`.
pub fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or("").to_string();
    for word in words {
        let (first, rest) = word.split_at(1);
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Params> {
        Params::from_map(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn defaults_are_in_their_domains_and_survive_a_round_trip() {
        let params = Params::default();
        assert_eq!(params.batch_size, 256);
        let json = serde_json::to_string(&params).unwrap();
        assert_eq!(serde_json::from_str::<Params>(&json).unwrap(), params);
        for param in TABLE {
            param.domain.check(param.name, &param.domain.default_value()).unwrap();
            assert_eq!(snake_case(&camel_case(param.name)), param.name);
        }
    }

    #[test]
    fn both_spellings_are_read() {
        let params =
            read(r#"{"learningRate": 0.1, "batch_size": 32.0, "optimizer": "sgd", "seed": -3}"#).unwrap();
        assert_eq!((params.learning_rate, params.batch_size, params.seed), (0.1, 32, -3));
        assert_eq!(params.optimizer, OptimizerName::Sgd);
        let params = read(r#"{"device": "cuda:3", "precision": "tf32"}"#).unwrap();
        assert_eq!((params.device, params.precision), (Device::Cuda(Some(3)), Precision::Tf32));
    }

    #[test]
    fn a_wrong_value_names_the_option_the_value_and_the_range() {
        let text = |json| read(json).unwrap_err().to_string();
        assert_eq!(
            text(r#"{"weightDecay": -1}"#),
            "weightDecay is -1, expected a number at least 0 and at most 1e30"
        );
        assert_eq!(text(r#"{"epochs": 0}"#), "epochs is 0, expected a whole number from 1 on");
        assert_eq!(text(r#"{"epochs": 1.5}"#), "epochs is 1.5, expected a whole number from 1 on");
        assert_eq!(text(r#"{"beta1": 1}"#), "beta1 is 1, expected a number at least 0 and below 1");
        let most = "expected a number above 0 and at most 1e9";
        assert_eq!(text(r#"{"timeoutSeconds": 1e19}"#), format!("timeoutSeconds is 1e+19, {most}"));
        // f32, in which weights are updated, has no such number.
        assert!(text(r#"{"learningRate": 1e300}"#).contains("at most 1e30"));
        assert_eq!(
            text(r#"{"optimizer": "lion"}"#),
            "optimizer is \"lion\", expected one of adam, adamw, sgd"
        );
        assert_eq!(
            text(r#"{"nesterov": true}"#),
            "nesterov is true, which needs optimizer sgd with a momentum above 0"
        );
        assert_eq!(
            text(r#"{"device": "gpu"}"#),
            "device is \"gpu\", expected auto, cpu, cuda or cuda:N, N a GPU's number"
        );
        assert_eq!(
            text(r#"{"precision": "fp16"}"#),
            "precision is \"fp16\", expected one of f32, tf32, bf16, f16"
        );
        assert_eq!(
            text(r#"{"device": "cpu", "precision": "bf16"}"#),
            "precision is bf16, which needs a GPU, and device is cpu; expected f32"
        );
        assert_eq!(
            text(r#"{"strategy": "local(every=0)"}"#),
            "strategy: every of local is 0, expected a whole number from 1 to 1000000"
        );
        assert_eq!(
            text(r#"{"strategy": 3}"#),
            "strategy is 3, expected a strategy as `firesteel strategies` lists them"
        );
        let e = text(r#"{"strategy": "two_phase(natural, feedback=true)"}"#);
        assert!(e.contains("error feedback around Natural") && e.contains("shrink"), "{e}");
        let e = text(r#"{"strategy": "quasi_global"}"#);
        assert!(e.starts_with("strategy is quasi_global(") && e.ends_with("sgd with momentum 0"), "{e}");
    }

    #[test]
    fn values_that_came_another_way_are_checked_too() {
        let wrong = Params { learning_rate: f64::INFINITY, ..Params::default() };
        assert!(wrong.check().unwrap_err().to_string().starts_with("learning_rate is null, expected"));
        Params::default().check().unwrap();
    }

    #[test]
    fn an_unknown_option_suggests_the_nearest() {
        let text = |json| read(json).unwrap_err().to_string();
        assert_eq!(
            text(r#"{"learnRate": 1}"#),
            "there is no option 'learnRate'; did you mean 'learningRate'?"
        );
        assert!(text(r#"{"zzzzzzzzzzzzzzzzzzzz": 1}"#).contains("there are epochs, batch_size"));
    }
}
