//! Connections: one a pair of workers, and one thread a worker for all of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::{Error, Kind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::fabric::Options;
use crate::frame::{self, HEADER, Head};
use crate::mailbox::{Gone, Mailbox, Tag};
use crate::words::seconds;

/// How long a worker that leaves waits for its last words to be sent.
const FAREWELL: Duration = Duration::from_secs(5);

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
    pub(crate) fn start(
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
        let reader =
            Reader { socket: read, peer, mailbox: mailbox.clone(), options: options.clone(), long: None };
        let reader = io.handle().spawn(reader.run());
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
            Gone::Lost(kind, why) => {
                let why = frame::reason(kind, &why);
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
    let beat = options.beat();
    loop {
        let (head, payload) = match timeout(beat, parts.recv()).await {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(_) => (Head::Heartbeat, Bytes::new()),
        };
        if let Err(failure) = write_message(&mut socket, head, payload, &options).await {
            mailbox.leave(peer, Gone::died(failure));
            return;
        }
    }
    // The peer may be gone already; then nobody is left to hear the end of the stream.
    let _ = socket.shutdown().await;
}

/// Writes a part, in as many frames as it takes, or anything else, in one.
async fn write_message(
    socket: &mut OwnedWriteHalf,
    head: Head,
    payload: Bytes,
    options: &Options,
) -> std::result::Result<(), String> {
    let Head::Part { tag, .. } = head else {
        write(socket, &head.encode(), options.deadline).await?;
        return write(socket, &payload, options.deadline).await;
    };
    for (head, piece) in frame::frames(tag, &payload, options.max_frame) {
        write(socket, &head.encode(), options.deadline).await?;
        write(socket, &piece, options.deadline).await?;
    }
    Ok(())
}

/// Writes all bytes, as long as the peer takes some within every `limit`.
async fn write(
    socket: &mut OwnedWriteHalf,
    mut bytes: &[u8],
    limit: Duration,
) -> std::result::Result<(), String> {
    while !bytes.is_empty() {
        match timeout(limit, socket.write(bytes)).await {
            Ok(Ok(0)) => return Err("cannot send to it".into()),
            Ok(Ok(taken)) => bytes = &bytes[taken..],
            Ok(Err(e)) => return Err(format!("cannot send to it: {e}")),
            Err(_) => return Err(format!("it took nothing for {}", seconds(limit))),
        }
    }
    Ok(())
}

/// What a peer sends, until it is gone.
struct Reader {
    socket: OwnedReadHalf,
    peer: usize,
    mailbox: Arc<Mailbox>,
    options: Options,
    /// The part whose pieces are coming in.
    long: Option<Long>,
}

/// A part that is not complete.
struct Long {
    tag: Tag,
    total: usize,
    bytes: Vec<u8>,
}

impl Reader {
    async fn run(mut self) {
        let gone = loop {
            match self.frame().await {
                Ok(None) => {}
                Ok(Some(gone)) => break gone,
                Err(e) => break Gone::died(e.to_string()),
            }
        };
        self.mailbox.leave(self.peer, gone);
    }

    /// Reads one frame; what it says of the peer's leaving.
    async fn frame(&mut self) -> Result<Option<Gone>> {
        let mut header = Vec::with_capacity(HEADER);
        self.fill(&mut header, HEADER).await?;
        match Head::decode(&header, &self.options)? {
            Head::Part { tag, len } => {
                let mut part = room(len)?;
                self.fill_part(&mut part, len).await?;
                self.mailbox.put(self.peer, tag, Bytes::from(part))?;
            }
            Head::Long { tag, total } => {
                if let Some(long) = &self.long {
                    let text = format!("a part ({tag}) within another ({})", long.tag);
                    return Err(Error::corrupt(text));
                }
                self.long = Some(Long { tag, total, bytes: room(total)? });
            }
            Head::Piece { len } => self.piece(len).await?,
            Head::Heartbeat => {}
            Head::Goodbye => return Ok(Some(Gone::Finished)),
            Head::Abort { len } => {
                let mut why = Vec::with_capacity(len);
                self.fill(&mut why, len).await?;
                let (kind, why) = frame::read_reason(&why);
                return Ok(Some(Gone::Lost(kind, why)));
            }
        }
        Ok(None)
    }

    /// Adds to the long part; the last piece completes it.
    async fn piece(&mut self, len: usize) -> Result<()> {
        let Some(mut long) = self.long.take() else {
            return Err(Error::corrupt("a piece of no part"));
        };
        let left = long.total - long.bytes.len();
        if len == 0 || len > left {
            return Err(Error::corrupt(format!(
                "a piece of {len} bytes of a part that lacks {left} ({})",
                long.tag
            )));
        }
        self.fill_part(&mut long.bytes, len).await?;
        if len < left {
            self.long = Some(long);
            return Ok(());
        }
        self.mailbox.put(self.peer, long.tag, Bytes::from(long.bytes))
    }

    /// As [`Reader::fill`], and lets those who wait for this peer know that it is not late.
    async fn fill_part(&mut self, into: &mut Vec<u8>, len: usize) -> Result<()> {
        let end = into.len() + len;
        while into.len() < end {
            self.some(into, end - into.len()).await?;
            self.mailbox.hear(self.peer);
        }
        Ok(())
    }

    /// Appends exactly `len` bytes, as long as some arrive within every silence.
    async fn fill(&mut self, into: &mut Vec<u8>, len: usize) -> Result<()> {
        let end = into.len() + len;
        while into.len() < end {
            self.some(into, end - into.len()).await?;
        }
        Ok(())
    }

    /// Appends the next bytes, at least one and at most `most`.
    async fn some(&mut self, into: &mut Vec<u8>, most: usize) -> Result<()> {
        let silence = self.options.silence_limit();
        let mut rest = (&mut self.socket).take(most as u64);
        match timeout(silence, rest.read_buf(into)).await {
            Ok(Ok(0)) => Err(Error::new(Kind::PeerLost, "the connection ended without a goodbye")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(Error::new(Kind::PeerLost, "the connection broke").with_source(e)),
            Err(_) => Err(Error::new(Kind::PeerLost, format!("it was silent for {}", seconds(silence)))),
        }
    }
}

/// An empty vector for this many bytes: a length that a peer names must not end the process.
fn room(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match bytes.try_reserve_exact(len) {
        Ok(()) => Ok(bytes),
        Err(e) => Err(Error::new(Kind::Io, format!("no memory for a part of {len} bytes")).with_source(e)),
    }
}
