//! `firesteel sql`: statements from a prompt, the command line or a file.

mod print;
mod prompt;
pub(crate) mod stores;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use datafusion::dataframe::DataFrame;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use firesteel_error::{Error, Kind, Result};
use firesteel_sql::parse::Statement;
use firesteel_sql::{Firesteel, ModelStore};
use futures::StreamExt;
use tokio::runtime::Runtime;

use print::{Printer, Progress};
use stores::Stores;

/// What `firesteel sql` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// Run these statements and leave
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    command: Vec<String>,
    /// Run the statements of a file and leave
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// How results are shown
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Where models are kept: a folder, or s3://bucket/folder with the credentials of AWS_* variables
    #[arg(long, value_name = "PLACE", default_value = "models", env = "FIRESTEEL_MODELS")]
    models: String,
    /// Most memory for queries and the rows of trainings, for example 2G; what is beyond goes to disk
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_limit: Option<usize>,
    /// Partitions of queries, and workers of trainings that do not say; as many as there are cores when absent
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    partitions: Option<u16>,
    /// How training is shown while it runs
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    progress: Progress,
    /// Only results
    #[arg(short, long)]
    quiet: bool,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Boxes.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// An object a line.
    Json,
}

fn bytes(text: &str) -> std::result::Result<usize, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(format!("expected a number with K, M or G behind it, got {text}")),
    };
    let number: usize = number.parse().map_err(|e| format!("{text}: {e}"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text} is too much"))
}

/// A session and how it shows what it finds.
pub(crate) struct Session {
    pub(crate) firesteel: Firesteel,
    printer: Printer,
}

/// Runs statements until the first that fails, or a prompt until its end.
///
/// # Errors
/// The first statement's that fails.
pub fn run(options: &Options) -> Result<()> {
    runtime()?.block_on(async {
        let session = Session::new(options).await.map_err(shown)?;
        let mut scripts = options.command.clone();
        for path in &options.file {
            let text = std::fs::read_to_string(path).map_err(|e| {
                Error::new(Kind::Io, format!("cannot read {}", path.display())).with_source(e)
            })?;
            // As editors of Windows begin a file.
            scripts.push(text.trim_start_matches('\u{feff}').to_owned());
        }
        if !scripts.is_empty() {
            return session.scripts(&scripts).await;
        }
        if std::io::stdin().is_terminal() {
            return prompt::run(&session).await;
        }
        let script = std::io::read_to_string(std::io::stdin())
            .map_err(|e| Error::new(Kind::Io, "cannot read the standard input").with_source(e))?;
        session.scripts(&[script]).await
    })
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Io, "cannot start threads").with_source(e))
}

/// Runs queries to their end.
///
/// # Errors
/// Theirs.
pub(crate) fn block_on(queries: impl Future<Output = datafusion::error::Result<()>>) -> Result<()> {
    runtime()?.block_on(queries).map_err(shown)
}

/// Prints the rows of a query.
///
/// # Errors
/// Of the query and of standard output.
pub(crate) async fn print(frame: DataFrame, format: Format) -> datafusion::error::Result<()> {
    let printer = Printer::new(format, Progress::Off, true);
    let mut output = printer.output(Arc::new(frame.schema().as_arrow().clone()));
    for batch in frame.collect().await? {
        output.batch(batch)?;
    }
    output.end()
}

/// Without a backtrace and the name of a Rust type.
fn shown(e: datafusion::error::DataFusionError) -> Error {
    let message = in_a_line(&without_rule(e));
    match missing_file(&message) {
        Some(file) if Path::new(file).exists() => Error::argument(format!(
            "'{file}' is no table: files end in .parquet, .csv, .json or .arrow, texts also in .csv.gz and the like"
        )),
        Some(file) => Error::argument(format!("there is no file '{file}'")),
        None => Error::argument(message),
    }
}

/// DataFusion names the rule of ours in which an error was found, which says nothing to a user.
fn without_rule(e: datafusion::error::DataFusionError) -> datafusion::error::DataFusionError {
    match e {
        datafusion::error::DataFusionError::Context(rule, inner) if rule == "pin_model_versions" => {
            without_rule(*inner)
        }
        e => e,
    }
}

/// What was being done stands before what went wrong, in one line.
fn in_a_line(e: &datafusion::error::DataFusionError) -> String {
    match e {
        datafusion::error::DataFusionError::Context(doing, inner) => format!("{doing}: {}", in_a_line(inner)),
        e => e.strip_backtrace(),
    }
}

/// The file of a query like `SELECT * FROM 'x.csv'`, which DataFusion takes for a table when it is not there.
fn missing_file(message: &str) -> Option<&str> {
    let (_, name) = message.split_once("table 'datafusion.public.")?;
    let name = name.strip_suffix("' not found")?;
    name.contains('.').then_some(name)
}

impl Session {
    async fn new(options: &Options) -> datafusion::error::Result<Session> {
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::OsTmpDirectory);
        let mut runtime = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(disk)
            .with_object_store_registry(Arc::new(Stores::default()));
        if let Some(limit) = options.memory_limit {
            let few = std::num::NonZeroUsize::MIN.saturating_add(4);
            runtime =
                runtime.with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(limit), few)));
        }
        let mut config = SessionConfig::new().with_information_schema(true);
        if let Some(partitions) = options.partitions {
            config = config.with_target_partitions(partitions.into());
        }
        let context = SessionContext::new_with_config_rt(config, runtime.build_arc()?).enable_url_table();
        let store = ModelStore::from_url(&options.models, &context.runtime_env())?;
        let firesteel = Firesteel::register(&context, store).await?;
        Ok(Session { firesteel, printer: Printer::new(options.format, options.progress, options.quiet) })
    }

    /// All statements of some texts, until the user interrupts.
    async fn scripts(&self, scripts: &[String]) -> Result<()> {
        let all = async {
            for script in scripts {
                self.script(script).await?;
            }
            Ok(())
        };
        // Dropping a statement's stream stops it.
        tokio::select! {
            done = all => done.map_err(shown),
            _ = tokio::signal::ctrl_c() => {
                self.firesteel.settled().await;
                self.notices();
                Err(Error::new(Kind::Cancelled, "stopped"))
            }
        }
    }

    /// All statements of a text, one behind the other.
    pub(crate) async fn script(&self, text: &str) -> datafusion::error::Result<()> {
        for statement in self.firesteel.parse(text)? {
            self.statement(statement).await?;
        }
        Ok(())
    }

    async fn statement(&self, statement: Statement) -> datafusion::error::Result<()> {
        let done = self.run(statement).await;
        self.notices();
        done
    }

    /// Prints what is to be said besides results.
    fn notices(&self) {
        for notice in self.firesteel.take_notices() {
            self.printer.notice(&notice);
        }
    }

    async fn run(&self, statement: Statement) -> datafusion::error::Result<()> {
        let training = matches!(statement, Statement::CreateModel(_) | Statement::Retrain(_));
        let frame = self.firesteel.plan(statement).await?;
        self.notices();
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let mut rows = frame.execute_stream().await?;
        if training {
            let mut progress = self.printer.progress();
            while let Some(batch) = rows.next().await {
                progress.epoch(&batch?);
            }
            progress.end();
        } else {
            let mut output = self.printer.output(schema);
            while let Some(batch) = rows.next().await {
                output.batch(batch?)?;
            }
            output.end()?;
        }
        Ok(())
    }
}
