//! `firesteel train`: the workers are threads of this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use firesteel_comm::{Cancel, Mesh, local_world};
use firesteel_error::{Error, Kind, Result};
use firesteel_train::{EpochRecord, Event, Model, Session, Shard, ShardBuilder, TrainConfig, Trainer};

use crate::rows;

/// What `firesteel train` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// The configuration, JSON: task, network, params and data
    #[arg(long)]
    config: PathBuf,
    /// The rows: a .parquet, .arrow, .arrows or .csv file
    #[arg(long)]
    data: PathBuf,
    /// The model's folder; must not be there yet
    #[arg(long)]
    out: PathBuf,
    /// Workers that train together, each with its part of the rows
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,
    /// Threads of each worker
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

/// Trains and writes the model; prints a line an epoch.
///
/// # Errors
/// Whatever is wrong with the configuration, the rows or the folder; nothing is written then.
pub fn run(options: &Options) -> Result<()> {
    let json = std::fs::read_to_string(&options.config).map_err(|e| {
        Error::new(Kind::Io, format!("cannot read {}", options.config.display())).with_source(e)
    })?;
    let config =
        TrainConfig::from_json(&json).map_err(|e| e.context(options.config.display().to_string()))?;
    if options.out.exists() {
        return Err(Error::argument(format!("{} is there already", options.out.display())));
    }
    let shards = read(&options.data, &config, options.workers.into())?;
    let deadline = Duration::try_from_secs_f64(config.params.timeout_seconds)
        .map_err(|e| Error::argument(format!("timeout_seconds is {}: {e}", config.params.timeout_seconds)))?;
    let fabric = firesteel_comm::Options { deadline, ..firesteel_comm::Options::default() };
    let meshes = local_world(options.workers.into(), &fabric)?;
    train(meshes, shards, &config, options.threads.into())?.save(&options.out)
}

/// The rows, a batch at a time to each worker in turn.
fn read(path: &Path, config: &TrainConfig, workers: usize) -> Result<Vec<Shard>> {
    let mut builders: Vec<ShardBuilder> =
        (0..workers).map(|rank| ShardBuilder::new(config, rank)).collect::<Result<_>>()?;
    for (i, batch) in rows::open(path)?.enumerate() {
        builders[i % workers].push(&rows::check(batch, path)?)?;
    }
    Ok(builders.into_iter().map(ShardBuilder::finish).collect())
}

/// The model of rank 0, or the error of the first worker that knows more than that another failed.
fn train(meshes: Vec<Mesh>, shards: Vec<Shard>, config: &TrainConfig, threads: usize) -> Result<Model> {
    let trainer = Trainer::new(config.clone())?;
    let outcomes: Vec<Result<Model>> = std::thread::scope(|scope| {
        let trainer = &trainer;
        let start = |(rank, (mesh, shard))| {
            scope.spawn(move || {
                let session =
                    Session { fabric: Arc::new(mesh), threads, cancel: Cancel::new(), resume: None };
                let tell = |event| {
                    if rank == 0 {
                        print(event)
                    }
                };
                trainer.fit(Ok(shard), session, &mut { tell })
            })
        };
        let workers: Vec<_> = meshes.into_iter().zip(shards).enumerate().map(start).collect();
        let panicked = |_| Err(Error::internal("a worker panicked"));
        workers.into_iter().map(|w| w.join().unwrap_or_else(panicked)).collect()
    });
    let mut models = Vec::new();
    let mut first: Option<Error> = None;
    for outcome in outcomes {
        match outcome {
            Ok(model) => models.push(model),
            Err(e) if first.as_ref().is_none_or(|f| f.kind() == Kind::PeerLost) => first = Some(e),
            Err(_) => {}
        }
    }
    match (first, models.into_iter().next()) {
        (Some(e), _) => Err(e),
        (None, Some(model)) => Ok(model),
        (None, None) => Err(Error::internal("no worker ran")),
    }
}

fn print(event: Event) {
    if let Event::Epoch(epoch) = event {
        println!("{}", line(&epoch));
    }
}

/// The progress line of an epoch, as the Spark driver prints it.
fn line(epoch: &EpochRecord) -> String {
    let mut line = format!("epoch {:3}  step {:7}  loss {:.5}", epoch.epoch, epoch.step, epoch.loss);
    if let Some(loss) = epoch.validation_loss {
        line += &format!("  validation loss {loss:.5}");
    }
    if let (Some(metric), Some(value)) = (&epoch.metric, epoch.validation_metric) {
        line += &format!("  validation {metric} {value:.5}");
    }
    line + &format!("  {:.0} samples/s", epoch.samples_per_second)
}
