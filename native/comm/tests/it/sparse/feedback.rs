//! What sketches leave, and is sent later.

use std::collections::BTreeMap;

use firesteel_comm::reduce::{Feedback, State};
use firesteel_comm::sparse::{Gather, Rows, SumRows, Table, Union};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::Kind as ErrorKind;

use super::{KEY, Touching, cases, expected, rows, s2, table};
use crate::compress::{normal, square};
use crate::world::{Kind, meshes, options, run};

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
