//! What [`super::prepare`] does, for workers that never meet: each tells of its rows once, and is told later what all
//! agreed on.

use firesteel_error::Result;
use serde::{Deserialize, Serialize};

use super::column::Kind;
use super::fit::{Agreed, Prepared, Summary, Survey, Totals, agree, check_totals, encode, settle, shares};
use super::preprocess::Encoding;
use super::raw::{Raw, VectorColumn};
use super::rows::Rows;
use super::shard::Shard;
use crate::config::TrainConfig;

/// What a worker says of its rows, as JSON on its way.
#[derive(Debug, Serialize, Deserialize)]
pub struct Statistics {
    survey: Survey,
    summary: Summary,
}

impl Statistics {
    /// Of the rows of one worker, which may have none.
    pub(crate) fn of(config: &TrainConfig, mut shard: Shard) -> Result<Statistics> {
        let survey = shard.survey();
        let shaped =
            config.data.features.iter().map(|f| f.shape.as_ref().map(|shape| shape.iter().product()));
        // A vector that was NULL in all rows, and has no shape, has no width here, and nothing to say.
        let column = |((kind, found), shaped): (&(Kind, Option<usize>), Option<usize>)| {
            (*kind, found.or(shaped.filter(|_| *kind == Kind::Vector)).unwrap_or(0))
        };
        let columns: Vec<_> = survey.columns.iter().flatten().zip(shaped).map(column).collect();
        shard.settle(&columns);
        let held = shard.held(config, 0);
        let summary = shard.summary(config, &held, &shares(config, &columns))?;
        Ok(Statistics { survey, summary })
    }
}

/// What workers that never meet agree on, unless it is `known`, and the rows to validate on; none of theirs are here.
///
/// # Errors
/// As [`super::prepare`].
pub(crate) fn prepare_apart(
    config: &TrainConfig,
    parts: Vec<Statistics>,
    held_out: Shard,
    known: Option<Agreed>,
) -> Result<Prepared> {
    let (surveys, mut summaries): (Vec<Survey>, Vec<Summary>) =
        parts.into_iter().map(|part| (part.survey, part.summary)).unzip();
    let columns = settle(&config.data.features, &surveys)?;
    let totals = summaries.iter().map(|s| s.totals).fold(Totals::default(), Totals::add);
    let totals = Totals { held_out: 0, held_out_weight: 0.0, ..totals };
    // Of who had no rows.
    summaries.retain(|summary| !summary.columns.is_empty());
    let agreed = match known {
        Some(known) => known,
        None => agree(config, &columns, &shares(config, &columns), &surveys, &summaries)?,
    };
    let (training, validation) = encode_alone(config, held_out, &agreed, 0)?;
    check_totals(config, [totals, Totals::of(&training, &validation)].into_iter())?;
    let (rows, validation_rows) = (totals.training, validation.len as u64);
    Ok(Prepared { agreed, training, validation, first: 0, rows, validation_rows })
}

/// Training and held-out rows of a worker that is told what all agreed on.
///
/// # Errors
/// `InvalidData` naming the column.
pub(crate) fn encode_alone(
    config: &TrainConfig,
    mut shard: Shard,
    agreed: &Agreed,
    rank: usize,
) -> Result<(Rows, Rows)> {
    let column = |encoding: &Encoding| match encoding {
        Encoding::Number { .. } => (Kind::Number, 1),
        Encoding::Vector { shape, .. } => (Kind::Vector, shape.iter().product()),
        Encoding::Category { .. } | Encoding::OneHot { .. } => (Kind::Text, 1),
    };
    let mut columns: Vec<_> = agreed.preprocessing.columns.iter().map(column).collect();
    for ((_, width), raw) in columns.iter_mut().zip(&shard.features) {
        if let Raw::Vector(VectorColumn { width: Some(found), .. }) = raw {
            *width = *found;
        }
    }
    shard.settle(&columns);
    let held = shard.held(config, 0);
    encode(shard, agreed, &held, config, rank)
}
