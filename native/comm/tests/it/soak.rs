//! Long runs: many all-reduces leave no thread, no descriptor and no memory behind, and neither do fabrics that are dropped.
//!
//! All three are counted by the whole process, so each run has a process of its own: this binary, told to run one ignored test.

use std::thread;
use std::time::{Duration, Instant};

use firesteel_comm::collective::all_reduce_sum;
use firesteel_comm::{Fabric, Key, Mesh};

use crate::alone::alone;
use crate::world::{Kind, meshes, options, run};

/// How many all-reduces each world makes where time allows.
const ALL: u64 = 100_000;

/// How many are made before memory is looked at: buffers, queues and the allocator's arenas grow to what they need.
const WARM_UP: u64 = 5_000;

/// How many are made before it is looked at whether time is up.
const SLICE: u64 = 1_000;

/// What memory may grow by, in KiB: less than a leak of 11 bytes in each of [`ALL`].
const GROWTH: i64 = 1_024;

/// How long a world may take over sockets, unless `FIRESTEEL_SOAK` asks for all; then a world may take as long as it needs.
const SPAN: Duration = Duration::from_secs(4);

/// How long what a dropped fabric leaves may take to end: as long as sockets linger, and a little.
const LINGER: Duration = Duration::from_secs(35);

/// What a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    threads: i64,
    descriptors: i64,
    /// Resident, in KiB.
    memory: i64,
}

impl Usage {
    fn now() -> Usage {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let number = |name: &str| -> i64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_end_matches("kB").trim().parse().unwrap()
        };
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count() as i64;
        Usage { threads: number("Threads:"), descriptors, memory: number("VmRSS:") }
    }

    /// What a process has that has had a fabric: some things are opened once, with the first runtime.
    fn between_fabrics() -> Usage {
        let threads = Usage::now().threads;
        drop(meshes(Kind::Host, 2, &options()));
        let start = Instant::now();
        while Usage::now().threads > threads && start.elapsed() < LINGER {
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(100));
        Usage::now()
    }

    /// Waits until there are no more threads and descriptors than these.
    fn comes_back(self, context: &str) {
        let start = Instant::now();
        loop {
            let now = Usage::now();
            if now.threads <= self.threads && now.descriptors <= self.descriptors {
                return;
            }
            assert!(start.elapsed() < LINGER, "{context}: {now:?} are left, there were {self:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Some all-reduces on all workers, each checked.
fn all_reduces(meshes: &[Mesh], steps: std::ops::Range<u64>, len: usize) {
    run(meshes.iter().collect(), |mesh: &Mesh| {
        for step in steps.clone() {
            let mut values = vec![step as f32 % 1_024.0; len];
            all_reduce_sum(mesh, Key::new(step, 0, 0), &mut values).unwrap();
            let sum = step as f32 % 1_024.0 * mesh.world() as f32;
            assert!(values.iter().all(|value| *value == sum), "step {step}");
        }
    });
}

/// All-reduces in one world until there are enough or time is up; prints what that took.
fn soak(kind: Kind, world: usize, span: Duration) {
    let before = Usage::between_fabrics();
    let meshes = meshes(kind, world, &options());
    // What processes of a host read in each other's memory is longer than what they send.
    let len = if kind == Kind::Host { 8_192 } else { 16 };
    all_reduces(&meshes, 0..WARM_UP, len);
    // A thread that has been joined may be counted for a moment.
    thread::sleep(Duration::from_millis(100));
    let (warm, start) = (Usage::now(), Instant::now());
    let mut done = WARM_UP;
    while done < WARM_UP + ALL && start.elapsed() < span {
        all_reduces(&meshes, done..done + SLICE, len);
        done += SLICE;
    }
    let (after, seconds) = (Usage::now(), start.elapsed().as_secs_f64());
    let context = format!("{kind:?}, {world} workers, {} all-reduces in {seconds:.1} s", done - WARM_UP);
    let grown = after.memory - warm.memory;
    println!("{context}: {after:?}, grown by {grown} KiB");
    warm.comes_back(&context);
    assert!(grown <= GROWTH, "{context}: memory grew by {grown} KiB, at most {GROWTH} are allowed");
    drop(meshes);
    before.comes_back(&context);
}

#[test]
fn a_hundred_thousand_all_reduces_of_threads_leave_nothing() {
    println!("{}", alone("soak::over_threads"));
}

#[test]
fn all_reduces_over_sockets_leave_nothing() {
    println!("{}", alone("soak::over_sockets"));
}

#[test]
fn fabrics_that_come_and_go_leave_nothing() {
    println!("{}", alone("soak::comings_and_goings"));
}

#[test]
#[ignore = "a_hundred_thousand_all_reduces_of_threads_leave_nothing runs it"]
fn over_threads() {
    [2, 4].into_iter().for_each(|world| soak(Kind::Local, world, Duration::MAX));
}

#[test]
#[ignore = "all_reduces_over_sockets_leave_nothing runs it"]
fn over_sockets() {
    let span = if std::env::var_os("FIRESTEEL_SOAK").is_some() { Duration::MAX } else { SPAN };
    for (kind, world) in [(Kind::Tcp, 2), (Kind::Tcp, 4), (Kind::Host, 2), (Kind::Host, 4)] {
        soak(kind, world, span);
    }
}

#[test]
#[ignore = "fabrics_that_come_and_go_leave_nothing runs it"]
fn comings_and_goings() {
    let come_and_go = |worlds: usize| {
        for nth in 0..worlds {
            let kind = [Kind::Tcp, Kind::Mixed, Kind::Host][nth % 3];
            all_reduces(&meshes(kind, 3, &options()), 0..3, 16);
        }
    };
    let before = Usage::between_fabrics();
    come_and_go(100);
    before.comes_back("100 worlds");
    let warm = Usage::now();
    come_and_go(300);
    before.comes_back("400 worlds");
    let grown = Usage::now().memory - warm.memory;
    println!("300 worlds, grown by {grown} KiB");
    assert!(grown <= GROWTH, "memory grew by {grown} KiB, at most {GROWTH} are allowed");
}
