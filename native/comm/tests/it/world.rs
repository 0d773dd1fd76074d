//! Worlds of workers, one thread each, over every fabric.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use firesteel_comm::{Listener, Membership, Mesh, Options, Peer, join, local_world};

/// How the workers of a test reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mailboxes made together.
    Local,
    /// A socket between every two workers.
    Tcp,
    /// The same, with memory that they share.
    Host,
    /// Two workers a process: mailboxes, sockets and memory.
    Mixed,
}

pub const KINDS: [Kind; 4] = [Kind::Local, Kind::Tcp, Kind::Host, Kind::Mixed];

/// Without memory that processes share: [`meshes`] adds it where a kind has it.
pub fn options() -> Options {
    Options { deadline: Duration::from_secs(20), shared_memory: 0, ..Options::default() }
}

static JOBS: AtomicUsize = AtomicUsize::new(0);

/// A job name that no other test uses.
pub fn job() -> String {
    format!("job {}", JOBS.fetch_add(1, Ordering::Relaxed))
}

/// A membership on loopback and its listeners; `process` names the process of a rank.
pub fn membership(world: usize, process: impl Fn(usize) -> String) -> (Membership, Vec<Listener>) {
    let listeners: Vec<Listener> = (0..world).map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
    let peer = |(rank, listener): (usize, &Listener)| Peer {
        process: process(rank),
        address: listener.local_addr().unwrap().to_string(),
    };
    let peers = listeners.iter().enumerate().map(peer).collect();
    (Membership { job: job(), secret: b"a secret".to_vec(), peers }, listeners)
}

/// All workers of a world.
pub fn meshes(kind: Kind, world: usize, options: &Options) -> Vec<Mesh> {
    let process = match kind {
        Kind::Local => return local_world(world, options).unwrap(),
        Kind::Tcp | Kind::Host => |rank: usize| format!("process {rank}"),
        Kind::Mixed => |rank: usize| format!("process {}", rank / 2),
    };
    let shared_memory = match kind {
        Kind::Host | Kind::Mixed if options.shared_memory == 0 => 1 << 24,
        _ => options.shared_memory,
    };
    let options = &Options { shared_memory, ..options.clone() };
    let (membership, listeners) = membership(world, process);
    thread::scope(|scope| {
        let join = |(rank, listener)| {
            let membership = &membership;
            scope.spawn(move || join(membership, rank, Some(listener), options).unwrap())
        };
        let threads: Vec<_> = listeners.into_iter().enumerate().map(join).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Runs `work` on every worker, each on a thread of its own; what each returned, by rank.
pub fn run<F: Send, T: Send>(workers: Vec<F>, work: impl Fn(F) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = workers.into_iter().map(|worker| scope.spawn(move || work(worker))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}
