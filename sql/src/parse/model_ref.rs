//! A model in a string: what `MODEL m@2` becomes inside an `ML.` function.

use std::fmt;

use datafusion::common::{Result, plan_datafusion_err};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::{is_word, mistake, unexpected};
use crate::name::ModelName;

/// A model and, where pinned, one of its versions.
///
/// As a string: `name`, `schema.name`, `schema.name@version`. A part that is not a lower-case word of ASCII letters,
/// digits and `_` stands in double quotes, in which a quote is written twice: `"My ""model"""@3`. Reading lowers parts
/// without quotes, as SQL does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelRef {
    /// The model.
    pub name: ModelName,
    /// The active one when absent.
    pub version: Option<u64>,
}

impl ModelRef {
    /// The string.
    pub fn encode(name: &ModelName, version: Option<u64>) -> String {
        ModelRef { name: name.clone(), version }.to_string()
    }

    /// Reads the string.
    ///
    /// # Errors
    /// `Plan` with the string and the form it should have.
    pub fn decode(text: &str) -> Result<(ModelName, Option<u64>)> {
        decode(text).ok_or_else(|| {
            plan_datafusion_err!("'{text}' names no model; expected 'name', 'schema.name' or 'name@version'")
        })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.schema != crate::name::DEFAULT_SCHEMA {
            write!(f, "{}.", Part(&self.name.schema))?;
        }
        write!(f, "{}", Part(&self.name.name))?;
        self.version.map_or(Ok(()), |version| write!(f, "@{version}"))
    }
}

/// A part of a name, in quotes where it needs them.
struct Part<'a>(&'a str);

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "\"{}\"", self.0.replace('"', "\"\""))
        }
    }
}

fn decode(text: &str) -> Option<(ModelName, Option<u64>)> {
    let (first, rest) = part(text)?;
    let (name, rest) = match rest.strip_prefix('.') {
        None => (ModelName::bare(first), rest),
        Some(rest) => {
            let (name, rest) = part(rest)?;
            (ModelName { schema: first, name }, rest)
        }
    };
    match rest.strip_prefix('@') {
        None if rest.is_empty() => Some((name, None)),
        None => None,
        Some(version) => Some((name, Some(number(version)?))),
    }
}

/// The first part of a text, and what is behind it.
fn part(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['.', '@', '"']).unwrap_or(text.len());
        let (part, rest) = text.split_at(end);
        return (!part.is_empty()).then(|| (part.to_ascii_lowercase(), rest));
    };
    let mut part = String::new();
    let mut rest = quoted;
    loop {
        let (before, behind) = rest.split_once('"')?;
        part.push_str(before);
        match behind.strip_prefix('"') {
            None => return Some((part, behind)),
            Some(more) => {
                part.push('"');
                rest = more;
            }
        }
    }
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Words that start the next clause, so that a forgotten name is seen where it is missing.
const NOT_NAMES: [&str; 10] =
    ["AS", "FROM", "IF", "OPTIONS", "RENAME", "SELECT", "SET", "TABLE", "TRANSFORM", "WITH"];

/// Reads `[schema.]name[@version | VERSION n]` from the tokens that `peek` counts from 0, and tells how many they are.
/// The dialects make one, two or three tokens of `name@2`.
pub(super) fn read<'t>(
    peek: impl Fn(usize) -> &'t TokenWithSpan,
    normalize: bool,
) -> Result<(ModelRef, usize)> {
    let start = peek(0).span.start;
    let (mut parts, mut version, mut at) = (Vec::new(), None, 0);
    loop {
        let (part, suffix) = name_part(peek(at), normalize)?;
        parts.push(part);
        version = version.or(suffix);
        at += 1;
        if version.is_some() || peek(at).token != Token::Period {
            break;
        }
        at += 1;
    }
    if version.is_none() {
        let (found, tokens) = version_behind(&|n| peek(at + n))?;
        version = found;
        at += tokens;
    }
    let name = match <[String; 2]>::try_from(parts) {
        Ok([schema, name]) => ModelName { schema, name },
        Err(mut parts) if parts.len() == 1 => ModelName::bare(parts.remove(0)),
        Err(parts) => {
            let name = parts.join(".");
            return Err(mistake(format_args!("a model is named schema.name at most, found {name}"), start));
        }
    };
    Ok((ModelRef { name, version }, at))
}

/// A part, and the version where the dialect takes `name@2` for one word.
fn name_part(token: &TokenWithSpan, normalize: bool) -> Result<(String, Option<u64>)> {
    let wanted = || unexpected("the name of a model", token);
    let Token::Word(Word { value, quote_style, .. }) = &token.token else { return Err(wanted()) };
    if quote_style.is_some() {
        return Ok((value.clone(), None));
    }
    let (name, version) = match value.split_once('@') {
        None => (value.as_str(), None),
        Some((name, digits)) => (name, Some(version_number(digits, token)?)),
    };
    if name.is_empty() || NOT_NAMES.iter().any(|word| name.eq_ignore_ascii_case(word)) {
        return Err(wanted());
    }
    Ok((if normalize { name.to_ascii_lowercase() } else { name.into() }, version))
}

/// `@2` or `VERSION 2`, and how many tokens that is.
fn version_behind<'t>(peek: &dyn Fn(usize) -> &'t TokenWithSpan) -> Result<(Option<u64>, usize)> {
    let digits = |token: &'t TokenWithSpan| match &token.token {
        Token::Number(digits, _) => version_number(digits, token),
        _ => Err(unexpected("the number of a version", token)),
    };
    match &peek(0).token {
        Token::AtSign => Ok((Some(digits(peek(1))?), 2)),
        Token::Word(w) if w.quote_style.is_none() && w.value.starts_with('@') => {
            Ok((Some(version_number(&w.value[1..], peek(0))?), 1))
        }
        token if is_word(token, "VERSION") => Ok((Some(digits(peek(1))?), 2)),
        _ => Ok((None, 0)),
    }
}

fn version_number(digits: &str, token: &TokenWithSpan) -> Result<u64> {
    let number = if digits.is_empty() { None } else { number(digits) };
    number.ok_or_else(|| unexpected("the number of a version", token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_round_trip() {
        let odd =
            ["iris", "Iris", "a.b", "a@2", "\"", "\"\"", "", " ", "müll", "a'b", "1", "model", "x\"@y.z"];
        for schema in odd {
            for name in odd {
                for version in [None, Some(0), Some(7), Some(u64::MAX)] {
                    let model = ModelName { schema: schema.into(), name: name.into() };
                    let text = ModelRef::encode(&model, version);
                    assert_eq!(ModelRef::decode(&text).unwrap(), (model, version), "{text}");
                }
            }
        }
    }

    #[test]
    fn strings_read_as_they_are_written() {
        let read = |text| ModelRef::decode(text).unwrap();
        assert_eq!(read("iris"), (ModelName::bare("iris"), None));
        assert_eq!(read("Iris@2"), (ModelName::bare("iris"), Some(2)));
        assert_eq!(read("\"Iris\""), (ModelName::bare("Iris"), None));
        assert_eq!(ModelRef::encode(&ModelName::bare("iris"), Some(2)), "iris@2");
        let lab = ModelName { schema: "lab".into(), name: "Iris 2".into() };
        assert_eq!(ModelRef::encode(&lab, Some(2)), "lab.\"Iris 2\"@2");
    }

    #[test]
    fn strings_that_name_nothing() {
        for text in
            ["", "@1", "a@", "a@x", "a@-1", "a@+1", "a.b.c", ".a", "a.", "\"a", "\"a\"b", "a@1@2", "a\"b\""]
        {
            let e = ModelRef::decode(text).unwrap_err().to_string();
            assert!(e.contains(&format!("'{text}' names no model; expected 'name'")), "{e}");
        }
    }
}
