//! What goes to a peer.

use std::io::IoSlice;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::Message;
use crate::fabric::Options;
use crate::frame::{self, Head};
use crate::shared::Window;
use crate::words::seconds;

/// What is shorter is gathered until nothing waits or this much has come together.
const GATHERED: usize = 16 << 10;

/// Why a peer cannot be written to.
type Failure = String;

/// Writes what is queued, and signs of life where nothing is.
pub(super) struct Writer {
    socket: OwnedWriteHalf,
    messages: UnboundedReceiver<Message>,
    /// Tells of what is read in the peer's memory.
    window: Arc<OnceLock<Arc<Window>>>,
    gathered: BytesMut,
    beat: Duration,
    limit: Duration,
    max_frame: usize,
}

impl Writer {
    pub(super) fn new(
        socket: OwnedWriteHalf,
        messages: UnboundedReceiver<Message>,
        window: Arc<OnceLock<Arc<Window>>>,
        options: &Options,
    ) -> Writer {
        let (beat, limit, max_frame) = (options.beat(), options.deadline, options.max_frame);
        Writer { socket, messages, window, gathered: BytesMut::new(), beat, limit, max_frame }
    }

    /// Until the queue ends.
    ///
    /// # Errors
    /// Words for why the peer cannot be written to.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        loop {
            let first = match timeout(self.beat, self.messages.recv()).await {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => (Head::Heartbeat, Bytes::new()),
            };
            let mut next = Some(first);
            while let Some((head, payload)) = next {
                self.message(head, payload).await?;
                for number in self.window.get().map(|window| window.returned()).unwrap_or_default() {
                    self.put(&Head::Returned { number }.encode()).await?;
                }
                next = self.messages.try_recv().ok();
            }
            self.flush(&[]).await?;
        }
        // The peer may be gone already; then nobody is left to hear the end of the stream.
        let _ = self.socket.shutdown().await;
        Ok(())
    }

    /// A part, in as many frames as it takes, or anything else, in one.
    async fn message(&mut self, head: Head, payload: Bytes) -> Result<(), Failure> {
        let Head::Part { tag, .. } = head else {
            self.put(&head.encode()).await?;
            return self.put(&payload).await;
        };
        for (head, piece) in frame::frames(tag, &payload, self.max_frame) {
            self.put(&head.encode()).await?;
            self.put(&piece).await?;
        }
        Ok(())
    }

    /// Gathers what is short; writes what is long behind what was gathered.
    async fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.gathered.len() + bytes.len() > GATHERED {
            return self.flush(bytes).await;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what was gathered and `more`, as long as the peer takes some within every limit.
    async fn flush(&mut self, mut more: &[u8]) -> Result<(), Failure> {
        while !self.gathered.is_empty() || !more.is_empty() {
            let both = [IoSlice::new(&self.gathered), IoSlice::new(more)];
            let taken = match timeout(self.limit, self.socket.write_vectored(&both)).await {
                Ok(Ok(0)) => return Err("cannot send to it".into()),
                Ok(Ok(taken)) => taken,
                Ok(Err(e)) => return Err(format!("cannot send to it: {e}")),
                Err(_) => return Err(format!("it took nothing for {}", seconds(self.limit))),
            };
            let of_gathered = taken.min(self.gathered.len());
            self.gathered.advance(of_gathered);
            more = &more[taken - of_gathered..];
        }
        Ok(())
    }
}
