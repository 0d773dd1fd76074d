//! Everything needed to go on with a training, at any number of workers, as one safetensors file.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_comm::reduce::State;
use firesteel_comm::strategy::{Owned, Strategy};
use firesteel_engine::Moments;
use firesteel_error::{Error, Result};
use firesteel_model::Graph;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::data::Agreed;
use crate::event::EpochRecord;
use crate::identity::Identity;
use crate::tensors::{self, Reader, Writer};

/// The version written into every checkpoint; a reader refuses others, as a checkpoint lives no longer than its job.
const FORMAT: u32 = 2;

const WEIGHTS: &str = "weights/";
const BEST: &str = "best/";
/// A rank and a name follow.
const STRATEGY: &str = "strategy/";

/// Where a training is, but for its vectors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) epoch: usize,
    pub(crate) step: u64,
    pub(crate) history: Vec<EpochRecord>,
    pub(crate) best: Option<Best>,
}

/// The best epoch so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) epoch: usize,
    pub(crate) metric: f64,
}

/// The line about the file.
#[derive(Serialize, Deserialize)]
struct About {
    format: u32,
    /// Of the training that made it.
    identity: Identity,
    agreed: Agreed,
    progress: Progress,
    /// How many workers' states of a strategy there are.
    #[serde(default)]
    world: usize,
}

/// The most workers whose states are looked for.
const MOST_WORKERS: usize = 1 << 20;

/// What of [`About`] every version has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// A checkpoint whose vectors have not been looked at.
pub(crate) struct Checkpoint {
    about: About,
    file: Bytes,
}

/// All vectors of a training.
pub(crate) struct Vectors {
    pub(crate) weights: Vec<f32>,
    pub(crate) buffers: Vec<f32>,
    /// The optimizer's state, each laid out as the weights.
    pub(crate) slots: Vec<Vec<f32>>,
    /// Weights and buffers of the best epoch.
    pub(crate) best: Option<(Vec<f32>, Vec<f32>)>,
    /// What the strategy goes on with, by rank.
    pub(crate) strategy: Vec<State>,
}

fn slot(number: usize) -> String {
    format!("optimizer{number}/")
}

/// Writes a checkpoint.
pub(crate) fn write(
    config: &TrainConfig,
    graph: &Graph,
    agreed: &Agreed,
    progress: &Progress,
    vectors: &Vectors,
) -> Result<Bytes> {
    let mut writer = Writer::default();
    writer.add_weights(WEIGHTS, graph, &vectors.weights);
    writer.add_buffers(WEIGHTS, graph, &vectors.buffers);
    for (number, flat) in vectors.slots.iter().enumerate() {
        writer.add_weights(&slot(number), graph, flat);
    }
    if let Some((weights, buffers)) = &vectors.best {
        writer.add_weights(BEST, graph, weights);
        writer.add_buffers(BEST, graph, buffers);
    }
    for (rank, state) in vectors.strategy.iter().enumerate() {
        for (name, values) in state {
            writer.add_vector(format!("{STRATEGY}{rank}/{name}"), values);
        }
    }
    let about = About {
        format: FORMAT,
        identity: Identity::of(config)?,
        agreed: agreed.clone(),
        progress: progress.clone(),
        world: vectors.strategy.len(),
    };
    let about = serde_json::to_string(&about)
        .map_err(|e| Error::internal(format!("a checkpoint cannot be written: {e}")))?;
    writer.finish(about).map(Bytes::from)
}

impl Checkpoint {
    /// Reads what it says of itself, and refuses it when it is of another training.
    pub(crate) fn read(file: Bytes, config: &TrainConfig) -> Result<Checkpoint> {
        let about = tensors::about(&file).map_err(|e| e.context("reading the checkpoint"))?;
        let damaged = |e| Error::corrupt(format!("the checkpoint is damaged: {e}"));
        let Version { format } = serde_json::from_str(&about).map_err(damaged)?;
        if format != FORMAT {
            return Err(Error::corrupt(format!(
                "the checkpoint has format {format}, this Firesteel reads {FORMAT}"
            )));
        }
        let about: About = serde_json::from_str(&about).map_err(damaged)?;
        about.identity.check(&Identity::of(config)?)?;
        about.agreed.preprocessing.check()?;
        Ok(Checkpoint { about, file })
    }

    pub(crate) fn agreed(&self) -> &Agreed {
        &self.about.agreed
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.about.progress
    }

    /// The vectors, laid out as the graph says.
    ///
    /// # Errors
    /// `Corrupt` naming the parameter and both shapes when they are another network's.
    pub(crate) fn vectors(&self, graph: &Graph, slots: usize) -> Result<Vectors> {
        let reader = Reader::new(&self.file, "checkpoint")?;
        if let Some(name) = reader.unknown(WEIGHTS, graph) {
            return Err(Error::corrupt(format!(
                "the checkpoint has a parameter {name}, the network has none"
            )));
        }
        let weights = |prefix: &str| {
            let mut flat = vec![0.0; graph.len()];
            reader.copy_weights(prefix, graph, &mut flat).map(|()| flat)
        };
        let buffers = |prefix: &str| {
            let mut flat = vec![0.0; graph.buffers_len()];
            reader.copy_buffers(prefix, graph, &mut flat).map(|()| flat)
        };
        let best = || -> Result<_> { Ok((weights(BEST)?, buffers(BEST)?)) };
        Ok(Vectors {
            weights: weights(WEIGHTS)?,
            buffers: buffers(WEIGHTS)?,
            slots: (0..slots).map(|number| weights(&slot(number))).collect::<Result<_>>()?,
            best: self.about.progress.best.map(|_| best()).transpose()?,
            strategy: self.strategies(&reader)?,
        })
    }
}

impl Checkpoint {
    /// What the strategy of each worker went on with.
    fn strategies(&self, reader: &Reader<'_>) -> Result<Vec<State>> {
        let mut states = vec![State::new(); self.about.world.min(MOST_WORKERS)];
        for (name, values) in reader.vectors(STRATEGY)? {
            let misfit = || Error::corrupt(format!("the checkpoint has {STRATEGY}{name}, of no worker"));
            let (rank, name) = name.split_once('/').ok_or_else(misfit)?;
            let state =
                rank.parse::<usize>().ok().and_then(|rank| states.get_mut(rank)).ok_or_else(misfit)?;
            state.insert(name.to_owned(), values);
        }
        Ok(states)
    }
}

/// A strategy's state as a message.
pub(crate) fn strategy_state(state: &State) -> Result<Bytes> {
    let mut writer = Writer::default();
    state.iter().for_each(|(name, values)| writer.add_vector(name.clone(), values));
    writer.finish(String::new()).map(Bytes::from)
}

/// Reads what [`strategy_state`] of each rank wrote.
pub(crate) fn read_strategy_states(parts: &[Bytes]) -> Result<Vec<State>> {
    let read = |(rank, part): (usize, &Bytes)| {
        let read = Reader::new(part, "message").and_then(|reader| reader.vectors(""));
        let state = read.map_err(|e| e.context(format!("reading the strategy's state of rank {rank}")))?;
        Ok(state.into_iter().collect())
    };
    parts.iter().enumerate().map(read).collect()
}

/// This worker's part of the optimizer's state: for each range of the flat vector its start and length, then its
/// values. Nothing where the optimizer has no state.
pub(crate) fn owned_state(strategy: &dyn Strategy, moments: &Moments) -> Bytes {
    let mut out = BytesMut::new();
    if moments.slots().is_empty() {
        return out.freeze();
    }
    for Owned { at, range, .. } in strategy.owned().filter(|owned| owned.first) {
        out.put_u64_le(range.start as u64);
        out.put_u64_le(range.len() as u64);
        for slot in moments.slots() {
            out.extend_from_slice(&tensors::to_bytes(&slot[at..at + range.len()]));
        }
    }
    out.freeze()
}

/// Puts the parts of all workers together.
pub(crate) fn join_state(parts: Vec<Bytes>, slots: usize, len: usize) -> Result<Vec<Vec<f32>>> {
    let mut flat = vec![vec![0.0; len]; slots];
    for (rank, mut part) in parts.into_iter().enumerate() {
        let misfit = || Error::corrupt(format!("rank {rank} sent optimizer state that does not fit"));
        while part.has_remaining() {
            if part.len() < 16 || slots == 0 {
                return Err(misfit());
            }
            let (start, count) = (part.get_u64_le() as usize, part.get_u64_le() as usize);
            let end = start.checked_add(count).filter(|end| *end <= len).ok_or_else(misfit)?;
            // `end` fits a vector of f32, so its bytes are counted without overflow.
            if part.len() / slots < 4 * count {
                return Err(misfit());
            }
            for slot in &mut flat {
                tensors::from_bytes(&part.split_to(4 * count), &mut slot[start..end]);
            }
        }
    }
    Ok(flat)
}

/// Takes this worker's part of the optimizer's state from flat vectors.
pub(crate) fn take_state(strategy: &dyn Strategy, moments: &mut Moments, flat: &[Vec<f32>]) {
    for Owned { at, range, .. } in strategy.owned() {
        for (slot, flat) in moments.slots_mut().iter_mut().zip(flat) {
            slot[at..at + range.len()].copy_from_slice(&flat[range.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, count: u64, values: &[f32]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64_le(start);
        out.put_u64_le(count);
        out.extend_from_slice(&tensors::to_bytes(values));
        out.freeze()
    }

    #[test]
    fn parts_are_put_in_their_places() {
        let parts = vec![part(2, 1, &[3.0, 30.0]), Bytes::new(), part(0, 2, &[1.0, 2.0, 10.0, 20.0])];
        let flat = join_state(parts, 2, 3).unwrap();
        assert_eq!(flat, [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]);
        assert_eq!(join_state(vec![Bytes::new(); 3], 0, 3).unwrap(), Vec::<Vec<f32>>::new());
    }

    #[test]
    fn malformed_state_is_refused_with_its_rank() {
        let good = part(0, 2, &[1.0, 2.0, 10.0, 20.0]);
        let bad = [
            ("a cut header", good.slice(..15)),
            ("a cut value", good.slice(..good.len() - 1)),
            ("a missing slot", part(0, 2, &[1.0, 2.0])),
            ("beyond the end", part(2, 2, &[1.0; 4])),
            ("a start that overflows", part(u64::MAX, 2, &[1.0; 4])),
            ("a length that overflows", part(1, u64::MAX, &[1.0; 4])),
            ("a length whose bytes overflow", part(0, 1 << 62, &[1.0; 4])),
            ("something behind it", [good.as_ref(), b"x"].concat().into()),
        ];
        for (what, bad) in bad {
            let e = join_state(vec![good.clone(), bad], 2, 3).unwrap_err();
            assert_eq!(e.to_string(), "rank 1 sent optimizer state that does not fit", "{what}");
            assert_eq!(e.kind(), firesteel_error::Kind::Corrupt);
        }
        // An optimizer without state gets none.
        assert!(join_state(vec![good], 0, 3).is_err());
    }
}
