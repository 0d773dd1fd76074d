//! `SET ml.seed = 7`: what trainings of a session are told where their statements do not say.

use std::any::Any;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::{Result, config_err};

use crate::parse::{ModelOption, OptionValue};

/// The options of `CREATE MODEL` that a session may have, and what they are.
const OPTIONS: [(&str, &str); 2] = [
    ("seed", "draws initial weights, order of rows, held-out rows and dropout of trainings that do not say"),
    ("workers", "parallel workers of trainings that do not say"),
];

/// The settings `ml.*`.
#[derive(Clone, Debug, Default)]
pub(crate) struct MlConfig {
    /// In the order of [`OPTIONS`].
    values: [Option<u64>; OPTIONS.len()],
}

impl ConfigExtension for MlConfig {
    const PREFIX: &'static str = "ml";
}

impl ExtensionOptions for MlConfig {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(at) = OPTIONS.iter().position(|(name, _)| *name == key) else {
            let names = OPTIONS.map(|(name, _)| format!("ml.{name}"));
            return config_err!("there is no setting ml.{key}; there are {}", names.join(", "));
        };
        match value.trim().parse() {
            Ok(number) => self.values[at] = Some(number),
            Err(_) => return config_err!("ml.{key} expects a whole number, got '{value}'"),
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |((name, description), value): (&(&str, &'static str), &Option<u64>)| ConfigEntry {
            key: format!("{}.{name}", MlConfig::PREFIX),
            value: value.map(|value| value.to_string()),
            description,
        };
        OPTIONS.iter().zip(&self.values).map(entry).collect()
    }
}

/// The options of a statement, and those of the session that it does not have.
pub(crate) fn with_defaults(options: &[ModelOption], config: &ConfigOptions) -> Vec<ModelOption> {
    let mut all = options.to_vec();
    let Some(config) = config.extensions.get::<MlConfig>() else { return all };
    for ((name, _), value) in OPTIONS.iter().zip(config.values) {
        let given = options.iter().any(|option| option.name == *name);
        if let (Some(value), false) = (value, given) {
            all.push(ModelOption::new(*name, OptionValue::Number(value.to_string())));
        }
    }
    all
}
