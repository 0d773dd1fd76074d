//! Options as given: each known, given once, its value of the right type.

use std::collections::BTreeMap;

use datafusion::common::{DataFusionError, Result, plan_datafusion_err};
use firesteel_train::params;
use serde_json::{Map, Value};

use super::nearest::nearest;
use super::search::{Dimension, Values};
use super::table::{Kind, Row, native, whole};
use crate::parse::{ModelOption, OptionValue};

/// Options of a statement by the name of their row.
pub(super) struct Given<'a> {
    values: BTreeMap<&'static str, (&'a ModelOption, Value)>,
    /// Those that a search draws; they have no value.
    pub(super) space: Vec<Dimension>,
}

/// The row that an option is of; a hyper-parameter without one gets it here.
pub(super) fn row_of(rows: &'static [Row], natives: bool, name: &str) -> Option<Row> {
    let of_parameter = || {
        let name = native(name).filter(|_| natives)?.name;
        Some(Row { name, kind: Kind::Param(name), extra: &[], not_yet: &[], default: "", help: "" })
    };
    rows.iter().find(|row| row.answers_to(name)).copied().or_else(of_parameter)
}

impl<'a> Given<'a> {
    /// Reads `options` of `rows` and, where `natives`, of all hyper-parameters.
    pub(super) fn read(rows: &'static [Row], natives: bool, options: &'a [ModelOption]) -> Result<Given<'a>> {
        let mut given = Given { values: BTreeMap::new(), space: Vec::new() };
        let mut seen: BTreeMap<&str, &ModelOption> = BTreeMap::new();
        for option in options {
            let row = row_of(rows, natives, &option.name).ok_or_else(|| unknown(rows, natives, option))?;
            if let Some(first) = seen.insert(row.name, option) {
                return Err(duplicate(first, option));
            }
            match &option.value {
                OptionValue::HparamRange(..) | OptionValue::HparamCandidates(_) => {
                    given.space.push(dimension(&row, option)?);
                }
                value => {
                    let value = checked(&row, option, value)?;
                    if !value.is_null() {
                        given.values.insert(row.name, (option, value));
                    }
                }
            }
        }
        Ok(given)
    }

    /// The options that have a value.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.values.keys().copied()
    }

    /// The first of these that has a value.
    pub(super) fn first_of(&self, names: &[&str]) -> Option<&'a ModelOption> {
        names.iter().find_map(|name| self.option(name))
    }

    pub(super) fn option(&self, name: &str) -> Option<&'a ModelOption> {
        self.values.get(name).map(|(option, _)| *option)
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name).map(|(_, value)| value)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(Value::as_str)
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.value(name).and_then(Value::as_bool).unwrap_or(default)
    }

    pub(super) fn real(&self, name: &str) -> Option<f64> {
        self.value(name).and_then(Value::as_f64)
    }

    pub(super) fn whole(&self, name: &str) -> Option<i64> {
        self.value(name).and_then(whole)
    }

    pub(super) fn count(&self, name: &str) -> Option<usize> {
        self.whole(name).and_then(|v| usize::try_from(v).ok())
    }

    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        let values = self.value(name)?.as_array()?;
        Some(values.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    pub(super) fn counts(&self, name: &str) -> Option<Vec<usize>> {
        let values = self.value(name)?.as_array()?;
        Some(values.iter().filter_map(whole).filter_map(|v| usize::try_from(v).ok()).collect())
    }

    /// The hyper-parameters, by their own names.
    pub(super) fn params(&self) -> Map<String, Value> {
        let is_param =
            |name: &&str| super::table::ROWS.iter().find(|row| row.name == *name).map(|row| row.kind);
        let named = |name: &'static str| match is_param(&name) {
            Some(Kind::Param(param)) => Some(param),
            Some(_) => None,
            None => Some(name),
        };
        let all =
            self.values.iter().filter_map(|(name, (_, value))| Some((named(name)?.into(), value.clone())));
        all.collect()
    }
}

/// The value as the engine takes it.
fn checked(row: &Row, option: &ModelOption, value: &OptionValue) -> Result<Value> {
    let name = &option.name;
    let json = json(value);
    if let Some(value) = json.as_ref().and_then(|v| row.check(v)) {
        return Ok(value);
    }
    let place = option.place();
    Err(match row.kind {
        Kind::NotYet(instead) => plan_datafusion_err!("{name} is not supported yet{place}; {instead}"),
        _ if json.is_some_and(|v| row.lacks(&v)) => {
            plan_datafusion_err!("{name} {value} is not supported yet{place}; use {}", row.text())
        }
        _ => plan_datafusion_err!("{name} expects {}, got {value}{place}", row.text()),
    })
}

/// As JSON, if it is one value; a word is a string.
fn json(value: &OptionValue) -> Option<Value> {
    match value {
        OptionValue::String(text) | OptionValue::Ident(text) => Some(text.as_str().into()),
        OptionValue::Bool(flag) => Some((*flag).into()),
        OptionValue::Number(digits) => number(digits),
        OptionValue::Array(values) => values.iter().map(json).collect::<Option<Vec<_>>>().map(Value::Array),
        // BigQuery's way to put a list into a list.
        OptionValue::Struct(fields) if matches!(fields.as_slice(), [(None, _)]) => json(&fields[0].1),
        OptionValue::Struct(fields) => {
            let field = |(name, value): &(Option<String>, OptionValue)| Some((name.clone()?, json(value)?));
            fields.iter().map(field).collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        OptionValue::HparamRange(..) | OptionValue::HparamCandidates(_) => None,
    }
}

fn number(digits: &str) -> Option<Value> {
    let real = || digits.parse::<f64>().ok().filter(|v| v.is_finite()).map(Value::from);
    digits.parse::<i64>().ok().map(Value::from).or_else(real)
}

/// What a search may draw.
const SEARCHED: [&str; 5] = ["hidden_units", "layers", "activation_fn", "dropout", "embedding_dims"];
/// Hyper-parameters that it may not: they say how, not what, is trained.
const NOT_SEARCHED: [&str; 13] = [
    "bucket_bytes",
    "checkpoint_every",
    "data_split_eval_fraction",
    "device",
    "gradient_copy",
    "handle_invalid",
    "mode",
    "patience",
    "precision",
    "seed",
    "strategy",
    "threads",
    "timeout_seconds",
];

fn dimension(row: &Row, option: &ModelOption) -> Result<Dimension> {
    let (name, place) = (&option.name, option.place());
    let param = matches!(row.kind, Kind::Param(_)) && !NOT_SEARCHED.contains(&row.name);
    if !param && !SEARCHED.contains(&row.name) {
        return Err(plan_datafusion_err!("{name} cannot be searched, got {}{place}", option.value));
    }
    let values = match &option.value {
        OptionValue::HparamRange(least, most) => range(row, option, least, most)?,
        OptionValue::HparamCandidates(candidates) => {
            for candidate in candidates {
                checked(row, option, candidate)?;
            }
            Values::Candidates(candidates.clone())
        }
        other => return Err(plan_datafusion_err!("{name} has {other}, which is no search{place}")),
    };
    Ok(Dimension { option: row.name.into(), values })
}

fn range(row: &Row, option: &ModelOption, least: &OptionValue, most: &OptionValue) -> Result<Values> {
    let (from, to) = (checked(row, option, least)?, checked(row, option, most)?);
    let integers = matches!(row.kind, Kind::Count { .. } | Kind::Width)
        || matches!(row.kind, Kind::Param(p) if native(p).is_some_and(|p| matches!(p.domain, params::Domain::Int { .. })));
    match (from.as_f64(), to.as_f64()) {
        (Some(least), Some(most)) if least < most => Ok(Values::Range { least, most, integers }),
        _ => {
            let (name, place) = (&option.name, option.place());
            Err(plan_datafusion_err!("{name}: HPARAM_RANGE({least}, {most}) is no range of numbers{place}"))
        }
    }
}

fn unknown(rows: &[Row], natives: bool, option: &ModelOption) -> DataFusionError {
    let aliases = rows.iter().filter_map(|row| match row.kind {
        Kind::Param(name) => Some(name),
        _ => None,
    });
    let natives = params::TABLE.iter().filter(|_| natives).map(|p| p.name);
    let names: Vec<&str> = rows.iter().map(|row| row.name).chain(aliases).chain(natives).collect();
    let (name, place) = (&option.name, option.place());
    match nearest(name, names.iter().copied()) {
        Some(near) => plan_datafusion_err!("unknown option '{name}'{place}; did you mean '{near}'?"),
        None => {
            let all = rows.iter().filter(|row| !matches!(row.kind, Kind::NotYet(_))).map(|row| row.name);
            let all = all.collect::<Vec<_>>().join(", ");
            plan_datafusion_err!("unknown option '{name}'{place}; there are {all}")
        }
    }
}

fn duplicate(first: &ModelOption, second: &ModelOption) -> DataFusionError {
    let (place, before) = (second.place(), first.place());
    if first.name == second.name {
        plan_datafusion_err!("duplicate option '{}'{place}; it is also{before}", second.name)
    } else {
        plan_datafusion_err!(
            "duplicate option '{}'{place}; '{}'{before} is the same",
            second.name,
            first.name
        )
    }
}
