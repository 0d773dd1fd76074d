//! Our statements, read by hand on top of DataFusion's parser.

use datafusion::common::Result;
use datafusion::sql::parser::{DFParser, DFParserBuilder};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SetExpr};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::model_ref::{self, ModelRef};
use super::source::SourceText;
use super::statement::{Change, CreateModel, Retrain, Source, Statement, TransformItem};
use super::value::ModelOption;
use super::{is_word, mistake, string_of, unexpected};
use crate::name::ModelName;

/// Reads statements one after the other.
pub(super) struct Reader<'a> {
    text: SourceText<'a>,
    pub(super) parser: DFParser<'a>,
    normalize: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        sql: &'a str,
        tokens: Vec<TokenWithSpan>,
        dialect: &'a dyn Dialect,
        normalize: bool,
    ) -> Result<Reader<'a>> {
        let parser = DFParserBuilder::new(tokens).with_dialect(dialect).build()?;
        Ok(Reader { text: SourceText::new(sql), parser, normalize })
    }

    pub(super) fn statements(mut self) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        loop {
            while self.parser.parser.consume_token(&Token::SemiColon) {}
            if self.peek(0).token == Token::EOF {
                return Ok(statements);
            }
            statements.push(self.statement()?);
            if !matches!(self.peek(0).token, Token::SemiColon | Token::EOF) {
                return Err(unexpected("end of statement", self.peek(0)));
            }
        }
    }

    fn statement(&mut self) -> Result<Statement> {
        if self.sees(0, &["CREATE", "MODEL"]) || self.sees(0, &["CREATE", "OR", "REPLACE", "MODEL"]) {
            return self.create_model().map(Statement::CreateModel);
        }
        if self.sees(0, &["SHOW", "CREATE", "MODEL"]) {
            self.skip(3);
            return self.unversioned_name().map(Statement::ShowCreateModel);
        }
        if self.takes(&["SHOW", "MODELS"]) {
            return self.show_models();
        }
        if self.sees(0, &["RETRAIN", "MODEL"]) {
            return self.retrain();
        }
        if self.takes(&["DROP", "MODEL"]) {
            let if_exists = self.takes(&["IF", "EXISTS"]);
            let ModelRef { name, version } = self.name()?;
            return Ok(Statement::DropModel { name, version, if_exists });
        }
        if self.takes(&["ALTER", "MODEL"]) {
            return self.alter_model();
        }
        if self.describes() {
            self.skip(2);
            let ModelRef { name, version } = self.name()?;
            return Ok(Statement::DescribeModel { name, version });
        }
        if self.takes(&["EXPORT", "MODEL"]) {
            let ModelRef { name, version } = self.name()?;
            let options = self.options()?;
            return Ok(Statement::ExportModel { name, version, options });
        }
        if self.takes(&["VACUUM", "MODELS"]) {
            return self.vacuum();
        }
        if self.explains() {
            return self.explain();
        }
        Ok(Statement::Sql(Box::new(self.parser.parse_statement()?)))
    }

    fn create_model(&mut self) -> Result<CreateModel> {
        let start = self.peek(0).span.start;
        self.skip(1);
        let or_replace = self.takes(&["OR", "REPLACE"]);
        self.skip(1);
        let exists = self.peek(0).span.start;
        let if_not_exists = self.takes(&["IF", "NOT", "EXISTS"]);
        if or_replace && if_not_exists {
            return Err(mistake("OR REPLACE and IF NOT EXISTS do not go together", exists));
        }
        let name = self.unversioned_name()?;
        let transform = if self.takes(&["TRANSFORM"]) { Some(self.transform()?) } else { None };
        let options = self.options()?;
        let source = self.source(transform.is_some())?;
        Ok(CreateModel {
            or_replace,
            if_not_exists,
            name,
            transform,
            options,
            source,
            sql: self.text_from(start),
        })
    }

    fn source(&mut self, transforms: bool) -> Result<Source> {
        if self.takes(&["AS"]) {
            return self.query();
        }
        let from = self.peek(0).span.start;
        if !self.takes(&["FROM"]) {
            let wanted = match self.peek(0).token {
                ref token if is_word(token, "TRANSFORM") => {
                    "AS query or FROM 'uri' (TRANSFORM stands before OPTIONS)"
                }
                _ => "AS query or FROM 'uri'",
            };
            return Err(unexpected(wanted, self.peek(0)));
        }
        let uri = self.string("the uri of a model in quotes, or AS query to train one")?;
        if transforms {
            return Err(mistake("TRANSFORM goes with AS query, not with FROM 'uri'", from));
        }
        Ok(Source::Import(uri))
    }

    fn query(&mut self) -> Result<Source> {
        let start = self.peek(0).span.start;
        let query: Box<Query> = self.parser.parser.parse_query()?;
        match *query.body {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                Err(mistake("a model is trained on a query, this changes data", start))
            }
            _ => Ok(Source::Query { query, sql: self.text_from(start) }),
        }
    }

    fn retrain(&mut self) -> Result<Statement> {
        let start = self.peek(0).span.start;
        self.skip(2);
        let name = self.unversioned_name()?;
        let options = self.options()?;
        let source = if self.takes(&["AS"]) { Some(self.query()?) } else { None };
        Ok(Statement::Retrain(Retrain { name, options, source, sql: self.text_from(start) }))
    }

    fn alter_model(&mut self) -> Result<Statement> {
        let name = self.unversioned_name()?;
        let change = if self.takes(&["RENAME", "TO"]) {
            Change::RenameTo(self.unversioned_name()?)
        } else if self.takes(&["SET"]) && self.sees(0, &["OPTIONS"]) {
            Change::SetOptions(self.options()?)
        } else {
            return Err(unexpected("SET OPTIONS (..) or RENAME TO name", self.peek(0)));
        };
        Ok(Statement::AlterModel { name, change })
    }

    fn show_models(&mut self) -> Result<Statement> {
        let (mut like, mut schema) = (None, None);
        loop {
            if like.is_none() && self.takes(&["LIKE"]) {
                like = Some(self.string("a pattern in quotes")?);
            } else if schema.is_none() && (self.takes(&["IN"]) || self.takes(&["FROM"])) {
                schema = Some(self.identifier("the name of a schema")?);
            } else {
                return Ok(Statement::ShowModels { like, schema });
            }
        }
    }

    fn vacuum(&mut self) -> Result<Statement> {
        if !self.takes(&["RETAIN"]) {
            return Ok(Statement::VacuumModels { retain: None });
        }
        let token = self.parser.parser.next_token();
        let number = match &token.token {
            Token::Number(digits, _) => digits.parse().ok(),
            _ => None,
        };
        let retain = Some(number.ok_or_else(|| unexpected("how many versions stay", &token))?);
        if !self.takes(&["VERSIONS"]) && !self.takes(&["VERSION"]) {
            return Err(unexpected("VERSIONS", self.peek(0)));
        }
        Ok(Statement::VacuumModels { retain })
    }

    /// `DESCRIBE MODEL name`, but not `DESCRIBE model`, a table.
    fn describes(&self) -> bool {
        (self.sees(0, &["DESCRIBE", "MODEL"]) || self.sees(0, &["DESC", "MODEL"]))
            && matches!(self.peek(2).token, Token::Word(_))
    }

    /// Whether `EXPLAIN`, with whatever options, is followed by `CREATE MODEL`.
    fn explains(&self) -> bool {
        if !self.sees(0, &["EXPLAIN"]) {
            return false;
        }
        let mut at = 1;
        if self.peek(at).token == Token::LParen {
            let most = 16;
            match (2..most).find(|n| self.peek(*n).token == Token::RParen) {
                None => return false,
                Some(close) => at = close + 1,
            }
        }
        while !self.sees(at, &["CREATE"]) && at < 8 && matches!(self.peek(at).token, Token::Word(_)) {
            at += 1;
        }
        self.sees(at, &["CREATE", "MODEL"]) || self.sees(at, &["CREATE", "OR", "REPLACE", "MODEL"])
    }

    fn explain(&mut self) -> Result<Statement> {
        self.skip(1);
        let (mut analyze, mut verbose) = (false, false);
        let listed = self.parser.parser.consume_token(&Token::LParen);
        loop {
            if self.takes(&["ANALYZE"]) {
                analyze = self.flag(listed);
            } else if self.takes(&["VERBOSE"]) {
                verbose = self.flag(listed);
            } else if self.takes(&["FORMAT"]) {
                if !self.takes(&["INDENT"]) {
                    return Err(unexpected("INDENT, the only format of EXPLAIN CREATE MODEL", self.peek(0)));
                }
            } else if !listed && self.sees(0, &["CREATE"]) {
                break;
            } else {
                return Err(unexpected("ANALYZE, VERBOSE or FORMAT INDENT", self.peek(0)));
            }
            if listed && !self.parser.parser.consume_token(&Token::Comma) {
                self.token(&Token::RParen, ")")?;
                break;
            }
        }
        Ok(Statement::Explain { analyze, verbose, create: self.create_model()? })
    }

    /// In a list, what follows an option; true when nothing does.
    fn flag(&mut self, listed: bool) -> bool {
        let off = listed && (self.takes(&["FALSE"]) || self.takes(&["OFF"]));
        let _on = listed && !off && (self.takes(&["TRUE"]) || self.takes(&["ON"]));
        !off
    }

    fn transform(&mut self) -> Result<Vec<TransformItem>> {
        self.token(&Token::LParen, "( behind TRANSFORM")?;
        let mut items = Vec::new();
        loop {
            items.push(self.transform_item()?);
            if !self.parser.parser.consume_token(&Token::Comma) {
                self.token(&Token::RParen, ", or ) in TRANSFORM")?;
                return Ok(items);
            }
        }
    }

    fn transform_item(&mut self) -> Result<TransformItem> {
        let start = self.peek(0).span.start;
        let expr = self.parser.parser.parse_wildcard_expr()?;
        let sql = self.text_from(start);
        let wild = matches!(expr, Expr::Wildcard(_) | Expr::QualifiedWildcard(..));
        let named = !wild && (self.takes(&["AS"]) || matches!(self.peek(0).token, Token::Word(_)));
        let alias = if named { Some(self.identifier("the name of a column")?) } else { None };
        Ok(TransformItem { expr, alias, sql })
    }

    /// `[OPTIONS (..)]`.
    fn options(&mut self) -> Result<Vec<ModelOption>> {
        let mut options = Vec::new();
        if !self.takes(&["OPTIONS"]) {
            return Ok(options);
        }
        self.token(&Token::LParen, "( behind OPTIONS")?;
        if self.parser.parser.consume_token(&Token::RParen) {
            return Ok(options);
        }
        loop {
            options.push(self.option()?);
            if !self.parser.parser.consume_token(&Token::Comma) {
                self.token(&Token::RParen, ", or ) behind the value of an option")?;
                return Ok(options);
            }
        }
    }

    fn unversioned_name(&mut self) -> Result<ModelName> {
        let start = self.peek(0).span.start;
        match self.name()? {
            ModelRef { name, version: None } => Ok(name),
            ModelRef { name, version: Some(version) } => Err(mistake(
                format_args!("Expected: a model without a version, found: {name}@{version}"),
                start,
            )),
        }
    }

    fn name(&mut self) -> Result<ModelRef> {
        let (name, tokens) = model_ref::read(|n| self.parser.parser.peek_nth_token_ref(n), self.normalize)?;
        self.skip(tokens);
        Ok(name)
    }

    fn identifier(&mut self, wanted: &str) -> Result<String> {
        if !matches!(self.peek(0).token, Token::Word(_)) {
            return Err(unexpected(wanted, self.peek(0)));
        }
        let Ident { value, quote_style, .. } = self.parser.parser.parse_identifier()?;
        let lower = self.normalize && quote_style.is_none();
        Ok(if lower { value.to_ascii_lowercase() } else { value })
    }

    fn string(&mut self, wanted: &str) -> Result<String> {
        let token = self.parser.parser.next_token();
        string_of(&token.token).map(str::to_owned).ok_or_else(|| unexpected(wanted, &token))
    }

    pub(super) fn token(&mut self, token: &Token, wanted: &str) -> Result<()> {
        if self.parser.parser.consume_token(token) { Ok(()) } else { Err(unexpected(wanted, self.peek(0))) }
    }

    /// The token `n` places ahead.
    pub(super) fn peek(&self, n: usize) -> &TokenWithSpan {
        self.parser.parser.peek_nth_token_ref(n)
    }

    /// Whether these words stand `at` places ahead.
    pub(super) fn sees(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| is_word(&self.peek(at + n).token, word))
    }

    /// Reads these words if they are next.
    fn takes(&mut self, words: &[&str]) -> bool {
        let next = self.sees(0, words);
        if next {
            self.skip(words.len());
        }
        next
    }

    pub(super) fn skip(&mut self, tokens: usize) {
        (0..tokens).for_each(|_| self.parser.parser.advance_token());
    }

    /// What is written from `start` up to the token that was read last.
    fn text_from(&self, start: Location) -> String {
        self.text.between(start, self.parser.parser.get_current_token().span.end).to_owned()
    }
}
