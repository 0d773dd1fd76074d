//! What every sum of rows promises, over every fabric.

mod feedback;
mod refused;
mod sketch;

use std::collections::BTreeMap;

use firesteel_comm::reduce::Feedback;
use firesteel_comm::sparse::{Dense, Gather, Parallax, Rows, S2, SumRows, Table, Touched, Union};
use firesteel_comm::{Fabric, Key, Mesh};

use crate::compress::{normal, place};
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

const KEY: Key = Key { step: 0, bucket: 0, phase: 0 };

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
