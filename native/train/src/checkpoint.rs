//! Everything needed to go on with a training, at any number of workers, as one safetensors file.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use firesteel_comm::strategy::Sharded;
use firesteel_engine::Moments;
use firesteel_error::{Error, Result};
use firesteel_model::Graph;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::data::Agreed;
use crate::event::EpochRecord;
use crate::tensors::{Reader, Writer, about};

/// The version written into every checkpoint; a reader refuses newer ones.
const FORMAT: u32 = 1;

const WEIGHTS: &str = "weights/";
const BEST: &str = "best/";

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
    agreed: Agreed,
    features: Vec<String>,
    optimizer: String,
    progress: Progress,
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
}

/// The optimizer's name and the number of its vectors, which decide whether its state fits.
fn optimizer(config: &TrainConfig) -> String {
    let name = config.params.optimizer;
    let word =
        serde_json::to_value(name).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    match config.optimizer().slots() {
        0 => format!("{word} without momentum"),
        _ => word,
    }
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
    let about = About {
        format: FORMAT,
        agreed: agreed.clone(),
        features: config.feature_names().iter().map(|n| n.to_string()).collect(),
        optimizer: optimizer(config),
        progress: progress.clone(),
    };
    let about = serde_json::to_string(&about)
        .map_err(|e| Error::internal(format!("a checkpoint cannot be written: {e}")))?;
    writer.finish(about).map(Bytes::from)
}

impl Checkpoint {
    /// Reads what it says of itself, and refuses it when it is of another training.
    pub(crate) fn read(file: Bytes, config: &TrainConfig) -> Result<Checkpoint> {
        let about = about(&file).map_err(|e| e.context("reading the checkpoint"))?;
        let about: About = serde_json::from_str(&about)
            .map_err(|e| Error::corrupt(format!("the checkpoint is damaged or of another version: {e}")))?;
        if about.format == 0 || about.format > FORMAT {
            return Err(Error::corrupt(format!(
                "the checkpoint has format {}, this Firesteel reads 1 to {FORMAT}",
                about.format
            )));
        }
        let names = config.feature_names();
        if about.features != names {
            return Err(Error::corrupt(format!(
                "the checkpoint learns from columns {}, this training from {}",
                about.features.join(", "),
                names.join(", ")
            )));
        }
        let optimizer = optimizer(config);
        if about.optimizer != optimizer {
            return Err(Error::corrupt(format!(
                "the checkpoint has the state of {}, this training's optimizer is {optimizer}",
                about.optimizer
            )));
        }
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
        })
    }
}

/// This worker's part of the optimizer's state: for each range of the flat vector its bounds, then its values.
pub(crate) fn owned_state(sharded: &Sharded, moments: &Moments) -> Bytes {
    let mut out = BytesMut::new();
    for (at, range) in sharded.owned() {
        out.put_u64_le(range.start as u64);
        out.put_u64_le(range.len() as u64);
        for slot in moments.slots() {
            out.extend_from_slice(bytemuck::cast_slice(&slot[at..at + range.len()]));
        }
    }
    out.freeze()
}

/// Puts the parts of all workers together.
pub(crate) fn join_state(parts: Vec<Bytes>, slots: usize, len: usize) -> Result<Vec<Vec<f32>>> {
    let mut flat = vec![vec![0.0; len]; slots];
    for (rank, mut part) in parts.into_iter().enumerate() {
        let short = || Error::corrupt(format!("rank {rank} sent optimizer state that does not fit"));
        while part.has_remaining() {
            if part.len() < 16 {
                return Err(short());
            }
            let (start, count) = (part.get_u64_le() as usize, part.get_u64_le() as usize);
            for slot in &mut flat {
                let end = start.checked_add(count).filter(|end| *end <= len && part.len() >= 4 * count);
                let place = &mut slot[start..end.ok_or_else(short)?];
                for (to, bytes) in place.iter_mut().zip(part.split_to(4 * count).as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*bytes);
                }
            }
        }
    }
    Ok(flat)
}

/// Takes this worker's part of the optimizer's state from flat vectors.
pub(crate) fn take_state(sharded: &Sharded, moments: &mut Moments, flat: &[Vec<f32>]) {
    for (at, range) in sharded.owned() {
        for (slot, flat) in moments.slots_mut().iter_mut().zip(flat) {
            slot[at..at + range.len()].copy_from_slice(&flat[range.clone()]);
        }
    }
}
