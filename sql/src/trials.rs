//! The trainings of a search over hyper-parameters, and what came of each.

use datafusion::common::{Result, plan_datafusion_err, plan_err};
use firesteel_train::EpochRecord;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::evaluate::{Measures, measure_names};
use crate::options::{ModelOptions, Search};
use crate::parse::ModelOption;

/// What one training is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The network, as JSON; null where nothing is learned.
    pub network: Value,
    /// The hyper-parameters of the loop; without a batch size, which then depends on the rows.
    pub params: Map<String, Value>,
    /// Epochs without a better one before training stops, where rows are held out.
    pub patience: Option<usize>,
}

impl Recipe {
    /// Of options.
    ///
    /// # Errors
    /// `Plan` when the network is no JSON.
    pub fn new(options: &ModelOptions) -> Result<Recipe> {
        Ok(Recipe {
            network: serde_json::to_value(&options.network)
                .map_err(|e| plan_datafusion_err!("the network: {e}"))?,
            params: options.params.clone(),
            patience: options.stop.map(|stop| stop.patience),
        })
    }
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// A column of `ML.EVALUATE`.
    pub name: String,
    /// Whether less is better.
    pub smaller: bool,
}

impl Objective {
    fn new(asked: Option<&str>, classifier: bool) -> Result<Objective> {
        let names = measure_names(classifier);
        let name = asked.unwrap_or(if classifier { "log_loss" } else { "mean_squared_error" }).to_lowercase();
        if !names.contains(&name.as_str()) {
            return plan_err!("hparam_tuning_objectives has '{name}', expected one of {}", names.join(", "));
        }
        Ok(Objective { smaller: name.ends_with("loss") || name.ends_with("error"), name })
    }

    /// Whether `value` beats `best`.
    pub fn better(&self, value: f64, best: f64) -> bool {
        if self.smaller { value < best } else { value > best }
    }
}

/// A search, drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Trials {
    /// What is compared.
    pub objective: Objective,
    /// The options that are searched.
    pub options: Vec<String>,
    /// Their values in each training, as SQL, and the training.
    pub trials: Vec<(Vec<String>, Recipe)>,
    /// How many trainings at once, each by all workers.
    pub parallel: usize,
}

impl Trials {
    /// Of a statement's options, the first of which ask for `search`.
    ///
    /// # Errors
    /// `Plan` naming the option that a trial cannot have.
    pub fn new(given: &[ModelOption], search: &Search, classifier: bool, seed: u64) -> Result<Trials> {
        let trial = |values: Vec<_>| {
            let recipe = Recipe::new(&search.trial(given, &values)?)?;
            Ok((values.iter().map(ToString::to_string).collect(), recipe))
        };
        Ok(Trials {
            objective: Objective::new(search.objective.as_deref(), classifier)?,
            options: search.space.iter().map(|d| d.option.clone()).collect(),
            parallel: search.parallel,
            trials: search.draws(seed).into_iter().map(trial).collect::<Result<_>>()?,
        })
    }

    /// What came of a trial, the first of which is 0.
    pub(crate) fn told(
        &self,
        trial: usize,
        outcome: std::result::Result<(&[EpochRecord], &Measures), String>,
    ) -> TrialInfo {
        let hyperparameters =
            self.options.iter().cloned().zip(self.trials[trial].0.iter().cloned()).collect();
        let info = TrialInfo {
            trial_id: trial as i64 + 1,
            hyperparameters,
            objective: self.objective.name.clone(),
            value: None,
            loss: None,
            eval_loss: None,
            error: None,
            is_optimal: false,
        };
        match outcome {
            Ok((history, measures)) => TrialInfo {
                value: measures.value(&self.objective.name).filter(|v| v.is_finite()),
                loss: history.last().map(|e| e.loss),
                eval_loss: history.last().and_then(|e| e.validation_loss),
                ..info
            },
            Err(error) => TrialInfo { error: Some(error), ..info },
        }
    }
}

/// A row of `ML.TRIAL_INFO`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrialInfo {
    /// From 1 on.
    pub(crate) trial_id: i64,
    /// Option and value, in the order of the statement.
    pub(crate) hyperparameters: Vec<(String, String)>,
    pub(crate) objective: String,
    pub(crate) value: Option<f64>,
    pub(crate) loss: Option<f64>,
    pub(crate) eval_loss: Option<f64>,
    /// Why there is no value.
    pub(crate) error: Option<String>,
    /// Whether the model is this trial's.
    pub(crate) is_optimal: bool,
}

impl TrialInfo {
    /// `hidden_units = [64, 32], learn_rate = 0.01`.
    pub(crate) fn shown(&self) -> String {
        let pairs = self.hyperparameters.iter().map(|(option, value)| format!("{option} = {value}"));
        pairs.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_measures_and_know_their_direction() {
        let of = |name| Objective::new(Some(name), true).unwrap();
        assert!(of("ROC_AUC").better(0.9, 0.8) && of("log_loss").better(0.1, 0.2));
        assert!(!of("accuracy").better(0.5, 0.5));
        let e = Objective::new(Some("r2_score"), true).unwrap_err().strip_backtrace();
        let expected = "expected one of precision, recall, accuracy, f1_score, log_loss, roc_auc";
        assert!(e.ends_with(&format!("hparam_tuning_objectives has 'r2_score', {expected}")), "{e}");
        assert!(Objective::new(None, false).unwrap().better(1.0, 2.0));
    }
}
