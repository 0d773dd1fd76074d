//! Which training a checkpoint belongs to.
//!
//! Two trainings with the same identity, on the same rows, pass through the same weights: they differ at most in when
//! they stop, how long they wait, what computes and how they use threads. So one may go on from the other's checkpoint.
//! What may differ is [`FREE`]; `epochs` may where the learning rate does not depend on it.

use std::fmt::Write as _;

use firesteel_error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::config::TrainConfig;
use crate::params::{Schedule, camel_case};

/// The hyper-parameters that a training may change when it goes on: when it stops, what it waits for, what computes and
/// how it uses threads and messages, how often it makes checkpoints.
const FREE: [&str; 6] = ["patience", "mode", "threads", "device", "timeout_seconds", "checkpoint_interval"];

/// Those that checkpoints once had not, and what they were.
const LATER: [(&str, &str); 3] =
    [("precision", "f32"), ("gradient_copy", "f32"), ("strategy", crate::strategy::DEFAULT)];

/// How much of a value a message shows: a spec may be long.
const SHOWN: usize = 400;

/// The options that decide what weights a training passes through, by name, in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity(Vec<(String, Value)>);

impl Identity {
    pub(crate) fn of(config: &TrainConfig) -> Result<Identity> {
        let unwritten = |e| Error::internal(format!("a configuration cannot be written: {e}"));
        let of_params = serde_json::to_value(&config.params).map_err(unwritten)?;
        let of_data = serde_json::to_value(&config.data).map_err(unwritten)?;
        let mut all = vec![
            ("task".to_string(), serde_json::to_value(config.task).map_err(unwritten)?),
            ("classes".to_string(), config.classes.into()),
        ];
        for name in ["features", "label", "weight", "validation"] {
            all.push((name.to_string(), of_data.get(name).cloned().unwrap_or(Value::Null)));
        }
        all.push(("network".to_string(), sorted(serde_json::to_value(&config.network).map_err(unwritten)?)));
        let scheduled = config.params.schedule != Schedule::Constant;
        let counts = |name: &str| match name {
            "epochs" => scheduled,
            // A bucket is what is compressed as one.
            "bucket_bytes" => !config.params.strategy.is_default(),
            name => !FREE.contains(&name),
        };
        for param in crate::params::TABLE.iter().filter(|param| counts(param.name)) {
            let value = of_params.get(param.name).cloned().unwrap_or(Value::Null);
            if !LATER.iter().any(|(name, before)| *name == param.name && value == *before) {
                all.push((camel_case(param.name), value));
            }
        }
        Ok(Identity(all))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// Whether a checkpoint with this identity belongs to a training with the identity `expected`.
    ///
    /// # Errors
    /// `Corrupt` naming the first option that differs, what was found and what was expected.
    pub(crate) fn check(&self, expected: &Identity) -> Result<()> {
        // `schedule` says more than an `epochs` that one of them lacks.
        let everywhere = |name: &&str| self.get(name).is_some() && expected.get(name).is_some();
        let names = || expected.0.iter().chain(&self.0).map(|(name, _)| name.as_str());
        let differs = |name: &&str| self.get(name) != expected.get(name);
        let first = names().filter(everywhere).find(differs).or_else(|| names().find(differs));
        let Some(name) = first else { return Ok(()) };
        Err(Error::corrupt(format!(
            "the checkpoint is of another training: {name} is {} there and {} here",
            shown(self.get(name)),
            shown(expected.get(name))
        )))
    }

    /// 32 hexadecimal digits of its SHA-256.
    fn digest(&self) -> String {
        let hash = Sha256::digest(sorted(Value::from_iter(self.0.clone())).to_string());
        hash[..16].iter().fold(String::new(), |mut out, byte| {
            _ = write!(out, "{byte:02x}");
            out
        })
    }
}

/// A name for the checkpoints of this training: the same for trainings that may go on from each other's, on any
/// machine, and another for any other.
///
/// # Errors
/// `Internal` when the configuration cannot be written.
pub fn checkpoint_key(config: &TrainConfig) -> Result<String> {
    Identity::of(config).map(|identity| identity.digest())
}

/// The same value with the names of objects in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(Map::from_iter(entries))
        }
        Value::Array(all) => all.into_iter().map(sorted).collect(),
        other => other,
    }
}

fn shown(value: Option<&Value>) -> String {
    let Some(value) = value.filter(|v| !v.is_null()) else { return "not given".into() };
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(network: &str, params: &str) -> TrainConfig {
        let json = format!(
            r#"{{"task": "classification", "network": {network}, "params": {params},
                "data": {{"features": [{{"column": "a"}}], "label": "y", "weight": "w"}}}}"#
        );
        TrainConfig::from_json(&json).unwrap()
    }

    fn key(network: &str, params: &str) -> String {
        checkpoint_key(&config(network, params)).unwrap()
    }

    const MLP: &str = r#"{"mlp": {"hidden": [4]}}"#;

    /// Folders are named by it: it changes with the table of hyper-parameters and the form of networks, not from
    /// build to build.
    #[test]
    fn keys_are_stable() {
        let key = key(MLP, "{}");
        assert_eq!(key, "f77b962391852a00c09e682cd947299e");
        assert_eq!(
            key,
            self::key(r#"{"mlp": {"dropout": 0.0, "hidden": [4]}}"#, r#"{"learning_rate": 1e-3}"#)
        );
    }

    #[test]
    fn only_what_leads_to_other_weights_changes_the_key() {
        let plain = key(MLP, "{}");
        for free in [
            r#"{"epochs": 3}"#,
            r#"{"patience": 3, "validationFraction": 0}"#,
            r#"{"threads": 2, "mode": "wide", "bucketBytes": 64, "timeoutSeconds": 1, "checkpointInterval": 7}"#,
            r#"{"device": "cuda:1"}"#,
        ] {
            let free: Map<String, Value> = serde_json::from_str(free).unwrap();
            let mut other = config(MLP, "{}");
            let patience = free.get("patience").and_then(Value::as_u64).unwrap_or(0);
            let rest = free.into_iter().filter(|(name, _)| name != "patience").collect();
            other.params = crate::Params::from_map(&rest).unwrap();
            other.params.patience = patience as usize;
            assert_eq!(checkpoint_key(&other).unwrap(), plain, "{other:?}");
        }
        let depends = ["epochs", "bucket_bytes"];
        let counts = |name| !FREE.contains(&name) && !depends.contains(&name);
        for param in crate::params::TABLE.iter().filter(|param| counts(param.name)) {
            let value = match param.domain {
                crate::params::Domain::Int { default, .. } => Value::from(default + 1),
                crate::params::Domain::Seed { default } => Value::from(default + 1),
                crate::params::Domain::Real { default, .. } => Value::from(default * 0.5 + 0.25),
                crate::params::Domain::Choice { choices, .. } => Value::from(choices[1]),
                crate::params::Domain::Flag { default } => Value::from(!default),
                crate::params::Domain::Device { .. } => Value::from("cuda"),
                crate::params::Domain::Strategy { .. } => Value::from("local"),
            };
            let given = match param.name {
                "nesterov" => serde_json::json!({"nesterov": true, "optimizer": "sgd", "momentum": 0.5}),
                name => Value::Object(Map::from_iter([(name.to_string(), value)])),
            };
            assert_ne!(key(MLP, &given.to_string()), plain, "{}", param.name);
        }
        assert_ne!(key(r#"{"mlp": {"hidden": [5]}}"#, "{}"), plain);
        let changes: [fn(&mut TrainConfig); 5] = [
            |c| c.task = crate::Task::Regression,
            |c| c.classes = Some(3),
            |c| c.data.label = "z".into(),
            |c| c.data.weight = None,
            |c| c.data.features[0].shape = Some(vec![2, 2]),
        ];
        for change in changes {
            let mut other = config(MLP, "{}");
            change(&mut other);
            assert_ne!(checkpoint_key(&other).unwrap(), plain, "{other:?}");
        }
    }

    /// Half a cosine over 5 epochs is not the first half of one over 10.
    #[test]
    fn the_number_of_epochs_counts_where_the_learning_rate_depends_on_it() {
        let of = |schedule: &str, epochs: usize| {
            key(MLP, &format!(r#"{{"schedule": "{schedule}", "epochs": {epochs}}}"#))
        };
        assert_eq!(of("constant", 5), of("constant", 10));
        assert_ne!(of("cosine", 5), of("cosine", 10));
        assert_ne!(of("linear", 5), of("linear", 10));
    }

    #[test]
    fn buckets_count_where_they_are_compressed() {
        let of = |strategy: &str, bytes: usize| {
            key(MLP, &format!(r#"{{"strategy": "{strategy}", "bucketBytes": {bytes}}}"#))
        };
        assert_eq!(of("sharded", 64), of("sharded", 128));
        assert_ne!(of("two_phase", 64), of("two_phase", 128));
        // What is the same may be written in several ways.
        assert_eq!(of("two_phase", 64), of("two_phase(plain, feedback = false)", 64));
    }

    #[test]
    fn the_first_difference_is_named() {
        let text = |a: &TrainConfig, b: &TrainConfig| {
            Identity::of(a).unwrap().check(&Identity::of(b).unwrap()).unwrap_err().to_string()
        };
        let start = "the checkpoint is of another training: ";
        let (a, b) = (config(MLP, r#"{"learningRate": 0.5}"#), config(MLP, r#"{"seed": 1}"#));
        assert_eq!(text(&a, &b), format!("{start}learningRate is 0.5 there and 0.001 here"));
        let mut c = a.clone();
        c.data.weight = None;
        assert_eq!(text(&a, &c), format!("{start}weight is \"w\" there and not given here"));
        let cosine = config(MLP, r#"{"schedule": "cosine"}"#);
        let found = text(&cosine, &config(MLP, "{}"));
        assert_eq!(found, format!("{start}schedule is \"cosine\" there and \"constant\" here"));
        Identity::of(&a).unwrap().check(&Identity::of(&a).unwrap()).unwrap();
    }
}
