//! Connections: one a pair of workers, and one thread a worker for all of its own.
//!
//! Between processes of one host a connection carries where parts are, and shared memory the parts.

mod reader;
mod writer;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firesteel_error::Result;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::fabric::Options;
use crate::frame::{self, Head};
use crate::mailbox::{Gone, Mailbox, Tag};
use crate::shared::{Arena, Lender};
pub(crate) use reader::Reader;
use writer::Writer;

/// How long a worker that leaves waits for its last words to be sent.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long sockets outlive a worker that left, so that peers can read its last words: closing a socket that holds
/// unread bytes resets it, and a reset throws away what the peer has not read.
const LINGER: Duration = Duration::from_secs(30);

/// Bytes of memory in which parts come in; the system gives them where they are used.
const INBOX: usize = 1 << 26;

/// The thread that serves all connections of one worker. The last owner waits for what is still to be sent.
pub(crate) struct Io {
    runtime: Option<Runtime>,
    writers: Mutex<Vec<JoinHandle<()>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    /// Made when the first peer of this host is met; none where the system has no such memory.
    arena: OnceLock<Option<Arc<Arena>>>,
    /// Where parts come in by sockets; none where the system does not give it.
    inbox: OnceLock<Option<Arc<Arena>>>,
}

impl Io {
    pub(crate) fn new() -> Result<Io> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("firesteel-tcp")
            .enable_all()
            .build()?;
        let (writers, readers) = (Mutex::default(), Mutex::default());
        Ok(Io { runtime: Some(runtime), writers, readers, arena: OnceLock::new(), inbox: OnceLock::new() })
    }

    /// The memory that peers of this host can read, where there are any.
    pub(crate) fn arena(&self) -> Option<Arc<Arena>> {
        self.arena.get().cloned().flatten()
    }

    fn inbox(&self) -> Option<Arc<Arena>> {
        self.inbox.get_or_init(|| Arena::private(INBOX).ok()).clone()
    }

    /// As [`Io::arena`], made where `stream` leads to this host.
    fn arena_for(&self, stream: &TcpStream, options: &Options) -> Option<Arc<Arena>> {
        let ends = [stream.local_addr(), stream.peer_addr()].map(|end| end.ok().map(|end| end.ip()));
        if options.shared_memory == 0 || ends[0].is_none() || ends[0] != ends[1] {
            return None;
        }
        let make = || {
            let arena = Arena::shared(options.shared_memory);
            arena.inspect_err(|e| tracing::debug!(error = %e, "no shared memory")).ok()
        };
        self.arena.get_or_init(make).clone()
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

/// What goes to a peer: a head and its payload.
type Message = (Head, Bytes);

/// One end of a connection to a peer that proved itself.
pub(crate) struct Connection {
    queue: mpsc::UnboundedSender<Message>,
    /// For a peer of this host.
    lender: Option<Arc<Lender>>,
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
        let arena = io.arena_for(&stream, options);
        let (read, write) = stream.into_split();
        let (queue, messages) = mpsc::unbounded_channel();
        if let Some(offer) = arena.as_ref().and_then(|arena| arena.offer()) {
            let _ = queue.send((Head::Offer, offer.encode()));
        }
        let lender = arena.map(|arena| Arc::new(Lender::new(arena)));
        let window = Arc::default();
        let writer = Writer::new(write, messages, Arc::clone(&window), options);
        let reader = Reader::new(read, peer, mailbox.clone(), io.inbox(), options).sharing(
            lender.clone(),
            window,
            queue.downgrade(),
        );
        let failed = mailbox.clone();
        let writer = io.handle().spawn(async move {
            if let Err(why) = writer.run().await {
                failed.leave(peer, Gone::died(why));
            }
        });
        io.writers.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
        let reader = io.handle().spawn(reader.run());
        io.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        Connection { queue, lender, _io: io.clone() }
    }

    /// Queues a part, or lends it. A connection that broke is noticed by the next wait.
    pub(crate) fn send(&self, tag: Tag, part: Bytes) -> Result<()> {
        let len = part.len();
        let _ = match self.lender.as_ref().and_then(|lender| lender.lend(&part)) {
            Some(loan) => self.queue.send((Head::Lent { tag, len }, loan.encode())),
            None => self.queue.send((Head::Part { tag, len }, part)),
        };
        Ok(())
    }

    /// How many parts the peer was lent.
    pub(crate) fn lent(&self) -> u64 {
        self.lender.as_ref().map_or(0, |lender| lender.lent())
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
