//! The results as Markdown and as JSON.

use std::fmt::Write;

use chrono::Utc;
use firesteel_engine::KernelRate;
use serde_json::{Value, json};

use super::peer::VARIANTS;
use super::{Results, Row};

/// Today, in UTC.
fn date() -> String {
    Utc::now().format("%F").to_string()
}

impl Row {
    /// The best of the peer's.
    fn best(&self) -> Option<f64> {
        self.peers.iter().flatten().copied().min_by(f64::total_cmp)
    }
}

fn share(rate: &KernelRate, copy: f64) -> f64 {
    100.0 * rate.bytes / rate.seconds / copy
}

pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let mut line = |what: String| _ = writeln!(text, "{what}");
    let torch = results.torch.as_ref().map_or("none".to_owned(), String::clone);
    line(format!("{}: {}, driver {}; PyTorch: {torch}.\n", date(), results.device, results.driver));
    line("Milliseconds a step, SGD with momentum, a batch from the host in every step; the median of rounds in turn.".into());
    line(
        "The floor is the longer of the products at the card's rate and the memory at that of its copy.\n"
            .into(),
    );
    line(format!(
        "| network | rows | precision | Firesteel | {} | ratio to the best | floor |",
        VARIANTS.join(" | ")
    ));
    line("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |".into());
    let time =
        |seconds: Option<f64>| seconds.map_or("–".to_owned(), |seconds| format!("{:.3}", seconds * 1e3));
    for row in &results.steps {
        let peers = row.peers.map(time).join(" | ");
        let ratio = row.best().map_or("–".to_owned(), |best| format!("{:.2}", best / row.ours));
        let floor = time(Some(row.floor.seconds()));
        let ours = time(Some(row.ours));
        line(format!(
            "| {} | {} | {} | {ours} | {peers} | {ratio} | {floor} |",
            row.name,
            row.rows,
            row.precision.name()
        ));
    }
    line(format!("\nA step of a network that takes no time: {:.1} µs.\n", results.launch * 1e6));
    line(format!("Kernels by themselves, of the copy's {:.0} GB/s:\n", results.copy / 1e9));
    line("| kernel | precision | GB/s | % |\n| --- | --- | ---: | ---: |".into());
    for (precision, rates) in &results.kernels {
        for rate in rates.iter().filter(|rate| rate.operations == 0.0) {
            let speed = rate.bytes / rate.seconds / 1e9;
            let share = share(rate, results.copy);
            line(format!("| {} | {} | {speed:.0} | {share:.0} |", rate.kernel, precision.name()));
        }
    }
    line("\nProducts of large matrices:\n\n| precision | Tflop/s | by |\n| --- | ---: | --- |".into());
    for (precision, rate, by) in &results.matrix {
        line(format!("| {} | {:.1} | {by} |", precision.name(), rate / 1e12));
    }
    text
}

pub(super) fn json(results: &Results) -> String {
    let step = |row: &Row| {
        let peers: Vec<Value> = VARIANTS
            .iter()
            .zip(row.peers)
            .map(|(name, seconds)| json!({"variant": name, "seconds": seconds}))
            .collect();
        json!({
            "network": row.name, "rows": row.rows, "precision": row.precision.name(), "seconds": row.ours,
            "peers": peers, "floor_products": row.floor.products, "floor_memory": row.floor.memory,
        })
    };
    let kernels = results.kernels.iter().flat_map(|(precision, rates)| {
        rates.iter().map(|rate| {
            json!({
                "kernel": rate.kernel, "precision": precision.name(), "seconds": rate.seconds,
                "bytes": rate.bytes, "operations": rate.operations,
            })
        })
    });
    let matrix = |(precision, rate, by): &(firesteel_engine::Precision, f64, &str)| json!({"precision": precision.name(), "operations_per_second": rate, "by": by});
    let all = json!({
        "date": date(), "device": results.device, "driver": results.driver, "torch": results.torch,
        "copy_bytes_per_second": results.copy, "launch_seconds": results.launch,
        "steps": results.steps.iter().map(step).collect::<Vec<_>>(),
        "kernels": kernels.collect::<Vec<_>>(),
        "products": results.matrix.iter().map(matrix).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}
