//! How two workers prove to each other that they know the job's secret, before a byte of payload is read.
//!
//! ```text
//! dialer → acceptor   hello: magic, version, rank, nonce d
//! acceptor → dialer   nonce a, HMAC(secret, "acceptor", …)
//! dialer → acceptor   HMAC(secret, "dialer", …)
//! acceptor → dialer   one byte: welcome, or no place for this rank
//! ```
//!
//! where … is the job, both ranks and both nonces. The two roles sign different words, so an answer cannot be
//! reflected; fresh nonces make a recorded one useless. All messages have a fixed length, so nothing that a stranger
//! sends is interpreted as a length.
//!
//! A wrong answer is `Unauthenticated`; a connection that breaks is `Io`, which a dialer tries again.

use firesteel_error::{Error, Kind, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAGIC: [u8; 4] = *b"FSTL";
const VERSION: u16 = 5;
const NONCE: usize = 32;
const PROOF: usize = 32;
const HELLO: usize = 4 + 2 + 4 + NONCE;
const WELCOME: u8 = 0x57;
const TAKEN: u8 = 0x54;

/// What both ends know beforehand.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) job: String,
    pub(crate) secret: Vec<u8>,
    pub(crate) rank: usize,
}

impl Credentials {
    fn proof(&self, role: &str, dialer: u32, acceptor: u32, nonces: [&[u8]; 2]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of every length");
        for part in [role.as_bytes(), self.job.as_bytes(), nonces[0], nonces[1]] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.update(&dialer.to_le_bytes());
        mac.update(&acceptor.to_le_bytes());
        mac
    }

    fn number(&self) -> u32 {
        u32::try_from(self.rank).unwrap_or(u32::MAX)
    }

    /// Proves this worker to `acceptor` and checks that it is who it should be.
    pub(crate) async fn dial(&self, stream: &mut TcpStream, acceptor: usize) -> Result<()> {
        let nonce = nonce()?;
        let mut hello = Vec::with_capacity(HELLO);
        hello.extend_from_slice(&MAGIC);
        hello.extend_from_slice(&VERSION.to_le_bytes());
        hello.extend_from_slice(&self.number().to_le_bytes());
        hello.extend_from_slice(&nonce);
        stream.write_all(&hello).await?;
        let mut answer = [0; NONCE + PROOF];
        let unproved =
            || unauthenticated(format!("rank {acceptor} did not prove that it knows the job's secret"));
        let broke_off =
            |e| Error::new(Kind::Io, format!("rank {acceptor} broke off the handshake")).with_source(e);
        stream.read_exact(&mut answer).await.map_err(broke_off)?;
        let (theirs, proof) = answer.split_at(NONCE);
        let other = u32::try_from(acceptor).unwrap_or(u32::MAX);
        let expected = self.proof("acceptor", self.number(), other, [&nonce, theirs]);
        expected.verify_slice(proof).map_err(|_| unproved())?;
        let proof = self.proof("dialer", self.number(), other, [&nonce, theirs]).finalize().into_bytes();
        stream.write_all(&proof).await?;
        match stream.read_u8().await.map_err(broke_off)? {
            WELCOME => Ok(()),
            TAKEN => Err(Error::argument(format!("rank {acceptor} has no place for a rank {}", self.rank))),
            _ => Err(unauthenticated(format!("rank {acceptor} refused this worker's proof"))),
        }
    }

    /// Checks a dialer; its rank. It waits for [`welcome`] or [`refuse`].
    pub(crate) async fn accept(&self, stream: &mut TcpStream) -> Result<usize> {
        let mut hello = [0; HELLO];
        stream.read_exact(&mut hello).await?;
        if hello[..4] != MAGIC {
            return Err(unauthenticated("it does not speak Firesteel's protocol".into()));
        }
        let version = u16::from_le_bytes([hello[4], hello[5]]);
        if version != VERSION {
            return Err(unauthenticated(format!(
                "it speaks version {version} of the protocol, expected {VERSION}"
            )));
        }
        let dialer = u32::from_le_bytes([hello[6], hello[7], hello[8], hello[9]]);
        let theirs = &hello[10..];
        let nonce = nonce()?;
        let proof = self.proof("acceptor", dialer, self.number(), [theirs, &nonce]).finalize().into_bytes();
        stream.write_all(&[&nonce[..], &proof[..]].concat()).await?;
        let mut answer = [0; PROOF];
        stream.read_exact(&mut answer).await?;
        let expected = self.proof("dialer", dialer, self.number(), [theirs, &nonce]);
        expected.verify_slice(&answer).map_err(|_| {
            unauthenticated(format!("it calls itself rank {dialer} but does not know the secret"))
        })?;
        Ok(dialer as usize)
    }
}

/// Takes a dialer in.
pub(crate) async fn welcome(stream: &mut TcpStream) -> Result<()> {
    Ok(stream.write_u8(WELCOME).await?)
}

/// Tells a dialer that knows the secret that its rank is taken or has no place here.
pub(crate) async fn refuse(stream: &mut TcpStream) -> Result<()> {
    Ok(stream.write_u8(TAKEN).await?)
}

fn unauthenticated(text: String) -> Error {
    Error::new(Kind::Unauthenticated, text)
}

fn nonce() -> Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(Kind::Io, "no random numbers").with_source(e))?;
    Ok(bytes)
}
