//! How far sums by sketches are off.

use firesteel_comm::reduce::Feedback;
use firesteel_comm::sparse::{Rows, SumRows, Table, Touched, Union};
use firesteel_comm::{Fabric, Key};

use super::{KEY, Touching, bits, expected, rows, s2, table};
use crate::compress::{normal, square};
use crate::world::{Kind, meshes, options, run};

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
