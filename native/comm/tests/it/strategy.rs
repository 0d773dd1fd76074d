//! What every strategy promises; those that are exact against a plain loop over all weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_comm::reduce::State;
use firesteel_comm::strategy::{
    Computed, Family, Layout, MEETING, Spec, Strategy, TableLayout, Tensor, Totals, Update, entries,
};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::{Error, Kind as ErrorKind};

use crate::compress::normal;
use crate::world::{KINDS, Kind, meshes, options, run};

const DENSE: usize = 1_000;
const ROWS: usize = 11;
const DIMS: usize = 3;
const STEPS: u64 = 4;

/// SGD with momentum: its state shows whether an owner keeps what it owns.
struct Momentum(Vec<f32>);

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

pub fn layout(dense_len: usize, tables: &[TableLayout], bucket_len: usize) -> Layout {
    let len = tables.last().map_or(dense_len, |table| table.range.end);
    Layout { len, dense_len, tables: tables.to_vec(), bucket_len, ..Layout::default() }
}

fn build(text: &str, mesh: Mesh, layout: &Layout) -> Box<dyn Strategy> {
    text.parse::<Spec>().unwrap().build(Arc::new(mesh), layout, 5).unwrap()
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

/// A worker of two with 32 dense weights, 16 for each, and a table of 4 rows of 2, whose other worker sends these parts:
/// the gradients of the bucket and of the rows, then their new weights. What the worker ends with.
fn finish_against(parts: [Vec<u8>; 4]) -> Error {
    let table = TableLayout { range: 32..40, rows: 4, dims: 2 };
    let parts = parts.map(Bytes::from);
    let ends = run(meshes(KINDS[1], 2, &options()), |mesh| {
        if mesh.rank() == 1 {
            let [dense, rows, new_dense, new_rows] = parts.clone();
            let key = |bucket, phase| Key::new(0, bucket, phase);
            let posted = [
                mesh.shuffle(key(0, 0), vec![dense, Bytes::new()]),
                mesh.shuffle(key(1, 0), vec![rows, Bytes::new()]),
                mesh.broadcast(key(0, 1), new_dense),
                mesh.broadcast(key(1, 1), new_rows),
            ];
            posted.into_iter().for_each(|pending| drop(pending.unwrap()));
            return None;
        }
        let mut strategy = build("sharded", mesh, &layout(32, std::slice::from_ref(&table), 64));
        let mut momentum = Momentum(vec![0.0; strategy.owned_len()]);
        strategy.begin(0, Totals { loss: 1.0, weight: 1.0 }).unwrap();
        strategy.ready(0..32, &[1.0; 32]).unwrap();
        let touched = [vec![0, 1, 2]];
        let computed = Computed { weights: &mut [0.0; 40], gradient: &[1.0; 40], touched: &touched };
        Some(strategy.finish(computed, &mut momentum))
    });
    ends.into_iter().flatten().next().unwrap().map_or_else(|e| e, |_| Error::internal("nothing is wrong"))
}

/// Parts as they should be: totals and 16 gradients; one row and its values.
fn good_parts() -> [Vec<u8>; 4] {
    let totals = [1.0_f64.to_le_bytes(), 1.0_f64.to_le_bytes()].concat();
    [[totals, vec![0; 64]].concat(), row(2), vec![0; 64], row(3)]
}

/// A part of a table: this row alone, with values of zero.
fn row(number: u32) -> Vec<u8> {
    [&1_u64.to_le_bytes()[..], &number.to_le_bytes(), &[0; 8]].concat()
}

#[test]
fn short_and_corrupt_parts_are_refused_by_name() {
    assert_eq!(finish_against(good_parts()).to_string(), "nothing is wrong");
    let too_many = [&5_u64.to_le_bytes()[..], &[0; 60]].concat();
    let short = "rank 1 sent a part of a table that ends too early";
    for (which, part, text) in [
        (0, vec![], "rank 1 sent 0 bytes, expected at least 16"),
        (0, vec![0; 15], "rank 1 sent 15 bytes, expected at least 16"),
        (0, vec![0; 16 + 63], "rank 1 sent 63 bytes, expected 64"),
        (0, vec![0; 16 + 68], "rank 1 sent 68 bytes, expected 64"),
        (1, vec![], short),
        (1, row(2)[..19].to_vec(), short),
        (1, too_many.clone(), short),
        (1, vec![0xFF; 64], short),
        (1, row(1), "rank 1 sent row 1 to rank 0, not its owner"),
        (1, row(4), "rank 1 sent row 4 to rank 0, not its owner"),
        (1, [row(2), vec![0]].concat(), "rank 1 sent 1 bytes more than its tables have"),
        (2, vec![0; 60], "rank 1 sent 60 bytes, expected 64"),
        (2, vec![], "rank 1 sent 0 bytes, expected 64"),
        (3, row(3)[..7].to_vec(), short),
        (3, too_many, short),
        (3, row(4), "rank 1 sent row 4 of a table of 4 rows"),
        (3, row(2), "rank 1 sent new values of row 2, which it does not own"),
        (3, [row(3), vec![0; 8]].concat(), "rank 1 sent 8 bytes more than its tables have"),
    ] {
        let mut parts = good_parts();
        parts[which] = part;
        let error = finish_against(parts);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.to_string(), text);
    }
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

/// A bowl with another bottom on each worker; rows of tables are touched by all.
pub const BOWL: usize = 96;

pub fn bowl(text: &str) -> Layout {
    match ["ssp", "asp"].iter().any(|name| text.starts_with(name)) {
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
    epochs: std::ops::Range<u64>,
    steps: u64,
) -> Vec<Vec<f32>> {
    let bottom = bottom(rank);
    let mut met = Vec::new();
    for epoch in epochs {
        for nth in 0..steps {
            let step = epoch * (steps + MEETING) + nth;
            let gradient: Vec<f32> = weights.iter().zip(&bottom).map(|(x, b)| x - b).collect();
            let mut sgd = Sgd(0.2 / (1.0 + (epoch * steps + nth) as f32 / 100.0));
            strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            strategy.ready(0..90, &gradient[..90]).unwrap();
            let touched = [vec![0, 1, 2]];
            let computed = Computed { weights, gradient: &gradient, touched: &touched };
            strategy.finish(computed, &mut sgd).unwrap();
        }
        let rate = 0.2 / (1.0 + ((epoch + 1) * steps) as f32 / 100.0);
        strategy.settle(weights, &mut Sgd(rate)).unwrap();
        strategy.meet(epoch * (steps + MEETING) + steps, &mut [weights.as_mut_slice()]).unwrap();
        met.push(weights.clone());
    }
    met
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

#[test]
fn all_meet_near_the_bottom_of_all() {
    const WORLD: usize = 4;
    let mut mean = vec![0.0f64; BOWL];
    for rank in 0..WORLD {
        mean.iter_mut().zip(bottom(rank)).for_each(|(mean, b)| *mean += f64::from(b) / WORLD as f64);
    }
    let size: f64 = mean.iter().map(|b| b * b).sum::<f64>().sqrt();
    for text in all() {
        let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(&text, mesh, &bowl(&text));
            let mut weights = vec![0.0; BOWL];
            descend(strategy.as_mut(), rank, &mut weights, 0..4, 250)
        });
        for of_rank in &done {
            assert!(*of_rank == done[0], "{text}");
        }
        let found = &done[0][3];
        let far: f64 =
            found.iter().zip(&mean).map(|(x, b)| (f64::from(*x) - b).powi(2)).sum::<f64>().sqrt() / size;
        // One value of 48 a step comes near, and so does one magnitude for all; feedback comes as near as its delay lets it; all others come nearer.
        let late = ["true", "top_k"].iter().any(|word| text.contains(word));
        let most = match text.as_str() {
            "gather" | "one_bit_adam(warmup=300)" | "dgc(ratio=0.3, momentum=0.5)" => 0.3,
            // Here a worker may send an epoch's gradients before another begins.
            "asp" => f64::INFINITY,
            _ if late => 0.06,
            _ => 0.02,
        };
        assert!(far <= most, "{text}: {far}");
    }
}

#[test]
fn what_goes_on_from_a_checkpoint_goes_on_as_if_it_had_not_stopped() {
    const WORLD: usize = 4;
    // Whose gradients come when they come.
    let steady = |text: &String| !["ssp", "asp"].contains(&text.as_str());
    for text in all().into_iter().filter(steady) {
        let whole = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(&text, mesh, &bowl(&text));
            let mut weights = vec![0.0; BOWL];
            let first = descend(strategy.as_mut(), rank, &mut weights, 0..1, 7).remove(0);
            let state = strategy.state();
            (first, state, descend(strategy.as_mut(), rank, &mut weights, 1..3, 7))
        });
        let states: Vec<State> = whole.iter().map(|(_, state, _)| state.clone()).collect();
        let gone_on = |world: usize| {
            run(meshes(Kind::Local, world, &options()), |mesh| {
                let rank = mesh.rank();
                let mut strategy = build(&text, mesh, &bowl(&text));
                strategy.resume(&states).unwrap();
                let mut weights = whole[0].0.clone();
                descend(strategy.as_mut(), rank, &mut weights, 1..3, 7)
            })
        };
        assert!(gone_on(WORLD)[0] == whole[0].2, "{text}");
        // Other workers go on too, alike.
        if ["dpsgd(shift_one", "dpsgd(graph"].iter().all(|some| !text.starts_with(some))
            && text != "hierarchical"
        {
            let done = gone_on(3);
            assert!(done.iter().all(|of_rank| *of_rank == done[0]), "{text}");
        }
    }
}

#[test]
fn relaxed_strategies_are_what_they_relax_where_nothing_is_relaxed() {
    let trained = |text: &str, world: usize| {
        let done = run(meshes(Kind::Local, world, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(text, mesh, &bowl(text));
            descend(strategy.as_mut(), rank, &mut vec![0.0; BOWL], 0..2, 12)
        });
        done.into_iter().next().unwrap().pop().unwrap()
    };
    let near = |a: &str, b: &str| {
        for world in [2, 4] {
            let (found, expected) = (trained(a, world), trained(b, world));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5, "{a}: {found}, {b}: {expected}");
            }
        }
    };
    near("local(every=1)", "sharded");
    near("slow_mo(every=4, beta=0, alpha=1)", "local(every=4)");
    near("hierarchical(every=4, group=1, inner=1)", "local(every=4)");
    near("hierarchical(every=4, group=2, inner=4)", "local(every=4)");
    near("dpsgd(complete)", "sharded");
    near("quasi_global(complete, momentum=0, nesterov=false)", "dpsgd(complete)");
    near("choco(by=plain, gamma=1)", "dpsgd");
    near("dcd(by=plain)", "dpsgd(order=mix_update)");
}

#[test]
fn workers_are_alike_when_they_have_met_and_not_before() {
    let after = |text: &'static str, steps: u64| {
        run(meshes(Kind::Local, 4, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(text, mesh, &bowl(text));
            let (mut weights, bottom) = (vec![0.0f32; BOWL], bottom(rank));
            for step in 0..steps {
                let gradient: Vec<f32> = weights.iter().zip(&bottom).map(|(x, b)| x - b).collect();
                strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
                let touched = [vec![0, 1, 2]];
                let computed = Computed { weights: &mut weights, gradient: &gradient, touched: &touched };
                strategy.finish(computed, &mut Sgd(0.1)).unwrap();
            }
            weights
        })
    };
    let alike = |all: &[Vec<f32>], pairs: &[(usize, usize)]| pairs.iter().all(|(a, b)| all[*a] == all[*b]);
    let pairs = [(0, 1), (0, 2), (0, 3)];
    assert!(alike(&after("local(every=3)", 3), &pairs) && alike(&after("local(every=3)", 6), &pairs));
    assert!(!alike(&after("local(every=3)", 4), &[(0, 1)]));
    let groups = after("hierarchical(every=4, group=2, inner=2)", 6);
    assert!(alike(&groups, &[(0, 1), (2, 3)]) && !alike(&groups, &[(1, 2)]));
    assert!(alike(&after("hierarchical(every=4, group=2, inner=2)", 8), &pairs));
}

#[test]
fn a_gradient_that_cannot_be_compressed_ends_all_at_once() {
    let start = Instant::now();
    let ends = run(meshes(Kind::Local, 3, &options()), |mesh| {
        let (rank, mesh) = (mesh.rank(), Arc::new(mesh));
        let layout = layout(1_000, &[], 100);
        let spec: Spec = "two_phase(sign, sign, feedback=true)".parse().unwrap();
        let mut strategy = spec.build(mesh.clone(), &layout, 5).unwrap();
        let gradient = vec![if rank == 1 { f32::NAN } else { 1.0 }; 1_000];
        strategy.begin(0, Totals { loss: 1.0, weight: 1.0 }).unwrap();
        strategy.ready(0..1_000, &gradient).unwrap();
        let computed = Computed { weights: &mut vec![0.0; 1_000], gradient: &gradient, touched: &[] };
        let e = strategy.finish(computed, &mut Sgd(0.1)).unwrap_err();
        mesh.abort(&e);
        e
    });
    assert!(start.elapsed() < Duration::from_secs(5));
    for e in ends {
        assert_eq!(e.kind(), ErrorKind::Diverged, "{e}");
        assert!(e.to_string().contains("to be compressed is NaN"), "{e}");
    }
}

#[test]
fn without_staleness_nothing_differs_by_a_bit() {
    for kind in KINDS {
        for world in [1, 2, 3, 4] {
            let trained = |text: &str| {
                run(meshes(kind, world, &options()), |mesh| {
                    let rank = mesh.rank();
                    let mut strategy = build(text, mesh, &layout(BOWL, &[], 1_000));
                    let mut weights = vec![0.0; BOWL];
                    descend_dense(strategy.as_mut(), rank, &mut weights, 20, &mut |_| ());
                    weights
                })
            };
            let (found, expected) = (trained("ssp(staleness=0)"), trained("sharded"));
            assert!(found == expected, "{world} workers over {kind:?}");
        }
    }
}

/// Goes down on one worker without tables; tells of every step before it is made.
fn descend_dense(
    strategy: &mut dyn Strategy,
    rank: usize,
    weights: &mut [f32],
    steps: u64,
    begins: &mut dyn FnMut(u64),
) {
    let bottom = bottom(rank);
    for step in 0..steps {
        begins(step);
        let gradient: Vec<f32> = weights.iter().zip(&bottom).map(|(x, b)| x - b).collect();
        strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
        strategy.ready(0..BOWL, &gradient).unwrap();
        let computed = Computed { weights, gradient: &gradient, touched: &[] };
        strategy.finish(computed, &mut Sgd(0.1)).unwrap();
    }
    strategy.settle(weights, &mut Sgd(0.1)).unwrap();
    strategy.meet(steps, &mut [weights]).unwrap();
}

#[test]
fn nobody_is_farther_ahead_than_its_staleness_lets_it() {
    const WORLD: usize = 3;
    const STEPS: u64 = 30;
    for (text, bound) in [("ssp(staleness=0)", Some(0)), ("ssp(staleness=2)", Some(2)), ("asp", None)] {
        let made: [AtomicU64; WORLD] = Default::default();
        let ahead = AtomicU64::new(0);
        let ends = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let rank = mesh.rank();
            let mut strategy = build(text, mesh, &layout(BOWL, &[], 1_000));
            let mut weights = vec![0.0; BOWL];
            descend_dense(strategy.as_mut(), rank, &mut weights, STEPS, &mut |step| {
                if rank == 1 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // What it has made is what it has at least sent.
                made[rank].store(step, Ordering::SeqCst);
                let slowest = made.iter().map(|made| made.load(Ordering::SeqCst)).min().unwrap();
                ahead.fetch_max(step - slowest, Ordering::SeqCst);
            });
            weights
        });
        assert!(ends.iter().all(|weights| *weights == ends[0]), "{text}");
        let ahead = ahead.into_inner();
        // A worker that has sent its last gradient has not yet said that it begins the next step.
        match bound {
            Some(bound) => assert!(ahead <= bound + 1, "{text}: {ahead} steps ahead"),
            None => assert!(ahead > 5, "{text}: {ahead} steps ahead"),
        }
    }
}

#[test]
fn who_waits_for_a_worker_that_died_hears_which() {
    let start = Instant::now();
    let ends = run(meshes(Kind::Tcp, 3, &options()), |mesh| {
        if mesh.rank() == 2 {
            mesh.abort(&Error::new(ErrorKind::Io, "its disk is full"));
            return None;
        }
        let layout = layout(BOWL, &[], 1_000);
        let mut strategy = build("ssp(staleness=1)", mesh, &layout);
        let mut made = 0;
        let e = loop {
            strategy.begin(made, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            let computed = Computed { weights: &mut [0.0; BOWL], gradient: &[1.0; BOWL], touched: &[] };
            match strategy.finish(computed, &mut Sgd(0.1)) {
                Ok(_) => made += 1,
                Err(e) => break e,
            }
        };
        assert!(made <= 1, "{made} steps");
        Some(e)
    });
    assert!(start.elapsed() < Duration::from_secs(10));
    for e in ends.into_iter().flatten() {
        assert!(
            e.kind() == ErrorKind::PeerLost && e.to_string().ends_with("rank 2: its disk is full"),
            "{e}"
        );
    }
}

#[test]
fn owners_of_slices_have_no_tables() {
    let layout = layout(0, &[TableLayout { range: 0..6, rows: 2, dims: 3 }], 64);
    run(meshes(Kind::Local, 2, &options()), |mesh| {
        let spec: Spec = "asp".parse().unwrap();
        let e = spec.build(Arc::new(mesh), &layout, 5).err().unwrap().to_string();
        assert_eq!(e, "the strategy asp(every=1): a network with 1 embedding tables, expected none");
    });
}
