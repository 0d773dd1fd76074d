//! Whether a plan that is too large is refused, and nothing else harmed.

use std::sync::Arc;

use firesteel_engine::{Gpu, Loss, Mode, PlanConfig, Precision, Replica, Totals};
use firesteel_error::{Kind, Result};
use firesteel_model::Graph;

use super::leaks::KEPT;
use crate::report::{Report, wrong};
use crate::work::networks::{Rows, graph};

/// Values of its largest layer.
const WIDTH: usize = 512;

pub(super) fn run(gpu: &Gpu, report: &mut Report) {
    report.check("a plan that is too large", || {
        let inputs = r#"{"name":"x","kind":{"dense":{"shape":[7]}}}"#;
        let layers = format!(
            r#"{{"name":"wide","op":{{"linear":{{"outputs":{WIDTH}}}}}}},{{"name":"b","op":"tanh"}},
               {{"name":"c","op":{{"linear":{{"outputs":3}}}}}}"#
        );
        let graph = graph(inputs, &layers);
        let mut small = replica(gpu, &graph, 5)?;
        let expected = step(&mut small, &graph)?;
        let [before, total] = gpu.memory()?;
        let rows = total as usize / (4 * WIDTH) + 1;
        let said = refusal(replica(gpu, &graph, rows))?;
        let left = gpu.memory()?[0];
        if before.saturating_sub(left) > KEPT {
            return Err(wrong(format!("{before} bytes were free before, {left} after")));
        }
        // What lives has its room taken, asks for too much, and goes on with less.
        refusal(small.reserve(rows))?;
        small.reserve(5)?;
        let found = step(&mut small, &graph)?;
        if found != expected {
            return Err(wrong(format!("a step after it gives {found:?}, expected {expected:?}")));
        }
        Ok(said)
    });
}

fn replica(gpu: &Gpu, graph: &Arc<Graph>, rows: usize) -> Result<Replica> {
    let loss = Loss::SoftmaxCrossEntropy;
    let config = PlanConfig { rows, threads: 1, mode: Mode::Auto, loss, seed: 3, precision: Precision::F32 };
    Replica::on(gpu, graph.clone(), config)
}

fn step(replica: &mut Replica, graph: &Graph) -> Result<Totals> {
    let rows = Rows::new(graph, 5, 4);
    let inputs = rows.inputs();
    replica.step(1, &rows.batch(&inputs, Loss::SoftmaxCrossEntropy), &mut ())
}

/// The words of a refusal that names what was asked for, what is free, and what is the largest.
fn refusal<T>(outcome: Result<T>) -> Result<String> {
    let Err(e) = outcome else { return Err(wrong("a plan that is too large was made")) };
    let said = e.to_string();
    let names = |part: &str| said.contains(part);
    let all = names("the GPU has no ") && names(" are free") && names("the plan's largest: layer '");
    if e.kind() != Kind::Io || !all {
        return Err(wrong(format!("it is refused by other words: {said}")));
    }
    Ok(said)
}
