//! `firesteel advise`: which strategy a training would be fastest with.

use clap::Args;
use firesteel_comm::Network;
use firesteel_comm::advise::{Advice, Job, Profile, TableUse, advise, table};
use firesteel_error::Result;
use serde_json::json;

/// What `firesteel advise` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// Bytes of the model without its embedding tables: 4 a value
    #[arg(long, allow_negative_numbers = true)]
    model_bytes: u64,
    /// An embedding table: its rows, the values of a row, the rows that a worker touches in a step; may be repeated
    #[arg(long = "table", value_name = "ROWS,WIDTH,TOUCHED")]
    tables: Vec<TableUse>,
    /// Seconds that one worker computes in a step
    #[arg(long, allow_negative_numbers = true)]
    step_seconds: f64,
    /// How many workers, 1 to 256: of many, predictions take a minute
    #[arg(long)]
    workers: usize,
    /// Between them: rack, cluster, lan, wan, and numbers, as '1gbit, 0.5ms, loss 0.1%'
    #[arg(long, default_value = "lan", allow_hyphen_values = true)]
    network: String,
    /// The network's latency instead, as 2ms
    #[arg(long, allow_hyphen_values = true)]
    latency: Option<String>,
    /// The network's bandwidth instead, as 10gbit or 100mb/s
    #[arg(long, allow_hyphen_values = true)]
    bandwidth: Option<String>,
    /// Bytes of gradient that travel together, the hyper-parameter of the training
    #[arg(long, default_value_t = 1 << 20)]
    bucket_bytes: u64,
    /// The fastest so many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
    /// How to print them
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

/// Prints what to expect of each strategy, the fastest first. Compressors are measured on this computer.
///
/// # Errors
/// `InvalidArgument` for a network, a job or a table that there cannot be; `Io` without threads.
pub fn run(options: &Options) -> Result<()> {
    let network = network(options)?;
    let job = Job {
        tables: options.tables.clone(),
        bucket_bytes: options.bucket_bytes,
        ..Job::new(options.model_bytes, options.step_seconds, options.workers)
    };
    let mut all = advise(&job, &network, &Profile::measure()?)?;
    all.truncate(options.top.map_or(usize::MAX, |top| top as usize));
    match options.format.as_str() {
        "json" => println!("{}", json(&all)),
        _ => print!("{}", table(&all)),
    }
    Ok(())
}

fn network(options: &Options) -> Result<Network> {
    let words = [Some(&options.network), options.latency.as_ref(), options.bandwidth.as_ref()];
    let words: Vec<&str> = words.into_iter().flatten().map(String::as_str).collect();
    words.join(", ").parse()
}

fn json(all: &[Advice]) -> serde_json::Value {
    let one = |advice: &Advice| {
        json!({
            "strategy": advice.spec.to_string(),
            "seconds": advice.seconds,
            "exposed_seconds": advice.exposed,
            "encoding_seconds": advice.encoding,
            "bytes": advice.bytes,
            "bound": advice.bound.to_string(),
            "reason": advice.reason,
            "change": advice.change.to_string(),
            "costs": advice.costs,
            "plain_sgd": advice.spec.entry().plain_sgd,
        })
    };
    all.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_json_too() {
        let job = Job::new(1 << 16, 0.1, 2);
        let all = advise(&job, &Network::default(), &Profile::default()).unwrap();
        let json = json(&all);
        assert_eq!(json.as_array().unwrap().len(), all.len());
        assert_eq!(json[0]["seconds"], all[0].seconds);
    }
}
