//! Times beside PyTorch's and beside what the card can do.

mod floor;
mod peer;
mod table;
mod task;

use std::path::PathBuf;

use firesteel_engine::{Gpu, KernelRate, Precision};
use firesteel_error::{Error, Kind, Result};

use crate::device::{Device, driver, precision};
use crate::report::at_most;
use floor::Floor;
use peer::{Peer, VARIANTS};
use task::{Task, Trainer, tasks, tiny};

/// What is measured, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// cuda:N, or emulated.
    #[arg(long, default_value = "cuda:0")]
    device: Device,
    /// Of f32, tf32, bf16 and f16.
    #[arg(long, value_delimiter = ',', value_parser = precision, default_value = "f32,tf32,bf16")]
    precision: Vec<Precision>,
    /// Rounds, of which the median counts; the sides take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of a round.
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// A Python that has PyTorch.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Where PyTorch computes; its speed on a CPU says nothing.
    #[arg(long, default_value = "cuda", hide = true)]
    peer_device: String,
    /// Measure networks and kernels that a slow device ends with too.
    #[arg(long)]
    small: bool,
    /// Measure only networks whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Writes the results as JSON too.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Options {
    fn is_small(&self) -> bool {
        self.small || self.device.is_slow()
    }
}

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    device: String,
    driver: String,
    /// Absent when it was not measured.
    torch: Option<String>,
    kernels: Vec<(Precision, Vec<KernelRate>)>,
    /// Multiplications and additions a second of a product, and by whom.
    matrix: Vec<(Precision, f64, &'static str)>,
    /// Bytes a second of the driver's copy, both ways counted.
    copy: f64,
    /// Seconds a step of a network that takes no time.
    launch: f64,
    steps: Vec<Row>,
}

/// A network in a precision.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    rows: usize,
    precision: Precision,
    /// Seconds a step.
    ours: f64,
    /// As [`VARIANTS`]; absent where the variant cannot.
    peers: [Option<f64>; 3],
    floor: Floor,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let gpu = options.device.open()?;
    eprintln!("device  {}: {}, driver {}", options.device, gpu.name(), driver());
    let mut peer = match Peer::start(&options.python, &options.peer_device, options.device) {
        Ok(peer) => Some(peer),
        Err(e) => {
            eprintln!("skipped PyTorch: {e}");
            None
        }
    };
    let mut results = Results {
        device: gpu.name().to_owned(),
        driver: driver(),
        torch: peer.as_ref().map(|peer| peer.version.clone()),
        kernels: Vec::new(),
        matrix: Vec::new(),
        copy: 0.0,
        launch: f64::NAN,
        steps: Vec::new(),
    };
    rates(&gpu, options, &mut peer, &mut results)?;
    let mut trainer = Trainer::new(&gpu, &tiny()?, Precision::F32)?;
    let steps = trainer.steps_of(options.seconds)?;
    results.launch = median((0..options.rounds).map(|_| trainer.round(steps)).collect::<Result<_>>()?);
    eprintln!("ok      a step of a tiny network takes {:.1} µs", results.launch * 1e6);
    for task in tasks(options.is_small())?.iter().filter(|task| task.name.contains(&options.only)) {
        for &precision in &options.precision {
            let row = measure(&gpu, options, &mut peer, task, (precision, &results))?;
            eprintln!("ok      {}, {}: {:.3} ms a step", row.name, precision.name(), row.ours * 1e3);
            results.steps.push(row);
        }
    }
    println!("{}", table::markdown(&results));
    if let Some(path) = &options.json {
        let io = |e| Error::new(Kind::Io, format!("cannot write {}", path.display())).with_source(e);
        std::fs::write(path, table::json(&results)).map_err(io)?;
    }
    Ok(())
}

/// What the card can do: kernels by themselves, and the best product that anybody makes.
fn rates(gpu: &Gpu, options: &Options, peer: &mut Option<Peer>, results: &mut Results) -> Result<()> {
    let small = ([1 << 12, 64], 1);
    let (sizes, times) = if options.is_small() { small } else { ([1 << 26, 8192], 10) };
    for &precision in &options.precision {
        let rates = gpu.kernel_rates(precision, sizes, [times, options.rounds])?;
        let of = |name: &str| rates.iter().find(|rate| rate.kernel == name);
        results.copy = results.copy.max(of("copy").map_or(0.0, |copy| copy.bytes / copy.seconds));
        let speed = |name| of(name).map(|product| product.operations / product.seconds);
        let theirs = peer.as_mut().and_then(|peer| peer.product(sizes[1], precision).ok());
        let all =
            [(speed("product"), "our kernel"), (speed("library product"), "cuBLASLt"), (theirs, "PyTorch")];
        let best = all.into_iter().filter_map(|(speed, by)| Some((precision, speed?, by)));
        let best =
            best.max_by(|(_, a, _), (_, b, _)| a.total_cmp(b)).unwrap_or((precision, f64::NAN, "nobody"));
        eprintln!(
            "ok      kernels, {}: a product at {:.1} Tflop/s by {}",
            precision.name(),
            best.1 / 1e12,
            best.2
        );
        results.matrix.push(best);
        results.kernels.push((precision, rates));
    }
    Ok(())
}

/// Rounds of us and of PyTorch's variants in turn.
fn measure(
    gpu: &Gpu,
    options: &Options,
    peer: &mut Option<Peer>,
    task: &Task,
    (precision, results): (Precision, &Results),
) -> Result<Row> {
    let mut trainer = Trainer::new(gpu, task, precision)?;
    let mut variants = Vec::new();
    if let Some(peer) = peer {
        let shared = trainer.share()?;
        for (nth, variant) in VARIANTS.into_iter().enumerate() {
            match peer.prepare(variant, shared.path(), precision) {
                Ok(loss) => {
                    let far = (loss - trainer.first_loss).abs() / trainer.first_loss;
                    at_most(&format!("the distance of PyTorch's first loss of {}", task.name), far, 2e-2)?;
                    variants.push((nth, variant, Vec::new()));
                }
                Err(e) => eprintln!("skipped {variant} of {}, {}: {e}", task.name, precision.name()),
            }
        }
    }
    let steps = trainer.steps_of(options.seconds)?;
    let mut ours = Vec::new();
    for _ in 0..options.rounds {
        ours.push(trainer.round(steps)?);
        for (_, variant, times) in &mut variants {
            if let Some(peer) = peer {
                times.push(peer.round(variant, steps)?);
            }
        }
    }
    let mut peers = [None; 3];
    variants.into_iter().for_each(|(nth, _, times)| peers[nth] = Some(median(times)));
    let matrix =
        results.matrix.iter().find(|(of, ..)| *of == precision).map_or(f64::NAN, |(_, rate, _)| *rate);
    let floor = Floor::new(&task.graph, task.rows, precision, [matrix, results.copy]);
    Ok(Row { name: task.name, rows: task.rows, precision, ours: median(ours), peers, floor })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
