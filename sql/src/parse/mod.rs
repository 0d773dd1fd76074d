//! SQL text to statements: DataFusion's own, and ours about models.
//!
//! Tokens are rewritten first, inside the parentheses of `ML.<function>(` only: `MODEL m` becomes a string, `TABLE t`
//! a query, `STRUCT(0.5 AS threshold)` a named argument. Then DataFusion's parser reads every statement that does not
//! start as one of ours. So a column or table may be called `model`, and each dialect stays what it is.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`statement`] | what comes out |
//! | [`value`] | options and their values |
//! | [`model_ref`] | a model in a string |
//! | `rewrite` | tokens before parsing |
//! | `reader`, `literal` | our statements, values in them |
//! | `source` | places in the text |

use datafusion::common::{DataFusionError, Result};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

mod literal;
pub mod model_ref;
mod reader;
mod rewrite;
mod source;
pub mod statement;
#[cfg(test)]
mod tests;
pub mod value;

pub use model_ref::ModelRef;
pub use statement::{Change, CreateModel, Retrain, Source, Statement, TransformItem};
pub use value::{ModelOption, OptionValue};

/// The statements of a text, separated by `;`. `normalize` lowers names without quotes, as DataFusion's
/// `sql_parser.enable_ident_normalization` does.
///
/// # Errors
/// `SQL` with what was expected, what was found, and its line and column, both counted from 1.
pub fn parse(sql: &str, dialect: &dyn Dialect, normalize: bool) -> Result<Vec<Statement>> {
    let tokens = Tokenizer::new(dialect, sql).tokenize_with_location().map_err(ParserError::from)?;
    let tokens = rewrite::rewrite(tokens, normalize)?;
    reader::Reader::new(sql, tokens, dialect, normalize)?.statements()
}

/// A mistake in the text, in the form of sqlparser's own.
fn mistake(message: impl std::fmt::Display, at: Location) -> DataFusionError {
    ParserError::ParserError(format!("{message}{at}")).into()
}

/// That something else was expected.
fn unexpected(wanted: &str, found: &TokenWithSpan) -> DataFusionError {
    mistake(format_args!("Expected: {wanted}, found: {}", found.token), found.span.start)
}

/// Whether a token is this word, without quotes, in any case.
fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// The text of a string literal, however the dialect quotes it.
fn string_of(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(s)
        | Token::DoubleQuotedString(s)
        | Token::TripleSingleQuotedString(s)
        | Token::TripleDoubleQuotedString(s)
        | Token::SingleQuotedRawStringLiteral(s)
        | Token::DoubleQuotedRawStringLiteral(s)
        | Token::NationalStringLiteral(s)
        | Token::EscapedStringLiteral(s) => Some(s),
        Token::DollarQuotedString(s) => Some(&s.value),
        _ => None,
    }
}
