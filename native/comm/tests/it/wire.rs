//! What travels between workers that proved themselves: too long, unknown, twice, slowly, not at all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_comm::collective::{barrier, broadcast_from, gather};
use firesteel_comm::{Fabric, Key, Options};
use firesteel_error::Kind as ErrorKind;

use crate::fake::{HEARTBEAT, LONG, PART, PIECE, against, head};
use crate::world::{KINDS, meshes, options, run};

const KEY: Key = Key { step: 0, bucket: 0, phase: 0 };

/// Bytes that differ from piece to piece.
fn payload(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into()
}

#[test]
fn parts_longer_than_a_frame_arrive() {
    let small = Options { max_frame: 1_000, ..options() };
    for kind in KINDS {
        run(meshes(kind, 3, &small), |mesh| {
            for (step, len) in [0, 999, 1_000, 1_001, 2_000, 100_003].into_iter().enumerate() {
                let key = Key::new(step as u64, 0, 0);
                let mine = if mesh.rank() == 0 { payload(len) } else { Bytes::new() };
                assert!(broadcast_from(&mesh, key, 0, mine).unwrap() == payload(len), "{kind:?}: {len}");
                let all = gather(&mesh, Key { phase: 1, ..key }, 1, payload(len + mesh.rank())).unwrap();
                let expected: Vec<Bytes> = (0..3).map(|rank| payload(len + rank)).collect();
                assert!(all == (mesh.rank() == 1).then_some(expected), "{kind:?}: {len}");
            }
        });
    }
}

#[test]
fn a_part_that_is_too_long_is_refused_where_it_is_sent() {
    let small = Options { max_part: 1_000, ..options() };
    for kind in KINDS {
        run(meshes(kind, 2, &small), |mesh| {
            if mesh.rank() == 1 {
                return drop(barrier(&mesh, KEY));
            }
            let own = Bytes::from(vec![0; 5_000]);
            let _fits = mesh.shuffle(Key::new(1, 0, 0), vec![own, payload(1_000)]).unwrap();
            let errors = [
                mesh.broadcast(Key::new(2, 0, 0), payload(1_001)),
                mesh.shuffle(Key::new(2, 0, 0), vec![Bytes::new(), payload(1_001)]),
                mesh.exchange(Key::new(2, 0, 0), vec![(1, payload(1_001))], &[]),
            ];
            for (error, name) in errors.into_iter().zip(["broadcast", "shuffle", "exchange"]) {
                let error = error.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                assert_eq!(
                    error.to_string(),
                    format!(
                        "rank 0 sends rank 1 a part of 1001 bytes, at most 1000 are allowed ({name}, bucket 0 of step 2)"
                    )
                );
            }
        });
    }
}

/// What rank 0 says of a rank 1 that sends these bytes and then waits.
fn refusal(bytes: &[u8]) -> String {
    let options = Options { max_frame: 100, max_part: 1_000, ..options() };
    let send = |mut stream: TcpStream| {
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let error = against(&options, send, |mesh| mesh.exchange(KEY, vec![], &[1]).unwrap().wait().unwrap_err());
    assert_eq!(error.kind(), ErrorKind::PeerLost, "{error}");
    error.to_string()
}

#[test]
fn frames_that_make_no_sense_end_a_connection() {
    let long = |kind, len| refusal(&head(kind, len));
    let prefix = "rank 0 lost rank 1: a frame of kind";
    assert_eq!(long(PART, 101), format!("{prefix} 0 with 101 bytes, at most 100 are allowed"));
    assert_eq!(long(LONG, 1_001), format!("{prefix} 4 with 1001 bytes, at most 1000 are allowed"));
    assert_eq!(long(HEARTBEAT, 1), format!("{prefix} 1 with 1 bytes, at most 0 are allowed"));
    assert_eq!(long(99, 0), "rank 0 lost rank 1: a frame of unknown kind 99, move 0");
    assert_eq!(long(PIECE, 1), "rank 0 lost rank 1: a piece of no part");
    let twice = [head(LONG, 500), head(LONG, 500)].concat();
    let tag = "(shuffle, bucket 0 of step 0)";
    assert_eq!(refusal(&twice), format!("rank 0 lost rank 1: a part {tag} within another {tag}"));
    let over = [head(LONG, 150), head(PIECE, 100), vec![0; 100], head(PIECE, 51)].concat();
    let text = format!("rank 0 lost rank 1: a piece of 51 bytes of a part that lacks 50 {tag}");
    assert_eq!(refusal(&over), text);
    let nothing = [head(LONG, 150), head(PIECE, 0)].concat();
    assert!(refusal(&nothing).contains("a piece of 0 bytes of a part that lacks 150"));
}

#[test]
fn a_part_that_comes_twice_is_refused() {
    let tag = "(shuffle, bucket 0 of step 0)";
    let twice = [head(PART, 1), vec![1], head(PART, 1), vec![2]].concat();
    let text = format!("rank 0 lost rank 1: rank 1 sent rank 0 the same part twice {tag}");
    assert_eq!(refusal(&twice), text);
    let mesh = &meshes(KINDS[0], 2, &options())[0];
    let _first = mesh.broadcast(KEY, Bytes::new()).unwrap();
    let error = mesh.broadcast(KEY, Bytes::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let text = "rank 0 sent rank 0 the same part twice (broadcast, bucket 0 of step 0)";
    assert_eq!(error.to_string(), text);
}

/// It is connected, and its host still answers; but the worker has stopped.
#[test]
fn a_peer_that_stalls_is_lost_long_before_the_deadline() {
    let silence = Some(Duration::from_millis(400));
    let stall = |stream: TcpStream| drop((stream, thread::sleep(Duration::from_secs(2))));
    let error = against(&Options { silence, ..options() }, stall, |mesh| {
        let start = Instant::now();
        let error = barrier(&mesh, KEY).unwrap_err();
        (error.kind(), error.to_string(), start.elapsed())
    });
    assert_eq!(error.0, ErrorKind::PeerLost);
    assert_eq!(error.1, "rank 0 lost rank 1: it was silent for 0.4 s");
    assert!(error.2 < Duration::from_secs(2), "took {:?}", error.2);
}

/// The deadline alone bounds the silence: nobody said how long it may be.
#[test]
fn silence_is_never_longer_than_the_deadline() {
    let options = Options { deadline: Duration::from_millis(400), ..Options::default() };
    let stall = |stream: TcpStream| drop((stream, thread::sleep(Duration::from_secs(2))));
    let error = against(&options, stall, |mesh| {
        thread::sleep(Duration::from_millis(1_000));
        barrier(&mesh, KEY).unwrap_err()
    });
    assert_eq!(error.to_string(), "rank 0 lost rank 1: it was silent for 0.4 s");
}

/// Rank 1 computes for several times the silence; its heartbeats say that it lives.
#[test]
fn a_worker_that_computes_for_long_is_not_lost() {
    let silence = Some(Duration::from_millis(500));
    for kind in KINDS {
        run(meshes(kind, 3, &Options { silence, ..options() }), |mesh| {
            if mesh.rank() == 1 {
                thread::sleep(Duration::from_millis(1_500));
            }
            barrier(&mesh, KEY).unwrap();
        });
    }
}

/// A part of which every byte is on time takes longer than the deadline.
#[test]
fn a_wait_goes_on_while_a_long_part_comes_in() {
    let options = Options { deadline: Duration::from_millis(500), max_frame: 10, ..options() };
    let part = payload(100);
    let trickle = |mut stream: TcpStream| {
        stream.write_all(&head(LONG, part.len())).unwrap();
        for piece in part.chunks(10) {
            thread::sleep(Duration::from_millis(150));
            stream.write_all(&head(PIECE, piece.len())).unwrap();
            stream.write_all(piece).unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let start = Instant::now();
    let sum = against(&options, trickle, |mesh| {
        let parts = mesh.shuffle(KEY, vec![Bytes::new(); 2]).unwrap().wait().unwrap();
        assert_eq!(parts[1], part);
        start.elapsed()
    });
    assert!(sum > options.deadline * 2, "it took {sum:?}");
}

/// Heartbeats are no part: a worker that lives and sends nothing is late.
#[test]
fn heartbeats_do_not_put_off_the_deadline() {
    let options = Options { deadline: Duration::from_millis(500), ..options() };
    let beat = |mut stream: TcpStream| {
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(50));
            stream.write_all(&head(HEARTBEAT, 0)).unwrap();
        }
    };
    let error = against(&options, beat, |mesh| {
        let error = barrier(&mesh, KEY).unwrap_err();
        // The fake does not expect to be left.
        thread::sleep(Duration::from_millis(800));
        error
    });
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.to_string(), "rank 0 waited 0.5 s for rank 1 (broadcast, bucket 0 of step 0)");
}

/// A frame that takes longer than the deadline to send, to a peer that takes some of it all the time.
#[test]
fn a_slow_peer_is_not_lost_while_bytes_flow() {
    const LEN: usize = 32 << 20;
    let options = Options { deadline: Duration::from_millis(500), max_frame: LEN, ..options() };
    let (done, all_taken) = mpsc::channel();
    let slow = move |mut stream: TcpStream| {
        let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
        while taken < LEN {
            thread::sleep(Duration::from_millis(50));
            let some = stream.read(&mut buffer).unwrap();
            assert!(some > 0, "rank 0 gave up after {taken} bytes");
            taken += some;
            stream.write_all(&head(HEARTBEAT, 0)).unwrap();
        }
        done.send(()).unwrap();
        stream.write_all(&[head(PART, 1), vec![7]].concat()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let start = Instant::now();
    against(&options, slow, |mesh| {
        let pending = mesh.shuffle(KEY, vec![Bytes::new(), vec![1; LEN].into()]).unwrap();
        all_taken.recv().unwrap();
        assert!(start.elapsed() > options.deadline * 2, "it took {:?}", start.elapsed());
        assert_eq!(pending.wait().unwrap()[1], [7][..]);
    });
}
