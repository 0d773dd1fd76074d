//! What every reduction promises, over every fabric.

use firesteel_comm::compress::{
    Bf16, Compressor, Fp16, Indices, MinMaxU8, Natural, OneBit, Place, Plain, Qsgd, RandomK, Shrink, Sign,
    SignVote, SketchMl, TernGrad, Threshold, TopK,
};
use firesteel_comm::reduce::{
    AdamConfig, Dgc, Feedback, FetchSgd, GTopK, Gather, LinearSum, OkTopK, OneBitAdam, PowerSgd, QAdam,
    Reduce, State, TwoPhase,
};
use firesteel_comm::{Fabric, Key, Mesh};
use firesteel_error::Kind as ErrorKind;

use crate::compress::normal;
use crate::world::{KINDS, Kind, meshes, options, run};

pub const SEED: u64 = 11;

/// A reduction, by name, made anew on each worker.
struct Case {
    name: &'static str,
    make: fn() -> Box<dyn Reduce>,
    /// Whether sums are those of plain numbers.
    exact: bool,
    /// The only length that it takes, if it takes but one.
    len: Option<usize>,
    /// Of the state, what has not been given out yet.
    owed: &'static [&'static str],
}

impl Case {
    fn len(&self, len: usize) -> usize {
        self.len.unwrap_or(len)
    }
}

/// What error feedback keeps.
const LEFT: &[&str] = &["left", "left of the sum"];

fn plain() -> Box<dyn Compressor> {
    Box::new(Plain)
}

fn two_phase(compressor: fn() -> Box<dyn Compressor>, feedback: Feedback) -> Box<dyn Reduce> {
    Box::new(TwoPhase::new(compressor(), compressor(), feedback, SEED).unwrap())
}

/// Adam whose warm-up ends within the shortest of these tests.
const ADAM: AdamConfig = AdamConfig { beta1: 0.9, beta2: 0.9, epsilon: 1e-8, warmup: 3 };

fn cases() -> Vec<Case> {
    fn case(name: &'static str, exact: bool, make: fn() -> Box<dyn Reduce>) -> Case {
        Case { name, make, exact, len: None, owed: LEFT }
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
        Case {
            // Without a momentum, what it keeps is as of error feedback.
            owed: &["velocity"],
            ..case("dgc, kept", false, || Box::new(Dgc::new(0.1, 0.0, None, 6, Indices::Fixed).unwrap()))
        },
        Case {
            // It gives out more than was put in, as momentum does.
            owed: &[],
            ..case("dgc with momentum", false, || {
                Box::new(Dgc::new(0.1, 0.9, Some(0.5), 0, Indices::Shortest).unwrap())
            })
        },
        case("g-top-k, kept", false, || Box::new(GTopK::new(0.1, Indices::Fixed).unwrap())),
        case("ok-topk, kept", false, || Box::new(OkTopK::new(0.1, Indices::Fixed).unwrap())),
        // Directions are no sums.
        Case { owed: &[], ..case("1-bit adam", false, || Box::new(OneBitAdam::new(ADAM).unwrap())) },
        Case { owed: &[], ..case("q-adam", false, || Box::new(QAdam::new(ADAM).unwrap())) },
        Case {
            owed: &[],
            ..case("fetch-sgd", false, || Box::new(FetchSgd::new([3, 101], 0.05, 0.9, SEED).unwrap()))
        },
        Case {
            // A matrix of 8 × 8 has 64 values.
            len: Some(64),
            ..case("power-sgd, kept", false, || Box::new(PowerSgd::new(2, [8, 8], SEED).unwrap()))
        },
    ]
}

fn shrunk(of: Box<dyn Compressor>) -> Box<dyn Compressor> {
    Box::new(Shrink::new(of).unwrap())
}

fn top_k() -> Box<dyn Compressor> {
    Box::new(TopK::new(0.1, Indices::Fixed).unwrap())
}

pub fn vector(len: usize, rank: usize, step: u64) -> Vec<f32> {
    normal(len, 1_000 * step + rank as u64)
}

/// The sum in f64.
pub fn expected(len: usize, world: usize, step: u64) -> Vec<f64> {
    let mut sum = vec![0.0; len];
    for rank in 0..world {
        sum.iter_mut().zip(vector(len, rank, step)).for_each(|(sum, value)| *sum += f64::from(value));
    }
    sum
}

/// What a worker has after each of some steps, in which it sends as many bytes as were said.
fn reduce(mesh: &Mesh, reduce: &mut dyn Reduce, len: usize, steps: std::ops::Range<u64>) -> Vec<Vec<f32>> {
    let one = |step| {
        let mut values = vector(len, mesh.rank(), step);
        let (before, said) = (mesh.sent(), reduce.bytes(len, mesh.rank(), mesh.world()));
        reduce.sum(mesh, Key::new(step, 0, 0), &mut values).unwrap();
        let sent = mesh.sent() - before;
        assert!(said.is_none_or(|said| said == sent), "{reduce:?}, {len}: {sent}, said {said:?}");
        values
    };
    steps.map(one).collect()
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
                        let first = 10 * nth as u64;
                        reduce(&mesh, (case.make)().as_mut(), case.len(len), first..first + 2)
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

/// In all worlds, with vectors of many blocks, buckets and words; where sums are exact, against the sum in f64.
#[test]
fn long_vectors_end_with_the_same_bits_too() {
    const LEN: usize = 100_003;
    let vectors: Vec<Vec<f32>> = (0..9).map(|rank| vector(LEN, rank, 3)).collect();
    for world in 1..10 {
        let cases = cases();
        let done = run(meshes(Kind::Local, world, &options()), |mesh| {
            let one = |(nth, case): (usize, &Case)| {
                let mut values = vectors[mesh.rank()][..case.len(LEN)].to_vec();
                (case.make)().sum(&mesh, Key::new(nth as u64, 0, 0), &mut values).unwrap();
                values
            };
            cases.iter().enumerate().map(one).collect::<Vec<_>>()
        });
        let sum = |i: usize| vectors[..world].iter().map(|of_rank| f64::from(of_rank[i])).sum::<f64>();
        let expected: Vec<f64> = (0..LEN).map(sum).collect();
        for (nth, case) in cases.iter().enumerate() {
            let found = &done[0][nth];
            assert!(done.iter().all(|of_rank| of_rank[nth] == *found), "{} among {world}", case.name);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate().filter(|_| case.exact) {
                let apart = (f64::from(*found) - expected).abs();
                let most = 1e-6 * world as f64 * expected.abs().max(1.0);
                assert!(apart <= most, "{} among {world}: value {i} is {apart} off", case.name);
            }
        }
    }
}

/// Σ of all that was given out, and what is left, is Σ of all that was put in.
#[test]
fn with_feedback_nothing_is_lost() {
    const STEPS: u64 = 200;
    for case in cases() {
        let len = case.len(517);
        for world in [1, 2, 3, 5] {
            let done = run(meshes(Kind::Local, world, &options()), |mesh| {
                let mut made = (case.make)();
                let all = reduce(&mesh, made.as_mut(), len, 0..STEPS);
                (all, made.state())
            });
            let owed = |state: &State, name: &str| state.get(name).cloned().unwrap_or_default();
            if case.owed.iter().all(|name| owed(&done[0].1, name).is_empty()) {
                continue;
            }
            let mut balance = vec![0.0f64; len];
            let mut scale = 0.0f64;
            for step in 0..STEPS {
                let put_in = expected(len, world, step);
                for (i, balance) in balance.iter_mut().enumerate() {
                    *balance += put_in[i] - f64::from(done[0].0[step as usize][i]);
                    scale = scale.max(put_in[i].abs());
                }
            }
            for (rank, (_, state)) in done.iter().enumerate() {
                let slice = firesteel_comm::collective::slice_of(len, rank, world);
                for left in case.owed.iter().map(|name| owed(state, name)) {
                    let first = if left.len() < len { slice.start } else { 0 };
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
        let len = case.len(301);
        let begun = |steps| {
            run(meshes(Kind::Local, 3, &options()), |mesh| {
                let mut made = (case.make)();
                let all = reduce(&mesh, made.as_mut(), len, 0..steps);
                (all, made.state())
            })
        };
        let whole: Vec<_> = begun(9).into_iter().map(|(all, _)| all[5..].to_vec()).collect();
        let states: Vec<State> = begun(5).into_iter().map(|(_, state)| state).collect();
        let gone_on = run(meshes(Kind::Local, 3, &options()), |mesh| {
            let mut made = (case.make)();
            made.resume(&states, mesh.rank(), 3).unwrap();
            reduce(&mesh, made.as_mut(), len, 5..9)
        });
        assert_eq!(gone_on, whole, "{}", case.name);
        let owed = |states: &[State]| -> f64 {
            let owed = states.iter().flat_map(|state| case.owed.iter().filter_map(|name| state.get(*name)));
            owed.flatten().map(|value| f64::from(*value)).sum()
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
            assert!(
                (found - expected).abs() < 1e-3,
                "{}: {found} for {world}, expected {expected}",
                case.name
            );
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
        done.inspect_err(|e| mesh.abort(e))
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
    assert!(e.starts_with("error feedback around Qsgd") && e.contains("which is unbiased and"), "{e}");
    assert!(refusal(Box::new(SignVote)).contains("which is biased and"));
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
        // What cancels among workers is sent, does not survive, and is kept: 1/t as all, but about three times as far as gTop-k.
        "ok-topk, kept" => 0.06,
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
    for case in cases() {
        let len = case.len(90);
        run(meshes(Kind::Local, 2, &options()), |mesh| {
            let mut made = (case.make)();
            reduce(&mesh, made.as_mut(), len, 0..4);
            let before = made.state();
            // What keeps nothing may go on with what is no number.
            if before.is_empty() {
                return;
            }
            let mut bad = vector(len, mesh.rank(), 9);
            bad[50] = f32::INFINITY;
            let e = made.sum(&mesh, Key::new(9, 0, 0), &mut bad).unwrap_err();
            let other_length = made.sum(&mesh, Key::new(10, 0, 0), &mut [1.0]).unwrap_err();
            assert_eq!((e.kind(), other_length.kind()), (ErrorKind::Diverged, ErrorKind::Internal));
            assert_eq!(made.state(), before);
        });
    }
}
