//! Every operation against the CPU, in small networks: loss, gradient, statistics, touched rows and outputs.

use std::sync::Arc;

use firesteel_engine::{Gpu, Loss, Mode, Precision};
use firesteel_error::Result;
use firesteel_model::Graph;

use super::Options;
use crate::report::{Report, at_most, wrong};
use crate::work::networks::{NETWORKS, Rows, graph, meant, replica};
use crate::work::{distance, on_device};

/// How far a device is from the CPU: each relative to the length of what was expected.
#[derive(Clone, Copy, Debug, Default)]
struct Apart {
    loss: f64,
    gradient: f64,
    statistics: f64,
    outputs: f64,
}

impl Apart {
    /// The larger of each; NaN stays.
    fn most(self, other: Apart) -> Apart {
        let most = |a: f64, b: f64| if a >= b || a.is_nan() { a } else { b };
        Apart {
            loss: most(self.loss, other.loss),
            gradient: most(self.gradient, other.gradient),
            statistics: most(self.statistics, other.statistics),
            outputs: most(self.outputs, other.outputs),
        }
    }

    fn named(self) -> [(&'static str, f64); 4] {
        let Apart { loss, gradient, statistics, outputs } = self;
        [("loss", loss), ("gradient", gradient), ("statistics", statistics), ("outputs", outputs)]
    }
}

/// What a precision may cost, and what a value on the other side may: one that was nearly the largest of a pool is it, one just
/// below 0 before a relu is above. The gradient jumps then, however little the values differ.
fn allowed(precision: Precision) -> [f64; 2] {
    match precision {
        Precision::F32 => [2e-5, 2e-5],
        Precision::Tf32 => [2e-3, 6e-2],
        Precision::Bf16 => [4e-2, 1e-1],
        Precision::F16 => [5e-3, 6e-2],
    }
}

pub(super) fn run(gpu: &Gpu, options: &Options, report: &mut Report) {
    let rows: &[usize] = if options.quick { &[1, 33] } else { &[1, 2, 33, 100] };
    let mut table = Vec::new();
    for &precision in &options.precision {
        let mut worst = Apart::default();
        for (name, inputs, layers) in NETWORKS {
            report.check(&format!("{name}, {}", precision.name()), || {
                let graph = graph(inputs, layers);
                let mut all = Apart::default();
                for &rows in rows {
                    all = all.most(compare(gpu, &graph, rows, precision)?);
                }
                worst = worst.most(all);
                judge(all, precision, layers)
            });
        }
        table.push((precision, worst));
    }
    println!("\nThe largest distances from the CPU's f32 in those networks:\n");
    println!("| precision | loss | gradient | statistics | outputs |\n| --- | ---: | ---: | ---: | ---: |");
    for (precision, worst) in table {
        let numbers = worst.named().map(|(_, far)| format!("{far:.1e}"));
        println!("| {} | {} |", precision.name(), numbers.join(" | "));
    }
    println!();
}

fn judge(all: Apart, precision: Precision, layers: &str) -> Result<String> {
    let [most, jump] = allowed(precision);
    let jumps = ["relu", "max_pool"].iter().any(|op| layers.contains(op));
    for (what, far) in all.named() {
        at_most(what, far, if jumps && what == "gradient" { jump } else { most })?;
    }
    let multiplies = layers.contains("linear") || layers.contains("conv2d");
    if precision != Precision::F32 && multiplies && all.gradient <= 1e-6 {
        return Err(wrong(format!("gradient is {:.1e} from f32's: it was not rounded", all.gradient)));
    }
    Ok(all.named().map(|(what, far)| format!("{what} {far:.1e}")).join(", "))
}

fn compare(gpu: &Gpu, graph: &Arc<Graph>, rows: usize, precision: Precision) -> Result<Apart> {
    let loss = Loss::SoftmaxCrossEntropy;
    let mut cpu = replica(graph, rows, 1, Mode::Wide, loss);
    // Room for fewer rows than come.
    let mut device = on_device(gpu, &cpu, graph, (1, loss, precision))?;
    let batch = Rows::new(graph, rows, 8);
    let inputs = batch.inputs();
    let batch = batch.batch(&inputs, loss);
    let expected = cpu.step(7, &batch, &mut ())?;
    let found = device.step(7, &batch, &mut ())?;
    device.settle()?;
    at_most("the weight's distance", (expected.weight - found.weight).abs() / expected.weight, 1e-6)?;
    for table in 0..graph.tables().len() {
        if device.touched(table) != cpu.touched(table) {
            return Err(wrong(format!("{rows} rows touch others of table {table} than on the CPU")));
        }
    }
    let meant = meant(graph, &cpu);
    let only = |values: &[f32]| -> Vec<f32> {
        values.iter().zip(&meant).filter(|(_, meant)| **meant).map(|(value, _)| *value).collect()
    };
    let (mut answers, mut answered) = (vec![0.0; rows * 3], vec![f32::NAN; rows * 3]);
    let (gradient, statistics) = (
        distance(&only(device.gradient()), &only(cpu.gradient())),
        distance(device.buffers(), cpu.buffers()),
    );
    cpu.forward(rows, &inputs, &mut answers)?;
    device.forward(rows, &inputs, &mut answered)?;
    Ok(Apart {
        loss: (expected.loss - found.loss).abs() / expected.loss.abs().max(1.0),
        gradient,
        statistics,
        outputs: distance(&answered, &answers),
    })
}
