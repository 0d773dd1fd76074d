//! Sockets: a listener a worker, a connection a pair of workers, one thread for all of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use firesteel_error::{Error, Kind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::fabric::Options;
use crate::frame::{self, HEADER, Head};
use crate::handshake::Credentials;
use crate::mailbox::{Gone, Mailbox, Tag};

/// How long a stranger may take for the whole handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a worker that leaves waits for its last words to be sent.
const FAREWELL: Duration = Duration::from_secs(5);

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

/// How long sockets outlive a worker that left, so that peers can read its last words: closing a socket that holds
/// unread bytes resets it, and a reset throws away what the peer has not read.
const LINGER: Duration = Duration::from_secs(30);

/// The thread that serves all connections of one worker. The last owner waits for what is still to be sent.
pub(crate) struct Io {
    runtime: Option<Runtime>,
    writers: Mutex<Vec<JoinHandle<()>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

impl Io {
    pub(crate) fn new() -> Result<Io> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("firesteel-tcp")
            .enable_all()
            .build()?;
        Ok(Io { runtime: Some(runtime), writers: Mutex::default(), readers: Mutex::default() })
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("only drop takes the runtime").handle()
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        let readers = std::mem::take(&mut *self.readers.lock().unwrap_or_else(PoisonError::into_inner));
        runtime.block_on(finish(writers, FAREWELL));
        let linger = move || {
            runtime.block_on(finish(readers, LINGER));
            runtime.shutdown_background();
        };
        // Without a thread the closure is dropped, and the runtime with it: sockets close at once.
        let _ = std::thread::Builder::new().name("firesteel-linger".into()).spawn(linger);
    }
}

/// Waits for tasks, at most this long. One that panicked has nothing left to do.
async fn finish(tasks: Vec<JoinHandle<()>>, at_most: Duration) {
    let all = async {
        for task in tasks {
            let _ = task.await;
        }
    };
    let _ = timeout(at_most, all).await;
}

/// One end of a connection to a peer that proved itself.
pub(crate) struct Connection {
    queue: mpsc::UnboundedSender<(Head, Bytes)>,
    // Dropped after `queue`, so that the writer sees the queue's end before it is waited for.
    _io: Arc<Io>,
}

impl Connection {
    fn start(
        io: &Arc<Io>,
        stream: TcpStream,
        peer: usize,
        mailbox: &Arc<Mailbox>,
        options: &Options,
    ) -> Connection {
        let (read, write) = stream.into_split();
        let (queue, parts) = mpsc::unbounded_channel();
        let writer = io.handle().spawn(write_all(write, parts, peer, mailbox.clone(), options.clone()));
        io.writers.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
        let reader = io.handle().spawn(read_all(read, peer, mailbox.clone(), options.clone()));
        io.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        Connection { queue, _io: io.clone() }
    }

    /// Queues a part. A connection that broke is noticed by the next wait.
    pub(crate) fn send(&self, tag: Tag, part: Bytes) -> Result<()> {
        let _ = self.queue.send((Head::Part { tag, len: part.len() }, part));
        Ok(())
    }

    pub(crate) fn leave(&self, gone: Gone) {
        let _ = match gone {
            Gone::Finished => self.queue.send((Head::Goodbye, Bytes::new())),
            Gone::Lost(why) => {
                let why = frame::reason(&why);
                self.queue.send((Head::Abort { len: why.len() }, why))
            }
        };
    }
}

async fn write_all(
    mut socket: OwnedWriteHalf,
    mut parts: mpsc::UnboundedReceiver<(Head, Bytes)>,
    peer: usize,
    mailbox: Arc<Mailbox>,
    options: Options,
) {
    loop {
        let (head, part) = match timeout(options.heartbeat, parts.recv()).await {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(_) => (Head::Heartbeat, Bytes::new()),
        };
        let send = async {
            socket.write_all(&head.encode()).await?;
            socket.write_all(&part).await
        };
        let failure = match timeout(options.deadline, send).await {
            Ok(Ok(())) => continue,
            Ok(Err(e)) => format!("cannot send to it: {e}"),
            Err(_) => format!("it took nothing for {:?}", options.deadline),
        };
        mailbox.leave(peer, Gone::Lost(failure));
        return;
    }
    // The peer may be gone already; then nobody is left to hear the end of the stream.
    let _ = socket.shutdown().await;
}

async fn read_all(mut socket: OwnedReadHalf, peer: usize, mailbox: Arc<Mailbox>, options: Options) {
    let gone = loop {
        match read_frame(&mut socket, peer, &mailbox, &options).await {
            Ok(None) => {}
            Ok(Some(gone)) => break gone,
            Err(e) => break Gone::Lost(e.to_string()),
        }
    };
    mailbox.leave(peer, gone);
}

/// Reads one frame; what it says of the peer's leaving.
async fn read_frame(
    socket: &mut OwnedReadHalf,
    peer: usize,
    mailbox: &Mailbox,
    options: &Options,
) -> Result<Option<Gone>> {
    let header = read_exactly(socket, HEADER, options.silence).await?;
    match Head::decode(&header, options.max_frame)? {
        Head::Part { tag, len } => {
            let part = read_exactly(socket, len, options.silence).await?;
            mailbox.put(peer, tag, part)?;
            Ok(None)
        }
        Head::Heartbeat => Ok(None),
        Head::Goodbye => Ok(Some(Gone::Finished)),
        Head::Abort { len } => {
            let why = read_exactly(socket, len, options.silence).await?;
            Ok(Some(Gone::Lost(String::from_utf8_lossy(&why).into_owned())))
        }
    }
}

/// Exactly `len` bytes, as long as some arrive within every `silence`.
async fn read_exactly(socket: &mut OwnedReadHalf, len: usize, silence: Duration) -> Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(len);
    while bytes.len() < len {
        let mut rest = (&mut *socket).take((len - bytes.len()) as u64);
        match timeout(silence, rest.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => return Err(Error::new(Kind::PeerLost, "the connection ended without a goodbye")),
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(Error::new(Kind::PeerLost, "the connection broke").with_source(e)),
            Err(_) => return Err(Error::new(Kind::PeerLost, format!("it was silent for {silence:?}"))),
        }
    }
    Ok(bytes.freeze())
}

/// Connects to all peers of `addresses` (by rank; `None` is not reached by tcp): dials those of lower rank, is
/// dialled by those of higher rank.
pub(crate) fn connect(
    listener: Option<Listener>,
    credentials: &Credentials,
    addresses: &[Option<String>],
    mailbox: &Arc<Mailbox>,
    options: &Options,
) -> Result<Vec<(usize, Connection)>> {
    let me = credentials.rank;
    let reachable = |range: std::ops::Range<usize>| -> Vec<usize> {
        range.filter(|r| addresses.get(*r).is_some_and(Option::is_some)).collect()
    };
    let (lower, higher) = (reachable(0..me), reachable(me + 1..addresses.len()));
    if lower.is_empty() && higher.is_empty() {
        return Ok(Vec::new());
    }
    let io = Arc::new(Io::new()?);
    let until = Instant::now() + options.deadline;
    let streams = io.handle().block_on(cancellable(options, async {
        let mut streams = Vec::new();
        for peer in lower {
            let address = addresses[peer].as_deref().expect("reachable ranks have an address");
            streams.push((peer, dial(credentials, peer, address, until).await?));
        }
        streams.extend(accept(listener, credentials, higher, until).await?);
        Ok(streams)
    }))?;
    let start = |(peer, stream)| (peer, Connection::start(&io, stream, peer, mailbox, options));
    Ok(streams.into_iter().map(start).collect())
}

async fn cancellable<T>(options: &Options, work: impl Future<Output = Result<T>>) -> Result<T> {
    let cancelled = async {
        while !options.cancel.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = cancelled => Err(Error::new(Kind::Cancelled, "cancelled while connecting to other workers")),
    }
}

async fn dial(credentials: &Credentials, peer: usize, address: &str, until: Instant) -> Result<TcpStream> {
    loop {
        let failure = match TcpStream::connect(address).await {
            Ok(mut stream) => {
                stream.set_nodelay(true)?;
                let proof = credentials.dial(&mut stream, peer);
                let slow =
                    || Error::new(Kind::Timeout, format!("rank {peer} at {address} did not shake hands"));
                return match timeout(HANDSHAKE, proof).await {
                    Ok(done) => {
                        done.map(|()| stream).map_err(|e| e.context(format!("connecting to {address}")))
                    }
                    Err(_) => Err(slow()),
                };
            }
            Err(e) => e,
        };
        if Instant::now() >= until {
            let text = format!("cannot connect to rank {peer} at {address}");
            return Err(Error::new(Kind::PeerLost, text).with_source(failure));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for all `expected` ranks. Strangers are refused, each in a task of its own, so that none holds up the others.
async fn accept(
    listener: Option<Listener>,
    credentials: &Credentials,
    mut expected: Vec<usize>,
    until: Instant,
) -> Result<Vec<(usize, TcpStream)>> {
    if expected.is_empty() {
        return Ok(Vec::new());
    }
    let Some(listener) = listener else {
        return Err(Error::argument(format!(
            "rank {expected:?} will dial this worker, which has no listener"
        )));
    };
    let listener = TcpListener::from_std(listener.socket)?;
    let (found, mut arrivals) = mpsc::unbounded_channel();
    let mut streams = Vec::new();
    let mut refused = String::new();
    while !expected.is_empty() {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {
                let text = format!("rank {expected:?} did not connect in time{refused}");
                return Err(Error::new(Kind::Timeout, text));
            }
            dialled = listener.accept() => {
                let (stream, address) = dialled?;
                tokio::spawn(check(stream, address, credentials.clone(), found.clone()));
            }
            Some((address, outcome)) = arrivals.recv() => match outcome {
                Ok((rank, stream)) if expected.contains(&rank) => {
                    expected.retain(|r| *r != rank);
                    streams.push((rank, stream));
                }
                Ok((rank, _)) => refused = format!("; refused {address}: rank {rank} is here already or unknown"),
                Err(e) => {
                    tracing::warn!(%address, error = %e, "refused a connection");
                    refused = format!("; refused {address}: {e}");
                }
            }
        }
    }
    Ok(streams)
}

type Arrival = (SocketAddr, Result<(usize, TcpStream)>);

async fn check(
    mut stream: TcpStream,
    from: SocketAddr,
    us: Credentials,
    found: mpsc::UnboundedSender<Arrival>,
) {
    let outcome = match timeout(HANDSHAKE, us.accept(&mut stream)).await {
        Ok(Ok(rank)) => stream.set_nodelay(true).map(|()| (rank, stream)).map_err(Error::from),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(Error::new(Kind::Unauthenticated, "it did not finish the handshake")),
    };
    // Nobody listens any more once all peers are here.
    let _ = found.send((from, outcome));
}
