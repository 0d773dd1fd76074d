//! A file a check.

mod leaks;
mod memory;
mod networks;
mod peers;
mod sanitizer;
mod training;

use clap::ValueEnum;
use firesteel_engine::Precision;
use firesteel_error::Result;

use crate::device::{Device, PRECISIONS, driver, precision};
use crate::report::Report;

/// What is checked, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// cuda:N, or emulated.
    #[arg(long, default_value = "cuda:0")]
    pub(crate) device: Device,
    /// Of f32, tf32, bf16 and f16.
    #[arg(long, value_delimiter = ',', value_parser = precision, default_values = PRECISIONS.map(Precision::name))]
    pub(crate) precision: Vec<Precision>,
    /// Plans that are made and dropped to look for leaks.
    #[arg(long, default_value_t = 1000)]
    pub(crate) plans: usize,
    /// Fewer rows, steps and plans.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these checks.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Check::value_variants().to_vec())]
    pub(crate) only: Vec<Check>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// Every operation against the CPU.
    Networks,
    /// Trainings against the CPU's.
    Training,
    /// Trainings of several GPUs that add up among themselves.
    Peers,
    /// Whether plans give back what they took.
    Leaks,
    /// Whether a plan that is too large is refused, and nothing else harmed.
    Memory,
    /// The checks again under compute-sanitizer.
    Sanitizer,
}

/// Whether all passed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let gpu = options.device.open()?;
    let [free, total] = gpu.memory()?.map(|bytes| bytes >> 20);
    let name = gpu.name();
    println!("device  {}: {name}, {free} of {total} MiB free, driver {}", options.device, driver());
    let mut report = Report::default();
    for check in &options.only {
        match check {
            Check::Networks => networks::run(&gpu, options, &mut report),
            Check::Training => training::run(&gpu, options, &mut report),
            Check::Peers => peers::run(options, &mut report),
            Check::Leaks => leaks::run(&gpu, options, &mut report),
            Check::Memory => memory::run(&gpu, &mut report),
            Check::Sanitizer => sanitizer::run(options, &mut report),
        }
    }
    Ok(report.end())
}
