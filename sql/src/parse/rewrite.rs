//! Tokens before parsing.
//!
//! Only arguments of `ML.<function>(` change, and only at their first token:
//!
//! | written | becomes |
//! | --- | --- |
//! | `MODEL lab.iris VERSION 2` | `'lab.iris@2'` |
//! | `TABLE t` | `(SELECT * FROM t)` |
//! | `STRUCT(0.5 AS threshold)`, not as first argument | `threshold => 0.5` |
//!
//! One pass over the tokens and no recursion: a hostile text can be long, but not deep.

use std::collections::HashMap;

use datafusion::common::Result;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{is_word, mistake, model_ref, unexpected};

/// `tokens` with the arguments of `ML.` functions in a form that every dialect reads.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>, normalize: bool) -> Result<Vec<TokenWithSpan>> {
    let significant: Vec<usize> =
        (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let edits = {
        let closing = closing(&tokens, &significant);
        let end = TokenWithSpan::new_eof();
        let mut rewriter = Rewriter {
            tokens: &tokens,
            significant: &significant,
            closing,
            end,
            normalize,
            edits: HashMap::new(),
        };
        rewriter.run()?;
        rewriter.edits
    };
    if edits.is_empty() {
        return Ok(tokens);
    }
    Ok(apply(tokens, &significant, edits))
}

/// What becomes of one token.
#[derive(Default)]
struct Edit {
    before: Vec<Token>,
    drop: bool,
    behind: Vec<Token>,
}

fn apply(
    tokens: Vec<TokenWithSpan>,
    significant: &[usize],
    edits: HashMap<usize, Edit>,
) -> Vec<TokenWithSpan> {
    let mut edits: HashMap<usize, Edit> =
        edits.into_iter().map(|(place, edit)| (significant[place], edit)).collect();
    let mut out = Vec::with_capacity(tokens.len() + 8);
    for (at, token) in tokens.into_iter().enumerate() {
        let Edit { before, drop, behind } = edits.remove(&at).unwrap_or_default();
        let span = token.span;
        let spanned = |token| TokenWithSpan { token, span };
        out.extend(before.into_iter().map(spanned));
        if !drop {
            out.push(token);
        }
        out.extend(behind.into_iter().map(spanned));
    }
    out
}

/// Where each bracket is closed. Places count tokens that are not whitespace.
fn closing(tokens: &[TokenWithSpan], significant: &[usize]) -> HashMap<usize, usize> {
    let (mut open, mut closing) = (Vec::new(), HashMap::new());
    for (place, at) in significant.iter().enumerate() {
        match tokens[*at].token {
            Token::LParen | Token::LBracket | Token::LBrace => open.push(place),
            Token::RParen | Token::RBracket | Token::RBrace => {
                if let Some(start) = open.pop() {
                    closing.insert(start, place);
                }
            }
            Token::SemiColon => open.clear(),
            _ => {}
        }
    }
    closing
}

/// Words behind `MODEL` that make it a column: `model IS NULL`.
const OPERATORS: [&str; 22] = [
    "AND", "AS", "ASC", "AT", "BETWEEN", "COLLATE", "DESC", "DIV", "FILTER", "ILIKE", "IN", "IS", "ISNULL",
    "LIKE", "NOT", "NOTNULL", "OR", "ORDER", "OVERLAPS", "REGEXP", "RLIKE", "SIMILAR",
];

/// An open bracket.
struct Bracket {
    /// Of an `ML.` function: which argument is read, from 0.
    argument: Option<usize>,
}

struct Rewriter<'a> {
    tokens: &'a [TokenWithSpan],
    significant: &'a [usize],
    closing: HashMap<usize, usize>,
    end: TokenWithSpan,
    normalize: bool,
    edits: HashMap<usize, Edit>,
}

impl Rewriter<'_> {
    fn run(&mut self) -> Result<()> {
        let mut open: Vec<Bracket> = Vec::new();
        for place in 0..self.significant.len() {
            match self.token(place) {
                Token::LParen => {
                    let argument = self.is_ml_call(place).then_some(0);
                    open.push(Bracket { argument });
                    if argument.is_some() {
                        self.argument(place + 1, 0)?;
                    }
                }
                Token::LBracket | Token::LBrace => open.push(Bracket { argument: None }),
                Token::RParen | Token::RBracket | Token::RBrace => drop(open.pop()),
                Token::SemiColon => open.clear(),
                Token::Comma => {
                    if let Some(Bracket { argument: Some(argument) }) = open.last_mut() {
                        *argument += 1;
                        let argument = *argument;
                        self.argument(place + 1, argument)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn at(&self, place: usize) -> &TokenWithSpan {
        self.significant.get(place).map_or(&self.end, |at| &self.tokens[*at])
    }

    fn token(&self, place: usize) -> &Token {
        &self.at(place).token
    }

    fn edit(&mut self, place: usize) -> &mut Edit {
        self.edits.entry(place).or_default()
    }

    fn drop_all(&mut self, places: std::ops::Range<usize>) {
        for place in places {
            self.edit(place).drop = true;
        }
    }

    /// Whether `ML.<function>` stands before this parenthesis, and no dot before that.
    fn is_ml_call(&self, place: usize) -> bool {
        place >= 3
            && matches!(self.token(place - 1), Token::Word(_))
            && *self.token(place - 2) == Token::Period
            && is_word(self.token(place - 3), "ML")
            && (place == 3 || *self.token(place - 4) != Token::Period)
    }

    fn argument(&mut self, place: usize, index: usize) -> Result<()> {
        let token = self.token(place);
        if is_word(token, "MODEL") && self.names_model(place + 1) {
            self.model(place)
        } else if is_word(token, "TABLE") && matches!(self.token(place + 1), Token::Word(_)) {
            self.table(place)
        } else if index > 0 && is_word(token, "STRUCT") && *self.token(place + 1) == Token::LParen {
            self.settings(place)
        } else {
            Ok(())
        }
    }

    fn names_model(&self, place: usize) -> bool {
        match self.token(place) {
            Token::Word(w) if w.quote_style.is_none() => {
                !OPERATORS.iter().any(|operator| w.value.eq_ignore_ascii_case(operator))
            }
            token => matches!(token, Token::Word(_)),
        }
    }

    /// That an argument ends here.
    fn ends(&self, place: usize, what: &str) -> Result<()> {
        match self.token(place) {
            Token::Comma | Token::RParen => Ok(()),
            _ => Err(unexpected(&format!(", or ) behind the name of the {what}"), self.at(place))),
        }
    }

    /// `MODEL name` to a string.
    fn model(&mut self, place: usize) -> Result<()> {
        let (model, tokens) = model_ref::read(|n| self.at(place + 1 + n), self.normalize)?;
        self.ends(place + 1 + tokens, "model")?;
        self.drop_all(place..place + 1 + tokens);
        self.edit(place).before.push(Token::SingleQuotedString(model.to_string()));
        Ok(())
    }

    /// `TABLE name` to a query.
    fn table(&mut self, place: usize) -> Result<()> {
        let mut last = place + 1;
        while *self.token(last + 1) == Token::Period && matches!(self.token(last + 2), Token::Word(_)) {
            last += 2;
        }
        self.ends(last + 1, "table")?;
        let edit = self.edit(place);
        edit.drop = true;
        edit.before.extend([
            Token::LParen,
            Token::make_keyword("SELECT"),
            Token::Mul,
            Token::make_keyword("FROM"),
        ]);
        self.edit(last).behind.push(Token::RParen);
        Ok(())
    }

    /// `STRUCT(value AS name, ..)` to `name => value, ..`; one without names is a value.
    fn settings(&mut self, place: usize) -> Result<()> {
        let open = place + 1;
        let Some(close) = self.closing.get(&open).copied() else { return Ok(()) };
        if close == open + 1 {
            // The comma before it goes too.
            self.drop_all(place - 1..close + 1);
            return Ok(());
        }
        let fields = self.fields(open + 1, close);
        let named = |(start, end): &(usize, usize)| self.has_alias(*start, *end);
        match fields.iter().find(|field| !named(field)) {
            Some(_) if !fields.iter().any(named) => return Ok(()),
            Some((start, _)) => {
                let message = "each setting in STRUCT(..) needs a name: STRUCT(0.5 AS threshold)";
                return Err(mistake(message, self.at(*start).span.start));
            }
            None => {}
        }
        for (start, end) in fields {
            let name = self.token(end - 1).clone();
            self.drop_all(end - 2..end);
            self.edit(start).before.splice(0..0, [name, Token::RArrow]);
        }
        self.drop_all(place..open + 1);
        self.drop_all(close..close + 1);
        Ok(())
    }

    /// Ranges between the commas of a bracket's content.
    fn fields(&self, start: usize, close: usize) -> Vec<(usize, usize)> {
        let (mut fields, mut start, mut place) = (Vec::new(), start, start);
        while place < close {
            if *self.token(place) == Token::Comma {
                fields.push((start, place));
                start = place + 1;
            }
            place = self.closing.get(&place).copied().unwrap_or(place) + 1;
        }
        fields.push((start, close));
        fields
    }

    /// Whether it ends with `AS name`, and something is before that.
    fn has_alias(&self, start: usize, end: usize) -> bool {
        end >= start + 3
            && matches!(self.token(end - 1), Token::Word(_))
            && is_word(self.token(end - 2), "AS")
    }
}
