//! Which strategy a job would be fastest with, before there is a cluster to try it on.
//!
//! Each candidate trains for some steps over a [`Simulated`] network, by its real code, with gradients that are drawn. Vectors are
//! shorter than the job's by a factor, and the bandwidth is smaller by the same: times stay what they are, and memory and work become
//! small. Latencies and what a message costs stay too, as does the number of buckets, but for more than [`MOST_BUCKETS`], and fewer in
//! large worlds: a message costs more then, by as much as they are fewer.
//!
//! A third of the computing is forward, as it takes half as long as backward, during which buckets become ready. What compressors
//! take comes from a [`Profile`], and is added as if nothing else were done meanwhile: an upper bound. What sums, optimizers and
//! receivers take is left out.
//!
//! Not among the candidates: `ssp`, `asp` and `downpour`, whose simulated times are not the same twice; `power_sgd`, `fetch_sgd` and
//! `double_binary_tree`, whose messages do not shrink with vectors; and what sends as another does, `post_local`, `d2`,
//! `gradient_tracking`, `quasi_global`, `quasi_global_adam`, `s2`, `densify` and `parallax`; `timed_average`, which no simulated clock
//! begins; `all_reduce` with other buckets, which are cut by tensors that a [`Job`] does not name; and `all_reduce(auto)`, which may
//! choose a tree.
//!
//! | module | |
//! | --- | --- |
//! | `candidates` | what is tried |
//! | `profile` | [`Profile`]: what compressors take |
//! | `trial` | a candidate's steps |
//! | `table` | [`table`]: advice as text |

mod candidates;
mod profile;
mod table;
mod trial;

use std::fmt;
use std::str::FromStr;

use firesteel_error::{Error, Result};

pub use profile::{Coding, Profile};
pub use table::table;

use crate::simulated::Network;
use crate::strategy::Spec;
use candidates::Candidate;
use trial::{Shape, Trial};

/// The most workers: a step of some candidates is a message between every two.
pub const MOST_WORKERS: usize = 256;

/// The widest rows of a table.
const MOST_DIMS: u64 = 1 << 16;
/// The most buckets of a trial.
pub const MOST_BUCKETS: usize = 32;
/// The most messages of a move of all buckets to all.
const MOST_MESSAGES: usize = 1 << 15;

/// A training that is to be made fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Of the gradient of all but tables, 4 bytes a value.
    pub model_bytes: u64,
    /// Embedding tables.
    pub tables: Vec<TableUse>,
    /// Seconds that one worker computes in a step.
    pub step_seconds: f64,
    /// How many workers.
    pub workers: usize,
    /// The hyper-parameter: bytes of gradient that travel together.
    pub bucket_bytes: u64,
}

/// An embedding table, and how much of it a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// All rows.
    pub rows: u64,
    /// Values of a row.
    pub dims: u64,
    /// Rows that a worker touches in a step.
    pub touched: u64,
}

impl FromStr for TableUse {
    type Err = Error;

    /// Reads rows, the width of a row, and the rows that a worker touches, as `1000000,16,20000`.
    ///
    /// # Errors
    /// `InvalidArgument` with the text.
    fn from_str(text: &str) -> Result<TableUse> {
        let numbers: Vec<u64> = text.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        match (numbers.as_slice(), text.split(',').count()) {
            (&[rows, dims, touched], 3) => Ok(TableUse { rows, dims, touched }),
            _ => {
                let what = "its rows, the values of a row and the rows touched, as 1000000,16,20000";
                Err(Error::argument(format!("a table is '{text}', expected {what}")))
            }
        }
    }
}

impl Job {
    /// Of a model without tables, with the engine's buckets.
    pub fn new(model_bytes: u64, step_seconds: f64, workers: usize) -> Job {
        Job { model_bytes, tables: Vec::new(), step_seconds, workers, bucket_bytes: 1 << 20 }
    }

    fn check(&self) -> Result<()> {
        let within = |name: &str, fits: bool, found: String, range: String| match fits {
            true => Ok(()),
            false => Err(Error::argument(format!("{name} is {found}, expected {range}"))),
        };
        let Job { model_bytes, tables, step_seconds, workers, bucket_bytes } = self;
        let (least, most) = (4, 1u64 << 44);
        let bytes = format!("{least} to {most} bytes");
        within("model_bytes", (least..=most).contains(model_bytes), model_bytes.to_string(), bytes)?;
        let fits = *step_seconds >= 0.0 && step_seconds.is_finite();
        within("step_seconds", fits, step_seconds.to_string(), "seconds from 0 on".to_owned())?;
        let fits = (1..=MOST_WORKERS).contains(workers);
        within("workers", fits, workers.to_string(), format!("1 to {MOST_WORKERS}"))?;
        within("bucket_bytes", *bucket_bytes >= 64, bucket_bytes.to_string(), "at least 64".to_owned())?;
        for table in tables {
            let TableUse { rows, dims, touched } = table;
            let fits = touched <= rows
                && (1..=MOST_DIMS).contains(dims)
                && rows.checked_mul(*dims).is_some_and(|all| all <= most);
            within(
                "a table",
                fits,
                format!("{rows} rows of {dims} values, {touched} touched"),
                format!("rows of 1 to {MOST_DIMS} values that hold those touched"),
            )?;
        }
        Ok(())
    }
}

/// What a step mostly waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The workers' own work.
    Computing,
    /// Compressors.
    Encoding,
    /// The bytes of the worker that sends most.
    Bandwidth,
    /// Messages that wait for each other.
    Latency,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Computing => "computing",
            Bound::Encoding => "encoding",
            Bound::Bandwidth => "bandwidth",
            Bound::Latency => "latency",
        })
    }
}

/// How a strategy changes what is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    Nothing,
    /// Gradients are compressed.
    Gradients,
    /// Workers go apart for some steps.
    Steps,
    /// Workers are never all alike before an epoch ends.
    Agreement,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Nothing => "exact",
            Change::Gradients => "compressed gradients",
            Change::Steps => "apart for some steps",
            Change::Agreement => "alike at an epoch's end only",
        })
    }
}

/// What to expect of a strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// The strategy.
    pub spec: Spec,
    /// Seconds a step.
    pub seconds: f64,
    /// Of these, those not hidden behind computing, those of compressors included.
    pub exposed: f64,
    /// Of these, those of compressors.
    pub encoding: f64,
    /// Bytes that the worker sends in a step that sends most.
    pub bytes: u64,
    /// What it mostly waits for.
    pub bound: Bound,
    /// Why, in a line.
    pub reason: String,
    /// How it changes what is learnt.
    pub change: Change,
    /// What it costs in accuracy, as the catalogue says.
    pub costs: &'static str,
}

/// All candidates that a world has, the fastest first. The same each time for the same profile.
///
/// # Errors
/// `InvalidArgument` naming what no job or network is; `Io` without threads.
pub fn advise(job: &Job, network: &Network, profile: &Profile) -> Result<Vec<Advice>> {
    job.check()?;
    network.check()?;
    let shape = Shape::new(job);
    let mut all = Vec::new();
    for candidate in candidates::of(job) {
        let spec: Spec = candidate.text.parse()?;
        if spec.check(job.workers).is_ok() {
            let trial = trial::run(&candidate, job, &shape, network)
                .map_err(|e| e.context(format!("trying {spec}")))?;
            all.push(judge(&candidate, spec, &trial, (job, network, profile))?);
        }
    }
    all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(all)
}

/// A step's time, and what it goes into.
fn judge(
    candidate: &Candidate,
    spec: Spec,
    trial: &Trial,
    (job, network, profile): (&Job, &Network, &Profile),
) -> Result<Advice> {
    let computing = job.step_seconds * (0..job.workers).map(|rank| network.factor(rank)).fold(1.0, f64::max);
    let waiting = (trial.seconds - computing).max(0.0);
    let encoding = profile.seconds(&spec, (job.model_bytes / 4) as f64, job.workers)?;
    let (seconds, exposed) = (trial.seconds + encoding, waiting + encoding);
    let sending = trial.bytes as f64 / network.bandwidth;
    let share = |part: f64| format!("{:.0}%", 100.0 * part / seconds.max(f64::MIN_POSITIVE));
    let (bound, reason) = if exposed <= 0.1 * seconds {
        (Bound::Computing, format!("{} is computing, which hides most of the rest", share(computing)))
    } else if encoding > waiting {
        (Bound::Encoding, format!("{} is compressing", share(encoding)))
    } else if sending >= 0.5 * waiting {
        (
            Bound::Bandwidth,
            format!("{} waits for bytes, {} on the link", share(waiting), table::span(sending)),
        )
    } else {
        (
            Bound::Latency,
            format!("{} waits for messages, of bytes only {}", share(waiting), table::span(sending)),
        )
    };
    let (change, costs) = (candidate.change, spec.entry().costs);
    Ok(Advice { spec, seconds, exposed, encoding, bytes: trial.bytes, bound, reason, change, costs })
}
