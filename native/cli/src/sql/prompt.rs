//! The prompt: history, completion, statements over several lines.

use std::borrow::Cow;
use std::path::PathBuf;

use firesteel_error::{Error, Kind, Result};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};

use super::Session;

const WORDS: &[&str] = &[
    "MODEL",
    "MODELS",
    "CREATE MODEL",
    "CREATE OR REPLACE MODEL",
    "OPTIONS",
    "TRANSFORM",
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "JOIN",
    "SHOW MODELS",
    "SHOW TABLES",
    "SHOW CREATE MODEL",
    "DESCRIBE MODEL",
    "DROP MODEL",
    "ALTER MODEL",
    "EXPORT MODEL",
    "VACUUM MODELS",
    "EXPLAIN",
    "CREATE EXTERNAL TABLE",
    "ML.PREDICT(MODEL ",
    "ML.EVALUATE(MODEL ",
    "ML.TRAINING_INFO(MODEL ",
    "ML.FEATURE_INFO(MODEL ",
    "ML.CONFUSION_MATRIX(MODEL ",
    "ML.ROC_CURVE(MODEL ",
    "model_type",
    "input_label_cols",
    "hidden_units",
    "max_iterations",
    "learn_rate",
    "batch_size",
];

const HELP: &str = "\
Statements end with a semicolon. Besides SQL:
  \\models          the models
  \\describe NAME   a model
  \\help            this
  \\quit            leaves, as Ctrl-D does
Ctrl-C ends the statement that runs; a training that ends so leaves nothing behind.";

/// Reads and runs statements until the end of input.
///
/// # Errors
/// `Io` when there is no terminal to read from.
pub(crate) async fn run(session: &Session) -> Result<()> {
    let broken = |e: ReadlineError| Error::new(Kind::Io, "cannot read from the terminal").with_source(e);
    let mut editor: Editor<Sql, DefaultHistory> = Editor::new().map_err(broken)?;
    let history = history();
    if let Some(path) = &history {
        // There is none the first time.
        _ = editor.load_history(path);
    }
    println!("Firesteel {}. \\help helps.", env!("CARGO_PKG_VERSION"));
    loop {
        editor.set_helper(Some(Sql { names: session.firesteel.names().await }));
        match editor.readline("firesteel> ") {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                _ = editor.add_history_entry(&line);
                if matches!(line.trim(), "\\quit" | "\\q" | "exit" | "quit") {
                    break;
                }
                one(session, line.trim()).await;
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(e) => return Err(broken(e)),
        }
    }
    if let Some(path) = &history {
        _ = editor.save_history(path);
    }
    Ok(())
}

/// One line; its error is shown and the prompt comes back.
async fn one(session: &Session, line: &str) {
    let text: Cow<str> = match line.split_once(char::is_whitespace) {
        None if line == "\\models" => "SHOW MODELS".into(),
        None if line == "\\help" => {
            println!("{HELP}");
            return;
        }
        Some(("\\describe", name)) => format!("DESCRIBE MODEL {name}").into(),
        _ => line.into(),
    };
    // Dropping a statement's stream stops it.
    tokio::select! {
        done = session.script(&text) => {
            if let Err(e) = done {
                eprintln!("{}", e.strip_backtrace());
            }
        }
        _ = tokio::signal::ctrl_c() => {
            eprintln!("stopped");
            session.firesteel.settled().await;
        }
    }
    session.notices();
}

fn history() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".firesteel_history"))
}

/// Knows when a statement is whole and what may come next.
struct Sql {
    names: Vec<String>,
}

impl Validator for Sql {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let whole = text.is_empty()
            || text.starts_with('\\')
            || text.ends_with(';')
            || matches!(text, "exit" | "quit");
        Ok(if whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for Sql {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line[..pos].char_indices().rev().find(|(_, c)| c.is_whitespace() || "(,;".contains(*c));
        let start = before.map_or(0, |(i, c)| i + c.len_utf8());
        let typed = line[start..pos].to_lowercase();
        let words = WORDS.iter().map(|w| (*w).to_owned()).chain(self.names.iter().cloned());
        let fits = words.filter(|w| !typed.is_empty() && w.to_lowercase().starts_with(&typed));
        Ok((start, fits.map(|w| Pair { display: w.clone(), replacement: w }).collect()))
    }
}

impl Hinter for Sql {
    type Hint = String;
}

impl Highlighter for Sql {}

impl Helper for Sql {}
