//! `key = value` of `OPTIONS (..)`.

use datafusion::common::Result;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::reader::Reader;
use super::value::{ModelOption, OptionValue};
use super::{mistake, string_of, unexpected};

/// How deep values nest.
const DEEPEST: usize = 8;

impl Reader<'_> {
    pub(super) fn option(&mut self) -> Result<ModelOption> {
        let key = self.parser.parser.next_token();
        let name = match &key.token {
            Token::Word(Word { value, .. }) => value.to_ascii_lowercase(),
            token => {
                return Err(match string_of(token) {
                    Some(text) => self.key_in_quotes(text, &key),
                    None => unexpected("an option, key = value", &key),
                });
            }
        };
        if self.peek(0).token != Token::Eq {
            let wanted = format!("= behind '{name}' (options are written key = value)");
            return Err(unexpected(&wanted, self.peek(0)));
        }
        self.skip(1);
        let value = self.value(0)?;
        Ok(ModelOption { name, value, line: key.span.start.line, column: key.span.start.column })
    }

    /// DataFusion's own form, `'key' 'value'`.
    fn key_in_quotes(&self, key: &str, at: &TokenWithSpan) -> datafusion::common::DataFusionError {
        let value = match &self.peek(0).token {
            Token::Eq => self.peek(1),
            _ => self.peek(0),
        };
        let message = format!("use key = value: {key} = {}, found: {}", value.token, at.token);
        mistake(message, at.span.start)
    }

    fn value(&mut self, depth: usize) -> Result<OptionValue> {
        let token = self.parser.parser.next_token();
        if depth > DEEPEST {
            return Err(mistake("the value of an option nests too deep", token.span.start));
        }
        match &token.token {
            Token::Number(digits, _) => Ok(OptionValue::Number(digits.clone())),
            Token::Minus => self.number("-"),
            Token::Plus => self.number(""),
            Token::LBracket => self.list(Token::RBracket, depth).map(OptionValue::Array),
            Token::Word(word) => self.word(word, &token, depth),
            other => match string_of(other) {
                Some(text) => Ok(OptionValue::String(text.to_owned())),
                None => Err(unexpected("a value", &token)),
            },
        }
    }

    fn number(&mut self, sign: &str) -> Result<OptionValue> {
        let token = self.parser.parser.next_token();
        match &token.token {
            Token::Number(digits, _) => Ok(OptionValue::Number(format!("{sign}{digits}"))),
            _ => Err(unexpected("a number", &token)),
        }
    }

    fn word(&mut self, word: &Word, token: &TokenWithSpan, depth: usize) -> Result<OptionValue> {
        if word.quote_style.is_some() {
            return Ok(OptionValue::Ident(word.value.clone()));
        }
        let upper = word.value.to_ascii_uppercase();
        match (upper.as_str(), &self.peek(0).token) {
            ("TRUE", _) => Ok(OptionValue::Bool(true)),
            ("FALSE", _) => Ok(OptionValue::Bool(false)),
            ("ARRAY", Token::LBracket) => {
                self.skip(1);
                self.list(Token::RBracket, depth).map(OptionValue::Array)
            }
            ("STRUCT", Token::LParen) => self.fields(depth).map(OptionValue::Struct),
            ("HPARAM_RANGE", Token::LParen) => self.range(token, depth),
            ("HPARAM_CANDIDATES", Token::LParen) => self.candidates(token, depth),
            (_, Token::LParen) => Err(unexpected("a literal, not a function", token)),
            _ => Ok(OptionValue::Ident(word.value.clone())),
        }
    }

    /// Values up to `end`, whose opening bracket has been read.
    fn list(&mut self, end: Token, depth: usize) -> Result<Vec<OptionValue>> {
        let mut values = Vec::new();
        if self.parser.parser.consume_token(&end) {
            return Ok(values);
        }
        loop {
            values.push(self.value(depth + 1)?);
            if !self.parser.parser.consume_token(&Token::Comma) {
                self.token(&end, &format!(", or {end}"))?;
                return Ok(values);
            }
        }
    }

    fn fields(&mut self, depth: usize) -> Result<Vec<(Option<String>, OptionValue)>> {
        self.skip(1);
        let mut fields = Vec::new();
        loop {
            let value = self.value(depth + 1)?;
            let mut name = None;
            if self.sees(0, &["AS"]) {
                self.skip(1);
                let Token::Word(word) = &self.peek(0).token else {
                    return Err(unexpected("the name of a field", self.peek(0)));
                };
                name = Some(word.value.to_ascii_lowercase());
                self.skip(1);
            }
            fields.push((name, value));
            if !self.parser.parser.consume_token(&Token::Comma) {
                self.token(&Token::RParen, ", or ) in STRUCT")?;
                return Ok(fields);
            }
        }
    }

    fn range(&mut self, at: &TokenWithSpan, depth: usize) -> Result<OptionValue> {
        self.skip(1);
        match <[OptionValue; 2]>::try_from(self.list(Token::RParen, depth)?) {
            Ok([least @ OptionValue::Number(_), most @ OptionValue::Number(_)]) => {
                Ok(OptionValue::HparamRange(Box::new(least), Box::new(most)))
            }
            _ => Err(mistake("HPARAM_RANGE takes two numbers: HPARAM_RANGE(0, 0.5)", at.span.start)),
        }
    }

    fn candidates(&mut self, at: &TokenWithSpan, depth: usize) -> Result<OptionValue> {
        self.skip(1);
        match <[OptionValue; 1]>::try_from(self.list(Token::RParen, depth)?) {
            Ok([OptionValue::Array(values)]) if !values.is_empty() => {
                Ok(OptionValue::HparamCandidates(values))
            }
            _ => Err(mistake("HPARAM_CANDIDATES takes a list: HPARAM_CANDIDATES([32, 64])", at.span.start)),
        }
    }
}
