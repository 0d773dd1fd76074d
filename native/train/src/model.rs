//! What a training gives, and its files.

use std::path::Path;
use std::sync::Arc;

use firesteel_error::{Error, Result};
use firesteel_model::{Graph, Spec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Task;
use crate::data::{Agreed, Preprocessing};
use crate::disk::{Beside, failed};
use crate::event::EpochRecord;
use crate::tensors::{Reader, Writer};

/// The version written into every model; a reader refuses newer ones.
const FORMAT: u32 = 1;

const ABOUT: &str = "model.json";
const SPEC: &str = "spec.json";
const WEIGHTS: &str = "weights.safetensors";
const PREPROCESSING: &str = "preprocessing.json";
const HISTORY: &str = "history.json";
/// The folder of a Spark model that holds them.
const OF_SPARK: &str = "network";

/// A trained network and everything needed to use it.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) task: Task,
    /// 0 where the task is no classification.
    pub(crate) classes: usize,
    pub(crate) label: Label,
    pub(crate) graph: Arc<Graph>,
    /// Laid out as the graph says.
    pub(crate) weights: Vec<f32>,
    pub(crate) buffers: Vec<f32>,
    pub(crate) preprocessing: Preprocessing,
    pub(crate) history: Vec<EpochRecord>,
    /// What the training was told; kept for readers, not read back.
    pub(crate) config: Value,
}

/// The label column; without a name in a reconstruction, which has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) column: String,
    /// Of a regression: predictions are scaled back with it.
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

/// A model's task, features and sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// What it was trained for.
    pub task: Task,
    /// Values a row that a [`crate::Predictor`] gives: a logit a class, one number, or the encoded features.
    pub outputs: usize,
    /// The columns it reads.
    pub features: Vec<String>,
    /// How many features those are, each element of a vector and of a one-hot counted.
    pub width: usize,
    /// Trained values.
    pub weights: usize,
}

/// The contents of `model.json`.
#[derive(Serialize, Deserialize)]
struct About {
    format: u32,
    firesteel: String,
    task: Task,
    classes: usize,
    label: Label,
    config: Value,
    /// The other files and their lengths in bytes: a copy that was cut short is noticed.
    files: Vec<(String, u64)>,
}

impl Model {
    /// Its task, features and sizes.
    pub fn info(&self) -> ModelInfo {
        ModelInfo {
            task: self.task,
            outputs: match self.task {
                Task::Classification => self.classes,
                Task::Regression => 1,
                Task::Reconstruction => self.preprocessing.width(),
            },
            features: self.preprocessing.columns.iter().map(|c| c.column().to_owned()).collect(),
            width: self.preprocessing.width(),
            weights: self.graph.weight_count(),
        }
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The flat weights, laid out as [`Model::graph`] says.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The flat running statistics, laid out as [`Model::graph`] says.
    pub fn buffers(&self) -> &[f32] {
        &self.buffers
    }

    /// How columns are encoded.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The epochs that led here.
    pub fn history(&self) -> &[EpochRecord] {
        &self.history
    }

    /// The label column it was trained on; empty for a reconstruction.
    pub fn label(&self) -> &str {
        &self.label.column
    }

    /// Of a regression: the label's mean and deviation, which bring the network's output to the label's unit.
    pub fn label_scale(&self) -> (f64, f64) {
        (self.label.mean, self.label.deviation)
    }

    /// Its files, by name. `model.json`, which names the others, is the last.
    ///
    /// # Errors
    /// `Internal` when a file cannot be written.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut weights = Writer::default();
        weights.add_weights("", &self.graph, &self.weights);
        weights.add_buffers("", &self.graph, &self.buffers);
        let mut files = vec![
            (SPEC.to_string(), self.graph.spec().to_json().into_bytes()),
            (WEIGHTS.to_string(), weights.finish("weights".into())?),
            (PREPROCESSING.to_string(), json(&self.preprocessing)?),
            (HISTORY.to_string(), json(&self.history)?),
        ];
        let about = About {
            format: FORMAT,
            firesteel: env!("CARGO_PKG_VERSION").into(),
            task: self.task,
            classes: self.classes,
            label: self.label.clone(),
            config: self.config.clone(),
            files: files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect(),
        };
        files.push((ABOUT.to_string(), json(&about)?));
        Ok(files)
    }

    /// A model from its files.
    ///
    /// # Errors
    /// `Corrupt` naming the file that is missing, cut short, damaged or of a newer version.
    pub fn from_files<N: AsRef<str>, B: AsRef<[u8]>>(files: &[(N, B)]) -> Result<Model> {
        let file = |name: &str| {
            let found = files.iter().find(|(n, _)| n.as_ref() == name).map(|(_, bytes)| bytes.as_ref());
            found.ok_or_else(|| Error::corrupt(format!("the model has no file {name}")))
        };
        let about: About = parse(ABOUT, file(ABOUT)?)?;
        if about.format == 0 || about.format > FORMAT {
            return Err(Error::corrupt(format!(
                "the model has format {}, written by Firesteel {}; this Firesteel reads 1 to {FORMAT}",
                about.format, about.firesteel
            )));
        }
        for (name, expected) in &about.files {
            let found = file(name)?.len() as u64;
            if found != *expected {
                return Err(Error::corrupt(format!(
                    "the model's file {name} has {found} bytes, expected {expected}: it was not wholly written or copied"
                )));
            }
        }
        let spec: Spec = parse(SPEC, file(SPEC)?)?;
        let preprocessing: Preprocessing = parse(PREPROCESSING, file(PREPROCESSING)?)?;
        preprocessing.check()?;
        if spec.inputs != preprocessing.inputs() {
            return Err(Error::corrupt(format!("the inputs of {SPEC} are not those of {PREPROCESSING}")));
        }
        let graph = Arc::new(Graph::new(&spec).map_err(|e| Error::corrupt(format!("{SPEC}: {e}")))?);
        let mut model = Model {
            task: about.task,
            classes: about.classes,
            label: about.label,
            weights: vec![0.0; graph.len()],
            buffers: vec![0.0; graph.buffers_len()],
            graph: graph.clone(),
            preprocessing,
            history: parse(HISTORY, file(HISTORY)?)?,
            config: about.config,
        };
        let tensors = Reader::new(file(WEIGHTS)?, "model")?;
        tensors.copy_weights("", &graph, &mut model.weights)?;
        tensors.copy_buffers("", &graph, &mut model.buffers)?;
        model.check_outputs()?;
        Ok(model)
    }

    fn check_outputs(&self) -> Result<()> {
        let (found, info) = (self.graph.output_len(), self.info());
        let single_logit = self.task == Task::Classification && info.outputs == 2 && found == 1;
        if found == info.outputs || single_logit {
            return Ok(());
        }
        Err(Error::corrupt(format!("the network has {found} outputs, the model says {}", info.outputs)))
    }

    /// Saves to a new directory: written beside and renamed, so it is there whole or not at all.
    ///
    /// # Errors
    /// `InvalidArgument` when the directory exists; `Io`.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        if directory.exists() {
            return Err(Error::argument(format!("{} already exists", directory.display())));
        }
        Beside::folder(directory, &self.files()?)?.put(directory)
    }

    /// Saves to a directory in place of what is there, which is back after an error. Between two renames nothing is
    /// there: who loads meanwhile may have to try again.
    ///
    /// # Errors
    /// `InvalidArgument` when what is there is no model; `Io`.
    pub fn replace(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        if !directory.exists() {
            return self.save(directory);
        }
        if !directory.join(ABOUT).is_file() {
            return Err(Error::argument(format!("{} is there and is no model", directory.display())));
        }
        Beside::folder(directory, &self.files()?)?.put_instead(directory)
    }

    /// What its workers had agreed on.
    pub(crate) fn agreed(&self) -> Agreed {
        Agreed {
            preprocessing: self.preprocessing.clone(),
            classes: self.classes,
            label_mean: self.label.mean,
            label_deviation: self.label.deviation,
        }
    }

    /// Loads from a directory, ours or one that Spark saved.
    ///
    /// # Errors
    /// `Corrupt` when the directory is no model or not a whole one; `Io`.
    pub fn load(directory: impl AsRef<Path>) -> Result<Model> {
        let directory = directory.as_ref();
        let doing = || format!("loading model {}", directory.display());
        let of_spark = directory.join(OF_SPARK);
        let directory = if of_spark.join(ABOUT).is_file() { &of_spark } else { directory };
        let mut files = Vec::new();
        for name in [ABOUT, SPEC, WEIGHTS, PREPROCESSING, HISTORY] {
            let path = directory.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => files.push((name, bytes)),
                // `from_files` says which is missing.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("read", &path, e)),
            }
        }
        Model::from_files(&files).map_err(|e| e.context(doing()))
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::internal(format!("a model cannot be written: {e}")))
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::corrupt(format!("the model's file {name} is damaged: {e}")))
}
