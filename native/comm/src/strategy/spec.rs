//! A strategy as text: a name, and arguments in parentheses, by name or in their order, as `two_phase(qsgd(levels=15))`.

use std::fmt;
use std::str::FromStr;

use firesteel_error::{Error, Result};

use super::catalogue::{Argument, Domain, Entry, Family, entry, names};

/// A strategy, compressor or topology by name, with all of its arguments.
///
/// Its text has every argument by name, so that what is the same reads the same: `two_phase(to=plain, from=plain, feedback=false)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    entry: &'static Entry,
    /// As many as the entry has.
    values: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Whole(u64),
    Real(f64),
    Flag(bool),
    Word(String),
    Spec(Spec),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(value) => value.fmt(f),
            Value::Real(value) => value.fmt(f),
            Value::Flag(value) => value.fmt(f),
            Value::Word(value) => value.fmt(f),
            Value::Spec(value) => value.fmt(f),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry.name)?;
        for (nth, (argument, value)) in self.entry.arguments.iter().zip(&self.values).enumerate() {
            let before = if nth == 0 { "(" } else { ", " };
            write!(f, "{before}{}={value}", argument.name)?;
        }
        if self.values.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl FromStr for Spec {
    type Err = Error;

    /// Reads a strategy.
    ///
    /// # Errors
    /// `InvalidArgument` naming what is wrong in the text, what was found and what was expected.
    fn from_str(text: &str) -> Result<Spec> {
        let mut reader = Reader { text, at: 0 };
        let raw = reader.raw()?;
        reader.blanks();
        match reader.at < text.len() {
            true => Err(reader.expected("the end")),
            false => Spec::resolve(&raw, Family::Strategy),
        }
    }
}

impl Spec {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// What it is.
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    fn value(&self, name: &str) -> Result<&Value> {
        let nth = self.entry.arguments.iter().position(|argument| argument.name == name);
        let value = nth.and_then(|nth| self.values.get(nth));
        value.ok_or_else(|| Error::internal(format!("{} has no argument {name}", self.entry.name)))
    }

    pub(super) fn whole(&self, name: &str) -> Result<u64> {
        match self.value(name)? {
            Value::Whole(value) => Ok(*value),
            other => Err(misread(name, other)),
        }
    }

    pub(super) fn real(&self, name: &str) -> Result<f64> {
        match self.value(name)? {
            Value::Real(value) => Ok(*value),
            other => Err(misread(name, other)),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        match self.value(name)? {
            Value::Flag(value) => Ok(*value),
            other => Err(misread(name, other)),
        }
    }

    pub(super) fn word(&self, name: &str) -> Result<&str> {
        match self.value(name)? {
            Value::Word(value) => Ok(value),
            other => Err(misread(name, other)),
        }
    }

    pub(super) fn of(&self, name: &str) -> Result<&Spec> {
        match self.value(name)? {
            Value::Spec(value) => Ok(value),
            other => Err(misread(name, other)),
        }
    }

    /// Those of its arguments that are names themselves.
    pub(super) fn specs(&self) -> impl Iterator<Item = &Spec> {
        self.values.iter().filter_map(|value| match value {
            Value::Spec(spec) => Some(spec),
            _ => None,
        })
    }

    /// Finds what the text names, and its arguments.
    fn resolve(raw: &Raw<'_>, family: Family) -> Result<Spec> {
        let Some(entry) = entry(family, raw.word) else {
            let (what, all) = (family.name(), names(family).join(", "));
            return Err(Error::argument(format!("there is no {what} '{}', expected one of {all}", raw.word)));
        };
        let arguments = entry.arguments;
        let mut given: Vec<Option<&Raw<'_>>> = vec![None; arguments.len()];
        for (nth, (name, value)) in raw.arguments.iter().enumerate() {
            let place = match name {
                Some(name) => arguments.iter().position(|argument| argument.name == *name),
                None => Some(nth).filter(|nth| *nth < arguments.len()),
            };
            let Some(place) = place else {
                let found = name.map_or_else(|| value.to_string(), str::to_owned);
                return Err(Error::argument(format!(
                    "{} has no argument {found}, expected {}",
                    entry.name,
                    signature(arguments)
                )));
            };
            if given[place].replace(value).is_some() {
                let name = arguments[place].name;
                return Err(Error::argument(format!("{} has {name} twice, expected it once", entry.name)));
            }
        }
        let value = |(argument, given): (&Argument, Option<&Raw<'_>>)| match given {
            Some(raw) => read(entry, argument, raw),
            None => default(&argument.domain),
        };
        let values = arguments.iter().zip(given).map(value).collect::<Result<_>>()?;
        Ok(Spec { entry, values })
    }
}

fn misread(name: &str, value: &Value) -> Error {
    Error::internal(format!("argument {name} is {value}, of another type"))
}

/// What a name may be given, in words.
fn signature(arguments: &[Argument]) -> String {
    match arguments {
        [] => "none".to_owned(),
        some => some.iter().map(|argument| argument.name).collect::<Vec<_>>().join(", "),
    }
}

fn default(domain: &Domain) -> Result<Value> {
    Ok(match *domain {
        Domain::Whole { default, .. } => Value::Whole(default),
        Domain::Real { default, .. } => Value::Real(default),
        Domain::Flag { default } => Value::Flag(default),
        Domain::Choice { default, .. } | Domain::Edges { default } => Value::Word(default.to_owned()),
        Domain::Of { family, default } => {
            Value::Spec(Spec::resolve(&Reader { text: default, at: 0 }.raw()?, family)?)
        }
    })
}

fn read(entry: &Entry, argument: &Argument, raw: &Raw<'_>) -> Result<Value> {
    let bare = raw.arguments.is_empty().then_some(raw.word);
    let value = match argument.domain {
        Domain::Whole { least, most, .. } => bare
            .and_then(|word| word.parse().ok())
            .filter(|value| (least..=most).contains(value))
            .map(Value::Whole),
        Domain::Real { span, .. } => bare
            .and_then(|word| word.parse().ok())
            .filter(|value: &f64| value.is_finite() && span.contains(*value))
            .map(Value::Real),
        Domain::Flag { .. } => bare.and_then(|word| word.parse().ok()).map(Value::Flag),
        Domain::Choice { choices, .. } => {
            bare.filter(|word| choices.contains(word)).map(|word| Value::Word(word.to_owned()))
        }
        Domain::Edges { .. } => {
            bare.filter(|word| edges(word).is_some()).map(|word| Value::Word(word.to_owned()))
        }
        Domain::Of { family, .. } => {
            let of = Spec::resolve(raw, family);
            return of
                .map(Value::Spec)
                .map_err(|e| e.context(format!("{} of {}", argument.name, entry.name)));
        }
    };
    value.ok_or_else(|| {
        let (name, domain) = (argument.name, &argument.domain);
        Error::argument(format!("{name} of {} is {raw}, expected {domain}", entry.name))
    })
}

/// `0-1/1-2` as pairs.
pub(super) fn edges(text: &str) -> Option<Vec<(usize, usize)>> {
    let edge = |text: &str| {
        let (a, b) = text.split_once('-')?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    text.split('/').map(edge).collect()
}

/// Text that names something, before anyone knows what.
struct Raw<'a> {
    word: &'a str,
    arguments: Vec<(Option<&'a str>, Raw<'a>)>,
}

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = if self.arguments.is_empty() { "" } else { "(…)" };
        write!(f, "{}{after}", self.word)
    }
}

/// The deepest that names are within names.
const DEEPEST: usize = 16;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn takes(&mut self, c: char) -> bool {
        self.blanks();
        let takes = self.rest().starts_with(c);
        self.at += if takes { c.len_utf8() } else { 0 };
        takes
    }

    fn expected(&self, what: &str) -> Error {
        let (place, text) = (self.text[..self.at].chars().count() + 1, self.text);
        let found = self.rest().chars().next().map_or("the end".to_owned(), |c| format!("'{c}'"));
        Error::argument(format!("'{text}' has {found} at character {place}, expected {what}"))
    }

    fn word(&mut self) -> Result<&'a str> {
        self.blanks();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-/".contains(c)));
        let word = &rest[..end.unwrap_or(rest.len())];
        if word.is_empty() {
            return Err(self.expected("a name or a number"));
        }
        self.at += word.len();
        Ok(word)
    }

    fn raw(&mut self) -> Result<Raw<'a>> {
        self.nested(0)
    }

    fn nested(&mut self, depth: usize) -> Result<Raw<'a>> {
        let word = self.word()?;
        self.after(word, depth)
    }

    /// What follows a word.
    fn after(&mut self, word: &'a str, depth: usize) -> Result<Raw<'a>> {
        let mut arguments = Vec::new();
        if !self.takes('(') || self.takes(')') {
            return Ok(Raw { word, arguments });
        }
        if depth == DEEPEST {
            return Err(self.expected("no more names within names"));
        }
        loop {
            let first = self.word()?;
            arguments.push(match self.takes('=') {
                true => (Some(first), self.nested(depth + 1)?),
                false => (None, self.after(first, depth + 1)?),
            });
            if self.takes(')') {
                return Ok(Raw { word, arguments });
            }
            if !self.takes(',') {
                return Err(self.expected("',' or ')'"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(spec: &str) -> String {
        spec.parse::<Spec>().unwrap().to_string()
    }

    #[test]
    fn all_arguments_are_written_and_read_again() {
        assert_eq!(text("sharded"), "sharded");
        assert_eq!(text(" two_phase ( ) "), "two_phase(to=plain, from=plain, feedback=false)");
        let whole = "two_phase(to=qsgd(levels=15, bucket=512), from=shrink(of=natural), feedback=true)";
        assert_eq!(text("two_phase(qsgd(15),shrink(natural), feedback = true)"), whole);
        assert_eq!(text(whole), whole);
        assert_eq!(text("slow_mo(beta=5e-1)"), "slow_mo(every=48, beta=0.5, alpha=1)");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |spec: &str| spec.parse::<Spec>().unwrap_err().to_string();
        let e = wrong("two_fase");
        assert!(e.starts_with("there is no strategy 'two_fase', expected one of sharded, "), "{e}");
        let e = wrong("two_phase(qsdg)");
        assert!(e.contains("to of two_phase") && e.contains("there is no compressor 'qsdg'"), "{e}");
        assert_eq!(
            wrong("two_phase(feedbak=true)"),
            "two_phase has no argument feedbak, expected to, from, feedback"
        );
        // As f32 it is 1.
        let e = wrong("slow_mo(beta=0.999999999)");
        assert_eq!(e, "beta of slow_mo is 0.999999999, expected a number of at least 0 and below 1");
        assert_eq!(wrong("sharded(3)"), "sharded has no argument 3, expected none");
        assert_eq!(wrong("two_phase(plain, to=plain)"), "two_phase has to twice, expected it once");
        assert_eq!(wrong("local(every=0)"), "every of local is 0, expected a whole number from 1 to 1000000");
        assert_eq!(
            wrong("two_phase(feedback=maybe)"),
            "feedback of two_phase is maybe, expected true or false"
        );
        assert_eq!(wrong("local(8"), "'local(8' has the end at character 8, expected ',' or ')'");
        assert_eq!(wrong("local(8) x"), "'local(8) x' has 'x' at character 10, expected the end");
        assert_eq!(wrong(""), "'' has the end at character 1, expected a name or a number");
        assert_eq!(wrong("é"), "'é' has 'é' at character 1, expected a name or a number");
        assert!(wrong(&"shrink(".repeat(40)).contains("expected no more names within names"));
    }
}
