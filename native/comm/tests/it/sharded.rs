//! The sharded strategy against a plain loop over all weights.

use std::sync::Arc;

use bytes::Bytes;
use firesteel_comm::strategy::{Sharded, TableLayout, Totals, Update};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::{Error, Kind as ErrorKind};

use crate::world::{KINDS, meshes, options, run};

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
}

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
fn train(mesh: Mesh, ready: usize) -> (Vec<f32>, Vec<Totals>) {
    let rank = mesh.rank();
    let mut sharded = Sharded::new(Arc::new(mesh), DENSE, &tables(), 300).unwrap();
    let mut weights = initial();
    let mut momentum = Momentum(vec![0.0; sharded.owned_len()]);
    let mut seen = Vec::new();
    for step in 0..STEPS {
        let gradient = gradient(rank, step);
        sharded.begin(step, totals(step));
        for start in (0..DENSE).step_by(ready) {
            let range = start..(start + ready).min(DENSE);
            sharded.ready(range.clone(), &gradient[range]).unwrap();
        }
        seen.push(sharded.finish(&mut weights, &gradient, &touched(rank, step), &mut momentum).unwrap());
    }
    (weights, seen)
}

#[test]
fn every_world_ends_with_the_weights_of_a_plain_loop() {
    for kind in KINDS {
        for world in 1..=5 {
            let expected = reference(world);
            let moved = expected.iter().zip(initial()).filter(|(a, b)| (*a - b).abs() > 1e-3).count();
            assert!(moved > LEN * 9 / 10, "{moved} of {LEN} weights move enough to be seen");
            let done = run(meshes(kind, world, &options()), |mesh| train(mesh, 130));
            for (rank, (weights, totals)) in done.into_iter().enumerate() {
                // All numbers are exact unless the scale, 1/(16·world), is not.
                let most = if world.is_power_of_two() { 0.0 } else { 1e-5 };
                for (i, (found, expected)) in weights.iter().zip(&expected).enumerate() {
                    let far = (found - expected).abs();
                    assert!(far <= most, "{kind:?}: weight {i} at rank {rank} of {world} is {far} away");
                }
                assert_eq!(totals[0], Totals { loss: 3.0 * world as f64, weight: 16.0 * world as f64 });
                assert_eq!(totals[2], Totals::default());
            }
        }
    }
}

#[test]
fn all_ranks_hold_the_same_bits_however_gradients_become_ready() {
    let done: Vec<_> = [1, 16, 999, DENSE]
        .into_iter()
        .flat_map(|ready| run(meshes(KINDS[0], 3, &options()), move |mesh| train(mesh, ready).0))
        .collect();
    assert!(done.iter().all(|weights| *weights == done[0]));
}

#[test]
fn a_network_of_tables_alone_trains_too() {
    let table = TableLayout { range: 0..6, rows: 2, dims: 3 };
    let done = run(meshes(KINDS[0], 2, &options()), |mesh| {
        let rank = mesh.rank();
        let mut sharded = Sharded::new(Arc::new(mesh), 0, std::slice::from_ref(&table), 64).unwrap();
        let mut momentum = Momentum(vec![0.0; sharded.owned_len()]);
        let mut weights = vec![1.0; 6];
        sharded.begin(0, Totals { loss: 1.0, weight: 1.0 });
        sharded.ready(0..0, &[]).unwrap();
        sharded.finish(&mut weights, &[2.0; 6], &[vec![rank as u32]], &mut momentum).unwrap();
        weights
    });
    assert_eq!(done, [vec![0.75; 6], vec![0.75; 6]]);
}

#[test]
fn unfinished_and_disordered_gradients_are_refused() {
    run(meshes(KINDS[0], 2, &options()), |mesh| {
        let mut sharded = Sharded::new(Arc::new(mesh), 100, &[], 64).unwrap();
        sharded.begin(0, Totals { loss: 1.0, weight: 1.0 });
        let e = sharded.ready(50..100, &[0.0; 50]).unwrap_err().to_string();
        assert_eq!(e, "gradient of 50..100 follows 0");
        let e = sharded.finish(&mut [0.0; 100], &[0.0; 100], &[], &mut Momentum(vec![0.0; 64])).unwrap_err();
        assert_eq!(e.to_string(), "0 of 2 buckets are ready at the step's end");
    });
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
        let mut sharded = Sharded::new(Arc::new(mesh), 32, std::slice::from_ref(&table), 64).unwrap();
        let mut momentum = Momentum(vec![0.0; sharded.owned_len()]);
        sharded.begin(0, Totals { loss: 1.0, weight: 1.0 });
        sharded.ready(0..32, &[1.0; 32]).unwrap();
        Some(sharded.finish(&mut [0.0; 40], &[1.0; 40], &[vec![0, 1, 2]], &mut momentum))
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
