//! Strategies that are exact, against a plain loop over all weights.

use firesteel_comm::strategy::{Computed, TableLayout, Totals, Update};
use firesteel_comm::{Fabric, Mesh};

use super::{build, layout};
use crate::world::{KINDS, meshes, options, run};

const DENSE: usize = 1_000;
const ROWS: usize = 11;
const DIMS: usize = 3;
const STEPS: u64 = 4;

/// SGD with momentum: its state shows whether an owner keeps what it owns.
pub struct Momentum(pub Vec<f32>);

impl Update for Momentum {
    fn update(&mut self, at: usize, scale: f32, weights: &mut [f32], gradient_sum: &[f32]) {
        let state = &mut self.0[at..at + weights.len()];
        for ((weight, gradient), velocity) in weights.iter_mut().zip(gradient_sum).zip(state) {
            *velocity = 0.5 * *velocity + gradient * scale;
            *weight -= 0.25 * *velocity;
        }
    }

    fn rate(&self) -> f32 {
        0.25
    }
}

/// Those that give what a plain loop gives.
const EXACT: [&str; 11] = [
    "sharded",
    "all_reduce",
    "all_reduce(auto)",
    "all_reduce(buckets=tensors)",
    "all_reduce(buckets=merged)",
    "all_reduce(ring)",
    "all_reduce(halving_doubling)",
    "all_reduce(double_binary_tree)",
    "two_phase",
    "gather(plain, feedback=false)",
    "linear(plain)",
];

fn tables() -> [TableLayout; 2] {
    let table = |start: usize| TableLayout { range: start..start + ROWS * DIMS, rows: ROWS, dims: DIMS };
    [table(DENSE), table(DENSE + ROWS * DIMS)]
}

const LEN: usize = DENSE + 2 * ROWS * DIMS;

/// Exact small numbers, so that the order of additions does not matter.
fn gradient(rank: usize, step: u64) -> Vec<f32> {
    (0..LEN).map(|i| ((i * 13 + rank * 5 + step as usize * 3) % 17) as f32 - 8.0).collect()
}

/// Rank 1 touches nothing in the first table.
fn touched(rank: usize, step: u64) -> [Vec<u32>; 2] {
    let rows = |t: usize| {
        (0..ROWS as u32).filter(|r| (*r as usize + rank + t + step as usize).is_multiple_of(3)).collect()
    };
    [if rank == 1 { vec![] } else { rows(0) }, rows(1)]
}

/// Powers of two, so that the scale is exact; nothing at all in step 2.
fn totals(step: u64) -> Totals {
    if step == 2 { Totals::default() } else { Totals { loss: 3.0, weight: 16.0 } }
}

/// Small, so that no update is lost beside a large weight; multiples of 1/16, so that sums with them are exact.
fn initial() -> Vec<f32> {
    (0..LEN).map(|i| (i % 33) as f32 / 16.0 - 1.0).collect()
}

fn reference(world: usize) -> Vec<f32> {
    let mut weights = initial();
    let mut momentum = Momentum(vec![0.0; LEN]);
    for step in (0..STEPS).filter(|s| *s != 2) {
        let mut sum = vec![0.0; LEN];
        let mut rows = [vec![false; ROWS], vec![false; ROWS]];
        for rank in 0..world {
            let gradient = gradient(rank, step);
            let touched = touched(rank, step);
            for (s, g) in sum[..DENSE].iter_mut().zip(&gradient) {
                *s += g;
            }
            for (t, table) in tables().iter().enumerate() {
                for row in &touched[t] {
                    rows[t][*row as usize] = true;
                    let start = table.range.start + *row as usize * DIMS;
                    (start..start + DIMS).for_each(|i| sum[i] += gradient[i]);
                }
            }
        }
        let scale = 1.0 / (16.0 * world as f32);
        momentum.update(0, scale, &mut weights[..DENSE], &sum[..DENSE]);
        for (t, table) in tables().iter().enumerate() {
            for row in (0..ROWS).filter(|r| rows[t][*r]) {
                let start = table.range.start + row * DIMS;
                momentum.update(start, scale, &mut weights[start..start + DIMS], &sum[start..start + DIMS]);
            }
        }
    }
    weights
}

/// Trains on a worker; gradients become ready in ranges of `ready`.
fn train(text: &str, mesh: Mesh, ready: usize) -> (Vec<f32>, Vec<Totals>) {
    let rank = mesh.rank();
    let mut strategy = build(text, mesh, &layout(DENSE, &tables(), 300));
    let mut weights = initial();
    let mut momentum = Momentum(vec![0.0; strategy.owned_len()]);
    let mut seen = Vec::new();
    for step in 0..STEPS {
        let gradient = gradient(rank, step);
        strategy.begin(step, totals(step)).unwrap();
        for start in (0..DENSE).step_by(ready) {
            let range = start..(start + ready).min(DENSE);
            strategy.ready(range.clone(), &gradient[range]).unwrap();
        }
        let touched = touched(rank, step);
        let computed = Computed { weights: &mut weights, gradient: &gradient, touched: &touched };
        seen.push(strategy.finish(computed, &mut momentum).unwrap());
    }
    (weights, seen)
}

#[test]
fn every_world_ends_with_the_weights_of_a_plain_loop() {
    for (text, kind) in EXACT.into_iter().flat_map(|text| KINDS.map(|kind| (text, kind))) {
        for world in 1..=5 {
            let expected = reference(world);
            let moved = expected.iter().zip(initial()).filter(|(a, b)| (*a - b).abs() > 1e-3).count();
            assert!(moved > LEN * 9 / 10, "{moved} of {LEN} weights move enough to be seen");
            let done = run(meshes(kind, world, &options()), |mesh| train(text, mesh, 130));
            for (rank, (weights, totals)) in done.into_iter().enumerate() {
                // All numbers are exact unless the scale, 1/(16·world), is not, which rounds what is added up.
                let most = if world.is_power_of_two() { 0.0 } else { 2e-5 };
                for (i, (found, expected)) in weights.iter().zip(&expected).enumerate() {
                    let far = (found - expected).abs();
                    assert!(
                        far <= most,
                        "{text}, {kind:?}: weight {i} at rank {rank} of {world} is {far} away"
                    );
                }
                assert_eq!(totals[0], Totals { loss: 3.0 * world as f64, weight: 16.0 * world as f64 });
                assert_eq!(totals[2], Totals::default());
            }
        }
    }
}

#[test]
fn all_ranks_hold_the_same_bits_however_gradients_become_ready() {
    for text in EXACT.into_iter().chain(["two_phase(one_bit, one_bit, feedback=true)"]) {
        let done: Vec<_> = [1, 16, 999, DENSE]
            .into_iter()
            .flat_map(|ready| run(meshes(KINDS[0], 3, &options()), move |mesh| train(text, mesh, ready).0))
            .collect();
        assert!(done.iter().all(|weights| *weights == done[0]), "{text}");
    }
}

#[test]
fn a_network_of_tables_alone_trains_too() {
    let table = TableLayout { range: 0..6, rows: 2, dims: 3 };
    for text in ["sharded", "two_phase"] {
        let done = run(meshes(KINDS[0], 2, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(text, mesh, &layout(0, std::slice::from_ref(&table), 64));
            let mut momentum = Momentum(vec![0.0; strategy.owned_len()]);
            let mut weights = vec![1.0; 6];
            strategy.begin(0, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            strategy.ready(0..0, &[]).unwrap();
            let touched = [vec![rank as u32]];
            let computed = Computed { weights: &mut weights, gradient: &[2.0; 6], touched: &touched };
            strategy.finish(computed, &mut momentum).unwrap();
            weights
        });
        assert_eq!(done, [vec![0.75; 6], vec![0.75; 6]], "{text}");
    }
}

#[test]
fn unfinished_and_disordered_gradients_are_refused() {
    for text in ["sharded", "two_phase"] {
        run(meshes(KINDS[0], 2, &options()), |mesh| {
            let mut strategy = build(text, mesh, &layout(100, &[], 64));
            strategy.begin(0, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            let e = strategy.ready(50..100, &[0.0; 50]).unwrap_err().to_string();
            assert_eq!(e, "gradient of 50..100 follows 0");
            let computed = Computed { weights: &mut [0.0; 100], gradient: &[0.0; 100], touched: &[] };
            let e = strategy.finish(computed, &mut Momentum(vec![0.0; 100])).unwrap_err();
            assert_eq!(e.to_string(), "0 of 2 buckets are ready at the step's end");
        });
    }
}
