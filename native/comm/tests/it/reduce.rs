//! What every reduction promises, over every fabric.

use firesteel_comm::compress::{
    Bf16, Compressor, Fp16, Indices, MinMaxU8, Natural, OneBit, Place, Plain, Qsgd, RandomK, Shrink, Sign,
    SignVote, SketchMl, TernGrad, Threshold, TopK,
};
use firesteel_comm::reduce::{Feedback, Gather, LinearSum, Reduce, State, TwoPhase};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::Kind as ErrorKind;

use crate::compress::normal;
use crate::world::{KINDS, Kind, meshes, options, run};

const SEED: u64 = 11;

/// A reduction, by name, made anew on each worker.
struct Case {
    name: &'static str,
    make: fn() -> Box<dyn Reduce>,
    /// Whether sums are those of plain numbers.
    exact: bool,
}

fn plain() -> Box<dyn Compressor> {
    Box::new(Plain)
}

fn two_phase(compressor: fn() -> Box<dyn Compressor>, feedback: Feedback) -> Box<dyn Reduce> {
    Box::new(TwoPhase::new(compressor(), compressor(), feedback, SEED).unwrap())
}

fn cases() -> Vec<Case> {
    fn case(name: &'static str, exact: bool, make: fn() -> Box<dyn Reduce>) -> Case {
        Case { name, make, exact }
    }
    use Feedback::{Off, On};
    vec![
        case("two-phase", true, || two_phase(plain, Off)),
        case("two-phase, kept", true, || two_phase(plain, On)),
        case("gather", true, || Box::new(Gather::new(plain(), Off, SEED).unwrap())),
        case("linear", true, || Box::new(LinearSum::new(plain(), Off, SEED).unwrap())),
        case("fp16", false, || two_phase(|| Box::new(Fp16), Off)),
        case("bf16, kept", false, || two_phase(|| Box::new(Bf16), On)),
        case("min-max u8", false, || two_phase(|| Box::new(MinMaxU8), Off)),
        case("min-max u8, kept", false, || two_phase(|| Box::new(MinMaxU8), On)),
        case("qsgd", false, || two_phase(|| Box::new(Qsgd::new(15, Qsgd::BUCKET).unwrap()), Off)),
        case("qsgd shrunk, kept", false, || two_phase(|| shrunk(Box::new(Qsgd::new(1, 256).unwrap())), On)),
        case("terngrad", false, || two_phase(|| Box::new(TernGrad::new(Some(TernGrad::CLIP)).unwrap()), Off)),
        case("natural", false, || two_phase(|| Box::new(Natural), Off)),
        case("sign, kept", false, || two_phase(|| Box::new(Sign), On)),
        case("majority vote", false, || two_phase(|| Box::new(SignVote), Off)),
        case("1 bit, kept", false, || two_phase(|| Box::new(OneBit), On)),
        case("top-k gathered, kept", false, || Box::new(Gather::new(top_k(), On, SEED).unwrap())),
        case("top-k both ways, kept", false, || two_phase(top_k, On)),
        case("random-k summed", false, || {
            Box::new(LinearSum::new(Box::new(RandomK::new(0.2).unwrap()), Off, SEED).unwrap())
        }),
        case("random-k shrunk, summed, kept", false, || {
            Box::new(LinearSum::new(shrunk(Box::new(RandomK::new(0.2).unwrap())), On, SEED).unwrap())
        }),
        case("threshold", false, || {
            Box::new(
                Gather::new(Box::new(Threshold::new(1.0, Indices::Shortest).unwrap()), Off, SEED).unwrap(),
            )
        }),
        case("sketchml", false, || {
            Box::new(Gather::new(Box::new(SketchMl::new(64).unwrap()), On, SEED).unwrap())
        }),
    ]
}

fn shrunk(of: Box<dyn Compressor>) -> Box<dyn Compressor> {
    Box::new(Shrink::new(of).unwrap())
}

fn top_k() -> Box<dyn Compressor> {
    Box::new(TopK::new(0.1, Indices::Fixed).unwrap())
}

fn vector(len: usize, rank: usize, step: u64) -> Vec<f32> {
    normal(len, 1_000 * step + rank as u64)
}

/// The sum in f64.
fn expected(len: usize, world: usize, step: u64) -> Vec<f64> {
    let mut sum = vec![0.0; len];
    for rank in 0..world {
        sum.iter_mut().zip(vector(len, rank, step)).for_each(|(sum, value)| *sum += f64::from(value));
    }
    sum
}

/// What every worker has after some steps, and how many bytes each sent in the last.
fn reduce(
    mesh: &Mesh,
    reduce: &mut dyn Reduce,
    len: usize,
    steps: std::ops::Range<u64>,
) -> (Vec<Vec<f32>>, u64) {
    let mut all = Vec::new();
    let mut sent = 0;
    for step in steps {
        let mut values = vector(len, mesh.rank(), step);
        let before = mesh.sent();
        reduce.sum(mesh, Key::new(step, 0, 0), &mut values).unwrap();
        sent = mesh.sent() - before;
        all.push(values);
    }
    (all, sent)
}

#[test]
fn all_end_with_the_same_bits_and_the_bytes_that_were_said() {
    for kind in KINDS {
        let worlds = if matches!(kind, Kind::Local) { 1..10 } else { 2..5 };
        for world in worlds {
            for len in [0, 1, world - 1, world, 4_099] {
                let cases = cases();
                let done = run(meshes(kind, world, &options()), |mesh| {
                    let one = |(nth, case): (usize, &Case)| {
                        let mut made = (case.make)();
                        let first = 10 * nth as u64;
                        let said = made.bytes(len, mesh.rank(), world);
                        let (values, sent) = reduce(&mesh, made.as_mut(), len, first..first + 2);
                        assert!(
                            said.is_none_or(|said| said == sent),
                            "{}, {world} × {len}: {sent}, said {said:?}",
                            case.name
                        );
                        values
                    };
                    cases.iter().enumerate().map(one).collect::<Vec<_>>()
                });
                for (nth, case) in cases.iter().enumerate() {
                    for of_rank in &done {
                        assert_eq!(of_rank[nth], done[0][nth], "{}, {kind:?}, {world} × {len}", case.name);
                    }
                    for (step, found) in done[0][nth].iter().enumerate().filter(|_| case.exact) {
                        let expected = expected(len, world, (10 * nth + step) as u64);
                        for (found, expected) in found.iter().zip(expected) {
                            let most = 1e-6 * world as f64 * expected.abs().max(1.0);
                            assert!(
                                (f64::from(*found) - expected).abs() <= most,
                                "{}: {found}, expected {expected}",
                                case.name
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Σ of all that was given out, and what is left, is Σ of all that was put in.
#[test]
fn with_feedback_nothing_is_lost() {
    const STEPS: u64 = 200;
    const LEN: usize = 517;
    for case in cases() {
        for world in [1, 2, 3, 5] {
            let done = run(meshes(Kind::Local, world, &options()), |mesh| {
                let mut made = (case.make)();
                let (all, _) = reduce(&mesh, made.as_mut(), LEN, 0..STEPS);
                (all, made.state())
            });
            if done[0].1.is_empty() {
                continue;
            }
            let mut balance = vec![0.0f64; LEN];
            let mut scale = 0.0f64;
            for step in 0..STEPS {
                let put_in = expected(LEN, world, step);
                for (i, balance) in balance.iter_mut().enumerate() {
                    *balance += put_in[i] - f64::from(done[0].0[step as usize][i]);
                    scale = scale.max(put_in[i].abs());
                }
            }
            for (rank, (_, state)) in done.iter().enumerate() {
                let slice = firesteel_comm::collective::slice_of(LEN, rank, world);
                for left in state.values() {
                    let first = if left.len() < LEN { slice.start } else { 0 };
                    left.iter().enumerate().for_each(|(i, left)| balance[first + i] -= f64::from(*left));
                }
            }
            for balance in balance {
                assert!(balance.abs() < 1e-5 * scale * STEPS as f64, "{}, {world}: {balance}", case.name);
            }
        }
    }
}

#[test]
fn a_checkpoint_goes_on_as_if_it_had_not_stopped() {
    for case in cases() {
        let begun = |steps| {
            run(meshes(Kind::Local, 3, &options()), |mesh| {
                let mut made = (case.make)();
                let (all, _) = reduce(&mesh, made.as_mut(), 301, 0..steps);
                (all, made.state())
            })
        };
        let whole: Vec<_> = begun(9).into_iter().map(|(all, _)| all[5..].to_vec()).collect();
        let states: Vec<State> = begun(5).into_iter().map(|(_, state)| state).collect();
        let gone_on = run(meshes(Kind::Local, 3, &options()), |mesh| {
            let mut made = (case.make)();
            made.resume(&states, mesh.rank(), 3).unwrap();
            reduce(&mesh, made.as_mut(), 301, 5..9).0
        });
        assert_eq!(gone_on, whole, "{}", case.name);
        let owed = |states: &[State]| -> f64 {
            states.iter().flat_map(State::values).flatten().map(|value| f64::from(*value)).sum()
        };
        for world in [1, 2, 5] {
            let others: Vec<State> = (0..world)
                .map(|rank| {
                    let mut made = (case.make)();
                    made.resume(&states, rank, world).unwrap();
                    made.state()
                })
                .collect();
            let (found, expected) = (owed(&others), owed(&states));
            assert!((found - expected).abs() < 1e-3, "{}: {found} for {world}, expected {expected}", case.name);
        }
    }
}

#[test]
fn a_part_that_cannot_be_read_is_named() {
    let done = run(meshes(Kind::Local, 3, &options()), |mesh| {
        let mut made = TwoPhase::new(plain(), plain(), Feedback::Off, SEED).unwrap();
        // Rank 1 has another vector.
        let mut values = vec![1.0; if mesh.rank() == 1 { 40 } else { 30 }];
        let done = made.sum(&mesh, Key::new(0, 0, 0), &mut values);
        done.inspect_err(|_| mesh.abort("it failed"))
    });
    let errors: Vec<_> = done.into_iter().filter_map(Result::err).collect();
    assert!(
        errors.iter().any(|e| e.kind() == ErrorKind::Corrupt && e.to_string().contains("of rank 1")),
        "{errors:?}"
    );
}

#[test]
fn feedback_is_refused_where_it_would_diverge() {
    let refusal = |compressor: Box<dyn Compressor>| {
        let e = TwoPhase::new(compressor, plain(), Feedback::On, SEED).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        e.to_string()
    };
    let e = refusal(Box::new(Qsgd::new(1, 256).unwrap()));
    assert!(e.starts_with("error feedback around Qsgd") && e.contains("Unbiased"), "{e}");
    assert!(refusal(Box::new(SignVote)).contains("Biased"));
    assert!(Gather::new(Box::new(RandomK::new(0.1).unwrap()), Feedback::On, SEED).is_err());
    let e = LinearSum::new(top_k(), Feedback::Off, SEED).unwrap_err().to_string();
    assert!(e.starts_with("payloads of TopK") && e.ends_with("expected a linear compressor"), "{e}");
    assert!(Shrink::new(top_k()).is_err());
}

/// Gradients of ½‖x − b‖² for another b on each worker: SGD by the mean of what is reduced finds the mean of all b.
#[test]
fn what_converges_converges() {
    const LEN: usize = 64;
    const WORLD: usize = 4;
    // What is exact or keeps what it leaves gets as near as it likes; what is unbiased, near; a vote is another method.
    let most = |name: &str| match name {
        name if name.contains("kept") || name.starts_with("sketchml") => 0.02,
        "two-phase" | "gather" | "linear" | "fp16" => 1e-3,
        "min-max u8" => 0.02,
        "qsgd" | "natural" => 0.1,
        _ => f64::INFINITY,
    };
    for case in cases() {
        let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
            let mut made = (case.make)();
            let target = vector(LEN, mesh.rank(), 7);
            let mut x = vec![0.0f32; LEN];
            for step in 0..1_500u64 {
                let mut gradient: Vec<f32> = x.iter().zip(&target).map(|(x, b)| x - b).collect();
                made.sum(&mesh, Key::new(step, 0, 0), &mut gradient).unwrap();
                let rate = 0.2 / (1.0 + step as f32 / 50.0) / WORLD as f32;
                x.iter_mut().zip(&gradient).for_each(|(x, g)| *x -= rate * g);
            }
            x
        });
        let mean: Vec<f64> = expected(LEN, WORLD, 7).iter().map(|sum| sum / WORLD as f64).collect();
        let far: f64 =
            done[0].iter().zip(&mean).map(|(x, b)| (f64::from(*x) - b).powi(2)).sum::<f64>().sqrt();
        let size: f64 = mean.iter().map(|b| b * b).sum::<f64>().sqrt();
        assert!(far <= most(case.name) * size, "{}: {far} of {size}", case.name);
    }
}

/// What one worker's vectors become when nobody travels: each encoded and decoded by itself, then summed in f64.
fn serial(compressor: Box<dyn Compressor>, len: usize, world: usize, key: Key) -> Vec<f64> {
    let mut sum = vec![0.0f64; len];
    for rank in 0..world {
        let at = Place { seed: SEED, key, rank, part: 0 };
        let part = compressor.encode(&vector(len, rank, key.step), &at).unwrap();
        let mut decoded = vec![0.0; len];
        compressor.decode(&part, &at, &mut decoded).unwrap();
        sum.iter_mut().zip(decoded).for_each(|(sum, value)| *sum += f64::from(value));
    }
    sum
}

#[test]
fn sums_are_those_of_what_each_sent() {
    const LEN: usize = 777;
    const WORLD: usize = 3;
    let key = Key::new(4, 2, 0);
    let threshold = || Box::new(Threshold::new(1.0, Indices::Shortest).unwrap()) as Box<dyn Compressor>;
    let random = || Box::new(RandomK::new(0.2).unwrap()) as Box<dyn Compressor>;
    let done = run(meshes(Kind::Local, WORLD, &options()), |mesh| {
        let through = |mut made: Box<dyn Reduce>, key: Key| {
            let mut values = vector(LEN, mesh.rank(), 4);
            made.sum(&mesh, key, &mut values).unwrap();
            values
        };
        let gathered = through(Box::new(Gather::new(threshold(), Feedback::Off, SEED).unwrap()), key);
        let summed = through(
            Box::new(LinearSum::new(random(), Feedback::Off, SEED).unwrap()),
            Key { phase: 300, ..key },
        );
        let votes = through(two_phase(|| Box::new(SignVote), Feedback::Off), Key { phase: 600, ..key });
        (gathered, summed, votes)
    });
    let near = |found: &[f32], expected: &[f64]| {
        found
            .iter()
            .zip(expected)
            .for_each(|(found, expected)| assert!((f64::from(*found) - expected).abs() < 1e-4));
    };
    let (gathered, summed, votes) = &done[0];
    near(gathered, &serial(threshold(), LEN, WORLD, key));
    near(summed, &serial(random(), LEN, WORLD, Key { phase: 300, ..key }));
    for (i, vote) in votes.iter().enumerate() {
        let count: i32 = (0..WORLD).map(|rank| if vector(LEN, rank, 4)[i] >= 0.0 { 1 } else { -1 }).sum();
        assert_eq!(*vote, count.signum() as f32);
    }
}

#[test]
fn a_step_that_fails_changes_nothing() {
    let reductions: [fn() -> Box<dyn Reduce>; 2] = [
        || two_phase(|| Box::new(Sign), Feedback::On),
        || Box::new(Gather::new(top_k(), Feedback::On, SEED).unwrap()),
    ];
    for make in reductions {
        run(meshes(Kind::Local, 2, &options()), |mesh| {
            let mut made = make();
            reduce(&mesh, made.as_mut(), 90, 0..4);
            let before = made.state();
            let mut bad = vector(90, mesh.rank(), 9);
            bad[70] = f32::INFINITY;
            let e = made.sum(&mesh, Key::new(9, 0, 0), &mut bad).unwrap_err();
            let other_length = made.sum(&mesh, Key::new(10, 0, 0), &mut [1.0]).unwrap_err();
            assert_eq!((e.kind(), other_length.kind()), (ErrorKind::Diverged, ErrorKind::Internal));
            assert_eq!(made.state(), before);
        });
    }
}
