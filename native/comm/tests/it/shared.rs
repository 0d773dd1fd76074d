//! Memory that workers of other processes on one host read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use firesteel_comm::collective::{all_reduce_sum, barrier};
use firesteel_comm::{Fabric, Key, Listener, Membership, Mesh, Options, Peer, join};

use crate::fake::{ACCEPTED, LENT, OFFER, PART, RETURNED, against, head};
use crate::world::{Kind, meshes, options, run};

const KEY: Key = Key { step: 0, bucket: 0, phase: 0 };

/// With so much memory to share.
fn sharing(shared_memory: usize) -> Options {
    Options { shared_memory, ..options() }
}

/// Returns on all workers once all have lent: until a peer has said that it reads, parts go through its socket.
fn until_lent(mesh: &Mesh) {
    for step in 1_000.. {
        let mut values = vec![0.0; 10_000];
        values[0] = f32::from(u8::from(mesh.lent() > 0));
        all_reduce_sum(mesh, Key::new(step, 0, 0), &mut values).unwrap();
        if values[0] == mesh.world() as f32 {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn long_parts_are_lent_and_short_ones_sent() {
    for (kind, lends) in [(Kind::Local, false), (Kind::Tcp, false), (Kind::Host, true), (Kind::Mixed, true)] {
        run(meshes(kind, 3, &options()), |mesh| {
            // Both ends know what the other can read once something has come of it.
            (0..3).for_each(|step| barrier(&mesh, Key::new(step, 1, 0)).unwrap());
            thread::sleep(Duration::from_millis(200));
            barrier(&mesh, Key::new(4, 1, 0)).unwrap();
            assert_eq!(mesh.lent(), 0);
            let part = |rank: usize| Bytes::from(vec![rank as u8; 5_000]);
            let all = mesh.broadcast(KEY, part(mesh.rank())).unwrap().wait().unwrap();
            assert_eq!(all, [part(0), part(1), part(2)]);
            let others = match kind {
                Kind::Mixed => {
                    if mesh.rank() == 2 {
                        2
                    } else {
                        1
                    }
                }
                _ => 2,
            };
            assert_eq!(mesh.lent(), if lends { others } else { 0 }, "{kind:?}");
            assert_eq!(mesh.sent(), 10_000);
        });
    }
}

/// Many times what the memory holds, both ways and one way: what is read is used again.
#[test]
fn memory_is_used_again() {
    run(meshes(Kind::Host, 2, &sharing(1 << 20)), |mesh| {
        (0..3).for_each(|step| barrier(&mesh, Key::new(step, 1, 0)).unwrap());
        thread::sleep(Duration::from_millis(200));
        for step in 0..500 {
            let mut values = vec![step as f32; 30_000];
            all_reduce_sum(&mesh, Key::new(step, 0, 0), &mut values).unwrap();
            assert!(values.iter().all(|value| *value == 2.0 * step as f32));
        }
        assert_eq!(mesh.lent(), 1_000, "a slice and a sum each time");
        for step in 0..500 {
            let to = if mesh.rank() == 0 { vec![(1, Bytes::from(vec![1; 60_000]))] } else { vec![] };
            let from = if mesh.rank() == 0 { &[][..] } else { &[0] };
            drop(mesh.exchange(Key::new(step, 2, 0), to, from).unwrap().wait().unwrap());
            // Not faster than the other reads.
            barrier(&mesh, Key::new(step, 3, 0)).unwrap();
        }
        assert_eq!(mesh.lent(), if mesh.rank() == 0 { 1_500 } else { 1_000 });
    });
}

/// Parts that find no room go through the socket, in any order with those that do.
#[test]
fn what_has_no_room_is_sent() {
    run(meshes(Kind::Host, 3, &sharing(100_000)), |mesh| {
        until_lent(&mesh);
        barrier(&mesh, Key::new(0, 9, 0)).unwrap();
        let part = |rank: usize, step: u64| Bytes::from(vec![rank as u8 ^ step as u8; 40_000]);
        let post = |step| mesh.broadcast(Key::new(step, 0, 0), part(mesh.rank(), step)).unwrap();
        let all: Vec<_> = (0..20).map(post).collect();
        for (step, pending) in all.into_iter().enumerate() {
            let expected: Vec<_> = (0..3).map(|rank| part(rank, step as u64)).collect();
            assert_eq!(pending.wait().unwrap(), expected);
        }
        assert!(mesh.lent() < 60, "{} of 40 fit", mesh.lent());
    });
}

/// What rank 0, which shares memory, says of a rank 1 that sends these bytes and then waits.
fn refusal(options: &Options, bytes: &[u8]) -> String {
    let send = |mut stream: TcpStream| {
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    };
    against(options, send, |mesh| mesh.exchange(KEY, vec![], &[1]).unwrap().wait().unwrap_err().to_string())
}

#[test]
fn what_was_never_shared_is_not_read() {
    let on = sharing(1 << 20);
    let lent = [head(LENT, 10), vec![0; 16]].concat();
    let prefix = "rank 0 lost rank 1: ";
    assert_eq!(refusal(&on, &lent), format!("{prefix}a part in memory that is not shared"));
    assert_eq!(refusal(&on, &head(RETURNED, 0)), format!("{prefix}loan 0 came back, which is not out"));
    let answer = format!("{prefix}an answer to what was not offered");
    assert_eq!(refusal(&options(), &head(ACCEPTED, 0)), answer);
    assert_eq!(refusal(&options(), &head(RETURNED, 0)), answer);
    let long = format!("{prefix}a frame of kind 6 with 33 bytes, at most 32 are allowed");
    assert_eq!(refusal(&on, &head(OFFER, 33)), long);
}

/// A peer whose memory cannot be opened, as one in a container of its own, is a peer by socket.
#[test]
fn an_offer_that_leads_nowhere_is_passed_over() {
    let offers = [vec![0xff; 32], vec![0; 32], [&std::process::id().to_le_bytes()[..], &[0; 28]].concat()];
    for offer in offers {
        let send = |mut stream: TcpStream| {
            let part = [head(PART, 3), vec![1, 2, 3]].concat();
            stream.write_all(&[head(OFFER, 32), offer.clone(), part].concat()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        };
        against(&sharing(1 << 20), send, |mesh| {
            let parts =
                mesh.shuffle(KEY, vec![Bytes::new(), vec![0; 10_000].into()]).unwrap().wait().unwrap();
            assert_eq!(parts[1], [1, 2, 3][..]);
            assert_eq!(mesh.lent(), 0);
        });
    }
}

/// Joins as `rank` of two processes and sums; the memory that it was read in.
fn sum_as(rank: usize, addresses: &str, listener: Listener) {
    let peer = |(nth, address): (usize, &str)| Peer { process: nth.to_string(), address: address.into() };
    let peers = addresses.split(',').enumerate().map(peer).collect();
    let membership = Membership { job: "two processes".into(), secret: b"a secret".to_vec(), peers };
    let mesh = join(&membership, rank, Some(listener), &sharing(1 << 24)).unwrap();
    until_lent(&mesh);
    for len in [0, 1, 4_099, 1_000_003] {
        let mut values: Vec<f32> = (0..len).map(|i| (i % 1_000) as f32 * (1 + rank) as f32).collect();
        all_reduce_sum(&mesh, Key::new(len as u64, 0, 0), &mut values).unwrap();
        assert!(values.iter().enumerate().all(|(i, value)| *value == (i % 1_000) as f32 * 3.0));
    }
}

#[test]
fn processes_read_each_others_memory() {
    let listeners = [0, 1].map(|_| Listener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let [first, second] = listeners;
    drop(second);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared::the_other_process", "--ignored", "--nocapture"])
        .env("FIRESTEEL_TEST_ADDRESSES", addresses.join(","))
        .spawn();
    sum_as(0, &addresses.join(","), first);
    let done = child.unwrap().wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
#[ignore = "processes_read_each_others_memory runs it"]
fn the_other_process() {
    let addresses = std::env::var("FIRESTEEL_TEST_ADDRESSES").unwrap();
    let own = addresses.split(',').next_back().unwrap();
    sum_as(1, &addresses, Listener::bind(own).unwrap());
}
