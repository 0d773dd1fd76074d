//! A search over hyper-parameters.

use datafusion::common::{Result, plan_datafusion_err, plan_err};

use super::{Given, ModelOptions, merge};
use crate::parse::{ModelOption, OptionValue};

/// What is searched, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// How values are drawn.
    pub algorithm: Algorithm,
    /// How many trainings; all of the grid when absent.
    pub trials: Option<usize>,
    /// How many of them at once.
    pub parallel: usize,
    /// The metric that is compared; the validation metric when absent.
    pub objective: Option<String>,
    /// What is drawn, in the order written.
    pub space: Vec<Dimension>,
}

/// How values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Each trial draws every value anew.
    Random,
    /// Every combination of candidates, the last option changing fastest.
    Grid,
}

/// One option that is searched.
#[derive(Clone, Debug, PartialEq)]
pub struct Dimension {
    /// Its name.
    pub option: String,
    /// Its values.
    pub values: Values,
}

/// The values of a searched option.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// `HPARAM_RANGE`, both ends included.
    Range {
        /// The smallest.
        least: f64,
        /// The largest.
        most: f64,
        /// Whether only whole numbers are drawn.
        integers: bool,
    },
    /// `HPARAM_CANDIDATES`.
    Candidates(Vec<OptionValue>),
}

const OPTIONS: [&str; 4] =
    ["num_trials", "max_parallel_trials", "hparam_tuning_algorithm", "hparam_tuning_objectives"];

impl Search {
    /// The search that these options ask for.
    pub(super) fn read(given: &Given) -> Result<Option<Search>> {
        if given.space.is_empty() {
            return match given.first_of(&OPTIONS) {
                None => Ok(None),
                Some(option) => plan_err!(
                    "{} needs an option with HPARAM_RANGE or HPARAM_CANDIDATES{}",
                    option.name,
                    option.place()
                ),
            };
        }
        let trials = given.count("num_trials");
        let algorithm = match given.text("hparam_tuning_algorithm") {
            Some("grid_search") => Algorithm::Grid,
            _ => Algorithm::Random,
        };
        if algorithm == Algorithm::Random && trials.is_none() {
            return plan_err!("a search over {} needs num_trials", given.space[0].option);
        }
        let ranges = |d: &&Dimension| matches!(d.values, Values::Range { .. });
        if let (Algorithm::Grid, Some(dimension)) = (algorithm, given.space.iter().find(ranges)) {
            return plan_err!("grid_search needs HPARAM_CANDIDATES, {} has HPARAM_RANGE", dimension.option);
        }
        let objectives = given.texts("hparam_tuning_objectives").unwrap_or_default();
        if objectives.len() > 1 {
            return plan_err!("hparam_tuning_objectives has {} metrics, expected one", objectives.len());
        }
        Ok(Some(Search {
            algorithm,
            trials,
            parallel: given.count("max_parallel_trials").unwrap_or(1),
            objective: objectives.into_iter().next(),
            space: given.space.clone(),
        }))
    }

    /// The options of one trial: those given, with a value for each of [`Search::space`].
    ///
    /// # Errors
    /// `Plan` when the number of values is another, or a value is not allowed.
    pub fn trial(&self, given: &[ModelOption], values: &[OptionValue]) -> Result<ModelOptions> {
        if values.len() != self.space.len() {
            return Err(plan_datafusion_err!(
                "a trial has {} values, expected {}",
                values.len(),
                self.space.len()
            ));
        }
        let chosen =
            self.space.iter().zip(values).map(|(d, value)| ModelOption::new(&d.option, value.clone()));
        let mut options = merge(given, &chosen.collect::<Vec<_>>());
        options.retain(|option| !OPTIONS.contains(&option.name.as_str()));
        ModelOptions::read(&options)
    }
}
