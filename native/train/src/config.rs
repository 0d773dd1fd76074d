//! What a training is asked to do: the same on every worker.

use std::time::Duration;

use firesteel_engine::{Loss, Mode, Optimizer};
use firesteel_error::{Error, Result};
use firesteel_model::{Network, json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::params::{LossName, ModeName, OptimizerName, Params};

/// The longest that a wait may take: about 32 years, which every clock can add to the time it is.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Which of some classes; labels are 0, 1, 2…
    Classification,
    /// A number.
    Regression,
    /// The features themselves, as they are encoded; there is no label.
    Reconstruction,
}

impl Task {
    /// The word that a configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Task::Classification => "classification",
            Task::Regression => "regression",
            Task::Reconstruction => "reconstruction",
        }
    }
}

/// One column that is learned from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = r#"an object like {"column": "distance"}"#)]
pub struct Feature {
    /// Its name.
    pub column: String,
    /// Of a vector: the shape of one row, for example `[1, 28, 28]`; one axis when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<usize>>,
}

/// Which columns are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Learned from: numbers, strings, lists of numbers.
    pub features: Vec<Feature>,
    /// Learned; empty for a reconstruction, which has no label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// How much each row counts; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// True for rows that are held out for validation; then `validation_fraction` is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<String>,
}

/// Everything that a training is told, and that is the same on every worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainConfig {
    /// What is learned.
    pub task: Task,
    /// The network; inputs and head come from the data.
    pub network: Network,
    /// The hyper-parameters.
    pub params: Params,
    /// The columns.
    pub data: DataConfig,
    /// The number of classes; found as the largest label + 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Whether someone keeps checkpoints; none are made otherwise.
    pub checkpoints: bool,
}

/// [`TrainConfig`] before its hyper-parameters are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    task: Task,
    network: Network,
    #[serde(default)]
    params: Map<String, Value>,
    data: DataConfig,
    #[serde(default)]
    classes: Option<usize>,
    #[serde(default = "yes")]
    checkpoints: bool,
}

fn yes() -> bool {
    true
}

impl TrainConfig {
    /// Reads a configuration and checks it.
    ///
    /// # Errors
    /// `InvalidArgument` naming the option, what was found and what was expected.
    pub fn from_json(json: &str) -> Result<TrainConfig> {
        let config: Unchecked = json::read("the training's configuration", json)?;
        let config = TrainConfig {
            task: config.task,
            network: config.network,
            params: Params::from_map(&config.params)?,
            data: config.data,
            classes: config.classes,
            checkpoints: config.checkpoints,
        };
        config.check()?;
        Ok(config)
    }

    /// Whether its parts fit each other.
    ///
    /// # Errors
    /// `InvalidArgument` naming the part, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        let features = &self.data.features;
        if features.is_empty() {
            return Err(Error::argument("there are no feature columns"));
        }
        for (i, feature) in features.iter().enumerate() {
            let name = &feature.column;
            if features[..i].iter().any(|f| f.column == *name) {
                return Err(Error::argument(format!("feature column '{name}' is named twice")));
            }
            if let Some(shape) = feature.shape.as_ref().filter(|s| s.is_empty() || s.contains(&0)) {
                return Err(Error::argument(format!(
                    "feature column '{name}' has shape {shape:?}, expected at least one axis and no empty one"
                )));
            }
        }
        self.check_label()?;
        self.check_network()?;
        if let Some(classes) = self.classes.filter(|n| *n < 2) {
            return Err(Error::argument(format!("classes is {classes}, expected at least 2")));
        }
        self.params.check()?;
        self.check_loss()?;
        if self.params.patience > 0 && !self.holds_out() {
            return Err(Error::argument(format!(
                "patience is {}, but no row is held out: set validationFraction or a validation column",
                self.params.patience
            )));
        }
        self.optimizer().check()
    }

    /// Whether rows are held out, by their number or by a column.
    fn holds_out(&self) -> bool {
        self.params.validation_fraction > 0.0 || self.data.validation.is_some()
    }

    fn check_label(&self) -> Result<()> {
        let (task, label) = (self.task.name(), &self.data.label);
        match (self.task, label.is_empty()) {
            (Task::Reconstruction, false) => Err(Error::argument(format!(
                "label column '{label}' is given, expected none: a reconstruction learns its features"
            ))),
            (Task::Classification | Task::Regression, true) => {
                Err(Error::argument(format!("there is no label column, which a {task} learns")))
            }
            _ => Ok(()),
        }
    }

    fn check_network(&self) -> Result<()> {
        let task = self.task.name();
        match (&self.network, self.task) {
            (Network::Autoencoder { .. }, Task::Classification | Task::Regression) => {
                Err(Error::argument(format!("network autoencoder learns a reconstruction, task is {task}")))
            }
            (Network::WideAndDeep { .. }, Task::Reconstruction) => Err(Error::argument(
                "network wide_and_deep can copy its inputs, so it learns nothing of them as a reconstruction; \
                 expected autoencoder",
            )),
            _ => Ok(()),
        }
    }

    fn check_loss(&self) -> Result<()> {
        let (fits, wanted) = match (self.task, self.params.loss) {
            (_, LossName::Auto) => (true, ""),
            (Task::Classification, loss) => (
                matches!(loss, LossName::SoftmaxCrossEntropy | LossName::BinaryCrossEntropy),
                "classification expects auto, softmax_cross_entropy or binary_cross_entropy",
            ),
            (Task::Regression, loss) => (
                matches!(loss, LossName::MeanSquaredError | LossName::Huber),
                "regression expects auto, mean_squared_error or huber",
            ),
            (Task::Reconstruction, loss) => (
                matches!(loss, LossName::MeanSquaredError | LossName::Huber),
                "reconstruction expects auto, mean_squared_error or huber",
            ),
        };
        if !fits {
            return Err(Error::argument(format!("loss is {}, {wanted}", self.loss().name())));
        }
        match self.classes {
            Some(classes) if self.params.loss == LossName::BinaryCrossEntropy && classes != 2 => {
                Err(Error::argument(format!(
                    "loss is binary_cross_entropy, which tells two classes apart; classes is {classes}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// The longest that a worker waits for another.
    pub fn deadline(&self) -> Duration {
        // The table bounds the seconds; someone who filled `Params` by hand gets the bound.
        Duration::try_from_secs_f64(self.params.timeout_seconds).unwrap_or(LONGEST).min(LONGEST)
    }

    /// The engine's loss.
    pub fn loss(&self) -> Loss {
        match (self.params.loss, self.task) {
            (LossName::Auto, Task::Classification) | (LossName::SoftmaxCrossEntropy, _) => {
                Loss::SoftmaxCrossEntropy
            }
            (LossName::BinaryCrossEntropy, _) => Loss::BinaryCrossEntropy,
            (LossName::Auto, Task::Regression | Task::Reconstruction) | (LossName::MeanSquaredError, _) => {
                Loss::MeanSquaredError
            }
            (LossName::Huber, _) => Loss::Huber { delta: self.params.huber_delta as f32 },
        }
    }

    /// The engine's optimizer.
    pub fn optimizer(&self) -> Optimizer {
        let p = &self.params;
        let (beta1, beta2, epsilon) = (p.beta1 as f32, p.beta2 as f32, p.epsilon as f32);
        let weight_decay = p.weight_decay as f32;
        match p.optimizer {
            OptimizerName::Adam => Optimizer::Adam { beta1, beta2, epsilon, weight_decay },
            OptimizerName::Adamw => Optimizer::AdamW { beta1, beta2, epsilon, weight_decay },
            OptimizerName::Sgd => {
                Optimizer::Sgd { momentum: p.momentum as f32, nesterov: p.nesterov, weight_decay }
            }
        }
    }

    /// The engine's mode.
    pub fn mode(&self) -> Mode {
        match self.params.mode {
            ModeName::Auto => Mode::Auto,
            ModeName::Tiled => Mode::Tiled,
            ModeName::Wide => Mode::Wide,
        }
    }

    /// The columns that are learned from, by name.
    pub fn feature_names(&self) -> Vec<&str> {
        self.data.features.iter().map(|f| f.column.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(task: &str, params: &str, features: &str) -> Result<TrainConfig> {
        TrainConfig::from_json(&format!(
            r#"{{"task": "{task}", "network": {{"mlp": {{"hidden": [4]}}}}, "params": {params},
                "data": {{"features": {features}, "label": "y"}}}}"#
        ))
    }

    #[test]
    fn a_configuration_is_read() {
        let config =
            read("regression", r#"{"loss": "huber", "huberDelta": 2}"#, r#"[{"column": "a"}]"#).unwrap();
        assert_eq!(config.loss(), Loss::Huber { delta: 2.0 });
        assert_eq!(config.feature_names(), ["a"]);
        assert!(config.checkpoints);
    }

    #[test]
    fn every_deadline_can_be_added_to_the_time_it_is() {
        let a = r#"[{"column": "a"}]"#;
        let mut config = read("regression", r#"{"timeoutSeconds": 0.5}"#, a).unwrap();
        assert_eq!(config.deadline(), Duration::from_millis(500));
        for seconds in [1e9, 1e19, f64::INFINITY, f64::NAN] {
            config.params.timeout_seconds = seconds;
            assert!(std::time::Instant::now().checked_add(config.deadline()).is_some());
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let text = |task, params, features| read(task, params, features).unwrap_err().to_string();
        let a = r#"[{"column": "a"}]"#;
        assert_eq!(text("regression", "{}", "[]"), "there are no feature columns");
        let twice = r#"[{"column": "a"}, {"column": "a"}]"#;
        assert_eq!(text("regression", "{}", twice), "feature column 'a' is named twice");
        assert_eq!(
            text("regression", r#"{"loss": "binary_cross_entropy"}"#, a),
            "loss is binary_cross_entropy, regression expects auto, mean_squared_error or huber"
        );
        let shape = r#"[{"column": "a", "shape": [0]}]"#;
        assert!(text("regression", "{}", shape).contains("'a' has shape [0]"));
        assert_eq!(
            text("reconstruction", r#"{"loss": "softmax_cross_entropy"}"#, a),
            "label column 'y' is given, expected none: a reconstruction learns its features"
        );
        assert!(text("cluster", "{}", a).contains("unknown variant `cluster`"));
        assert_eq!(
            text("regression", r#"{"patience": 2}"#, a),
            "patience is 2, but no row is held out: set validationFraction or a validation column"
        );
        assert!(read("regression", r#"{"patience": 2, "validationFraction": 0.1}"#, a).is_ok());
    }

    #[test]
    fn a_reconstruction_has_no_label() {
        let read = |task: &str, network: &str, loss: &str, label: &str| {
            let json = format!(
                r#"{{"task": "{task}", "network": {network}, "params": {{"loss": "{loss}"}},
                    "data": {{"features": [{{"column": "a"}}]{label}}}}}"#
            );
            TrainConfig::from_json(&json)
        };
        let autoencoder = r#"{"autoencoder": {"hidden": [4]}}"#;
        let config = read("reconstruction", autoencoder, "auto", "").unwrap();
        assert_eq!(config.loss(), Loss::MeanSquaredError);
        let data = serde_json::to_value(&config.data).unwrap();
        assert_eq!(data, serde_json::json!({"features": [{"column": "a"}]}));
        let text = |task, network, loss, label| read(task, network, loss, label).unwrap_err().to_string();
        assert_eq!(
            text("regression", r#"{"mlp": {"hidden": [4]}}"#, "auto", ""),
            "there is no label column, which a regression learns"
        );
        assert_eq!(
            text("regression", autoencoder, "auto", r#", "label": "y""#),
            "network autoencoder learns a reconstruction, task is regression"
        );
        assert_eq!(
            text("reconstruction", autoencoder, "softmax_cross_entropy", ""),
            "loss is softmax_cross_entropy, reconstruction expects auto, mean_squared_error or huber"
        );
        let wide = text("reconstruction", r#"{"wide_and_deep": {"hidden": [4]}}"#, "auto", "");
        assert!(wide.starts_with("network wide_and_deep can copy its inputs"), "{wide}");
    }
}
