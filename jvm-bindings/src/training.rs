//! Training on threads of Rust's own, polled by the JVM's task thread.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use firesteel_comm::{Cancel, Listener, Membership, Options, Peer, join};
use firesteel_error::{Error, Kind, Result};
use firesteel_train::{Event, Gpu, Model, Session, ShardBuilder, TrainConfig, Trainer, device};
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

/// A worker's rows, and what is to compute with them.
#[derive(Debug)]
pub struct LocalShard {
    /// Taken in until training starts.
    pub rows: ShardBuilder,
    gpu: Option<Gpu>,
}

impl LocalShard {
    /// Without rows yet. `given` are the addresses of the GPUs that Spark gave the task.
    ///
    /// # Errors
    /// `InvalidArgument` when the configuration asks for a device that is not there.
    pub fn new(config: &TrainConfig, rank: usize, given: &[String]) -> Result<LocalShard> {
        Ok(LocalShard {
            gpu: device::choose(&config.params, given, rank)?,
            rows: ShardBuilder::new(config, rank)?,
        })
    }
}

/// One worker's training, while it runs and after it ended.
#[derive(Debug)]
pub struct Training {
    events: Mutex<Receiver<Event>>,
    cancel: Cancel,
    state: Mutex<State>,
    checkpoint: Mutex<Option<Vec<u8>>>,
}

/// How far it is.
#[derive(Debug)]
enum State {
    Running(JoinHandle<Result<Model>>),
    /// Ended well. The model is as large as its files: it goes when they are made.
    Done(Box<Model>),
    /// The model's files were asked for; these were not yet given.
    Filed(Vec<(String, Vec<u8>)>),
    /// Ended, with what every later call is told.
    Failed {
        kind: Kind,
        text: String,
    },
}

impl State {
    /// Waits for a training that runs to end; what ended it is known from here on.
    fn end(&mut self) -> Result<()> {
        if let State::Running(_) = self {
            let ending = State::failed(&Error::internal("a training's thread was lost"));
            let State::Running(thread) = std::mem::replace(self, ending) else { return Ok(()) };
            *self = match thread.join().unwrap_or_else(|payload| Err(from_panic(payload))) {
                Ok(model) => State::Done(Box::new(model)),
                Err(e) => State::failed(&e),
            };
        }
        match self {
            State::Failed { kind, text } => Err(Error::new(*kind, text.clone())),
            _ => Ok(()),
        }
    }

    fn failed(e: &Error) -> State {
        State::Failed { kind: e.kind(), text: e.to_string() }
    }

    /// The model's files that were not yet given.
    fn files(&mut self) -> Result<&mut Vec<(String, Vec<u8>)>> {
        if let State::Done(model) = self {
            *self = State::Filed(model.files()?);
        }
        match self {
            State::Filed(files) => Ok(files),
            State::Failed { kind, text } => Err(Error::new(*kind, text.clone())),
            _ => Err(Error::argument("training has not ended; poll it until it has")),
        }
    }
}

impl Training {
    /// Starts training with these rows.
    ///
    /// # Errors
    /// `InvalidArgument` when what was told makes no sense; what goes wrong later is for [`Training::poll`].
    pub fn start(
        config: TrainConfig,
        shard: LocalShard,
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
            state: Mutex::new(State::Running(thread)),
            checkpoint: Mutex::default(),
        })
    }

    /// Events since the last poll as JSON, waiting so long for the first; `None` once all is said and the model is
    /// there.
    ///
    /// # Errors
    /// What ended training, every time.
    pub fn poll(&self, wait: Duration) -> Result<Option<Vec<String>>> {
        let events = lock(&self.events);
        let first = match events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(Some(Vec::new())),
            Err(RecvTimeoutError::Disconnected) => return lock(&self.state).end().map(|()| None),
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

    /// Asks training to stop; the next polls say when it has.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// The latest checkpoint, which is given once.
    pub fn checkpoint(&self) -> Option<Vec<u8>> {
        lock(&self.checkpoint).take()
    }

    /// The names of the model's files that were not yet given. The first call makes all files: only the worker that
    /// keeps the model should ask.
    ///
    /// # Errors
    /// `InvalidArgument` while training runs; what ended it.
    pub fn file_names(&self) -> Result<Vec<String>> {
        Ok(lock(&self.state).files()?.iter().map(|(name, _)| name.clone()).collect())
    }

    /// One of the model's files, which is given once.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such file, when it was given, and while training runs; what ended it.
    pub fn take_file(&self, name: &str) -> Result<Vec<u8>> {
        let mut state = lock(&self.state);
        let files = state.files()?;
        let at = files.iter().position(|(n, _)| n == name);
        let none = || Error::argument(format!("the model has no file {name}, or it was given before"));
        Ok(files.swap_remove(at.ok_or_else(none)?).1)
    }
}

/// Closing a training that runs ends it: its memory is free when this returns, at most a step later.
impl Drop for Training {
    fn drop(&mut self) {
        self.cancel.cancel();
        // Nobody is left to hear of an error.
        let _ = lock(&self.state).end();
    }
}

fn run(
    config: TrainConfig,
    shard: LocalShard,
    listener: Listener,
    world: World,
    resume: Option<Vec<u8>>,
    cancel: Cancel,
    sender: Sender<Event>,
) -> Result<Model> {
    let membership = membership(&world)?;
    let options = Options { deadline: config.deadline(), cancel: cancel.clone(), ..Options::default() };
    let mesh = join(&membership, world.rank, Some(listener), &options)?;
    let resume = resume.map(Into::into);
    let LocalShard { rows, gpu } = shard;
    let session =
        Session { fabric: Arc::new(mesh), threads: world.threads, cancel, resume, start: None, gpu };
    // Nobody listening is no reason to stop: the JVM cancels when it wants that.
    let mut tell = |event| drop(sender.send(event));
    Trainer::new(config)?.fit(Ok(rows.finish()), session, &mut tell)
}

fn membership(world: &World) -> Result<Membership> {
    let digit = |at: usize| world.secret.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let secret: Option<Vec<u8>> = (0..world.secret.len()).step_by(2).map(digit).collect();
    let secret = secret.ok_or_else(|| Error::new(Kind::InvalidArgument, "the secret is not hexadecimal"))?;
    let peer = |n: &Neighbour| Peer { process: n.process.clone(), address: n.address.clone() };
    Ok(Membership { job: world.job.clone(), secret, peers: world.peers.iter().map(peer).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    use arrow_array::{ArrayRef, Float64Array, RecordBatch};

    /// A training of one worker whose labels are those numbers.
    fn start(params: &str, labels: &[f64]) -> Training {
        let config = TrainConfig::from_json(&format!(
            r#"{{"task": "classification", "network": {{"mlp": {{"hidden": [4]}}}}, "params": {params},
                "data": {{"features": [{{"column": "x"}}], "label": "y"}}}}"#
        ))
        .unwrap();
        let column = |values: Vec<f64>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let x = column((0..labels.len()).map(|r| r as f64).collect());
        let rows = RecordBatch::try_from_iter([("x", x), ("y", column(labels.to_vec()))]).unwrap();
        let mut shard = LocalShard::new(&config, 0, &[]).unwrap();
        shard.rows.push(&rows).unwrap();
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peers = vec![Neighbour { process: "p".into(), address }];
        let world = World { rank: 0, job: "j".into(), secret: "00ff".into(), threads: 1, peers };
        Training::start(config, shard, listener, world, None).unwrap()
    }

    /// Before a row is read.
    #[test]
    fn a_gpu_that_is_not_there_is_refused() {
        let config = |params: &str| {
            let json = format!(
                r#"{{"task": "regression", "network": {{"mlp": {{"hidden": []}}}}, "params": {params},
                    "data": {{"features": [{{"column": "x"}}], "label": "y"}}}}"#
            );
            TrainConfig::from_json(&json).unwrap()
        };
        let refusal = |params, given: &[String]| {
            LocalShard::new(&config(params), 0, given).map(drop).unwrap_err().to_string()
        };
        let e = refusal(r#"{"device": "cuda:4321"}"#, &[]);
        assert!(e.starts_with("device is cuda:4321: there is no "), "{e}");
        // Whatever this machine has, Spark gave one that has no number.
        let e = refusal("{}", &["GPU-1f".into()]);
        assert!(e.contains("has the address 'GPU-1f', expected its number"), "{e}");
        LocalShard::new(&config(r#"{"device": "cpu"}"#), 0, &["GPU-1f".into()]).unwrap();
    }

    /// Polls until there is no more to hear.
    fn follow(training: &Training) -> Result<Vec<String>> {
        let mut all = Vec::new();
        while let Some(events) = training.poll(Duration::from_millis(50))? {
            all.extend(events);
        }
        Ok(all)
    }

    #[test]
    fn events_then_files_that_are_given_once() {
        let training = start(r#"{"epochs": 2}"#, &[0.0, 1.0, 0.0, 1.0]);
        let events = follow(&training).unwrap();
        let checkpoints = events.iter().filter(|e| e.contains(r#""event":"checkpoint""#)).count();
        assert_eq!((events.len(), checkpoints), (6, 2), "{events:?}");
        assert!(training.checkpoint().is_some() && training.checkpoint().is_none());
        // Nobody has asked for files, so there are none yet.
        assert!(matches!(*lock(&training.state), State::Done(_)));
        assert_eq!(training.poll(Duration::ZERO).unwrap(), None);
        let names = training.file_names().unwrap();
        assert_eq!(names.len(), 5);
        let files: Vec<_> = names.iter().map(|name| (name, training.take_file(name).unwrap())).collect();
        Model::from_files(&files).unwrap();
        for name in &names {
            let e = training.take_file(name).unwrap_err();
            assert_eq!(e.to_string(), format!("the model has no file {name}, or it was given before"));
        }
        assert_eq!(training.file_names().unwrap(), Vec::<String>::new());
    }

    /// The JVM may poll again after an exception; it must not take that for a model.
    #[test]
    fn what_ended_a_training_is_told_every_time() {
        let training = start("{}", &[0.0, 0.0]);
        let first = follow(&training).unwrap_err();
        assert_eq!(first.kind(), Kind::InvalidData);
        assert!(first.to_string().contains("label column 'y' is 0 in every row"), "{first}");
        let again = [
            training.poll(Duration::ZERO).map(drop).unwrap_err(),
            training.file_names().map(drop).unwrap_err(),
            training.take_file("model.json").map(drop).unwrap_err(),
        ];
        for e in again {
            assert_eq!((e.kind(), e.to_string()), (first.kind(), first.to_string()));
        }
    }

    #[test]
    fn a_training_that_runs_has_no_files_and_ends_when_it_is_cancelled() {
        let training = start(r#"{"epochs": 1000000000, "checkpointInterval": 0}"#, &[0.0, 1.0]);
        let e = training.file_names().unwrap_err();
        assert_eq!(e.to_string(), "training has not ended; poll it until it has");
        training.cancel();
        assert_eq!(follow(&training).unwrap_err().kind(), Kind::Cancelled);
    }

    /// Closing the handle while another thread waits in a poll: that thread has the last reference, and its poll ends.
    #[test]
    fn a_training_is_dropped_while_another_thread_polls_it() {
        let started = Instant::now();
        let training = Arc::new(start(r#"{"epochs": 1000000000, "checkpointInterval": 0}"#, &[0.0, 1.0]));
        let cancel = training.cancel.clone();
        let polling = training.clone();
        let thread = std::thread::spawn(move || follow(&polling).unwrap_err().kind());
        drop(training);
        cancel.cancel();
        assert_eq!(thread.join().unwrap(), Kind::Cancelled);
        // And one that nobody polls, whose thread is joined by the drop itself.
        drop(start(r#"{"epochs": 1000000000, "checkpointInterval": 0}"#, &[0.0, 1.0]));
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
