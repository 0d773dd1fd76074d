//! How workers meet: late, twice, at wrong addresses, among strangers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use firesteel_comm::collective::barrier;
use firesteel_comm::{Fabric, Key, Membership, Options, join};
use firesteel_error::Kind as ErrorKind;

use crate::fake;
use crate::world::{membership, options};

#[test]
fn joining_names_the_ranks_that_did_not_come() {
    let short = Options { deadline: Duration::from_millis(300), ..options() };
    let (there, mut listeners) = membership(3, |rank| format!("process {rank}"));
    let error = join(&there, 0, Some(listeners.remove(0)), &short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.to_string(), "rank 0 waited 0.3 s for ranks 1 and 2 to connect");

    let (there, _) = membership(2, |_| "one process".into());
    let error = join(&there, 1, None, &short).unwrap_err();
    let text = format!("rank 1 waited 0.3 s for rank 0 of its process to join job '{}'", there.job);
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_peer_that_is_not_there_is_named() {
    let short = Options { deadline: Duration::from_millis(300), ..options() };
    let (there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    let mine = listeners.pop().unwrap();
    drop(listeners);
    let error = join(&there, 1, Some(mine), &short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerLost);
    assert!(error.to_string().contains("rank 1 cannot connect to rank 0 at 127.0.0.1:"), "{error}");
    assert!(error.to_string().contains("within 0.3 s: "), "the system says why: {error}");
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
    assert!(acceptor.contains("rank 0 waited 1 s for rank 1 to connect; refused 127.0.0.1"), "{acceptor}");
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
        newer.write_all(&fake::hello(99, 1)).unwrap();
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
        stream.write_all(&fake::hello(fake::VERSION, 1)).unwrap();
        let mut answer = [0; 64];
        stream.read_exact(&mut answer).unwrap();
        stream.write_all(&answer[32..]).unwrap();
        assert!(is_closed(stream), "the acceptor's own proof does not prove the dialer");
    });
}

/// The listener is bound, but its worker is busy for longer than a stranger may take to shake hands.
#[test]
fn a_worker_may_be_later_than_a_handshake_takes() {
    let options = Options { handshake: Duration::from_millis(100), ..options() };
    for late in 0..3 {
        let (there, listeners) = membership(3, |rank| format!("process {rank}"));
        thread::scope(|scope| {
            for (rank, listener) in listeners.into_iter().enumerate() {
                let (there, options) = (&there, &options);
                scope.spawn(move || {
                    if rank == late {
                        thread::sleep(Duration::from_millis(600));
                    }
                    let mesh = join(there, rank, Some(listener), options).unwrap();
                    barrier(&mesh, Key::new(0, 0, 0)).unwrap();
                });
            }
        });
    }
}

/// Rank 0 is late: rank 1, which waits for it, takes rank 2 in meanwhile.
#[test]
fn a_worker_accepts_while_it_dials() {
    let (there, mut listeners) = membership(3, |rank| format!("process {rank}"));
    let (_, second, _first) = (listeners.pop(), listeners.pop(), listeners.pop());
    let options = Options { deadline: Duration::from_millis(700), ..options() };
    thread::scope(|scope| {
        let start = Instant::now();
        let one = scope.spawn(|| join(&there, 1, second, &options).unwrap_err());
        // Its silence, which is a reason to give up too, ends well behind the wait for rank 0.
        thread::sleep(Duration::from_millis(300));
        let (_held, last) = fake::dial(&there, 2, 1);
        assert_eq!(last, b'W');
        assert!(start.elapsed() < options.deadline, "took {:?}", start.elapsed());
        let text = one.join().unwrap().to_string();
        assert!(text.contains(" waited 0.7 s for rank 0 at 127.0.0.1:"), "{text}");
    });
}

/// A handshake that breaks is tried again.
#[test]
fn a_peer_that_hangs_up_is_dialled_again() {
    let (there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    let (second, first) = (listeners.pop(), listeners.pop());
    drop(first);
    let address = there.peers[0].address.clone();
    let clumsy = std::net::TcpListener::bind(&address).unwrap();
    thread::scope(|scope| {
        let dialer = scope.spawn(|| {
            let mesh = join(&there, 1, second, &options()).unwrap();
            barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        });
        drop(clumsy.accept().unwrap());
        drop(clumsy);
        let again = firesteel_comm::Listener::bind(&address).unwrap();
        let mesh = join(&there, 0, Some(again), &options()).unwrap();
        barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        dialer.join().unwrap();
    });
}

/// Nobody takes the connection: the queue of the listener is full, and the system drops what more comes.
#[test]
fn an_address_that_swallows_everything_is_given_up_at_the_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        held.push(stream);
    }
    let (mut there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    there.peers[0].address = address.to_string();
    let short = Options { deadline: Duration::from_millis(300), ..options() };
    let start = Instant::now();
    let error = join(&there, 1, listeners.pop(), &short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerLost);
    assert_eq!(error.to_string(), format!("rank 1 cannot connect to rank 0 at {address} within 0.3 s"));
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
}

#[test]
fn a_malformed_address_is_refused_at_once() {
    let start = Instant::now();
    for wrong in ["", "localhost", "localhost:", ":80", "localhost:0", "localhost:http", "a b:80", "h:65536"]
    {
        let (mut there, mut listeners) = membership(2, |rank| format!("process {rank}"));
        there.peers[0].address = wrong.into();
        let error = join(&there, 1, listeners.pop(), &options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        let text = format!("the address of rank 0 is '{wrong}', expected host:port");
        assert_eq!(error.to_string(), text);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

/// The second worker that claims rank 1 is turned away; the first and rank 0 wait for rank 2 undisturbed.
#[test]
fn a_rank_that_joins_twice_is_told_so() {
    let (there, mut listeners) = membership(3, |rank| format!("process {rank}"));
    let (third, second, first) = (listeners.pop(), listeners.pop(), listeners.pop());
    thread::scope(|scope| {
        let work = |rank, listener| {
            let mesh = join(&there, rank, listener, &options()).unwrap();
            barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        };
        let zero = scope.spawn(move || work(0, first));
        let one = scope.spawn(move || work(1, second));
        thread::sleep(Duration::from_millis(200));
        assert_eq!(fake::dial(&there, 1, 0).1, b'T', "the place is taken");
        let error = join(&there, 1, None, &options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        work(2, third);
        zero.join().unwrap();
        one.join().unwrap();
    });
}

#[test]
fn a_rank_that_joins_twice_in_one_process_disturbs_nobody() {
    let (there, _) = membership(2, |_| "one process".into());
    thread::scope(|scope| {
        let work = |rank| {
            let mesh = join(&there, rank, None, &options()).unwrap();
            barrier(&mesh, Key::new(0, 0, 0)).unwrap();
        };
        let zero = scope.spawn(move || work(0));
        thread::sleep(Duration::from_millis(100));
        let error = join(&there, 0, None, &options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let text = format!("rank 0 joined job '{}' twice in one process", there.job);
        assert_eq!(error.to_string(), text);
        work(1);
        zero.join().unwrap();
    });
}

#[test]
fn who_expects_others_in_its_process_is_refused() {
    let (two, _) = membership(2, |_| "one process".into());
    let three = Membership { job: two.job.clone(), ..membership(3, |_| "one process".into()).0 };
    thread::scope(|scope| {
        let zero = scope.spawn(|| join(&two, 0, None, &options()).unwrap());
        thread::sleep(Duration::from_millis(100));
        for rank in [1, 2] {
            let error = join(&three, rank, None, &options()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let text = format!(
                "rank {rank} joins job '{}' with ranks 0, 1 and 2 in its process, expected ranks 0 and 1",
                two.job
            );
            assert_eq!(error.to_string(), text);
        }
        let one = join(&two, 1, None, &options()).unwrap();
        assert_eq!(one.world(), zero.join().unwrap().world());
    });
}

/// Rank 2 does not come: rank 1, which met rank 0, hears from it and does not end with another story.
#[test]
fn those_who_met_hear_why_joining_failed() {
    let (there, mut listeners) = membership(3, |rank| format!("process {rank}"));
    let (_, second, first) = (listeners.pop(), listeners.pop(), listeners.pop());
    let short = Options { deadline: Duration::from_millis(400), ..options() };
    thread::scope(|scope| {
        let zero = scope.spawn(|| join(&there, 0, first, &short).unwrap_err());
        // It waits longer, and shows that it lives as often as rank 0 expects.
        let patient = Options { heartbeat: short.deadline / 8, ..options() };
        let one = join(&there, 1, second, &patient).unwrap_err();
        let zero = zero.join().unwrap();
        assert_eq!(zero.to_string(), "rank 0 waited 0.4 s for rank 2 to connect");
        assert_eq!(one.kind(), ErrorKind::PeerLost);
        assert_eq!(one.to_string(), format!("rank 1 lost rank 0: {zero}"));
    });
}

#[test]
fn no_deadline_is_too_long_to_join() {
    let endless = Options { deadline: Duration::MAX, ..options() };
    for same in [true, false] {
        let (there, listeners) = membership(2, |rank| format!("process {}", if same { 0 } else { rank }));
        thread::scope(|scope| {
            for (rank, listener) in listeners.into_iter().enumerate() {
                let (there, endless) = (&there, &endless);
                scope.spawn(move || {
                    let mesh = join(there, rank, Some(listener), endless).unwrap();
                    assert_eq!(mesh.world(), 2);
                    barrier(&mesh, Key::new(0, 0, 0)).unwrap();
                });
            }
        });
    }
}
