//! What happens when a peer dies, is late, lies or is no peer at all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firesteel_comm::collective::barrier;
use firesteel_comm::{Cancel, Fabric, Key, Membership, Options, join, open_jobs};
use firesteel_error::Kind as ErrorKind;

use crate::world::{KINDS, Kind, membership, meshes, options, run};

#[test]
fn a_worker_that_leaves_early_is_named_by_all_others() {
    for kind in KINDS {
        let start = Instant::now();
        let errors = run(meshes(kind, 4, &options()), |mesh| {
            if mesh.rank() == 2 {
                return None;
            }
            Some(barrier(&mesh, Key::new(0, 0, 0)).unwrap_err())
        });
        for error in errors.into_iter().flatten() {
            assert_eq!(error.kind(), ErrorKind::PeerLost, "{kind:?}: {error}");
            assert!(error.to_string().contains("rank 2"), "{kind:?}: {error}");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{kind:?} took {:?}", start.elapsed());
    }
}

#[test]
fn a_panicking_worker_is_named_by_all_others() {
    for kind in KINDS {
        let errors = run(meshes(kind, 3, &options()), |mesh| {
            if mesh.rank() == 1 {
                let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let _mesh = mesh;
                    std::panic::resume_unwind(Box::new("boom"));
                }));
                assert!(caught.is_err());
                return None;
            }
            Some(barrier(&mesh, Key::new(0, 0, 0)).unwrap_err().to_string())
        });
        for error in errors.into_iter().flatten() {
            assert_eq!(error, "rank 1 is lost: it panicked", "{kind:?}");
        }
    }
}

#[test]
fn an_abort_tells_everyone_why() {
    for kind in KINDS {
        let errors = run(meshes(kind, 3, &options()), |mesh| {
            if mesh.rank() == 0 {
                mesh.abort("column 'x' holds NaN");
                return None;
            }
            Some(barrier(&mesh, Key::new(0, 0, 0)).unwrap_err().to_string())
        });
        for error in errors.into_iter().flatten() {
            assert_eq!(error, "rank 0 is lost: column 'x' holds NaN", "{kind:?}");
        }
    }
}

#[test]
fn what_a_finished_worker_sent_still_arrives() {
    for kind in KINDS {
        run(meshes(kind, 2, &options()), |mesh| {
            let part = Bytes::from(vec![7; 3_000_000]);
            let pending = mesh.broadcast(Key::new(0, 0, 0), part.clone()).unwrap();
            if mesh.rank() == 1 {
                thread::sleep(Duration::from_millis(100));
                assert_eq!(pending.wait().unwrap()[0], part);
            }
        });
    }
}

#[test]
fn a_late_worker_is_named_at_the_deadline() {
    let short = Options { deadline: Duration::from_millis(200), ..options() };
    for kind in KINDS {
        run(meshes(kind, 3, &short), |mesh| {
            if mesh.rank() == 2 {
                thread::sleep(Duration::from_millis(600));
                return;
            }
            let error = barrier(&mesh, Key::new(0, 0, 0)).unwrap_err();
            if error.kind() == ErrorKind::Timeout {
                assert!(
                    error.to_string().contains("no answer from rank [2] within 200ms"),
                    "{kind:?}: {error}"
                );
            }
            thread::sleep(Duration::from_millis(600));
        });
    }
}

#[test]
fn cancelling_ends_a_wait() {
    for kind in KINDS {
        let cancel = Cancel::new();
        let options = Options { cancel: cancel.clone(), ..options() };
        let start = Instant::now();
        run(meshes(kind, 2, &options), |mesh| {
            if mesh.rank() == 1 {
                thread::sleep(Duration::from_millis(100));
                cancel.cancel();
                thread::sleep(Duration::from_millis(300));
                return;
            }
            let error = barrier(&mesh, Key::new(0, 0, 0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
        });
        assert!(start.elapsed() < Duration::from_secs(3), "{kind:?} took {:?}", start.elapsed());
    }
}

#[test]
fn joining_names_the_ranks_that_did_not_come() {
    let short = Options { deadline: Duration::from_millis(300), ..options() };
    let (there, mut listeners) = membership(3, |rank| format!("process {rank}"));
    let error = join(&there, 0, Some(listeners.remove(0)), &short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("rank [1, 2] did not connect in time"), "{error}");

    let (there, _) = membership(2, |_| "one process".into());
    let error = join(&there, 1, None, &short).unwrap_err();
    assert!(error.to_string().contains("rank [0] of this process did not join"), "{error}");
}

#[test]
fn a_peer_that_is_not_there_is_named() {
    let short = Options { deadline: Duration::from_millis(300), ..options() };
    let (there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    let mine = listeners.pop().unwrap();
    drop(listeners);
    let error = join(&there, 1, Some(mine), &short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerLost);
    assert!(error.to_string().contains("cannot connect to rank 0 at 127.0.0.1:"), "{error}");
}

/// Rank 1 joins with other credentials than rank 0 expects.
fn join_with(change: impl Fn(&mut Membership)) -> (String, ErrorKind, String) {
    let short = Options { deadline: Duration::from_secs(1), ..options() };
    let (there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    let mut other = there.clone();
    change(&mut other);
    let (second, first) = (listeners.pop(), listeners.pop());
    thread::scope(|scope| {
        let acceptor = scope.spawn(|| join(&there, 0, first, &short).unwrap_err());
        let dialer = join(&other, 1, second, &short).unwrap_err();
        (acceptor.join().unwrap().to_string(), dialer.kind(), dialer.to_string())
    })
}

#[test]
fn a_wrong_secret_or_job_is_refused_by_both_ends() {
    let (_, kind, dialer) = join_with(|m| m.secret = b"a guess".to_vec());
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(dialer.contains("rank 0 did not prove that it knows the job's secret"), "{dialer}");
    let (acceptor, kind, _) = join_with(|m| m.job = "another job".into());
    assert_eq!(kind, ErrorKind::Unauthenticated);
    assert!(acceptor.contains("rank [1] did not connect in time; refused 127.0.0.1"), "{acceptor}");
}

/// Strangers knock before the real peer comes; each gets what it deserves and the job goes on.
fn join_despite(strangers: impl Fn(&str) + Sync) {
    let (there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    let (second, first) = (listeners.pop(), listeners.pop());
    let options = options();
    thread::scope(|scope| {
        let acceptor = scope.spawn(|| {
            let mesh = join(&there, 0, first, &options).unwrap();
            barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        });
        strangers(&there.peers[0].address);
        let mesh = join(&there, 1, second, &options).unwrap();
        barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        acceptor.join().unwrap();
    });
}

/// The hello of a worker that claims to be rank 1.
fn hello(version: u16) -> Vec<u8> {
    [b"FSTL".as_slice(), &version.to_le_bytes(), &1_u32.to_le_bytes(), &[9; 32]].concat()
}

fn is_closed(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn strangers_do_not_disturb_a_job() {
    join_despite(|address| {
        let mut garbage = TcpStream::connect(address).unwrap();
        garbage.write_all(&[0xAB; 4_096]).unwrap();
        assert!(is_closed(garbage), "garbage is hung up on");
        let mut newer = TcpStream::connect(address).unwrap();
        newer.write_all(&hello(99)).unwrap();
        assert!(is_closed(newer), "another version is hung up on");
    });
}

#[test]
fn a_stranger_that_says_nothing_holds_nobody_up() {
    let start = Instant::now();
    let held = std::sync::Mutex::new(Vec::new());
    join_despite(|address| held.lock().unwrap().push(TcpStream::connect(address).unwrap()));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[test]
fn an_answer_cannot_be_reflected() {
    join_despite(|address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&hello(1)).unwrap();
        let mut answer = [0; 64];
        stream.read_exact(&mut answer).unwrap();
        stream.write_all(&answer[32..]).unwrap();
        assert!(is_closed(stream), "the acceptor's own proof does not prove the dialer");
    });
}

#[test]
fn nothing_is_left_when_workers_leave() {
    let threads = || std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(0);
    let address = {
        let (there, listeners) = membership(2, |rank| format!("process {rank}"));
        let address = there.peers[0].address.clone();
        thread::scope(|scope| {
            for (rank, listener) in listeners.into_iter().enumerate() {
                let there = &there;
                scope.spawn(move || drop(join(there, rank, Some(listener), &options()).unwrap()));
            }
        });
        address
    };
    assert!(TcpStream::connect(&address).is_err(), "{address} is still listening");
    drop(meshes(Kind::Local, 3, &options()));
    // Other tests run beside this one: wait for a moment in which no job of ours is open.
    let until = Instant::now() + Duration::from_secs(10);
    while open_jobs() > 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(open_jobs(), 0);
    assert!(threads() < 1_000);
}
