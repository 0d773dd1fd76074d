//! A search over hyper-parameters.

use datafusion::common::{Result, plan_datafusion_err, plan_err};

use super::{Given, ModelOptions, merge};
use crate::draw::draw;
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
    /// The metric that is compared.
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

/// A range whose ends differ by more than this factor is drawn from by its logarithm.
const WIDE: f64 = 10.0;

/// Most trials of a search.
const MOST: usize = 10_000;

impl Values {
    fn candidates(&self) -> &[OptionValue] {
        match self {
            Values::Candidates(candidates) => candidates,
            Values::Range { .. } => &[],
        }
    }

    /// The value at a place from 0 to 1.
    fn at(&self, place: f64) -> OptionValue {
        match self {
            Values::Candidates(candidates) => {
                let last = candidates.len().saturating_sub(1);
                candidates[((place * candidates.len() as f64) as usize).min(last)].clone()
            }
            Values::Range { least, most, integers } => {
                // Each whole number is as likely as the others.
                let (start, end) = if *integers { (least - 0.5, most + 0.5) } else { (*least, *most) };
                let value = if start > 0.0 && end / start > WIDE {
                    (start.ln() + place * (end.ln() - start.ln())).exp()
                } else {
                    start + place * (end - start)
                };
                let value = if *integers { value.round() } else { value };
                OptionValue::Number(value.clamp(*least, *most).to_string())
            }
        }
    }
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
        let search = Search {
            algorithm,
            trials,
            parallel: given.count("max_parallel_trials").unwrap_or(1),
            objective: objectives.into_iter().next(),
            space: given.space.clone(),
        };
        match search.len() {
            len if len > MOST => {
                plan_err!("the search has {len} trials, expected at most {MOST}; set num_trials")
            }
            _ => Ok(Some(search)),
        }
    }

    /// The values of each trial, the same for the same seed.
    pub fn draws(&self, seed: u64) -> Vec<Vec<OptionValue>> {
        match self.algorithm {
            Algorithm::Grid => self.grid(),
            Algorithm::Random => {
                let trial = |t: usize| {
                    let place = |d: usize| (t * self.space.len() + d) as u64;
                    self.space.iter().enumerate().map(|(d, of)| of.values.at(draw(seed, place(d)))).collect()
                };
                (0..self.len()).map(trial).collect()
            }
        }
    }

    fn grid(&self) -> Vec<Vec<OptionValue>> {
        let candidates: Vec<&[OptionValue]> = self.space.iter().map(|d| d.values.candidates()).collect();
        // The digits of a number, the last of which changes fastest.
        let trial = |number: usize| {
            let mut rest = number;
            let mut values: Vec<OptionValue> = Vec::with_capacity(candidates.len());
            for of in candidates.iter().rev() {
                values.push(of[rest % of.len()].clone());
                rest /= of.len();
            }
            values.reverse();
            values
        };
        (0..self.len()).map(trial).collect()
    }

    /// How many trials there are.
    fn len(&self) -> usize {
        let asked = self.trials.unwrap_or(usize::MAX);
        match self.algorithm {
            Algorithm::Random => asked,
            Algorithm::Grid => {
                let lens = self.space.iter().map(|d| d.values.candidates().len());
                asked.min(lens.fold(1, usize::saturating_mul))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn search(algorithm: Algorithm, trials: Option<usize>, space: Vec<Values>) -> Search {
        let dimension = |values| Dimension { option: "o".into(), values };
        let space = space.into_iter().map(dimension).collect();
        Search { algorithm, trials, parallel: 1, objective: None, space }
    }

    fn numbers(values: &[OptionValue]) -> Vec<f64> {
        values.iter().map(|v| v.to_string().parse().unwrap()).collect()
    }

    #[test]
    fn the_grid_changes_the_last_option_fastest() {
        let of = |values: &[&str]| {
            Values::Candidates(values.iter().map(|v| OptionValue::Number((*v).into())).collect())
        };
        let all = search(Algorithm::Grid, None, vec![of(&["1", "2"]), of(&["3", "4", "5"])]).draws(7);
        let all: Vec<Vec<f64>> = all.iter().map(|trial| numbers(trial)).collect();
        assert_eq!(all, [[1., 3.], [1., 4.], [1., 5.], [2., 3.], [2., 4.], [2., 5.]]);
        // Eight options of twenty values are 25.6 billion combinations.
        let twenty = || Values::Candidates((0..20).map(|v| OptionValue::Number(v.to_string())).collect());
        let few = search(Algorithm::Grid, Some(3), (0..8).map(|_| twenty()).collect()).draws(7);
        assert_eq!(numbers(&few[2]), [0., 0., 0., 0., 0., 0., 0., 2.]);
        assert_eq!(
            search(Algorithm::Grid, Some(4), vec![of(&["1", "2"]), of(&["3", "4", "5"])]).draws(7).len(),
            4
        );
    }

    #[test]
    fn draws_stay_inside_and_reach_the_ends() {
        let range = |least, most, integers| Values::Range { least, most, integers };
        let space = vec![range(1.0, 4.0, true), range(1e-5, 1e-1, false), range(0.0, 0.5, false)];
        let search = search(Algorithm::Random, Some(400), space);
        let trials: Vec<Vec<f64>> = search.draws(1).iter().map(|trial| numbers(trial)).collect();
        for whole in [1.0, 2.0, 3.0, 4.0] {
            let found = trials.iter().filter(|t| t[0] == whole).count();
            assert!((60..140).contains(&found), "{whole}: {found}");
        }
        assert!(trials.iter().all(|t| (1e-5..=1e-1).contains(&t[1]) && (0.0..=0.5).contains(&t[2])));
        // By the logarithm half of them are below the geometric mean.
        let small = trials.iter().filter(|t| t[1] < 1e-3).count();
        assert!((150..250).contains(&small), "{small}");
        assert_eq!(search.draws(1), search.draws(1));
        assert_ne!(search.draws(1), search.draws(2));
    }
}
