//! Tests that need a process of their own: of threads, and of what the system has run out of.

use std::fs::File;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use firesteel_comm::collective::barrier;
use firesteel_comm::{Key, join, open_jobs};

use crate::world::{Kind, membership, meshes, options};

/// Runs an ignored test, by its full name, in a process that may open 64 files; what it said.
pub fn alone(test: &str) -> String {
    let done = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("1 passed"), "the test ran: {said}");
    said.into_owned()
}

#[test]
fn nothing_is_left_when_workers_leave() {
    alone("alone::leave");
}

#[test]
#[ignore = "nothing_is_left_when_workers_leave runs it"]
fn leave() {
    assert_eq!(ours(), Vec::<String>::new());
    let (there, listeners) = membership(2, |rank| format!("process {rank}"));
    thread::scope(|scope| {
        for (rank, listener) in listeners.into_iter().enumerate() {
            let there = &there;
            scope.spawn(move || {
                let mesh = join(there, rank, Some(listener), &options()).unwrap();
                barrier(&mesh, Key::new(0, 0, 0)).unwrap();
                assert!(ours().contains(&"firesteel-tcp".into()), "{:?}", ours());
            });
        }
    });
    drop(meshes(Kind::Mixed, 3, &options()));
    drop(meshes(Kind::Local, 3, &options()));
    assert_eq!(open_jobs(), 0);
    let address = &there.peers[0].address;
    assert!(TcpStream::connect(address).is_err(), "{address} is still listening");
    let until = Instant::now() + Duration::from_secs(5);
    while !ours().is_empty() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ours(), Vec::<String>::new());
}

/// The names of this crate's threads in this process.
fn ours() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("firesteel-")).collect()
}

#[test]
fn a_system_out_of_descriptors_delays_joining_and_does_not_end_it() {
    alone("alone::descriptors");
}

#[test]
#[ignore = "a_system_out_of_descriptors_delays_joining_and_does_not_end_it runs it"]
fn descriptors() {
    let (there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    let (second, first) = (listeners.pop(), listeners.pop());
    thread::scope(|scope| {
        let acceptor = scope.spawn(|| {
            let mesh = join(&there, 0, first, &options()).unwrap();
            barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        });
        // It listens by now; then all descriptors are taken, the last one by someone who dials.
        thread::sleep(Duration::from_millis(300));
        let mut held = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            held.push(file);
        }
        held.pop();
        let stranger = TcpStream::connect(&there.peers[0].address).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(!acceptor.is_finished(), "it goes on");
        drop((held, stranger));
        let mesh = join(&there, 1, second, &options()).unwrap();
        barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        acceptor.join().unwrap();
    });
}
