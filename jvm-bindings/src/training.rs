//! Training on threads of Rust's own, polled by the JVM's task thread.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use firesteel_comm::{Cancel, Listener, Membership, Options, Peer, join};
use firesteel_error::{Error, Kind, Result};
use firesteel_train::{Event, Model, Session, ShardBuilder, TrainConfig, Trainer};
use serde::Deserialize;

use crate::error::{from_panic, guarded};
use crate::registry::lock;

/// What the driver told this worker of the others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    rank: usize,
    /// A name that no other running job has.
    job: String,
    /// What workers prove to each other that they know, in hexadecimal.
    secret: String,
    /// Cores that the task has.
    threads: usize,
    /// All workers, by rank.
    peers: Vec<Neighbour>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Neighbour {
    process: String,
    address: String,
}

/// One worker's training, while it runs and after it ended.
#[derive(Debug)]
pub struct Training {
    events: Mutex<Receiver<Event>>,
    cancel: Cancel,
    thread: Mutex<Option<JoinHandle<Result<Model>>>>,
    checkpoint: Mutex<Option<Vec<u8>>>,
    files: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Training {
    /// Starts training with these rows.
    ///
    /// # Errors
    /// `InvalidArgument` when what was told makes no sense; what goes wrong later is for [`Training::poll`].
    pub fn start(
        config: TrainConfig,
        shard: ShardBuilder,
        listener: Listener,
        world: World,
        resume: Option<Vec<u8>>,
    ) -> Result<Training> {
        let (sender, events) = channel();
        let cancel = Cancel::new();
        let flag = cancel.clone();
        let run = move || guarded(|| run(config, shard, listener, world, resume, flag, sender));
        let name = "firesteel-train".into();
        let thread = std::thread::Builder::new().name(name).spawn(run)?;
        Ok(Training {
            events: Mutex::new(events),
            cancel,
            thread: Mutex::new(Some(thread)),
            checkpoint: Mutex::default(),
            files: Mutex::default(),
        })
    }

    /// Events since the last poll as JSON, waiting so long for the first; `None` once all is said and the model is
    /// there.
    ///
    /// # Errors
    /// What ended training.
    pub fn poll(&self, wait: Duration) -> Result<Option<Vec<String>>> {
        let events = lock(&self.events);
        let first = match events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(Some(Vec::new())),
            Err(RecvTimeoutError::Disconnected) => return self.finish().map(|()| None),
        };
        let told = std::iter::once(first).chain(events.try_iter());
        Ok(Some(told.map(|event| self.hear(event)).collect()))
    }

    fn hear(&self, event: Event) -> String {
        let json = event.to_json();
        if let Event::Checkpoint { bytes, .. } = event {
            *lock(&self.checkpoint) = Some(bytes.into());
        }
        json
    }

    fn finish(&self) -> Result<()> {
        let Some(thread) = lock(&self.thread).take() else { return Ok(()) };
        let model = thread.join().unwrap_or_else(|payload| Err(from_panic(payload)))?;
        *lock(&self.files) = model.files()?;
        Ok(())
    }

    /// Asks training to stop; the next polls say when it has.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// The latest checkpoint, which is given once.
    pub fn checkpoint(&self) -> Option<Vec<u8>> {
        lock(&self.checkpoint).take()
    }

    /// The names of the model's files, once training has ended.
    pub fn file_names(&self) -> Vec<String> {
        lock(&self.files).iter().map(|(name, _)| name.clone()).collect()
    }

    /// One of the model's files, which is given once.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such file.
    pub fn take_file(&self, name: &str) -> Result<Vec<u8>> {
        let mut files = lock(&self.files);
        let at = files.iter().position(|(n, _)| n == name);
        let at = at.ok_or_else(|| Error::argument(format!("the model has no file {name}")))?;
        Ok(files.swap_remove(at).1)
    }
}

/// Closing a training that runs ends it: its memory is free when this returns, at most a step later.
impl Drop for Training {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = lock(&self.thread).take() {
            // Nobody is left to hear of an error.
            let _ = thread.join();
        }
    }
}

fn run(
    config: TrainConfig,
    shard: ShardBuilder,
    listener: Listener,
    world: World,
    resume: Option<Vec<u8>>,
    cancel: Cancel,
    sender: Sender<Event>,
) -> Result<Model> {
    let membership = membership(&world)?;
    let deadline = Duration::try_from_secs_f64(config.params.timeout_seconds)
        .map_err(|e| Error::argument(format!("timeout_seconds is {}: {e}", config.params.timeout_seconds)))?;
    let options = Options { deadline, cancel: cancel.clone(), ..Options::default() };
    let mesh = join(&membership, world.rank, Some(listener), &options)?;
    let resume = resume.map(Into::into);
    let session = Session { fabric: Arc::new(mesh), threads: world.threads, cancel, resume };
    // Nobody listening is no reason to stop: the JVM cancels when it wants that.
    let mut tell = |event| drop(sender.send(event));
    Trainer::new(config)?.fit(Ok(shard.finish()), session, &mut tell)
}

fn membership(world: &World) -> Result<Membership> {
    let digit = |at: usize| world.secret.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let secret: Option<Vec<u8>> = (0..world.secret.len()).step_by(2).map(digit).collect();
    let secret = secret.ok_or_else(|| Error::new(Kind::InvalidArgument, "the secret is not hexadecimal"))?;
    let peer = |n: &Neighbour| Peer { process: n.process.clone(), address: n.address.clone() };
    Ok(Membership { job: world.job.clone(), secret, peers: world.peers.iter().map(peer).collect() })
}
