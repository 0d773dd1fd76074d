//! A peer made by hand: it knows the secret, and then does what no worker does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use firesteel_comm::{Membership, Mesh, Options, join};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::world::membership;

/// The version of the protocol that the fake speaks.
pub const VERSION: u16 = 5;

const NONCE: [u8; 32] = [9; 32];

/// The hello of a worker that claims this rank.
pub fn hello(version: u16, rank: u32) -> Vec<u8> {
    [b"FSTL".as_slice(), &version.to_le_bytes(), &rank.to_le_bytes(), &NONCE].concat()
}

/// Shakes hands as rank `me`; the stream, and what the acceptor said last: `W` for welcome.
pub fn dial(there: &Membership, me: u32, acceptor: u32) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(&there.peers[acceptor as usize].address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(&hello(VERSION, me)).unwrap();
    let mut answer = [0; 64];
    stream.read_exact(&mut answer).unwrap();
    let mut proof = Hmac::<Sha256>::new_from_slice(&there.secret).unwrap();
    for part in [b"dialer".as_slice(), there.job.as_bytes(), &NONCE, &answer[..32]] {
        proof.update(&(part.len() as u64).to_le_bytes());
        proof.update(part);
    }
    proof.update(&me.to_le_bytes());
    proof.update(&acceptor.to_le_bytes());
    stream.write_all(&proof.finalize().into_bytes()).unwrap();
    let mut last = [0];
    stream.read_exact(&mut last).unwrap();
    (stream, last[0])
}

/// What a frame says it is.
pub const PART: u8 = 0;
pub const HEARTBEAT: u8 = 1;
pub const LONG: u8 = 4;
pub const PIECE: u8 = 5;
pub const OFFER: u8 = 6;
pub const ACCEPTED: u8 = 7;
pub const LENT: u8 = 8;
pub const RETURNED: u8 = 9;

/// The head of a frame of this kind and length; of a shuffle with the key of zeros where that matters.
pub fn head(kind: u8, len: usize) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &[0; 12], &(len as u64).to_le_bytes()].concat()
}

/// Rank 0 against a rank 1 that does what `fake` says on its side of the connection; what rank 0's `work` returns.
pub fn against<T: Send>(
    options: &Options,
    fake: impl FnOnce(TcpStream) + Send,
    work: impl FnOnce(Mesh) -> T,
) -> T {
    let (there, mut listeners) = membership(2, |rank| format!("process {rank}"));
    thread::scope(|scope| {
        let there = &there;
        scope.spawn(move || {
            let (stream, last) = dial(there, 1, 0);
            assert_eq!(last, b'W', "rank 0 welcomes the fake");
            fake(stream);
        });
        work(join(there, 0, Some(listeners.remove(0)), options).unwrap())
    })
}
