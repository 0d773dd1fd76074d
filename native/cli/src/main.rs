//! The `firesteel` command: trains, predicts and exports without Spark, and generates the faces of the hyper-parameters.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod advise;
mod evaluate;
mod export;
mod generate;
mod predict;
mod rows;
mod sql;
mod strategies;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use firesteel_error::Result;

/// Deep learning inside Spark jobs and SQL; this command is the engine by itself.
#[derive(Debug, Parser)]
#[command(name = "firesteel", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a network on a file of rows and write the model's folder.
    Train(train::Options),
    /// Score a file of rows with a model; writes CSV to standard output.
    Predict(predict::Options),
    /// Measure a model on a file of rows with labels.
    Evaluate(evaluate::Options),
    /// List the models of SQL.
    Models(evaluate::Listing),
    /// Write a model, its preprocessing included, as an ONNX file for other runtimes.
    Export(export::Options),
    /// Ask and train in SQL: a prompt, statements (-c) or a file (-f).
    Sql(sql::Options),
    /// List how workers may train together: strategies, compressors and topologies.
    Strategies(strategies::Options),
    /// Predict how long a step takes with each strategy over a network that you describe.
    Advise(advise::Options),
    /// Write the Scala, Python and Markdown faces of the hyper-parameters.
    #[command(hide = true)]
    Generate {
        /// Write nothing; fail when a file is not what would be written.
        #[arg(long)]
        check: bool,
        /// The source tree.
        #[arg(long, default_value = ".")]
        root: PathBuf,
    },
}

fn main() -> ExitCode {
    // `firesteel predict .. | head` ends quietly.
    sigpipe::reset();
    let outcome = run(Arguments::parse().command);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("firesteel: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Train(options) => train::run(&options),
        Command::Predict(options) => predict::run(&options),
        Command::Evaluate(options) => evaluate::run(&options),
        Command::Models(options) => evaluate::list(&options),
        Command::Export(options) => export::run(&options),
        Command::Sql(options) => sql::run(&options),
        Command::Strategies(options) => strategies::run(&options),
        Command::Advise(options) => advise::run(&options),
        Command::Generate { check: true, root } => generate::check(&root),
        Command::Generate { check: false, root } => generate::write(&root),
    }
}
