//! Options as written: `key = value`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One `key = value`. Where it stands does not count when two are compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelOption {
    /// The key, in lower case.
    pub name: String,
    /// The value.
    pub value: OptionValue,
    /// Of the key, from 1; 0 when it was not read from a text.
    pub line: u64,
    /// Of the key in its line, from 1, in characters.
    pub column: u64,
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionValue {
    /// `'text'`.
    String(String),
    /// `0.1`, as written, with its sign.
    Number(String),
    /// `TRUE` or `FALSE`.
    Bool(bool),
    /// `adam`: a word, which options take as a string.
    Ident(String),
    /// `[1, 2]`.
    Array(Vec<OptionValue>),
    /// `STRUCT(0.3 AS weight)`: values with their names.
    Struct(Vec<(Option<String>, OptionValue)>),
    /// `HPARAM_RANGE(least, most)`: a search draws from it.
    HparamRange(Box<OptionValue>, Box<OptionValue>),
    /// `HPARAM_CANDIDATES([1, 2])`: a search picks from them.
    HparamCandidates(Vec<OptionValue>),
}

impl ModelOption {
    /// An option that no text holds.
    pub fn new(name: impl Into<String>, value: OptionValue) -> ModelOption {
        ModelOption { name: name.into(), value, line: 0, column: 0 }
    }

    /// ` at line 2 column 5`, for messages; empty when it was not read from a text.
    pub(crate) fn place(&self) -> String {
        if self.line == 0 { String::new() } else { format!(" at line {} column {}", self.line, self.column) }
    }
}

impl PartialEq for ModelOption {
    fn eq(&self, other: &ModelOption) -> bool {
        self.name == other.name && self.value == other.value
    }
}

impl fmt::Display for ModelOption {
    /// As SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

impl fmt::Display for OptionValue {
    /// As SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionValue::String(s) => write!(f, "'{}'", s.replace('\'', "''")),
            OptionValue::Number(s) | OptionValue::Ident(s) => f.write_str(s),
            OptionValue::Bool(b) => f.write_str(if *b { "TRUE" } else { "FALSE" }),
            OptionValue::Array(values) => write!(f, "[{}]", Commas(values)),
            OptionValue::HparamRange(least, most) => write!(f, "HPARAM_RANGE({least}, {most})"),
            OptionValue::HparamCandidates(values) => write!(f, "HPARAM_CANDIDATES([{}])", Commas(values)),
            OptionValue::Struct(fields) => {
                f.write_str("STRUCT(")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if i > 0 { ", " } else { "" })?;
                    write!(f, "{value}")?;
                    if let Some(name) = name {
                        write!(f, " AS {name}")?;
                    }
                }
                f.write_str(")")
            }
        }
    }
}

struct Commas<'a>(&'a [OptionValue]);

impl fmt::Display for Commas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, value) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            write!(f, "{value}")?;
        }
        Ok(())
    }
}
