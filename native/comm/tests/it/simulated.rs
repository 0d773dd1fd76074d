//! Clocks that nobody waits for: closed forms, stragglers, losses, and the same times however threads are scheduled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_comm::collective::{Algorithm, Link, barrier};
use firesteel_comm::gossip::mix;
use firesteel_comm::strategy::{Computed, Layout, Spec, Strategy, Totals};
use firesteel_comm::topology::Topology;
use firesteel_comm::{Cancel, Fabric, Key, Network, Options, Simulated, simulated_world};
use firesteel_error::{Error, Kind as ErrorKind};

use crate::strategy::{BOWL, Sgd, all, bowl, descend, layout, repeats};
use crate::world::{Kind, meshes, options, run};

const NETWORK: Link = Link { latency: 2e-3, per_message: 1e-5, bandwidth: 1e6 };

fn network() -> Network {
    let Link { latency, per_message, bandwidth } = NETWORK;
    Network { latency, per_message, bandwidth, ..Network::default() }
}

fn workers(world: usize, network: &Network) -> Vec<Simulated> {
    simulated_world(world, network, &options()).unwrap()
}

/// When each worker has done its work, in seconds.
fn ends(world: usize, network: &Network, work: impl Fn(&Simulated) + Sync) -> Vec<f64> {
    run(workers(world, network), |fabric| {
        work(&fabric);
        fabric.now()
    })
}

/// Seconds of the slowest of an all-reduce.
fn seconds(algorithm: Algorithm, len: usize, world: usize) -> f64 {
    seconds_over(&network(), algorithm, len, world)
}

fn seconds_over(network: &Network, algorithm: Algorithm, len: usize, world: usize) -> f64 {
    let ends = ends(world, network, |fabric| {
        algorithm.all_reduce(fabric, Key::new(0, 0, 0), &mut vec![1.0; len]).unwrap();
    });
    ends.into_iter().fold(0.0, f64::max)
}

#[track_caller]
fn near(found: f64, expected: f64, share: f64) {
    assert!((found / expected - 1.0).abs() <= share, "{found} s, expected {expected}");
}

#[test]
fn a_message_takes_its_latency_and_its_bytes_once() {
    let ends = ends(2, &network(), |fabric| {
        let peer = 1 - fabric.rank();
        let part = Bytes::from(vec![0; 500_000]);
        fabric.exchange(Key::new(0, 0, 0), vec![(peer, part)], &[peer]).unwrap().wait().unwrap();
    });
    ends.into_iter().for_each(|end| near(end, 1e-5 + 2e-3 + 0.5, 1e-12));
}

#[test]
fn all_to_one_waits_for_the_link_of_the_one() {
    let ends = ends(5, &network(), |fabric| {
        let key = Key::new(0, 0, 0);
        let from: &[usize] = if fabric.rank() == 0 { &[1, 2, 3, 4] } else { &[] };
        let to = if fabric.rank() == 0 { vec![] } else { vec![(0, Bytes::from(vec![0; 100_000]))] };
        fabric.exchange(key, to, from).unwrap().wait().unwrap();
    });
    near(ends[0], 1e-5 + 2e-3 + 0.4, 1e-12);
    near(ends[1], 1e-5, 1e-12);
}

#[test]
fn rings_and_halves_take_exactly_their_closed_form() {
    for world in [2, 4, 8, 16] {
        let len = 16 * 1_000;
        for algorithm in [Algorithm::Ring, Algorithm::HalvingDoubling] {
            near(seconds(algorithm, len, world), algorithm.seconds(len, world, NETWORK), 1e-9);
        }
    }
    near(seconds(Algorithm::Ring, 15_000, 5), Algorithm::Ring.seconds(15_000, 5, NETWORK), 1e-9);
    for world in [3, 5, 6, 7, 12, 31] {
        let estimate = Algorithm::HalvingDoubling.seconds(16_000, world, NETWORK);
        near(seconds(Algorithm::HalvingDoubling, 16_000, world), estimate, 1e-9);
    }
    // Twins swap halves first and last: S of bytes more, one after the other, than among a power of two, and not 2·S.
    let of = |world| {
        Algorithm::HalvingDoubling.seconds(16_000, world, Link { latency: 0.0, per_message: 0.0, ..NETWORK })
    };
    near(of(6) - of(4), 4.0 * 16_000.0 / NETWORK.bandwidth, 1e-9);
}

#[test]
fn two_phases_take_no_more_than_their_closed_form() {
    for world in [2, 4, 8] {
        let len = 16 * 1_000;
        let found = seconds(Algorithm::TwoPhase, len, world);
        // While a part is on the link the next is made ready: of each phase, one message is not hidden.
        let part = 4.0 * len as f64 / world as f64 / NETWORK.bandwidth;
        let phase = NETWORK.per_message + (world - 1) as f64 * part + NETWORK.latency;
        near(found, 2.0 * phase, 1e-9);
        near(found, Algorithm::TwoPhase.seconds(len, world, NETWORK), 0.02);
    }
    // Long vectors go in several messages to each: here of three chunks, and what messages cost is all.
    let link = |per_message| Link { per_message, latency: 0.0, bandwidth: 1e15 };
    near(Algorithm::TwoPhase.seconds(3 << 18, 4, link(1e-3)), 3.0 * 2.0 * 3.0 * 1e-3, 1e-3);
}

#[test]
fn trees_take_what_their_estimate_says_within_a_quarter() {
    let link = |latency, per_message, bandwidth| Link { latency, per_message, bandwidth };
    let links = [
        link(3e-5, 1e-5, 3.125e9),
        link(3e-4, 1e-5, 1.25e8),
        link(4e-2, 1e-5, 1.25e7),
        link(1e-4, 1e-4, 1.25e8),
        link(0.0, 0.0, 1e9),
    ];
    for len in [1_000, 10_000, 100_000, 200_000, 500_000, 1_000_000, 3_000_000, 10_000_000] {
        // No more than a hundred megabytes of vectors at a time.
        for world in
            [2, 3, 4, 5, 7, 8, 11, 16, 23, 31, 32].into_iter().filter(|world| len * world <= 25_000_000)
        {
            for link in links {
                let Link { latency, per_message, bandwidth } = link;
                let network = Network { latency, per_message, bandwidth, ..Network::default() };
                let found = seconds_over(&network, Algorithm::DoubleBinaryTree, len, world);
                let share = Algorithm::DoubleBinaryTree.seconds(len, world, link) / found;
                assert!((0.75..1.25).contains(&share), "{len} values among {world} over {link:?}: {share}");
            }
        }
    }
}

#[test]
fn a_straggler_delays_by_its_factor() {
    let ended = |stragglers: Vec<f64>| {
        let ends = ends(4, &Network { stragglers, ..network() }, |fabric| {
            fabric.compute(0.5);
            Algorithm::HalvingDoubling.all_reduce(fabric, Key::new(0, 0, 0), &mut [1.0; 4]).unwrap();
        });
        ends.into_iter().fold(0.0, f64::max)
    };
    near(ended(vec![1.0, 1.0, 3.0]), ended(vec![]) + 1.0, 1e-12);
}

#[test]
fn a_slow_link_is_slow_for_those_that_use_it() {
    let slow = Link { latency: 1.0, per_message: 0.0, bandwidth: 1e6 };
    let network = Network { links: BTreeMap::from([((0, 1), slow)]), ..network() };
    let ends = ends(4, &network, |fabric| {
        let peer = fabric.rank() ^ 1;
        fabric.exchange(Key::new(0, 0, 0), vec![(peer, Bytes::new())], &[peer]).unwrap().wait().unwrap();
    });
    let fast = 1e-5 + 2e-3;
    near(ends[0], fast, 1e-12);
    near(ends[1], 1.0, 1e-12);
    near(ends[2], fast, 1e-12);
}

fn made(text: &str, fabric: Arc<dyn Fabric>, layout: &Layout) -> Box<dyn Strategy> {
    text.parse::<Spec>().unwrap().build(fabric, layout, 5).unwrap()
}

/// Times after each step of training in a network that loses messages; threads are held up by what `hold` says.
fn times(text: &str, seed: u64, hold: impl Fn(usize, u64) + Sync) -> Vec<Vec<u64>> {
    let network = Network { loss: 0.05, seed, stragglers: vec![1.0, 1.5], ..network() };
    run(workers(4, &network), |fabric| {
        let (rank, fabric) = (fabric.rank(), Arc::new(fabric));
        let mut strategy = made(text, fabric.clone(), &layout(BOWL, &[], 16));
        let (mut weights, gradient) = (vec![0.0; BOWL], vec![rank as f32 + 1.0; BOWL]);
        let step = |step: u64| {
            strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            for start in (0..BOWL).step_by(16) {
                fabric.compute(1e-3);
                hold(rank, step);
                strategy.ready(start..start + 16, &gradient[start..start + 16]).unwrap();
            }
            let computed = Computed { weights: &mut weights, gradient: &gradient, touched: &[] };
            strategy.finish(computed, &mut Sgd(0.1)).unwrap();
            fabric.now().to_bits()
        };
        (0..6).map(step).collect()
    })
}

#[test]
fn the_same_run_takes_the_same_times_however_threads_are_scheduled() {
    let still = |text: &&String| repeats(text) && !text.starts_with("ssp");
    for text in all().iter().filter(still) {
        let first = times(text, 7, |_, _| ());
        let held = times(text, 7, |rank, step| {
            if (rank as u64 + step).is_multiple_of(3) {
                thread::sleep(Duration::from_micros(300));
            }
        });
        assert!(first == held, "{text}");
    }
    assert!(times("sharded", 7, |_, _| ()) != times("sharded", 8, |_, _| ()));
}

#[test]
fn weights_are_those_over_any_other_fabric() {
    let trained = |text: &str, fabric: Box<dyn Fabric>| {
        let rank = fabric.rank();
        let mut strategy = made(text, Arc::from(fabric), &bowl(text));
        descend(strategy.as_mut(), rank, &mut vec![0.0; BOWL], 0..2, 20)
    };
    for text in all() {
        if !repeats(&text) {
            continue;
        }
        let found = run(workers(4, &network()), |fabric| trained(&text, Box::new(fabric)));
        let expected = run(meshes(Kind::Local, 4, &options()), |mesh| trained(&text, Box::new(mesh)));
        assert!(found == expected, "{text}");
    }
}

#[test]
fn those_without_steps_in_common_end_too() {
    for text in ["ssp(staleness=1)", "asp"] {
        let ends = run(workers(3, &network()), |fabric| {
            let mut strategy = made(text, Arc::new(fabric), &layout(BOWL, &[], 1_000));
            let mut weights = vec![0.0; BOWL];
            for step in 0..10 {
                strategy.begin(step, Totals { loss: 1.0, weight: 1.0 }).unwrap();
                let computed = Computed { weights: &mut weights, gradient: &[1.0; BOWL], touched: &[] };
                strategy.finish(computed, &mut Sgd(0.1)).unwrap();
            }
            strategy.settle(&mut weights, &mut Sgd(0.1)).unwrap();
            weights
        });
        assert!(ends.iter().all(|weights| *weights == ends[0]), "{text}");
    }
}

#[test]
fn buckets_are_reduced_while_the_next_is_computed() {
    const LEN: usize = 4 * 1_600;
    let step = |computing: f64| {
        let ends = run(workers(4, &network()), |fabric| {
            let fabric = Arc::new(fabric);
            let mut strategy = made("all_reduce(ring)", fabric.clone(), &layout(LEN, &[], 1_600));
            let (mut weights, gradient) = (vec![0.0; LEN], vec![1.0; LEN]);
            strategy.begin(0, Totals { loss: 1.0, weight: 1.0 }).unwrap();
            for start in (0..LEN).step_by(1_600) {
                fabric.compute(computing);
                strategy.ready(start..start + 1_600, &gradient[start..start + 1_600]).unwrap();
            }
            let computed = Computed { weights: &mut weights, gradient: &gradient, touched: &[] };
            strategy.finish(computed, &mut Sgd(0.1)).unwrap();
            fabric.now()
        });
        ends.into_iter().fold(0.0, f64::max)
    };
    let bucket = Algorithm::Ring.seconds(1_600, 4, NETWORK);
    // Only the last is waited for; its totals have come long before.
    near(step(2.0 * bucket), 8.0 * bucket + bucket + 3.0 * NETWORK.per_message, 1e-3);
    // All at once share the link, but not their latencies.
    let (together, bytes) = (step(0.0), 4.0 * 4.0 * 1_600.0 * 1.5 / NETWORK.bandwidth);
    assert!(together > bytes && together < 4.0 * bucket, "{together} s, {bytes} s of bytes alone");
}

#[test]
fn who_is_gone_is_named() {
    let said = run(workers(3, &network()), |fabric| {
        if fabric.rank() == 2 {
            fabric.abort(&Error::new(ErrorKind::Io, "its disk is full"));
            assert!(fabric.check().is_ok());
            return None;
        }
        Some(barrier(&fabric, Key::new(0, 0, 0)).unwrap_err())
    });
    for (rank, e) in said.into_iter().flatten().enumerate() {
        assert_eq!(
            (e.kind(), e.to_string()),
            (ErrorKind::PeerLost, format!("rank {rank} lost rank 2: its disk is full"))
        );
    }
    let mut two = workers(2, &network());
    drop(two.pop());
    let e = barrier(&two[0], Key::new(0, 0, 0)).unwrap_err().to_string();
    assert_eq!(e, "rank 1 finished, but rank 0 waits for it (broadcast, bucket 0 of step 0)");
}

#[test]
fn waits_end_by_real_time_and_when_they_shall() {
    let key = Key::new(0, 0, 0);
    let cancel = Cancel::new();
    let options =
        Options { deadline: Duration::from_millis(50), cancel: cancel.clone(), ..Options::default() };
    let two = simulated_world(2, &network(), &options).unwrap();
    assert_eq!(barrier(&two[0], key).unwrap_err().kind(), ErrorKind::Timeout);
    cancel.cancel();
    assert_eq!(barrier(&two[1], Key::new(1, 0, 0)).unwrap_err().kind(), ErrorKind::Cancelled);
    let two = workers(2, &network());
    two[0].close();
    assert_eq!(barrier(&two[0], key).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn what_does_not_fit_the_world_is_refused() {
    assert!(simulated_world(0, &network(), &options()).is_err());
    assert!(simulated_world(2, &Network { bandwidth: 0.0, ..network() }, &options()).is_err());
    let two = workers(2, &network());
    let key = Key::new(0, 0, 0);
    let e = two[0].shuffle(key, vec![Bytes::new(); 3]).unwrap_err().to_string();
    assert_eq!(e, "a shuffle of 3 parts among 2 workers");
    let e = two[0].exchange(key, vec![], &[2]).unwrap_err().to_string();
    assert_eq!(e, "rank 2 named in an exchange, the world has 2");
    let options = Options { max_part: 3, ..options() };
    let two = simulated_world(2, &network(), &options).unwrap();
    let e = two[0].broadcast(key, Bytes::from_static(b"four")).unwrap_err().to_string();
    assert!(e.starts_with("rank 0 sends rank 1 a part of 4 bytes, at most 3 are allowed"), "{e}");
}

/// As [`ends`], for many workers.
fn ends_of_many(world: usize, work: impl Fn(&Simulated) + Sync) -> Vec<f64> {
    thread::scope(|scope| {
        let work = &work;
        let start = |fabric: Simulated| {
            let run = move || {
                work(&fabric);
                fabric.now()
            };
            thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, run).unwrap()
        };
        let options = Options { deadline: Duration::from_secs(300), ..Options::default() };
        let fabrics = simulated_world(world, &network(), &options).unwrap();
        let threads: Vec<_> = fabrics.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A halving-doubling and a step of gossip among so many.
fn many(world: usize) {
    const LEN: usize = 1 << 13;
    let start = Instant::now();
    let ends = ends_of_many(world, |fabric| {
        let mut values = vec![1.0; LEN];
        Algorithm::HalvingDoubling.all_reduce(fabric, Key::new(0, 0, 0), &mut values).unwrap();
        assert!(values.iter().all(|value| *value == world as f32));
    });
    let estimate = Algorithm::HalvingDoubling.seconds(LEN, world, NETWORK);
    near(ends.into_iter().fold(0.0, f64::max), estimate, 0.01);
    println!("halving-doubling among {world}: {:?}", start.elapsed());
    let start = Instant::now();
    let ends = ends_of_many(world, |fabric| {
        let mut values = vec![fabric.rank() as f32; 1_000];
        mix(&Topology::Ring, fabric, Key::new(0, 0, 0), &mut values).unwrap();
    });
    // The second message is made ready while the first is on the link.
    let each = NETWORK.per_message + 2.0 * 4_000.0 / NETWORK.bandwidth + NETWORK.latency;
    ends.into_iter().for_each(|end| near(end, each, 1e-9));
    println!("a ring's step of gossip among {world}: {:?}", start.elapsed());
}

#[test]
fn a_thousand_workers_take_what_the_closed_forms_say() {
    many(1_000);
}

#[test]
#[ignore = "ten thousand threads"]
fn ten_thousand_workers_take_seconds() {
    many(10_000);
}
