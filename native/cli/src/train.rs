//! `firesteel train`: the workers are threads of this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use clap::Args;
use firesteel_comm::{Cancel, Fabric, Mesh, local_world};
use firesteel_error::{Error, Kind, Result};
use firesteel_train::device::choose_all;
use firesteel_train::disk::write_whole;
use firesteel_train::{EpochRecord, Event, Gpu, Model, Session, Shard, ShardBuilder, TrainConfig, Trainer};

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
    /// Where to keep the latest checkpoint; training goes on from one that is there
    #[arg(long)]
    checkpoint: Option<PathBuf>,
}

/// Trains and writes the model; prints a line an epoch.
///
/// # Errors
/// Whatever is wrong with the configuration, the rows or the folder; nothing is written then.
pub fn run(options: &Options) -> Result<()> {
    let json = std::fs::read_to_string(&options.config).map_err(|e| unreadable(&options.config, e))?;
    let mut config =
        TrainConfig::from_json(&json).map_err(|e| e.context(options.config.display().to_string()))?;
    if options.out.exists() {
        return Err(Error::argument(format!("{} is there already", options.out.display())));
    }
    config.checkpoints = options.checkpoint.is_some();
    let checkpoint = options.checkpoint.as_deref();
    let read_checkpoint = |path| std::fs::read(path).map(Bytes::from).map_err(|e| unreadable(path, e));
    let resume = checkpoint.filter(|path| path.exists()).map(read_checkpoint).transpose()?;
    config.params.check_workers(options.workers.into())?;
    let gpus = choose_all(&config.params, options.workers.into())?;
    let shards = read(&options.data, &config, options.workers.into())?;
    let fabric =
        firesteel_comm::Options { deadline: config.deadline(), ..firesteel_comm::Options::default() };
    let meshes = local_world(options.workers.into(), &fabric)?;
    let job = Job { config, threads: options.threads.into(), gpus, checkpoint, resume };
    job.train(meshes, shards)?.save(&options.out)
}

fn unreadable(path: &Path, e: std::io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot read {}", path.display())).with_source(e)
}

/// The rows in the file's order, cut into one part a worker: any number of workers sees the same global order.
fn read(path: &Path, config: &TrainConfig, workers: usize) -> Result<Vec<Shard>> {
    let batches: Vec<RecordBatch> =
        rows::open(path)?.map(|batch| rows::check(batch, path)).collect::<Result<_>>()?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut builders: Vec<ShardBuilder> =
        (0..workers).map(|rank| ShardBuilder::new(config, rank)).collect::<Result<_>>()?;
    let mut start = 0;
    // Each batch is dropped once its rows are in.
    for batch in batches {
        let end = start + batch.num_rows();
        for (rank, builder) in builders.iter_mut().enumerate() {
            let part = (rows * rank / workers).max(start)..(rows * (rank + 1) / workers).min(end);
            if !part.is_empty() {
                builder.push(&batch.slice(part.start - start, part.len()))?;
            }
        }
        start = end;
    }
    Ok(builders.into_iter().map(ShardBuilder::finish).collect())
}

/// What all workers have in common.
struct Job<'a> {
    config: TrainConfig,
    threads: usize,
    /// By rank.
    gpus: Vec<Option<Gpu>>,
    checkpoint: Option<&'a Path>,
    resume: Option<Bytes>,
}

impl Job<'_> {
    /// The model of rank 0, or the error of the first worker that knows more than that another failed.
    fn train(&self, meshes: Vec<Mesh>, shards: Vec<Shard>) -> Result<Model> {
        let trainer = Trainer::new(self.config.clone())?;
        let outcomes: Vec<Result<Model>> = std::thread::scope(|scope| {
            let trainer = &trainer;
            let start = |(mesh, shard)| scope.spawn(move || self.work(trainer, mesh, shard));
            let workers: Vec<_> = meshes.into_iter().zip(shards).map(start).collect();
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

    /// One worker; the one of rank 0 prints and keeps checkpoints.
    fn work(&self, trainer: &Trainer, mesh: Mesh, shard: Shard) -> Result<Model> {
        let fabric: Arc<dyn Fabric> = Arc::new(mesh);
        let (first, cancel) = (fabric.rank() == 0, Cancel::new());
        let session = Session {
            threads: self.threads,
            cancel: cancel.clone(),
            resume: self.resume.clone(),
            start: None,
            gpu: self.gpus[fabric.rank()].clone(),
            fabric,
        };
        let mut kept = Ok(());
        let mut hear = |event| match (event, self.checkpoint) {
            (Event::Started { device: Some(device), .. }, _) if first => eprintln!("training on {device}"),
            (Event::Epoch(epoch), _) if first => println!("{}", line(&epoch)),
            (Event::Checkpoint { bytes, .. }, Some(path)) => {
                // Rows of training that cannot be kept are not worth the wait.
                kept = write_whole(path, &bytes).inspect_err(|_| cancel.cancel());
            }
            _ => {}
        };
        let model = trainer.fit(Ok(shard), session, &mut hear);
        kept.and(model)
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
