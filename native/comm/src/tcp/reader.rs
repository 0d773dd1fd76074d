//! What comes from a peer.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes};
use firesteel_error::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::time::timeout;

use super::Message;
use crate::fabric::Options;
use crate::frame::{self, HEADER, Head};
use crate::mailbox::{Gone, Mailbox, Tag};
use crate::shared::{Arena, Lender, Loan, Offer, Place, SHORTEST, Window};
use crate::words::seconds;

/// What a peer sends, until it is gone.
pub(crate) struct Reader<S> {
    socket: BufReader<S>,
    peer: usize,
    mailbox: Arc<Mailbox>,
    options: Options,
    /// Where parts come in; none where there is no memory for it.
    inbox: Option<Arc<Arena>>,
    /// The part whose pieces are coming in.
    long: Option<Long>,
    /// What the peer reads here.
    lender: Option<Arc<Lender>>,
    /// What is read there.
    window: Arc<OnceLock<Arc<Window>>>,
    queue: Option<WeakUnboundedSender<Message>>,
}

/// A part that is not complete.
struct Long {
    tag: Tag,
    part: Incoming,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(crate) fn new(
        socket: S,
        peer: usize,
        mailbox: Arc<Mailbox>,
        inbox: Option<Arc<Arena>>,
        options: &Options,
    ) -> Reader<S> {
        let (socket, options, window) = (BufReader::new(socket), options.clone(), Arc::default());
        Reader { socket, peer, mailbox, options, inbox, long: None, lender: None, window, queue: None }
    }

    /// With memory that is shared with the peer, and the queue of what goes to it.
    pub(crate) fn sharing(
        self,
        lender: Option<Arc<Lender>>,
        window: Arc<OnceLock<Arc<Window>>>,
        queue: WeakUnboundedSender<Message>,
    ) -> Reader<S> {
        Reader { lender, window, queue: Some(queue), ..self }
    }

    pub(crate) async fn run(mut self) {
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
                let mut part = Incoming::new(self.inbox.as_ref(), len)?;
                self.fill_part(&mut part, len).await?;
                self.mailbox.put(self.peer, tag, part.into())?;
            }
            Head::Long { tag, total } => {
                if let Some(long) = &self.long {
                    let text = format!("a part ({tag}) within another ({})", long.tag);
                    return Err(Error::corrupt(text));
                }
                self.long = Some(Long { tag, part: Incoming::new(self.inbox.as_ref(), total)? });
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
            Head::Offer => {
                let mut offer = Vec::with_capacity(Offer::LEN);
                self.fill(&mut offer, Offer::LEN).await?;
                self.open(Offer::decode(&offer));
            }
            Head::Accepted => self.lender()?.accept(),
            Head::Lent { tag, len } => {
                let mut loan = Vec::with_capacity(Loan::LEN);
                self.fill(&mut loan, Loan::LEN).await?;
                let window = self.window.get();
                let window = window.ok_or_else(|| Error::corrupt("a part in memory that is not shared"))?;
                self.mailbox.put(self.peer, tag, window.view(Loan::decode(&loan), len)?)?;
            }
            Head::Returned { number } => self.lender()?.take_back(number)?,
        }
        Ok(None)
    }

    fn lender(&self) -> Result<&Lender> {
        self.lender.as_deref().ok_or_else(|| Error::corrupt("an answer to what was not offered"))
    }

    /// Opens the peer's memory and says so. A peer that hears nothing uses the connection.
    fn open(&mut self, offer: Offer) {
        // Who wants no memory of its own read does not read others' either.
        let Some(queue) = self.queue.clone().filter(|_| self.lender.is_some()) else { return };
        let send = move |head| _ = queue.upgrade().map(|queue| queue.send((head, Bytes::new())));
        let ask = send.clone();
        match Window::open(offer, move || ask(Head::Heartbeat)) {
            Ok(window) => {
                // A second offer changes nothing.
                if self.window.set(window).is_ok() {
                    send(Head::Accepted);
                }
            }
            Err(e) => tracing::debug!(peer = self.peer, error = %e, "cannot read a peer's memory"),
        }
    }

    /// Adds to the long part; the last piece completes it.
    async fn piece(&mut self, len: usize) -> Result<()> {
        let Some(mut long) = self.long.take() else {
            return Err(Error::corrupt("a piece of no part"));
        };
        let left = long.part.left();
        if len == 0 || len > left {
            return Err(Error::corrupt(format!(
                "a piece of {len} bytes of a part that lacks {left} ({})",
                long.tag
            )));
        }
        self.fill_part(&mut long.part, len).await?;
        if len < left {
            self.long = Some(long);
            return Ok(());
        }
        self.mailbox.put(self.peer, long.tag, long.part.into())
    }

    /// Reads exactly `len` bytes of a part, and lets those who wait for this peer know that it is not late.
    async fn fill_part(&mut self, part: &mut Incoming, len: usize) -> Result<()> {
        let end = part.left() - len;
        while part.left() > end {
            let most = part.left() - end;
            match part {
                Incoming::Heap { bytes, .. } => _ = self.some(bytes, most).await?,
                Incoming::Place { place, filled } => {
                    *filled += self.some(&mut &mut place.as_mut()[*filled..], most).await?;
                }
            }
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

    /// Appends the next bytes, at least one and at most `most`; how many.
    async fn some(&mut self, into: &mut impl BufMut, most: usize) -> Result<usize> {
        let silence = self.options.silence_limit();
        let mut rest = (&mut self.socket).take(most as u64);
        match timeout(silence, rest.read_buf(into)).await {
            Ok(Ok(0)) => Err(Error::new(Kind::PeerLost, "the connection ended without a goodbye")),
            Ok(Ok(read)) => Ok(read),
            Ok(Err(e)) => Err(Error::new(Kind::PeerLost, "the connection broke").with_source(e)),
            Err(_) => Err(Error::new(Kind::PeerLost, format!("it was silent for {}", seconds(silence)))),
        }
    }
}

/// A part that is coming in.
enum Incoming {
    /// Memory that is used again.
    Place { place: Place, filled: usize },
    /// A short one's own, and where there is no other.
    Heap { bytes: Vec<u8>, len: usize },
}

impl Incoming {
    /// Room for `len` bytes.
    ///
    /// # Errors
    /// `Io` where there is none: a length that a peer names must not end the process.
    fn new(inbox: Option<&Arc<Arena>>, len: usize) -> Result<Incoming> {
        let place = inbox.filter(|_| len >= SHORTEST).and_then(|inbox| inbox.place(len));
        if let Some(place) = place {
            return Ok(Incoming::Place { place, filled: 0 });
        }
        let mut bytes = Vec::new();
        let no_memory =
            |e| Error::new(Kind::Io, format!("no memory for a part of {len} bytes")).with_source(e);
        bytes.try_reserve_exact(len).map_err(no_memory)?;
        Ok(Incoming::Heap { bytes, len })
    }

    /// How many bytes have not come yet.
    fn left(&self) -> usize {
        match self {
            Incoming::Place { place, filled } => place.as_ref().len() - filled,
            Incoming::Heap { bytes, len } => len - bytes.len(),
        }
    }
}

impl From<Incoming> for Bytes {
    fn from(part: Incoming) -> Bytes {
        match part {
            Incoming::Place { place, .. } => Bytes::from_owner(place),
            Incoming::Heap { bytes, .. } => Bytes::from(bytes),
        }
    }
}
