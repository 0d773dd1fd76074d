//! What becomes of a training when a part is late, comes twice or does not come at all: an error, or the same bits.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use firesteel_comm::strategy::Spec;
use firesteel_comm::{Fabric, Options, join};
use firesteel_error::{Kind as ErrorKind, Result};

use super::{BOWL, bowl, try_descend};
use crate::fake::{LONG, PART, PIECE};
use crate::world::{membership, options, run};

/// What happens to one part that rank 1 sends to rank 0.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Late,
    Twice,
    Dropped,
}

/// Bytes that a dialer sends before its first frame: its hello, and when that has been answered, its proof.
const HANDSHAKE: [usize; 2] = [42, 32];

/// Passes on what `from` sends, with the fault at part `nth`.
fn pass_on(mut from: TcpStream, mut to: TcpStream, fault: Fault, nth: usize) -> std::io::Result<()> {
    for len in HANDSHAKE {
        let mut message = vec![0; len];
        from.read_exact(&mut message)?;
        to.write_all(&message)?;
    }
    let mut parts = 0;
    loop {
        let mut frame = vec![0; 24];
        from.read_exact(&mut frame)?;
        let kind = frame[0];
        let len = u64::from_le_bytes(frame[16..].try_into().unwrap()) as usize;
        assert!(kind != LONG && kind != PIECE, "parts of these tests are short");
        frame.resize(24 + len, 0);
        from.read_exact(&mut frame[24..])?;
        parts += usize::from(kind == PART);
        let times = match fault {
            _ if kind != PART || parts != nth + 1 => 1,
            Fault::None => 1,
            Fault::Late => {
                thread::sleep(Duration::from_millis(150));
                1
            }
            Fault::Twice => 2,
            Fault::Dropped => 0,
        };
        for _ in 0..times {
            to.write_all(&frame)?;
        }
    }
}

/// Stands between rank 0, which listens at `to`, and the first that dials.
fn stand_between(listener: TcpListener, to: &str, fault: Fault, nth: usize) {
    let (dialer, _) = listener.accept().unwrap();
    let acceptor = TcpStream::connect(to).unwrap();
    let [back_from, back_to] = [acceptor.try_clone().unwrap(), dialer.try_clone().unwrap()];
    let back = thread::spawn(move || {
        _ = std::io::copy(&mut &back_from, &mut &back_to);
        _ = back_to.shutdown(Shutdown::Write);
    });
    let end = acceptor.try_clone().unwrap();
    // It ends when the dialer hangs up, or rank 0.
    _ = pass_on(dialer, acceptor, fault, nth);
    _ = end.shutdown(Shutdown::Write);
    back.join().unwrap();
}

/// What two workers end with, whose connection has a fault.
fn trained(text: &str, fault: Fault, nth: usize, options: &Options) -> Vec<Result<Vec<f32>>> {
    let (mut there, listeners) = membership(2, |rank| format!("process {rank}"));
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = between.local_addr().unwrap().to_string();
    let to = std::mem::replace(&mut there.peers[0].address, address);
    let relay = thread::spawn(move || stand_between(between, &to, fault, nth));
    let done = run(listeners.into_iter().enumerate().collect(), |(rank, listener)| {
        let mesh = Arc::new(join(&there, rank, Some(listener), options).unwrap());
        let spec: Spec = text.parse().unwrap();
        let mut strategy = spec.build(mesh.clone(), &bowl(text), 5).unwrap();
        let mut weights = vec![0.0; BOWL];
        let done = try_descend(strategy.as_mut(), rank, &mut weights, 0..2, 6);
        done.inspect_err(|e| mesh.abort(e)).map(|_| weights)
    });
    relay.join().unwrap();
    done
}

const SAMPLE: [&str; 11] = [
    "sharded",
    "all_reduce(ring)",
    "two_phase(sign, sign, feedback=true)",
    "gather(top_k(ratio=0.1))",
    "power_sgd",
    "ok_top_k(ratio=0.2)",
    "union",
    "local(every=3)",
    "dpsgd",
    "quasi_global_adam",
    "choco",
];

/// Parts of an early step, and of one in the middle of the first epoch.
const PLACES: [usize; 3] = [0, 1, 7];

/// Runs all of the sample at all places, beside each other as most of the time they wait.
fn all_of_the_sample(check: impl Fn(&str, usize) + Sync) {
    let cases: Vec<_> = SAMPLE.iter().flat_map(|text| PLACES.map(|nth| (*text, nth))).collect();
    for some in cases.chunks(8) {
        run(some.to_vec(), |(text, nth)| check(text, nth));
    }
}

fn undisturbed(text: &str) -> Vec<Vec<f32>> {
    trained(text, Fault::None, 0, &options()).into_iter().map(Result::unwrap).collect()
}

#[test]
fn a_part_that_is_late_changes_no_bit() {
    all_of_the_sample(|text, nth| {
        let found = trained(text, Fault::Late, nth, &options()).into_iter().map(Result::unwrap);
        assert!(found.eq(undisturbed(text)), "{text}, part {nth}");
    });
}

#[test]
fn a_part_that_comes_twice_changes_no_bit_or_ends_the_training() {
    all_of_the_sample(|text, nth| {
        let expected = undisturbed(text);
        let found = trained(text, Fault::Twice, nth, &options());
        for (rank, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            match found {
                // The first had been taken when the second came.
                Ok(weights) => assert!(weights == expected, "{text}, part {nth}: rank {rank}"),
                Err(e) => {
                    let named =
                        e.kind() == ErrorKind::PeerLost && e.to_string().contains("the same part twice");
                    assert!(named, "{text}, part {nth}: {e}");
                }
            }
        }
    });
}

#[test]
fn a_part_that_is_dropped_ends_the_training_of_all() {
    let short = Options { deadline: Duration::from_secs(3), ..options() };
    all_of_the_sample(|text, nth| {
        let found = trained(text, Fault::Dropped, nth, &short);
        for (rank, found) in found.into_iter().enumerate() {
            let e = found.err().unwrap_or_else(|| panic!("{text}, part {nth}: rank {rank} ended well"));
            let expected = [ErrorKind::Timeout, ErrorKind::PeerLost];
            assert!(expected.contains(&e.kind()), "{text}, part {nth}: {e}");
            assert!(e.to_string().contains(&format!("rank {}", 1 - rank)), "{text}, part {nth}: {e}");
        }
    });
}
