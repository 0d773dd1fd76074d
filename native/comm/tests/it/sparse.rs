//! What every sum of rows promises, over every fabric.

use std::collections::BTreeMap;

use bytes::Bytes;
use firesteel_comm::reduce::{Feedback, State};
use firesteel_comm::sparse::{Dense, Gather, Parallax, Rows, S2, SumRows, Table, Touched, Union};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::{Error, Kind as ErrorKind};

use crate::compress::{normal, place, square};
use crate::world::{Kind, meshes, options, run};

/// A sum of rows, by name, made anew on each worker.
struct Case {
    name: &'static str,
    make: fn() -> Box<dyn SumRows>,
    /// Whether sums are those of plain numbers.
    exact: bool,
}

fn cases() -> Vec<Case> {
    fn case(name: &'static str, exact: bool, make: fn() -> Box<dyn SumRows>) -> Case {
        Case { name, make, exact }
    }
    vec![
        case("gather", true, || Box::new(Gather)),
        case("union", true, || Box::new(Union)),
        case("dense", true, || Box::new(Dense)),
        case("parallax", true, || Box::new(Parallax)),
        case("s2 of one row", false, || s2(1, 0.2, Feedback::Off)),
        case("s2 of three rows", false, || s2(3, 0.25, Feedback::Off)),
        case("s2 that is never shorter", true, || s2(3, 1.0, Feedback::Off)),
        case("s2, kept", false, || s2(1, 0.2, Feedback::On)),
    ]
}

const SEED: u64 = 11;

fn s2(rows: usize, ratio: f64, feedback: Feedback) -> Box<dyn SumRows> {
    Box::new(S2::new(rows, ratio, feedback, SEED).unwrap())
}

/// Which rows a worker touches.
#[derive(Clone, Copy, Debug)]
enum Touching {
    None,
    /// About a quarter, another one on each worker; every third worker none.
    Some,
    One,
    All,
}

const ALL: [Touching; 4] = [Touching::None, Touching::Some, Touching::One, Touching::All];

fn table(rows: usize, dims: usize) -> Table {
    Table::new(rows, dims).unwrap()
}

fn rows(table: Table, touching: Touching, rank: usize, step: u64) -> Rows {
    let draw = place(step, rank).own();
    let touched = |row: &u32| match touching {
        Touching::None => false,
        Touching::Some => rank % 3 != 1 && draw.word(u64::from(*row)).is_multiple_of(4),
        Touching::One => *row as usize == table.rows() / 2,
        Touching::All => true,
    };
    let rows: Vec<u32> = (0..table.rows() as u32).filter(touched).collect();
    let values = normal(rows.len() * table.dims(), 1_000 * step + rank as u64);
    Rows { rows, values }
}

/// The sums in f64, by row.
fn expected(table: Table, touching: Touching, world: usize, step: u64) -> BTreeMap<u32, Vec<f64>> {
    let mut sums = BTreeMap::new();
    for rank in 0..world {
        let Rows { rows, values } = rows(table, touching, rank, step);
        for (row, values) in rows.iter().zip(values.chunks(table.dims())) {
            let sum = sums.entry(*row).or_insert_with(|| vec![0.0; table.dims()]);
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }
    sums
}

fn bits(rows: &Rows) -> (Vec<u32>, Vec<u32>) {
    (rows.rows.clone(), rows.values.iter().map(|value| value.to_bits()).collect())
}

/// Sums on one worker, and sees that it sends what it said.
fn sum(
    mesh: &Mesh,
    case: &Case,
    made: &mut dyn SumRows,
    (table, touching): (Table, Touching),
    step: u64,
) -> Rows {
    let (rank, world) = (mesh.rank(), mesh.world());
    let mine = rows(table, touching, rank, step);
    let any = expected(table, touching, world, step).len();
    let said = made.bytes(table, Touched { mine: mine.rows.len(), any }, rank, world);
    let before = mesh.sent();
    let sum = made.sum(mesh, Key::new(step, 0, 0), table, mine).unwrap();
    let sent = mesh.sent() - before;
    assert_eq!(sent, said, "{}, {table:?}, {touching:?}, rank {rank} of {world}", case.name);
    sum
}

fn check(case: &Case, found: &Rows, (table, touching): (Table, Touching), world: usize, step: u64) {
    let expected = expected(table, touching, world, step);
    let context = || format!("{}, {table:?}, {touching:?}, {world}", case.name);
    let touched: Vec<u32> = expected.keys().copied().collect();
    assert_eq!(found.rows, touched, "{}", context());
    assert_eq!(found.values.len(), touched.len() * table.dims(), "{}", context());
    if case.exact || world == 1 {
        for (found, expected) in found.values.iter().zip(expected.values().flatten()) {
            let most = 1e-6 * world as f64 * expected.abs().max(1.0);
            let apart = (f64::from(*found) - expected).abs();
            assert!(apart <= most, "{}: {found}, expected {expected}", context());
        }
    }
}

#[test]
fn all_end_with_the_same_rows_and_the_bytes_that_were_said() {
    let tables = [table(0, 3), table(1, 1), table(7, 16), table(64, 3), table(201, 1), table(300, 16)];
    let steps: Vec<(Table, Touching)> =
        tables.into_iter().flat_map(|table| ALL.map(|touching| (table, touching))).collect();
    for (kind, worlds) in [(Kind::Local, 1..10), (Kind::Tcp, 2..5)] {
        for world in worlds {
            let cases = cases();
            let done = run(meshes(kind, world, &options()), |mesh| {
                let one = |(nth, case): (usize, &Case)| {
                    let first = (nth * steps.len()) as u64;
                    let each = steps.iter().enumerate();
                    each.map(|(at, step)| sum(&mesh, case, (case.make)().as_mut(), *step, first + at as u64))
                        .collect::<Vec<Rows>>()
                };
                cases.iter().enumerate().map(one).collect::<Vec<_>>()
            });
            for (nth, case) in cases.iter().enumerate() {
                for (at, step) in steps.iter().enumerate() {
                    let found = &done[0][nth][at];
                    check(case, found, *step, world, (nth * steps.len() + at) as u64);
                    for of_rank in &done {
                        let context = (case.name, kind, world, step);
                        assert_eq!(bits(&of_rank[nth][at]), bits(found), "{context:?}");
                    }
                }
            }
        }
    }
}

/// A sum on the ranks of three beside rank 1, which sends what it likes; the first error that is about its part.
fn against(made: fn() -> Box<dyn SumRows>, touching: Touching, fake: impl Fn(&Mesh) + Sync) -> String {
    let done = run(meshes(Kind::Local, 3, &options()), |mesh| {
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

const KEY: Key = Key { step: 0, bucket: 0, phase: 0 };

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

#[test]
fn rows_that_cancel_are_given_back_unless_the_table_is_dense() {
    for case in cases().into_iter().filter(|case| case.exact) {
        let done = run(meshes(Kind::Local, 2, &options()), |mesh| {
            let sign = if mesh.rank() == 0 { 1.0 } else { -1.0 };
            let mine = Rows { rows: vec![2, 5], values: vec![sign, sign, sign, 3.0] };
            (case.make)().sum(&mesh, KEY, table(9, 2), mine).unwrap()
        });
        let expected = match case.name {
            "dense" => Rows { rows: vec![5], values: vec![0.0, 6.0] },
            _ => Rows { rows: vec![2, 5], values: vec![0.0, 0.0, 0.0, 6.0] },
        };
        assert_eq!(done, [expected.clone(), expected], "{}", case.name);
    }
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

/// Normal numbers, the same on both of two workers; of each `thin`, the others are 0.
fn thinned(table: Table, step: u64, thin: usize) -> Rows {
    let kept = |(i, value): (usize, f32)| if i.is_multiple_of(thin) { value } else { 0.0 };
    let values = normal(table.len(), step).into_iter().enumerate().map(kept).collect();
    Rows { rows: (0..table.rows() as u32).collect(), values }
}

/// The relative error of the sums of two workers in Euclidean norms, the root of its mean square over many steps.
fn error(sketch_rows: usize, cells: f64, thin: usize) -> f64 {
    const STEPS: u64 = 1_000;
    let table = table(40, 16);
    let done = run(meshes(Kind::Local, 2, &options()), |mesh| {
        let mut made = s2(sketch_rows, cells, Feedback::Off);
        let one = |step| {
            let mine = thinned(table, step, thin);
            let expected: Vec<f64> = mine.values.iter().map(|value| 2.0 * f64::from(*value)).collect();
            let found = made.sum(&mesh, Key::new(step, 0, 0), table, mine).unwrap();
            let apart = found.values.iter().zip(&expected).map(|(f, e)| f64::from(*f) - e);
            square(apart) / square(expected.iter().copied())
        };
        ((0..STEPS).map(one).sum::<f64>() / STEPS as f64).sqrt()
    });
    done[0]
}

#[test]
fn errors_are_as_documented() {
    let documented = [
        (1, [[2.1, 1.5, 1.2], [2.3, 1.6, 1.2], [2.4, 1.6, 1.3]]),
        (16, [[2.2, 1.6, 1.5], [1.8, 1.0, 0.7], [1.9, 0.9, 0.6]]),
    ];
    for (thin, by_rows) in documented {
        for (sketch_rows, by_cells) in [1, 3, 5].into_iter().zip(by_rows) {
            for (cells, expected) in [0.25, 0.5, 0.75].into_iter().zip(by_cells) {
                let found: f64 = error(sketch_rows, cells, thin);
                let context = format!("{sketch_rows} rows, {cells}, 1 of {thin}");
                assert!((found - expected).abs() < 0.06, "{context}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_sketch_without_collisions_is_exact() {
    // Four values of 4096 in rows of 800 cells: that three of five cells are shared anywhere is once in 200 draws.
    let table = table(256, 16);
    let done = run(meshes(Kind::Local, 2, &options()), |mesh| {
        let mut mine = Rows { rows: (0..256).collect(), values: vec![0.0; table.len()] };
        [5, 700, 1900, 4000].iter().for_each(|i| mine.values[i + mesh.rank()] = (*i + mesh.rank()) as f32);
        let mut made = s2(5, 0.98, Feedback::Off);
        (mine.clone(), made.sum(&mesh, KEY, table, mine).unwrap())
    });
    let expected: Vec<f32> =
        done[0].0.values.iter().zip(&done[1].0.values).map(|(one, other)| one + other).collect();
    assert_eq!(done[0].1.values, expected);
    assert_eq!(
        s2(5, 0.98, Feedback::Off).bytes(table, Touched { mine: 256, any: 256 }, 0, 2),
        32 + 4 * 4_015
    );
}

#[test]
fn one_row_is_right_in_the_mean() {
    const STEPS: u64 = 4_000;
    let table = table(10, 2);
    let done = run(meshes(Kind::Local, 2, &options()), |mesh| {
        let mut made = s2(1, 0.5, Feedback::Off);
        let mut sum = vec![0.0f64; table.len()];
        for step in 0..STEPS {
            let mine = rows(table, Touching::All, mesh.rank(), 0);
            let found = made.sum(&mesh, Key::new(step, 0, 0), table, mine).unwrap();
            sum.iter_mut().zip(found.values).for_each(|(sum, value)| *sum += f64::from(value));
        }
        sum
    });
    let expected: Vec<f64> = expected(table, Touching::All, 2, 0).into_values().flatten().collect();
    // Five deviations of a mean of so many, each of a variance of ‖x‖²/c.
    let most = 5.0 * (square(expected.iter().copied()) / 10.0 / STEPS as f64).sqrt();
    for (sum, expected) in done[0].iter().zip(&expected) {
        let mean = sum / STEPS as f64;
        assert!((mean - expected).abs() < most, "{mean}, expected {expected} within {most}");
    }
}

#[test]
fn what_is_shorter_than_a_sketch_is_sent_as_it_is() {
    let table = table(300, 16);
    run(meshes(Kind::Local, 3, &options()), |mesh| {
        let mine = rows(table, Touching::Some, mesh.rank(), 5);
        let union = Union.sum(&mesh, Key::new(0, 0, 0), table, mine.clone()).unwrap();
        let share = union.rows.len() as f64 / 300.0;
        let through = |step, ratio| {
            let mut made = s2(1, ratio, Feedback::Off);
            made.sum(&mesh, Key::new(step, 0, 0), table, mine.clone()).unwrap()
        };
        assert_eq!(bits(&through(1, share)), bits(&union));
        let sketched = through(2, share - 0.001);
        assert_eq!(sketched.rows, union.rows);
        assert_ne!(sketched.values, union.values);
    });
}

/// Steps of all kinds, one after the other; the last one touches what the others did not.
fn touching(step: u64) -> Touching {
    [Touching::Some, Touching::All, Touching::One, Touching::None][step as usize % 4]
}

fn steps(mesh: &Mesh, made: &mut dyn SumRows, table: Table, steps: std::ops::Range<u64>) -> Vec<Rows> {
    let one = |step| {
        let mine = rows(table, touching(step), mesh.rank(), step);
        made.sum(mesh, Key::new(step, 0, 0), table, mine).unwrap()
    };
    steps.map(one).collect()
}

/// What a state says is left, by row, added to `sum`.
fn owed(state: &State, dims: usize, sum: &mut BTreeMap<u32, Vec<f64>>, sign: f64) {
    let [Some(numbers), Some(values)] = ["rows of left", "left"].map(|name| state.get(name)) else { return };
    for (number, values) in numbers.chunks(2).zip(values.chunks(dims)) {
        let row = number[0] as u32 * 65_536 + number[1] as u32;
        let sum = sum.entry(row).or_insert_with(|| vec![0.0; dims]);
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += sign * f64::from(*value));
    }
}

/// Σ of all that was given out, and what is left, is Σ of all that was put in.
#[test]
fn with_feedback_nothing_is_lost() {
    const STEPS: u64 = 200;
    let table = table(61, 3);
    for world in [2, 3, 5] {
        let done = run(meshes(Kind::Local, world, &options()), |mesh| {
            let mut made = s2(1, 0.2, Feedback::On);
            (steps(&mesh, made.as_mut(), table, 0..STEPS), made.state())
        });
        let mut balance = vec![0.0f64; table.len()];
        let mut add = |row: u32, values: &[f64], sign: f64| {
            let balance = &mut balance[row as usize * 3..][..3];
            balance.iter_mut().zip(values).for_each(|(sum, value)| *sum += sign * value);
        };
        for step in 0..STEPS {
            expected(table, touching(step), world, step).iter().for_each(|(row, sum)| add(*row, sum, 1.0));
            let given = &done[0].0[step as usize];
            for (row, values) in given.rows.iter().zip(given.values.chunks(3)) {
                add(*row, &values.iter().copied().map(f64::from).collect::<Vec<f64>>(), -1.0);
            }
        }
        let mut left = BTreeMap::new();
        done.iter().for_each(|(_, state)| owed(state, 3, &mut left, 1.0));
        assert!(!left.is_empty() && !left.contains_key(&61));
        left.iter().for_each(|(row, left)| add(*row, left, -1.0));
        balance.iter().for_each(|balance| assert!(balance.abs() < 1e-3, "{world}: {balance}"));
    }
}

#[test]
fn a_checkpoint_goes_on_as_if_it_had_not_stopped() {
    let table = table(61, 3);
    for case in cases() {
        let begun = |until| {
            run(meshes(Kind::Local, 3, &options()), |mesh| {
                let mut made = (case.make)();
                (steps(&mesh, made.as_mut(), table, 0..until), made.state())
            })
        };
        let whole: Vec<_> = begun(12).into_iter().map(|(all, _)| all[6..].to_vec()).collect();
        let states: Vec<State> = begun(6).into_iter().map(|(_, state)| state).collect();
        assert_eq!(states[0].is_empty(), !case.name.contains("kept"), "{}", case.name);
        let gone_on = run(meshes(Kind::Local, 3, &options()), |mesh| {
            let mut made = (case.make)();
            made.resume(&states, mesh.rank(), 3).unwrap();
            steps(&mesh, made.as_mut(), table, 6..12)
        });
        assert_eq!(gone_on, whole, "{}", case.name);
        // Among more or fewer, all together owe the same.
        for world in [1, 2, 5] {
            let mut balance = BTreeMap::new();
            states.iter().for_each(|state| owed(state, 3, &mut balance, 1.0));
            for rank in 0..world {
                let mut made = (case.make)();
                made.resume(&states, rank, world).unwrap();
                owed(&made.state(), 3, &mut balance, -1.0);
            }
            assert!(balance.values().flatten().all(|value| value.abs() < 1e-5), "{}: {balance:?}", case.name);
        }
    }
}

#[test]
fn rows_that_no_f32_holds_are_kept_apart() {
    let table = table((1 << 24) + 9, 1);
    let done = run(meshes(Kind::Local, 2, &options()), |mesh| {
        let mut made = s2(1, 1e-7, Feedback::On);
        let rows: Vec<u32> = (0..8).map(|i| (1 << 24) + i).collect();
        let mine = Rows { values: normal(8, mesh.rank() as u64), rows };
        made.sum(&mesh, KEY, table, mine).unwrap();
        made.state()
    });
    let mut left = BTreeMap::new();
    owed(&done[0], 1, &mut left, 1.0);
    assert_eq!(left.into_keys().collect::<Vec<u32>>(), (0..8).map(|i| (1 << 24) + i).collect::<Vec<u32>>());
    let mut resumed = s2(1, 1e-7, Feedback::On);
    resumed.resume(&done, 0, 2).unwrap();
    assert_eq!(resumed.state(), done[0]);
}

#[test]
fn states_of_something_else_are_refused() {
    let refusal = |made: &mut dyn SumRows, entries: &[(&str, &[f32])]| {
        let state: State =
            entries.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect();
        let e = made.resume(&[state], 0, 1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        e.to_string()
    };
    let e = refusal(&mut Gather, &[("left", &[1.0])]);
    assert_eq!(e, "a state with 'left', and nothing goes on in Gather");
    let e = refusal(s2(1, 0.2, Feedback::Off).as_mut(), &[("left", &[1.0])]);
    assert_eq!(e, "a state with 'left', and nothing goes on in s2");
    let mut kept = s2(1, 0.2, Feedback::On);
    let e = refusal(kept.as_mut(), &[("left", &[1.0]), ("momentum", &[])]);
    assert_eq!(e, r#"a state with ["left", "momentum"], expected ["left", "rows of left"]"#);
    let rows: [(&[f32], &[f32]); 9] = [
        (&[], &[]),
        (&[0.0, 1.0, 0.0], &[1.0]),
        (&[0.0, 1.5], &[1.0]),
        (&[-1.0, 1.0], &[1.0]),
        (&[65_536.0, 1.0], &[1.0]),
        (&[f32::NAN, 1.0], &[1.0]),
        (&[0.0, 1.0, 0.0, 1.0], &[1.0, 1.0]),
        (&[0.0, 1.0, 0.0, 2.0], &[1.0, 1.0, 1.0]),
        (&[0.0, 1.0], &[]),
    ];
    for (numbers, values) in rows {
        let e = refusal(kept.as_mut(), &[("rows of left", numbers), ("left", values)]);
        let (values, numbers) = (values.len(), numbers.len());
        assert_eq!(e, format!("a state of {values} values of rows by {numbers} numbers, which are no rows"));
    }
    let of = |values: &[f32]| {
        State::from([("left".into(), values.to_vec()), ("rows of left".into(), vec![0.0, 3.0])])
    };
    let e = kept.resume(&[of(&[1.0]), of(&[1.0, 2.0])], 0, 3).unwrap_err();
    assert_eq!(
        (e.kind(), e.to_string().as_str()),
        (ErrorKind::Corrupt, "a state of rows of 1, and another of 2")
    );
    // Another table.
    kept.resume(&[of(&[1.0, 2.0])], 0, 1).unwrap();
    let alone = meshes(Kind::Local, 1, &options()).remove(0);
    for other in [table(4, 1), table(3, 2)] {
        let e = kept.sum(&alone, KEY, other, Rows::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Internal);
        assert!(e.to_string().ends_with("and there were 4 rows or more of 2"), "{e}");
    }
    kept.sum(&alone, KEY, table(4, 2), Rows::default()).unwrap();
}

#[test]
fn a_step_that_fails_changes_nothing() {
    let table = table(61, 3);
    run(meshes(Kind::Local, 2, &options()), |mesh| {
        let mut made = s2(1, 0.2, Feedback::On);
        steps(&mesh, made.as_mut(), table, 0..4);
        let before = made.state();
        let mut bad = rows(table, Touching::All, mesh.rank(), 4);
        bad.values[7] = f32::INFINITY;
        let e = made.sum(&mesh, Key::new(4, 0, 0), table, bad).unwrap_err();
        assert_eq!((e.kind(), made.state()), (ErrorKind::Diverged, before));
    });
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

/// Gradients of ½‖x − b‖² for another b on each worker, at rows that come and go: SGD finds the mean of all b.
#[test]
fn what_is_sketched_with_feedback_converges() {
    const WORLD: usize = 3;
    const STEPS: u64 = 3_000;
    let table = table(16, 4);
    let target = |rank| rows(table, Touching::All, rank, 7).values;
    for (name, made, most) in [
        ("exact", (|| Box::new(Union) as Box<dyn SumRows>) as fn() -> Box<dyn SumRows>, 1e-3),
        ("kept", || s2(1, 0.4, Feedback::On), 0.02),
    ] {
        let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let (mut made, target) = (made(), target(mesh.rank()));
            let mut x = vec![0.0f32; table.len()];
            for step in 0..STEPS {
                let touched: Vec<u32> =
                    (0..16).filter(|row| !(u64::from(*row) + step).is_multiple_of(3)).collect();
                let of = |row: &u32| (*row as usize * 4..).take(4);
                let values = touched.iter().flat_map(of).map(|i| x[i] - target[i]).collect();
                let mine = Rows { rows: touched, values };
                let sum = made.sum(&mesh, Key::new(step, 0, 0), table, mine).unwrap();
                let rate = 0.2 / (1.0 + step as f32 / 50.0) / WORLD as f32;
                let at = sum.rows.iter().flat_map(of);
                at.zip(sum.values).for_each(|(i, gradient)| x[i] -= rate * gradient);
            }
            x
        });
        let sum = expected(table, Touching::All, WORLD, 7).into_values().flatten();
        let mean: Vec<f64> = sum.map(|sum| sum / WORLD as f64).collect();
        let far = square(done[0].iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean)).sqrt();
        let size = square(mean.iter().copied()).sqrt();
        assert!(far <= most * size, "{name}: {far} of {size}");
    }
}
