//! How workers of different processes reach each other: a listener a worker, a socket a pair.
//!
//! Those of higher rank dial those of lower rank. A worker dials and is dialled at the same time, and a peer that is
//! late costs nothing but time up to the deadline: its listener is bound before anyone learns its address, so a dialer's
//! hello waits there.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firesteel_error::{Error, Kind, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::fabric::Options;
use crate::handshake::{self, Credentials};
use crate::mailbox::{Gone, Mailbox};
use crate::shared::Arena;
use crate::tcp::{Connection, Io};
use crate::words::{ranks, seconds};

/// The first pause before another attempt; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A moment that does not come, for deadlines that the clock cannot add.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

/// A bound socket that peers dial. Bind it first, tell its address to the others, then join.
#[derive(Debug)]
pub struct Listener {
    socket: std::net::TcpListener,
}

impl Listener {
    /// Listens on `address`, `host:port`; port 0 takes a free one.
    ///
    /// # Errors
    /// `Io` naming the address.
    pub fn bind(address: &str) -> Result<Listener> {
        let refused = |e| Error::new(Kind::Io, format!("cannot listen on {address}")).with_source(e);
        let socket = std::net::TcpListener::bind(address).map_err(refused)?;
        socket.set_nonblocking(true)?;
        Ok(Listener { socket })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// `Io` when the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }
}

/// The end of joining, and how long it was away at first, for messages.
#[derive(Clone, Copy)]
struct Deadline {
    until: Instant,
    span: Duration,
}

impl Deadline {
    fn after(span: Duration) -> Deadline {
        let now = Instant::now();
        Deadline { until: now.checked_add(span).unwrap_or_else(|| now + NEVER), span }
    }
}

/// Connects to all peers of `addresses` (by rank; `None` is not reached by tcp): dials those of lower rank, is
/// dialled by those of higher rank.
///
/// A connection works, and shows that this worker lives, as soon as its two ends have met. When this worker gives up,
/// the peers that it met hear why.
pub(crate) fn connect(
    listener: Option<Listener>,
    credentials: &Credentials,
    addresses: &[Option<String>],
    mailbox: &Arc<Mailbox>,
    options: &Options,
) -> Result<Met> {
    let others = || addresses.iter().enumerate().filter_map(|(rank, a)| a.as_deref().map(|a| (rank, a)));
    for (rank, address) in others() {
        check_address(rank, address)?;
    }
    if others().next().is_none() {
        return Ok(Met::default());
    }
    let lower =
        others().filter(|(rank, _)| *rank < credentials.rank).map(|(r, a)| (r, a.to_owned())).collect();
    let higher = others().map(|(rank, _)| rank).filter(|rank| *rank > credentials.rank).collect();
    let io = Arc::new(Io::new()?);
    let met = Mutex::new(Vec::new());
    let meet = |peer, stream| {
        let connection = Connection::start(&io, stream, peer, mailbox, options);
        met.lock().unwrap_or_else(PoisonError::into_inner).push((peer, connection));
    };
    let deadline = Deadline::after(options.deadline);
    let all = async {
        let dialled = dial_all(credentials, lower, deadline, &meet);
        let accepted = accept_all(listener, credentials, higher, deadline, options.handshake, &meet);
        tokio::try_join!(dialled, accepted).map(|_| ())
    };
    let outcome = io.handle().block_on(unless_ended(options, mailbox, all));
    let met = met.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Err(e) = outcome {
        for (_, connection) in &met {
            connection.leave(Gone::died(e.to_string()));
        }
        return Err(e);
    }
    Ok(Met { connections: met, arena: io.arena() })
}

/// The peers of other processes.
#[derive(Default)]
pub(crate) struct Met {
    pub(crate) connections: Vec<(usize, Connection)>,
    /// What those of this host can read.
    pub(crate) arena: Option<Arc<Arena>>,
}

/// Refuses what no waiting will make an address.
fn check_address(rank: usize, address: &str) -> Result<()> {
    let is_address = |(host, port): (&str, &str)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|p| p > 0)
    };
    if address.rsplit_once(':').is_some_and(is_address) {
        return Ok(());
    }
    Err(Error::argument(format!("the address of rank {rank} is '{address}', expected host:port")))
}

/// Ends `work` early when the job is cancelled or a peer that was met already is lost.
async fn unless_ended(
    options: &Options,
    mailbox: &Mailbox,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let ended = async {
        loop {
            if options.cancel.is_cancelled() {
                return Error::new(Kind::Cancelled, "cancelled while connecting to other workers");
            }
            if let Some(lost) = mailbox.lost() {
                return lost;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = work => done,
        ended = ended => Err(ended),
    }
}

/// Dials all of `peers` at once.
async fn dial_all(
    us: &Credentials,
    peers: Vec<(usize, String)>,
    deadline: Deadline,
    meet: &impl Fn(usize, TcpStream),
) -> Result<()> {
    let mut dials = JoinSet::new();
    for (peer, address) in peers {
        let us = us.clone();
        dials.spawn(async move { dial(&us, peer, &address, deadline).await.map(|stream| (peer, stream)) });
    }
    while let Some(done) = dials.join_next().await {
        let (peer, stream) = done.map_err(|e| Error::internal("a dial panicked").with_source(e))??;
        meet(peer, stream);
    }
    Ok(())
}

/// Tries until the deadline: the peer may be late, its listener overrun, the network slow to come up.
async fn dial(us: &Credentials, peer: usize, address: &str, deadline: Deadline) -> Result<TcpStream> {
    let mut failure = None;
    let mut answers = false;
    let attempts = async {
        let mut pause = PAUSE;
        loop {
            match attempt(us, peer, address, &mut answers).await {
                Err(e) if e.kind().is_retryable() => failure = Some(e),
                done => return done.map_err(|e| e.context(format!("connecting to {address}"))),
            }
            answers = false;
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    if let Ok(done) = timeout_at(deadline.until, attempts).await {
        return done;
    }
    let (me, span) = (us.rank, seconds(deadline.span));
    if answers {
        let text = format!("rank {me} waited {span} for rank {peer} at {address} to shake hands");
        return Err(Error::new(Kind::Timeout, text));
    }
    let text = format!("rank {me} cannot connect to rank {peer} at {address} within {span}");
    let late = Error::new(Kind::PeerLost, text);
    Err(match failure {
        Some(e) => late.with_source(e),
        None => late,
    })
}

/// Connects and shakes hands; `answers` says that the first of the two is done.
async fn attempt(us: &Credentials, peer: usize, address: &str, answers: &mut bool) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    *answers = true;
    stream.set_nodelay(true)?;
    us.dial(&mut stream, peer).await?;
    Ok(stream)
}

/// The ranks that have not been welcomed yet: two that claim the same rank cannot both be.
type Places = Arc<Mutex<BTreeSet<usize>>>;

/// Waits for all `expected` ranks. Strangers are refused, each in a task of its own, so that none holds up the others.
async fn accept_all(
    listener: Option<Listener>,
    us: &Credentials,
    mut expected: Vec<usize>,
    deadline: Deadline,
    at_most: Duration,
    meet: &impl Fn(usize, TcpStream),
) -> Result<()> {
    if expected.is_empty() {
        return Ok(());
    }
    let Some(listener) = listener else {
        let dialers = ranks(&expected);
        return Err(Error::argument(format!("{dialers} will dial rank {}, which has no listener", us.rank)));
    };
    let listener = TcpListener::from_std(listener.socket)?;
    let places: Places = Arc::new(Mutex::new(expected.iter().copied().collect()));
    let (found, mut arrivals) = mpsc::unbounded_channel();
    let mut refused = String::new();
    while !expected.is_empty() {
        tokio::select! {
            () = sleep_until(deadline.until) => {
                let (me, span, late) = (us.rank, seconds(deadline.span), ranks(&expected));
                let text = format!("rank {me} waited {span} for {late} to connect{refused}");
                return Err(Error::new(Kind::Timeout, text));
            }
            dialled = listener.accept() => match dialled {
                Ok((stream, address)) => {
                    let (us, places, found) = (us.clone(), places.clone(), found.clone());
                    tokio::spawn(async move {
                        // Nobody listens any more once all peers are here.
                        let _ = found.send((address, check(stream, &us, &places, at_most).await));
                    });
                }
                // A dialer that hung up, or no descriptor left: both pass.
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    refused = format!("; cannot accept: {e}");
                    sleep(PAUSE).await;
                }
            },
            Some((address, outcome)) = arrivals.recv() => match outcome {
                Ok((rank, stream)) => {
                    expected.retain(|r| *r != rank);
                    meet(rank, stream);
                }
                Err(e) => {
                    let e: Error = e;
                    let address: SocketAddr = address;
                    tracing::warn!(%address, error = %e, "refused a connection");
                    refused = format!("; refused {address}: {e}");
                }
            }
        }
    }
    Ok(())
}

/// Lets one dialer prove itself, and gives it its place.
async fn check(
    mut stream: TcpStream,
    us: &Credentials,
    places: &Places,
    at_most: Duration,
) -> Result<(usize, TcpStream)> {
    stream.set_nodelay(true)?;
    let Ok(proved) = timeout(at_most, us.accept(&mut stream)).await else {
        let text = format!("it did not finish the handshake within {}", seconds(at_most));
        return Err(Error::new(Kind::Unauthenticated, text));
    };
    let rank = proved?;
    let has_place = places.lock().unwrap_or_else(PoisonError::into_inner).remove(&rank);
    if !has_place {
        handshake::refuse(&mut stream).await?;
        return Err(Error::argument(format!("rank {rank} is here already, or none is expected")));
    }
    if let Err(e) = handshake::welcome(&mut stream).await {
        // It may dial again.
        places.lock().unwrap_or_else(PoisonError::into_inner).insert(rank);
        return Err(e);
    }
    Ok((rank, stream))
}
