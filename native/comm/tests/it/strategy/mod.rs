//! What every strategy promises.

mod bowls;
mod exact;
mod faulty;
mod over_tcp;
mod refused;
mod resume;
mod stale;

use std::ops::Range;
use std::sync::Arc;

use firesteel_comm::Fabric;
use firesteel_comm::strategy::{
    Computed, Family, Layout, MEETING, Spec, Strategy, TableLayout, Tensor, Totals, Update, entries,
};
use firesteel_error::Result;

use crate::compress::normal;

pub fn layout(dense_len: usize, tables: &[TableLayout], bucket_len: usize) -> Layout {
    let len = tables.last().map_or(dense_len, |table| table.range.end);
    Layout { len, dense_len, tables: tables.to_vec(), bucket_len, ..Layout::default() }
}

fn build(text: &str, fabric: impl Fabric + 'static, layout: &Layout) -> Box<dyn Strategy> {
    text.parse::<Spec>().unwrap().build(Arc::new(fabric), layout, 5).unwrap()
}

/// Plain SGD at a rate that may change.
pub struct Sgd(pub f32);

impl Update for Sgd {
    fn update(&mut self, _: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]) {
        weights.iter_mut().zip(gradient_sum).for_each(|(weight, g)| *weight -= self.0 * scale * g);
    }

    fn rate(&self) -> f32 {
        self.0
    }
}

/// Whether two runs give the same: not where gradients or means count when they come.
pub fn repeats(text: &str) -> bool {
    !["ssp", "asp", "downpour", "timed_average"].contains(&text)
}

/// A bowl with another bottom on each worker; rows of tables are touched by all.
pub const BOWL: usize = 96;

pub fn bowl(text: &str) -> Layout {
    match ["ssp", "asp", "downpour"].iter().any(|name| text.starts_with(name)) {
        true => layout(BOWL, &[], 48),
        false => {
            let matrix = Tensor { range: 16..80, shape: vec![8, 4, 2] };
            let tensors = vec![
                Tensor { range: 0..16, shape: vec![16] },
                matrix,
                Tensor { range: 80..90, shape: vec![10] },
            ];
            Layout { tensors, ..layout(90, &[TableLayout { range: 90..96, rows: 3, dims: 2 }], 48) }
        }
    }
}

fn bottom(rank: usize) -> Vec<f32> {
    normal(BOWL, 77 + rank as u64)
}

/// Goes down on one worker; epochs of so many steps, after each of which all meet. The weights after each meeting.
pub fn descend(
    strategy: &mut dyn Strategy,
    rank: usize,
    weights: &mut Vec<f32>,
    epochs: Range<u64>,
    steps: u64,
) -> Vec<Vec<f32>> {
    try_descend(strategy, rank, weights, epochs, steps).unwrap()
}

/// The same, where workers may be lost.
fn try_descend(
    strategy: &mut dyn Strategy,
    rank: usize,
    weights: &mut Vec<f32>,
    epochs: Range<u64>,
    steps: u64,
) -> Result<Vec<Vec<f32>>> {
    let bottom = bottom(rank);
    let mut met = Vec::new();
    for epoch in epochs {
        for nth in 0..steps {
            let step = epoch * (steps + MEETING) + nth;
            let gradient: Vec<f32> = weights.iter().zip(&bottom).map(|(x, b)| x - b).collect();
            let mut sgd = Sgd(0.2 / (1.0 + (epoch * steps + nth) as f32 / 100.0));
            strategy.begin(step, Totals { loss: 1.0, weight: 1.0 })?;
            strategy.ready(0..90, &gradient[..90])?;
            let touched = [vec![0, 1, 2]];
            let computed = Computed { weights, gradient: &gradient, touched: &touched };
            strategy.finish(computed, &mut sgd)?;
        }
        let rate = 0.2 / (1.0 + ((epoch + 1) * steps) as f32 / 100.0);
        strategy.settle(weights, &mut Sgd(rate))?;
        strategy.meet(epoch * (steps + MEETING) + steps, &mut [weights.as_mut_slice()])?;
        met.push(weights.clone());
    }
    Ok(met)
}

/// All strategies with a world of 4, and others worth a look.
pub fn all() -> Vec<String> {
    let declared = entries().iter().filter(|entry| entry.family == Family::Strategy);
    // As they are when they are not told otherwise, but for those that are made for more values and smaller steps.
    let declared = declared.map(|entry| match entry.name {
        "dgc" => "dgc(ratio=0.3, momentum=0.5)",
        "ok_top_k" => "ok_top_k(ratio=0.2)",
        "g_top_k" => "g_top_k(ratio=0.2)",
        "one_bit_adam" => "one_bit_adam(warmup=300)",
        "qadam" => "qadam(warmup=300)",
        "fetch_sgd" => "fetch_sgd(columns=200, ratio=0.2, momentum=0)",
        name => name,
    });
    let more = [
        "all_reduce(buckets=merged)",
        "two_phase(min_max_u8, min_max_u8)",
        "two_phase(sign, sign, feedback=true)",
        "gather(top_k(ratio=0.1))",
        "linear(shrink(random_k), feedback=true)",
        "local(every=3)",
        "slow_mo(every=5)",
        "async_average(every=3)",
        "ssp(staleness=0)",
        "dpsgd(one_peer)",
        "dpsgd(shift_one, order=mix_update)",
        "dpsgd(graph(0-1/1-2/2-3))",
    ];
    declared.chain(more).map(str::to_owned).collect()
}
