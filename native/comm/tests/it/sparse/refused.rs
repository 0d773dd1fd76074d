//! Rows that are none, by who sent them and where they are given.

use bytes::Bytes;
use firesteel_comm::reduce::Feedback;
use firesteel_comm::sparse::{Dense, Gather, Parallax, Rows, S2, SumRows, Table, Union};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::{Error, Kind as ErrorKind};

use super::{Case, KEY, SEED, Touching, cases, rows, s2, table};
use crate::world::{Kind, meshes, options, run};

/// A sum on the ranks of three beside rank 1, which sends what it likes; the first error that is about its part.
fn against(made: fn() -> Box<dyn SumRows>, touching: Touching, fake: impl Fn(&Mesh) + Sync) -> String {
    // Threads of one process send no vectors.
    let done = run(meshes(Kind::Tcp, 3, &options()), |mesh| {
        if mesh.rank() == 1 {
            fake(&mesh);
            return None;
        }
        let table = table(20, 2);
        let done = made().sum(&mesh, Key::new(0, 0, 0), table, rows(table, touching, mesh.rank(), 0));
        done.inspect_err(|e| mesh.abort(e)).err()
    });
    // What one of them finds wrong the other hears of.
    let corrupt = |e: &Error| e.kind() == ErrorKind::Corrupt && !e.to_string().contains(" lost rank ");
    done.into_iter().flatten().find(corrupt).map_or_else(String::new, |e| e.to_string())
}

fn words(words: &[u32]) -> Bytes {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn rows_that_are_none_are_refused_by_the_rank_that_sent_them() {
    let refusal = |part: Bytes| {
        against(
            || Box::new(Gather),
            Touching::Some,
            |mesh| drop(mesh.broadcast(KEY, part.clone()).unwrap().wait()),
        )
    };
    assert_eq!(refusal(words(&[1; 4])), "rank 1 sent 16 bytes of rows, expected a multiple of 12");
    assert_eq!(refusal(words(&[20, 0, 0])), "rank 1 sent row 20 of a table of 20 rows");
    assert_eq!(refusal(words(&[u32::MAX, 0, 0])), "rank 1 sent row 4294967295 of a table of 20 rows");
    let falls = "rank 1 sent row 4 after 5, expected a higher one";
    assert_eq!(refusal(words(&[5, 4, 0, 0, 0, 0])), falls);
    let twice = "rank 1 sent row 5 after 5, expected a higher one";
    assert_eq!(refusal(words(&[5, 5, 0, 0, 0, 0])), twice);
    assert_eq!(refusal(words(&[4, 5, 0, 0, 0, 0])), "");
}

#[test]
fn sums_and_tables_that_are_none_are_refused_by_the_rank_that_sent_them() {
    let gathered = against(
        || Box::new(Parallax),
        Touching::Some,
        |mesh| drop(mesh.exchange(KEY, vec![(0, words(&[20, 0, 0]))], &[]).unwrap().wait()),
    );
    assert_eq!(gathered, "rank 1 sent row 20 of a table of 20 rows");
    // Rank 0 is the one that sums.
    let done = run(meshes(Kind::Local, 2, &options()), |mesh| {
        if mesh.rank() == 0 {
            _ = mesh.exchange(KEY, vec![], &[1]).unwrap().wait();
            _ = mesh
                .exchange(KEY.later(1).unwrap(), vec![(1, words(&[3, 2, 0, 0, 0, 0]))], &[])
                .unwrap()
                .wait();
            return String::new();
        }
        Parallax.sum(&mesh, KEY, table(20, 2), Rows::default()).unwrap_err().to_string()
    });
    assert_eq!(done[1], "rank 0 sent row 2 after 3, expected a higher one");
    let dense = against(
        || Box::new(Dense),
        Touching::Some,
        |mesh| drop(mesh.shuffle(KEY, vec![Bytes::from_static(&[0; 9]); 3]).unwrap().wait()),
    );
    assert_eq!(dense, "rank 1 sent 9 bytes, expected 56");
}

/// What rank 1 sends to each, and then to all, and then of the vector.
fn unions(to: [&[u8]; 3], all: &[u8], touching: Touching) -> String {
    against(
        || Box::new(Union),
        touching,
        |mesh| {
            let parts = to.map(Bytes::copy_from_slice).to_vec();
            _ = mesh.shuffle(KEY, parts).unwrap().wait();
            _ = mesh.broadcast(KEY.later(1).unwrap(), Bytes::copy_from_slice(all)).unwrap().wait();
            _ = mesh.shuffle(KEY.later(2).unwrap(), vec![Bytes::from_static(&[0; 9]); 3]).unwrap().wait();
        },
    )
}

#[test]
fn bitmaps_that_are_none_are_refused_by_the_rank_that_sent_them() {
    // Of three bytes for twenty rows each owns one.
    let touches = "reading which rows rank 1 touches: bitmap: ";
    let united = "reading which rows rank 1 united: bitmap: ";
    let none = Touching::None;
    let long = unions([&[0, 0], &[0], &[0]], &[0], none);
    assert_eq!(long, format!("{touches}a payload of 2 bytes, expected 1"));
    let beyond = unions([&[0], &[0], &[16]], &[0], none);
    assert_eq!(beyond, format!("{touches}bits beyond the end, expected 4"));
    let short = unions([&[0], &[0], &[0]], &[], none);
    assert_eq!(short, format!("{united}a payload of 0 bytes, expected 1"));
    let left_out = unions([&[0], &[0], &[0]], &[0], Touching::All);
    assert!(left_out.starts_with("rank 1 left out rows that rank "), "{left_out}");
    let other_vector = unions([&[0], &[0], &[0]], &[0xff], none);
    assert_eq!(other_vector, "rank 1 sent 9 bytes, expected 24");
}

#[test]
fn rows_that_are_none_are_refused_where_they_are_given() {
    let alone = meshes(Kind::Local, 1, &options()).remove(0);
    let refusal = |made: &Case, rows: &[u32], values: usize| {
        let mine = Rows { rows: rows.to_vec(), values: vec![1.0; values] };
        let e = (made.make)().sum(&alone, KEY, table(9, 2), mine).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        e.to_string()
    };
    for case in cases() {
        assert_eq!(refusal(&case, &[1, 2], 5), "5 values of 2 rows, expected 4");
        assert_eq!(refusal(&case, &[2, 1], 4), "row 1 after 2, expected a higher one");
        assert_eq!(refusal(&case, &[1, 9], 4), "row 9 of a table of 9 rows");
    }
    for (rows, dims) in [(1, 0), (0, 0), ((1 << 32) + 1, 1), (1 << 32, 1 << 32), (0, usize::MAX)] {
        let e = Table::new(rows, dims).unwrap_err();
        let expected = format!(
            "a table of {rows} rows of {dims}, expected at most 2³² of at least 1 value, within memory"
        );
        assert_eq!(e.to_string(), expected);
    }
    assert_eq!(table(1 << 32, 4).len(), 1 << 34);
}

#[test]
fn parameters_of_a_sketch_are_named() {
    let text = |rows, ratio, feedback| {
        let e = S2::new(rows, ratio, feedback, SEED).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        e.to_string()
    };
    assert_eq!(text(0, 0.2, Feedback::Off), "s2: rows is 0, expected from 1 to 64");
    assert_eq!(text(65, 0.2, Feedback::Off), "s2: rows is 65, expected from 1 to 64");
    assert_eq!(text(3, 0.0, Feedback::Off), "s2: ratio is 0, expected above 0 and at most 1");
    assert_eq!(text(3, 1.1, Feedback::Off), "s2: ratio is 1.1, expected above 0 and at most 1");
    let kept = text(3, 0.2, Feedback::On);
    assert!(kept.starts_with("s2: error feedback with 3 rows, expected 1"), "{kept}");
}

#[test]
fn sketches_of_another_length_are_refused_by_the_rank_that_sent_them() {
    let e = against(
        || s2(1, 0.5, Feedback::Off),
        Touching::All,
        |mesh| {
            _ = mesh.shuffle(KEY, vec![Bytes::from_static(&[0]); 3]).unwrap().wait();
            _ = mesh.broadcast(KEY.later(1).unwrap(), Bytes::from_static(&[0xff])).unwrap().wait();
            _ = mesh.shuffle(KEY.later(2).unwrap(), vec![Bytes::from_static(&[0; 9]); 3]).unwrap().wait();
        },
    );
    // A third of 20 cells.
    assert_eq!(e, "rank 1 sent 9 bytes, expected 28");
}
