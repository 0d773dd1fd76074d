//! One side of `benchmarks/gloo.py`: `all_reduce host|sockets RANK ADDRESSES LEN`, a worker of several processes, with memory that
//! they share or without, `all_reduce local WORLD LEN`, all of them as threads, or `all_reduce pump RANK ADDRESSES LEN`, which only
//! moves as many bytes between the processes as an all-reduce: a thread each way of each pair, nothing summed or waited for.
//!
//! Each line on the standard input is a number of all-reduces to make, or `copy` and a number: of copies by each thread of as many
//! bytes as an all-reduce by slices moves. Each answer is the seconds that it took.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::hint::black_box;
use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use firesteel_comm::collective::{all_reduce_sum, barrier};
use firesteel_comm::{Fabric, Key, Listener, Membership, Mesh, Options, Peer, join, local_world};

/// The seconds of so many all-reduces on this worker, once all are there.
fn reduce(mesh: &Mesh, step: u64, times: u64, values: &mut [f32]) -> f64 {
    barrier(mesh, Key::new(step, 1, 0)).unwrap();
    let start = Instant::now();
    for step in step..step + times {
        // The rest stays 0: writing a long vector anew would take a part of the time.
        let ends = [0, values.len() - 1];
        ends.into_iter().for_each(|end| values[end] = 1.0);
        all_reduce_sum(mesh, Key::new(step, 0, 0), values).unwrap();
        assert!(ends.into_iter().all(|end| values[end] == mesh.world() as f32));
    }
    start.elapsed().as_secs_f64()
}

/// The seconds of so many copies, each of `len` values.
fn copy(times: u64, len: usize) -> f64 {
    let (from, mut to) = (vec![1.0f32; len], vec![0.0f32; len]);
    let start = Instant::now();
    for _ in 0..times {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    start.elapsed().as_secs_f64()
}

/// The longest of what threads take.
fn slowest<T: Send>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> f64 + Sync) -> f64 {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(0.0, f64::max)
    })
}

/// A connection to each other worker.
fn connect(rank: usize, addresses: &str) -> Vec<TcpStream> {
    let addresses: Vec<&str> = addresses.split(',').collect();
    let listener = TcpListener::bind(addresses[rank]).unwrap();
    let mut streams: Vec<TcpStream> = addresses[..rank].iter().map(|address| reach(address)).collect();
    streams.extend((rank + 1..addresses.len()).map(|_| listener.accept().unwrap().0));
    streams
}

/// A connection to one that may not listen yet.
fn reach(address: &str) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(e) if Instant::now() > deadline => panic!("{address}: {e}"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The seconds of moving as many bytes as so many all-reduces of `len` values.
fn pump(streams: &[TcpStream], times: u64, len: usize) -> f64 {
    const BLOCK: u64 = 1 << 18;
    // To each, as from each: its slice of the values, and one's own of the sums.
    let bytes = times * 2 * 4 * len as u64 / (streams.len() as u64 + 1);
    let ways = streams.iter().flat_map(|stream| [(stream, true), (stream, false)]);
    slowest(ways, |(mut stream, writes)| {
        let mut block = vec![0; BLOCK as usize];
        let start = Instant::now();
        for place in (0..bytes).step_by(BLOCK as usize) {
            let block = &mut block[..(bytes - place).min(BLOCK) as usize];
            if writes { stream.write_all(block) } else { stream.read_exact(block) }.unwrap();
        }
        start.elapsed().as_secs_f64()
    })
}

fn join_by_tcp(rank: usize, addresses: &str, options: &Options) -> Mesh {
    let peer = |(nth, address): (usize, &str)| Peer { process: nth.to_string(), address: address.into() };
    let peers: Vec<Peer> = addresses.split(',').enumerate().map(peer).collect();
    let listener = Listener::bind(&peers[rank].address).unwrap();
    let membership = Membership { job: "gloo".into(), secret: b"gloo".to_vec(), peers };
    join(&membership, rank, Some(listener), options).unwrap()
}

/// Answers each line with the seconds of what it asks for.
fn answer(mut seconds: impl FnMut(&str) -> f64) {
    for line in io::stdin().lock().lines().map(Result::unwrap) {
        println!("{}", seconds(&line));
        io::stdout().flush().unwrap();
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (meshes, len): (Vec<Mesh>, usize) = match arguments[..] {
        ["pump", rank, addresses, len] => {
            let (streams, len) = (connect(rank.parse().unwrap(), addresses), len.parse().unwrap());
            return answer(|line| pump(&streams, line.parse().unwrap(), len));
        }
        [way @ ("host" | "sockets"), rank, addresses, len] => {
            let shared_memory = if way == "host" { Options::default().shared_memory } else { 0 };
            let options = Options { shared_memory, ..Options::default() };
            (vec![join_by_tcp(rank.parse().unwrap(), addresses, &options)], len.parse().unwrap())
        }
        ["local", world, len] => {
            (local_world(world.parse().unwrap(), &Options::default()).unwrap(), len.parse().unwrap())
        }
        _ => panic!("expected host|sockets|pump RANK ADDRESSES LEN or local WORLD LEN, found {arguments:?}"),
    };
    let mut values = vec![vec![0.0; len]; meshes.len()];
    let mut step = 0;
    answer(|line| match line.split_once(' ') {
        Some(("copy", times)) => {
            let world = meshes.len();
            // A copy of S bytes moves 2·S; who sums a slice of all and copies the others' reads S and S·(n−1)/n, and writes S.
            let len = len * (3 * world - 1) / (2 * world);
            slowest(0..world, |_| copy(times.parse().unwrap(), len))
        }
        _ => {
            let times: u64 = line.parse().unwrap();
            let all = meshes.iter().zip(&mut values);
            let seconds = slowest(all, |(mesh, values)| reduce(mesh, step, times, values));
            step += times;
            seconds
        }
    });
}
