//! What PyTorch computes, from the files of `tests/golden/`; `make.py` there writes them and says what is in them.
//!
//! Every case runs in every mode and on several numbers of threads. PyTorch's numbers are those of float64, so the
//! tolerances are bounds on our own rounding.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firesteel_engine::{
    Batch, Loss, Mode, Moments, Optimizer, PlanConfig, Precision, Replica, Targets, Totals, Values,
};
use firesteel_model::{Graph, Input, Network, Op, Spec};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// Of outputs and weights: relative to the largest value of the tensor.
const OUTPUT: f64 = 5e-6;
/// Of gradients: relative to the largest gradient of the parameter.
const GRADIENT: f64 = 5e-6;
/// Of gradients that are zero but for rounding: relative to the largest gradient of the network.
const NOISE: f64 = 5e-7;
/// Of the losses of ten steps: relative.
const CURVE: f64 = 5e-6;

const PLANS: [(Mode, usize); 6] =
    [(Mode::Auto, 1), (Mode::Auto, 2), (Mode::Tiled, 1), (Mode::Tiled, 3), (Mode::Wide, 1), (Mode::Wide, 3)];

/// One training run of a case.
#[derive(Deserialize)]
struct Run {
    name: String,
    optimizer: Optimizer,
    learning_rate: f32,
    steps: usize,
}

/// One golden file.
struct Case {
    name: String,
    graph: Arc<Graph>,
    loss: Loss,
    runs: Vec<Run>,
    floats: HashMap<String, Vec<f64>>,
    /// The f32 tensors, bit for bit.
    exact: HashMap<String, Vec<f32>>,
    indices: HashMap<String, Vec<u32>>,
    batches: usize,
    rows: usize,
}

impl Case {
    fn read(path: &Path) -> Case {
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().clone().unwrap();
        assert_eq!(metadata["torch"], "2.15.0", "requirements.txt says with which PyTorch files are made");
        let spec = Spec::from_json(&metadata["spec"]).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let shape = tensors.tensor(&format!("input.{}", spec.inputs[0].name)).unwrap().shape().to_vec();
        let mut case = Case {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            graph: Arc::new(Graph::new(&spec).unwrap()),
            loss: serde_json::from_str(&metadata["loss"]).unwrap(),
            runs: serde_json::from_str(&metadata["runs"]).unwrap(),
            floats: HashMap::new(),
            exact: HashMap::new(),
            indices: HashMap::new(),
            batches: shape[0],
            rows: shape[1],
        };
        for (name, tensor) in tensors.tensors() {
            let data = tensor.data();
            match tensor.dtype() {
                Dtype::U32 => {
                    let values = data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
                    case.indices.insert(name, values.collect());
                }
                Dtype::F64 => {
                    let values = data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
                    case.floats.insert(name, values.collect());
                }
                Dtype::F32 => {
                    let values: Vec<f32> =
                        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                    case.floats.insert(name.clone(), values.iter().map(|v| f64::from(*v)).collect());
                    case.exact.insert(name, values);
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        case
    }

    /// The part of a tensor that belongs to a batch.
    fn part<'a, T>(&self, values: &'a [T], batch: usize) -> &'a [T] {
        let len = values.len() / self.batches;
        &values[batch * len..(batch + 1) * len]
    }

    fn inputs(&self, batch: usize) -> Vec<Values<'_>> {
        let value = |input: &Input| {
            let name = format!("input.{}", input.name);
            match self.indices.get(&name) {
                Some(indices) => Values::Index(self.part(indices, batch)),
                None => Values::Dense(self.part(&self.exact[&name], batch)),
            }
        };
        self.graph.spec().inputs.iter().map(value).collect()
    }

    fn step(&self, replica: &mut Replica, step: usize) -> Totals {
        let batch = step % self.batches;
        let targets = match self.indices.get("target") {
            Some(classes) => Targets::Classes(self.part(classes, batch)),
            None => Targets::Values(self.part(&self.exact["target"], batch)),
        };
        let inputs = self.inputs(batch);
        let positions: Vec<u64> = (0..self.rows as u64).collect();
        let weights = self.exact.get("weights").map(|w| self.part(w, batch));
        let batch = Batch { rows: self.rows, inputs: &inputs, targets, weights, positions: &positions };
        replica.step(step as u64, &batch, &mut ()).unwrap()
    }

    fn replica(&self, mode: Mode, threads: usize) -> Replica {
        let config = PlanConfig {
            rows: self.rows,
            threads,
            mode,
            loss: self.loss,
            precision: Precision::F32,
            seed: 1,
        };
        let mut replica = Replica::new(self.graph.clone(), config).unwrap();
        for parameter in self.graph.parameters() {
            let start = &self.exact[&format!("start.{}", parameter.name)];
            replica.weights_mut()[parameter.range.clone()].copy_from_slice(start);
        }
        replica
    }

    /// Whole-batch statistics have no tiles.
    fn allows(&self, mode: Mode) -> bool {
        let of_the_batch = |op: &Op| matches!(op, Op::BatchNorm { .. });
        mode != Mode::Tiled || !self.graph.nodes().iter().any(|n| of_the_batch(&n.op))
    }
}

/// Says which value of which tensor is off, if one is.
fn compare(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(off <= tolerance, "{what}[{at}] is {found}, expected {expected}: off by {off:e}");
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, v| v.abs().max(most))
}

/// One step: loss, output, gradients, running statistics; then inference.
fn check_step(case: &Case, mode: Mode, threads: usize) {
    let what = |tensor: &str| format!("{}, {mode:?} on {threads}: {tensor}", case.name);
    let mut replica = case.replica(mode, threads);
    let outputs = case.graph.output_len();
    let mut output = vec![0.0; case.rows * outputs];
    if let Some(expected) = case.floats.get("loss") {
        let totals = case.step(&mut replica, 0);
        let loss = totals.loss / totals.weight;
        let off = (loss - expected[0]).abs() / expected[0];
        assert!(off < 1e-6, "{}: {loss}, expected {}", what("loss"), expected[0]);
        check_gradients(case, &mut replica, totals.weight, &what);
        for buffer in case.graph.buffers() {
            let name = format!("running.{}", buffer.name);
            let expected = &case.floats[&name];
            let found = &replica.buffers()[buffer.range.clone()];
            compare(&what(&name), found, expected, OUTPUT * largest(expected));
        }
    }
    replica.forward(case.rows, &case.inputs(0), &mut output).unwrap();
    let expected = &case.floats["inference"];
    compare(&what("inference"), &output, expected, OUTPUT * largest(expected));
}

fn check_gradients(case: &Case, replica: &mut Replica, weight: f64, what: &dyn Fn(&str) -> String) {
    let expected = |name: &str| &case.floats[&format!("gradient.{name}")];
    let noise =
        case.graph.parameters().iter().map(|p| largest(expected(&p.name))).fold(0.0, f64::max) * NOISE;
    for (index, parameter) in case.graph.parameters().iter().enumerate() {
        let expected = expected(&parameter.name);
        let mut found: Vec<f32> = replica.gradient()[parameter.range.clone()].to_vec();
        if let Some(table) = case.graph.tables().iter().position(|t| t.parameter == index) {
            // Only touched rows of a table mean something, and the others have no gradient.
            let dims = case.graph.tables()[table].dims;
            let touched = replica.touched(table);
            for (row, values) in found.chunks_mut(dims).enumerate() {
                if touched.binary_search(&(row as u32)).is_err() {
                    values.fill(0.0);
                }
            }
        }
        found.iter_mut().for_each(|g| *g = (f64::from(*g) / weight) as f32);
        let name = format!("gradient.{}", parameter.name);
        compare(&what(&name), &found, expected, GRADIENT * largest(expected) + noise);
    }
}

/// Ten steps: the curve of losses, and where the file has them, the weights at its end.
fn check_run(case: &Case, run: &Run, mode: Mode, threads: usize) {
    let what = |tensor: &str| format!("{}, {mode:?} on {threads}, {}: {tensor}", case.name, run.name);
    let mut replica = case.replica(mode, threads);
    let graph = case.graph.clone();
    let mut dense = Moments::new(run.optimizer, graph.dense_len()).unwrap();
    let mut tables: Vec<Moments> =
        graph.tables().iter().map(|t| Moments::new(run.optimizer, t.range.len()).unwrap()).collect();
    let expected = &case.floats[&format!("losses.{}", run.name)];
    assert_eq!(expected.len(), run.steps);
    for (step, expected) in expected.iter().enumerate() {
        let totals = case.step(&mut replica, step);
        let loss = totals.loss / totals.weight;
        let off = (loss - expected).abs() / expected;
        assert!(
            off < CURVE,
            "{}: {loss}, expected {expected}: off by {off:e}",
            what(&format!("loss {step}"))
        );
        let (t, scale) = (step as u64 + 1, (1.0 / totals.weight) as f32);
        let parts = replica.parts();
        let end = graph.dense_len();
        dense.update(0, run.learning_rate, t, scale, &mut parts.weights[..end], &parts.gradient[..end]);
        for ((table, moments), touched) in graph.tables().iter().zip(&mut tables).zip(parts.touched) {
            for row in touched {
                let at = *row as usize * table.dims;
                let range = table.range.start + at..table.range.start + at + table.dims;
                let weights = &mut parts.weights[range.clone()];
                moments.update(at, run.learning_rate, t, scale, weights, &parts.gradient[range]);
            }
        }
    }
    for parameter in graph.parameters() {
        if let Some(expected) = case.floats.get(&format!("end.{}.{}", run.name, parameter.name)) {
            let found = &replica.weights()[parameter.range.clone()];
            compare(&what(&parameter.name), found, expected, OUTPUT * largest(expected));
        }
    }
}

/// Checks every file of a folder, and that there are as many as there should be.
fn check_folder(folder: &str, files: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert_eq!(paths.len(), files);
    for path in paths {
        let case = Case::read(&path);
        for (mode, threads) in PLANS.into_iter().filter(|(mode, _)| case.allows(*mode)) {
            check_step(&case, mode, threads);
            for run in &case.runs {
                check_run(&case, run, mode, threads);
            }
        }
    }
}

#[test]
fn ops_equal_pytorch() {
    check_folder("ops", 28);
}

#[test]
fn losses_equal_pytorch() {
    check_folder("losses", 9);
}

#[test]
fn optimizers_equal_pytorch() {
    check_folder("optimizers", 2);
}

#[test]
fn networks_equal_pytorch() {
    check_folder("networks", 5);
}

#[test]
fn golden_networks_are_our_presets() {
    let preset = |json: &str, outputs: usize, file: &str| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/networks").join(file);
        let case = Case::read(&root);
        let inputs = case.graph.spec().inputs.clone();
        assert_eq!(&Network::from_json(json).unwrap().build(inputs, outputs).unwrap(), case.graph.spec());
    };
    preset(r#""lenet5""#, 10, "lenet5.safetensors");
    preset(r#"{"mlp": {"hidden": [32, 16]}}"#, 5, "mlp.safetensors");
    preset(r#"{"tabular": {"hidden": [32, 16], "embedding_dims": 8}}"#, 2, "tabular.safetensors");
    let wide = r#"{"wide_and_deep": {"hidden": [32, 16], "embedding_dims": 8}}"#;
    preset(wide, 2, "wide_and_deep.safetensors");
    let narrow = r#"{"autoencoder": {"hidden": [6, 3, 6], "activation": "tanh"}}"#;
    preset(narrow, 9, "autoencoder.safetensors");
}
