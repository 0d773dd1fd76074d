//! What a strategy refuses: parts that make no sense, gradients that are no numbers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_comm::strategy::{Computed, Spec, TableLayout, Totals};
use firesteel_comm::{Fabric, Key};
use firesteel_error::{Error, Kind as ErrorKind};

use super::exact::Momentum;
use super::{Sgd, build, layout};
use crate::world::{KINDS, Kind, meshes, options, run};

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
