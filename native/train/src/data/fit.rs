//! What all workers agree on before training: kinds, widths, classes, statistics, vocabularies.
//!
//! Every decision is a function of what all workers sent, computed alike on each; a worker that finds something wrong
//! sends that instead, and all end with its error.

use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::column::Kind;
use super::preprocess::{Encoding, Preprocessing};
use super::raw::{Invalid, Raw, Texts, VectorColumn, Where};
use super::rows::{Rows, Target};
use super::shard::Shard;
use super::split::hold_out;
use super::statistics::{Spread, count_texts, vocabulary};
use crate::config::{Feature, Task, TrainConfig};
use crate::group::Group;
use crate::params::{LossName, Standardization};

/// What a model needs to know of its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    pub(crate) preprocessing: Preprocessing,
    /// 0 where the task is no classification.
    pub(crate) classes: usize,
    /// Of a regression's label; 0 and 1 without one.
    pub(crate) label_mean: f64,
    pub(crate) label_deviation: f64,
}

/// Rows ready to be trained on.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) agreed: Agreed,
    pub(crate) training: Rows,
    pub(crate) validation: Rows,
    /// The id of this worker's first training row.
    pub(crate) first: u64,
    /// Over all workers.
    pub(crate) rows: u64,
    pub(crate) validation_rows: u64,
}

/// What a worker tells of its rows first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Survey {
    pub(super) rows: u64,
    /// None where no batch came.
    pub(super) columns: Option<Vec<(Kind, Option<usize>)>>,
    /// None without rows.
    largest_label: Option<f64>,
}

/// What it tells once it is known which of its rows are held out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) totals: Totals,
    label: Spread,
    pub(super) columns: Vec<Column>,
}

/// Rows and sums of their weights.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) training: u64,
    pub(crate) training_weight: f64,
    pub(crate) held_out: u64,
    pub(crate) held_out_weight: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Column {
    Spread(Spread),
    Counts(Vec<(String, u64)>),
}

/// Agrees on everything and encodes this worker's rows. `known` is what an earlier run has agreed on.
///
/// # Errors
/// The same on all workers: what the lowest rank found wrong.
pub(crate) fn prepare(
    group: &mut Group,
    config: &TrainConfig,
    shard: Result<Shard>,
    known: Option<Agreed>,
) -> Result<Prepared> {
    let mut survey = None;
    let shard = shard.inspect(|s| survey = Some(s.survey()));
    let (shard, mine) = match shard {
        Ok(shard) => (Some(shard), Ok(survey)),
        Err(e) => (None, Err(e)),
    };
    let surveys: Vec<Survey> = group.share(mine)?.into_iter().flatten().collect();
    let mut shard = shard.ok_or_else(|| Error::internal("a worker without rows went on"))?;
    let columns = settle(&config.data.features, &surveys)?;
    shard.settle(&columns);
    let before = surveys[..group.rank()].iter().map(|s| s.rows).sum();
    let held = shard.held(config, before);
    let shares = shares(config, &columns);
    let summaries = group.share(shard.summary(config, &held, &shares))?;
    check_totals(config, summaries.iter().map(|s| s.totals))?;
    let agreed = match known {
        Some(known) => known,
        None => agree(config, &columns, &shares, &surveys, &summaries)?,
    };
    let rank = group.rank();
    let (training, validation) = group.once_all_have(encode(shard, &agreed, &held, config, rank))?;
    // Some rows may have turned out to be unfit.
    let totals = group.share(Ok(Totals::of(&training, &validation)))?;
    check_totals(config, totals.iter().copied())?;
    Ok(Prepared {
        agreed,
        training,
        validation,
        first: totals[..rank].iter().map(|s| s.training).sum(),
        rows: totals.iter().map(|s| s.training).sum(),
        validation_rows: totals.iter().map(|s| s.held_out).sum(),
    })
}

impl Totals {
    pub(super) fn of(training: &Rows, held_out: &Rows) -> Totals {
        let weight = |rows: &Rows| (0..rows.len).map(|row| f64::from(rows.weight(row))).sum();
        Totals {
            training: training.len as u64,
            training_weight: weight(training),
            held_out: held_out.len as u64,
            held_out_weight: weight(held_out),
        }
    }

    pub(super) fn add(self, other: Totals) -> Totals {
        Totals {
            training: self.training + other.training,
            training_weight: self.training_weight + other.training_weight,
            held_out: self.held_out + other.held_out,
            held_out_weight: self.held_out_weight + other.held_out_weight,
        }
    }
}

impl Shard {
    pub(super) fn survey(&self) -> Survey {
        let column = |raw: &Raw| match raw {
            Raw::Vector(v) => (Kind::Vector, v.width),
            other => (other.kind(), None),
        };
        Survey {
            rows: self.rows() as u64,
            columns: (!self.features.is_empty()).then(|| self.features.iter().map(column).collect()),
            largest_label: self.labels.iter().copied().reduce(f64::max),
        }
    }

    /// Gives every column the kind and width that all agreed on, also where no row came.
    pub(super) fn settle(&mut self, columns: &[(Kind, usize)]) {
        if self.features.is_empty() {
            let empty = |kind: &Kind| match kind {
                Kind::Number => Raw::Number(Vec::new()),
                Kind::Text => Raw::Text(Texts::default()),
                Kind::Vector => Raw::Vector(VectorColumn::default()),
            };
            self.features = columns.iter().map(|(kind, _)| empty(kind)).collect();
        }
        for (raw, (_, width)) in self.features.iter_mut().zip(columns) {
            if let Raw::Vector(vectors) = raw {
                vectors.settle(*width);
            }
        }
    }

    pub(super) fn held(&self, config: &TrainConfig, before: u64) -> Vec<bool> {
        if config.data.validation.is_some() {
            return self.held_out.clone();
        }
        hold_out(config.params.seed, config.params.validation_fraction, before, self.rows())
    }

    fn totals(&self, held: &[bool]) -> Totals {
        let mut totals = Totals::default();
        for (row, held) in held.iter().enumerate() {
            let weight = self.weights.get(row).map_or(1.0, |w| f64::from(*w));
            let (rows, sum) = match held {
                false => (&mut totals.training, &mut totals.training_weight),
                true => (&mut totals.held_out, &mut totals.held_out_weight),
            };
            *rows += 1;
            *sum += weight;
        }
        totals
    }

    pub(super) fn summary(&self, config: &TrainConfig, held: &[bool], shares: &[bool]) -> Result<Summary> {
        let totals = self.totals(held);
        for (what, rows) in [("training", totals.training), ("held-out", totals.held_out)] {
            if rows > u64::from(u32::MAX) {
                return Err(Error::data(format!(
                    "a worker has {rows} {what} rows, expected at most {}; use more workers",
                    u32::MAX
                )));
            }
        }
        let column = |((raw, shared), feature): ((&Raw, &bool), &Feature)| {
            Ok(match raw {
                Raw::Number(values) => {
                    Column::Spread(Spread::of(values, 1, true, held).check(&feature.column)?)
                }
                Raw::Vector(v) => {
                    let spread = Spread::of(&v.values, v.width.unwrap_or(0), *shared, held);
                    Column::Spread(spread.check(&feature.column)?)
                }
                Raw::Text(texts) => Column::Counts(count_texts(texts, held)),
                Raw::Index(_) => {
                    return Err(Error::internal("a training's texts are known before they are read"));
                }
            })
        };
        let columns = self.features.iter().zip(shares).zip(&self.data.features).map(column);
        Ok(Summary {
            totals,
            label: Spread::of(&self.labels, 1, true, held).check(&config.data.label)?,
            columns: columns.collect::<Result<_>>()?,
        })
    }
}

/// The kind and width of every column, from all surveys.
pub(super) fn settle(features: &[Feature], surveys: &[Survey]) -> Result<Vec<(Kind, usize)>> {
    if surveys.iter().all(|s| s.rows == 0) {
        return Err(Error::data("there are no rows to train on"));
    }
    let column = |(i, feature): (usize, &Feature)| {
        let name = &feature.column;
        let mut known: Option<(usize, Kind)> = None;
        let mut width = feature.shape.as_ref().map(|shape| (None, shape.iter().product()));
        for (rank, survey) in surveys.iter().enumerate() {
            let Some((kind, found)) = survey.columns.as_ref().and_then(|c| c.get(i)) else { continue };
            match known {
                Some((first, expected)) if expected != *kind => {
                    return Err(Error::data(format!(
                        "feature column '{name}' holds {} on rank {rank} and {} on rank {first}",
                        kind.text(),
                        expected.text()
                    )));
                }
                _ => known = Some((rank, *kind)),
            }
            match (width, found) {
                (Some((Some(first), expected)), Some(found)) if expected != *found => {
                    return Err(Error::data(format!(
                        "column '{name}': vectors of {found} values on rank {rank} and of {expected} on rank {first}"
                    )));
                }
                (None, Some(found)) => width = Some((Some(rank), *found)),
                _ => {}
            }
        }
        let kind = known.map_or(Kind::Number, |(_, kind)| kind);
        match (kind, width) {
            (Kind::Vector, None) => {
                Err(Error::data(format!("column '{name}' holds only NULL, expected vectors")))
            }
            (kind, width) => Ok((kind, width.map_or(1, |(_, w)| w))),
        }
    };
    features.iter().enumerate().map(column).collect()
}

/// Whether all elements of a column share one mean and deviation.
pub(super) fn shares(config: &TrainConfig, columns: &[(Kind, usize)]) -> Vec<bool> {
    let share = |(feature, (kind, _)): (&Feature, &(Kind, usize))| match config.params.standardization {
        _ if *kind != Kind::Vector => true,
        Standardization::PerColumn => true,
        Standardization::Auto => feature.shape.as_ref().is_some_and(|s| s.len() > 1),
        Standardization::PerFeature | Standardization::None => false,
    };
    config.data.features.iter().zip(columns).map(share).collect()
}

pub(super) fn check_totals(config: &TrainConfig, parts: impl Iterator<Item = Totals>) -> Result<()> {
    let all = parts.fold(Totals::default(), Totals::add);
    if all.training == 0 && all.held_out == 0 {
        return Err(Error::data("no row is left to train on: handleInvalid skips all of them"));
    }
    if all.training == 0 {
        return Err(Error::data(format!(
            "all {} rows are held out for validation, none is left to train on",
            all.held_out
        )));
    }
    if config.params.patience > 0 && all.held_out == 0 {
        return Err(Error::argument(format!(
            "patience is {}, but no row is held out: set validationFraction or a validation column",
            config.params.patience
        )));
    }
    let Some(name) = &config.data.weight else { return Ok(()) };
    if all.training_weight <= 0.0 {
        return Err(Error::data(format!("weight column '{name}' is 0 in every training row")));
    }
    if all.held_out > 0 && all.held_out_weight <= 0.0 {
        return Err(Error::data(format!("weight column '{name}' is 0 in every row held out for validation")));
    }
    Ok(())
}

pub(super) fn agree(
    config: &TrainConfig,
    columns: &[(Kind, usize)],
    shares: &[bool],
    surveys: &[Survey],
    summaries: &[Summary],
) -> Result<Agreed> {
    let standardize = config.params.standardization != Standardization::None;
    let mut encodings = Vec::with_capacity(columns.len());
    for (i, (feature, (kind, width))) in config.data.features.iter().zip(columns).enumerate() {
        let column = feature.column.clone();
        encodings.push(match kind {
            Kind::Number => {
                let scaling = merged(summaries, |s| spread(&s.columns[i]))?.scaling(standardize);
                Encoding::Number { column, scaling }
            }
            Kind::Vector => {
                let scaling = merged(summaries, |s| spread(&s.columns[i]))?.scaling(standardize);
                debug_assert_eq!(scaling.mean.len() == 1, shares[i] || *width == 1);
                Encoding::Vector { column, shape: feature.shape.clone().unwrap_or(vec![*width]), scaling }
            }
            Kind::Text => {
                let counts = summaries.iter().map(|s| counts(&s.columns[i])).collect::<Result<_>>()?;
                let (least, most) = (config.params.min_category_count, config.params.max_categories);
                let values = vocabulary(counts, least, most);
                match config.task {
                    Task::Reconstruction => Encoding::one_hot(column, values)?,
                    Task::Classification | Task::Regression => Encoding::Category { column, values },
                }
            }
        });
    }
    let label = merged(summaries, |s| Ok(&s.label))?.scaling(true);
    let handle_invalid = config.params.handle_invalid;
    Ok(Agreed {
        preprocessing: Preprocessing { handle_invalid, columns: encodings },
        classes: classes(config, surveys)?,
        label_mean: label.mean[0],
        label_deviation: label.deviation[0],
    })
}

fn merged<'a>(summaries: &'a [Summary], of: impl Fn(&'a Summary) -> Result<&'a Spread>) -> Result<Spread> {
    let mut all = of(&summaries[0])?.clone();
    for summary in &summaries[1..] {
        all.merge(of(summary)?)?;
    }
    Ok(all)
}

fn spread(column: &Column) -> Result<&Spread> {
    match column {
        Column::Spread(spread) => Ok(spread),
        Column::Counts(_) => Err(Error::internal("a worker sent counts where a mean was expected")),
    }
}

fn counts(column: &Column) -> Result<Vec<(String, u64)>> {
    match column {
        Column::Counts(counts) => Ok(counts.clone()),
        Column::Spread(_) => Err(Error::internal("a worker sent a mean where counts were expected")),
    }
}

fn classes(config: &TrainConfig, surveys: &[Survey]) -> Result<usize> {
    if config.task != Task::Classification {
        return Ok(0);
    }
    let largest = surveys.iter().filter_map(|s| s.largest_label).fold(0.0, f64::max);
    let classes = config.classes.unwrap_or(largest as usize + 1);
    if classes < 2 {
        return Err(Error::data(format!(
            "label column '{}' is 0 in every row, expected at least two classes",
            config.data.label
        )));
    }
    if config.params.loss == LossName::BinaryCrossEntropy && classes != 2 {
        return Err(Error::argument(format!(
            "loss is binary_cross_entropy, which tells two classes apart; the label column '{}' has {classes}",
            config.data.label
        )));
    }
    Ok(classes)
}

/// Training and held-out rows of this worker.
pub(super) fn encode(
    shard: Shard,
    agreed: &Agreed,
    held: &[bool],
    config: &TrainConfig,
    rank: usize,
) -> Result<(Rows, Rows)> {
    let len = shard.rows();
    let target = match config.task {
        Task::Classification => {
            check_labels(&shard, agreed.classes)?;
            Target::Classes(shard.labels.iter().map(|l| *l as u32).collect())
        }
        Task::Regression => Target::Values(scaled_labels(&shard, agreed)?),
        Task::Reconstruction => Target::Features,
    };
    let weights = shard.data.weight.is_some().then_some(shard.weights);
    // A row is named only where none was skipped, so those before this one are all there.
    let place = Where::Rank { rank, before: 0 };
    let mut invalid = Invalid::new(config.params.handle_invalid, place, len);
    let inputs = agreed.preprocessing.encode(shard.features, len, &mut invalid)?;
    let mut training = Rows { len, inputs, target, weights };
    let Some(keep) = invalid.keep else {
        let validation = training.split_off(held);
        return Ok((training, validation));
    };
    let unfit: Vec<bool> = keep.iter().map(|keep| !keep).collect();
    training.split_off(&unfit);
    let held: Vec<bool> = held.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(held, _)| *held).collect();
    let validation = training.split_off(&held);
    Ok((training, validation))
}

/// Labels of a regression in deviations from their mean.
fn scaled_labels(shard: &Shard, agreed: &Agreed) -> Result<Vec<f32>> {
    let scale = |label: &f64| {
        let scaled = ((label - agreed.label_mean) / agreed.label_deviation) as f32;
        let wrong = || {
            Error::data(format!(
                "label column '{}' holds {label:e}, which is {scaled} deviations from the mean {:e}",
                shard.data.label, agreed.label_mean
            ))
        };
        scaled.is_finite().then_some(scaled).ok_or_else(wrong)
    };
    shard.labels.iter().map(scale).collect()
}

/// A label that an earlier run has not seen.
fn check_labels(shard: &Shard, classes: usize) -> Result<()> {
    match shard.labels.iter().find(|l| **l >= classes as f64) {
        None => Ok(()),
        Some(label) => Err(Error::data(format!(
            "label column '{}' holds {label}, expected a class below {classes}, as in the checkpoint",
            shard.data.label
        ))),
    }
}
