//! How a worker becomes part of a fabric.

use std::sync::Arc;

use firesteel_error::{Error, Result};

use crate::connect::{self, Listener, Met};
use crate::fabric::Options;
use crate::handshake::Credentials;
use crate::in_place::Board;
use crate::local::{self, Shared};
use crate::mailbox::{Gone, Mailbox};
use crate::mesh::{Link, Mesh};

/// Where one worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Equal for workers of one process, which reach each other without sockets.
    pub process: String,
    /// `host:port` of its listener; unused among workers of one process.
    pub address: String,
}

/// What every worker of a job knows before they meet.
#[derive(Clone, Debug)]
pub struct Membership {
    /// A name that no other running job has.
    pub job: String,
    /// What workers prove to each other that they know.
    pub secret: Vec<u8>,
    /// All workers, by rank.
    pub peers: Vec<Peer>,
}

/// All workers as threads of this process.
///
/// # Errors
/// `InvalidArgument` for a world of 0.
pub fn local_world(world: usize, options: &Options) -> Result<Vec<Mesh>> {
    if world == 0 {
        return Err(Error::argument("a world of 0 workers"));
    }
    let mailboxes: Vec<Arc<Mailbox>> = (0..world).map(|rank| Arc::new(Mailbox::of_threads(rank))).collect();
    let board = Board::of(world);
    let links = || mailboxes.iter().cloned().map(Link::Local).collect();
    let mesh = |(rank, mailbox): (usize, &Arc<Mailbox>)| {
        Mesh::new(rank, mailbox.clone(), links(), None, Some(board.clone()), options.clone())
    };
    Ok(mailboxes.iter().enumerate().map(mesh).collect())
}

/// Meets all workers of a job: those of this process hand each other parts, the others have a socket a pair, and those of one host
/// memory beside it, as [`Options::shared_memory`] says.
///
/// # Errors
/// `InvalidArgument` when the membership makes no sense or another worker has joined as this rank, `Timeout` or
/// `PeerLost` naming the ranks that did not come within the deadline, `Unauthenticated` when a peer does not know the
/// secret, `Cancelled`.
pub fn join(
    membership: &Membership,
    rank: usize,
    listener: Option<Listener>,
    options: &Options,
) -> Result<Mesh> {
    let world = membership.peers.len();
    let Some(me) = membership.peers.get(rank) else {
        return Err(Error::argument(format!("rank {rank} in a world of {world}")));
    };
    let is_local = |peer: &Peer| peer.process == me.process;
    let ranks: Vec<usize> = (0..world).filter(|r| is_local(&membership.peers[*r])).collect();
    let only_threads = ranks.len() == world;
    let mailbox = Arc::new(if only_threads { Mailbox::of_threads(rank) } else { Mailbox::new(rank) });
    let Shared { mailboxes, board } = local::meet(
        &membership.job,
        &me.process,
        rank,
        &ranks,
        mailbox.clone(),
        options.deadline,
        &options.cancel,
    )?;
    let addresses: Vec<Option<String>> =
        membership.peers.iter().map(|p| (!is_local(p)).then(|| p.address.clone())).collect();
    let credentials = Credentials { job: membership.job.clone(), secret: membership.secret.clone(), rank };
    let mut links: Vec<Option<Link>> = (0..world).map(|_| None).collect();
    let met = connect::connect(listener, &credentials, &addresses, &mailbox, options);
    if let Err(e) = &met {
        // Those of this process wait for this worker too.
        let others = mailboxes.iter().filter(|(peer, _)| **peer != rank);
        others.for_each(|(_, mailbox)| mailbox.leave(rank, Gone::died(e.to_string())));
    }
    let Met { connections, arena } = met?;
    for (peer, connection) in connections {
        links[peer] = Some(Link::Tcp(connection));
    }
    for (peer, mailbox) in mailboxes {
        links[peer] = Some(Link::Local(mailbox));
    }
    let links: Option<Vec<Link>> = links.into_iter().collect();
    let links = links.ok_or_else(|| Error::internal("a rank is neither in this process nor connected"))?;
    Ok(Mesh::new(rank, mailbox, links, arena, only_threads.then_some(board), options.clone()))
}
