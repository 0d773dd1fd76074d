//! One worker's copy of a network on the CPU.

use std::sync::Arc;

use firesteel_error::{Error, Result};
use firesteel_model::{Graph, Op};

use crate::batch::{Batch, Totals, Values};
use crate::check::{check_inputs, check_length, check_outputs};
use crate::loss::Loss;
use crate::memory::{Aligned, Shared, product, with_room};
use crate::ops::embedding::{Gather, dims_before};
use crate::plan::{BackwardPlan, Plan};
use crate::precision::Precision;
use crate::random::fill;
use crate::replica::{Mode, Parts, PlanConfig, Sink};
use crate::runner::{Reads, Runner};
use crate::training::Training;

/// One worker's copy of a network: flat weights, flat gradient, running statistics and a compiled plan.
#[derive(Debug)]
pub(crate) struct Host {
    runner: Runner,
    backward: BackwardPlan,
    loss: Loss,
    seed: u64,
    weights: Aligned,
    gradient: Aligned,
    buffers: Aligned,
    touched: Vec<Vec<u32>>,
    gathers: Vec<Gather>,
    /// The dense gradients of threads 1 and up, when tiled.
    gradients: Vec<Aligned>,
    /// The gradients of embedding outputs, `(rows, dims)` a table, one behind the other.
    sparse: Aligned,
    /// One a thread.
    totals: Vec<Totals>,
}

/// Weights beyond this many bytes leave no room for activations in a core's second cache (1 MiB on today's servers):
/// they, and their gradients, would be fetched again for every tile.
const TILED_WEIGHTS: usize = 512 * 1024;

impl Host {
    /// Compiles a plan and draws the weights from the seed.
    ///
    /// # Errors
    /// `InvalidArgument` when the network, loss and mode do not fit each other, `Io` when there is no memory for them.
    pub(crate) fn new(graph: Arc<Graph>, config: PlanConfig) -> Result<Host> {
        let PlanConfig { rows, threads, mode, loss, precision, seed } = config;
        if precision != Precision::F32 {
            return Err(Error::argument(format!(
                "precision is {precision}, which needs a GPU; expected f32"
            )));
        }
        loss.check_outputs(graph.output_len())?;
        let (plan, backward) = Plan::with_backward(&graph)?;
        let tiled = is_tiled(&graph, mode)?;
        let mut weights = Aligned::zeros(graph.len())?;
        for (index, parameter) in graph.parameters().iter().enumerate() {
            let row = *parameter.shape.last().expect("a parameter has an axis");
            fill(&mut weights[parameter.range.clone()], parameter.init, row, seed, index);
        }
        let mut buffers = Aligned::zeros(graph.buffers_len())?;
        for buffer in graph.buffers() {
            buffers[buffer.range.clone()].fill(buffer.start);
        }
        let runner = Runner::new(graph.clone(), plan, tiled, threads, rows)?;
        let mut host = Host {
            runner,
            backward,
            loss,
            seed,
            weights,
            gradient: Aligned::zeros(graph.len())?,
            buffers,
            touched: vec![Vec::new(); graph.tables().len()],
            gathers: Gather::all(&graph)?,
            gradients: Aligned::several(if tiled { threads - 1 } else { 0 }, graph.dense_len())?,
            sparse: Aligned::default(),
            totals: vec![Totals::default(); threads],
        };
        host.make_room(rows)?;
        Ok(host)
    }

    /// Makes room for what a batch of `rows` says of the tables.
    fn make_room(&mut self, rows: usize) -> Result<()> {
        let graph = &self.runner.graph;
        self.sparse = Aligned::zeros(product(rows, dims_before(graph, graph.tables().len()))?)?;
        for touched in &mut self.touched {
            *touched = with_room(rows)?;
        }
        Ok(())
    }

    /// The network.
    pub(crate) fn graph(&self) -> &Graph {
        &self.runner.graph
    }

    /// Makes room for batches of `rows`; weights stay.
    ///
    /// # Errors
    /// `Io` when there is no memory for them.
    pub(crate) fn reserve(&mut self, rows: usize) -> Result<()> {
        if rows > self.runner.rows() {
            self.make_room(rows)?;
            self.runner.reserve(rows)?;
        }
        Ok(())
    }

    /// The flat weights.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The flat weights, to be changed.
    pub(crate) fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// The flat gradient of the last step.
    pub(crate) fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Running statistics.
    pub(crate) fn buffers(&self) -> &[f32] {
        &self.buffers
    }

    /// Running statistics, to be changed.
    pub(crate) fn buffers_mut(&mut self) -> &mut [f32] {
        &mut self.buffers
    }

    /// The sorted distinct rows of a table (an index into [`Graph::tables`]) that the last step touched.
    pub(crate) fn touched(&self, table: usize) -> &[u32] {
        &self.touched[table]
    }

    /// Weights, gradient and touched rows, borrowed apart.
    pub(crate) fn parts(&mut self) -> Parts<'_> {
        Parts { weights: &mut self.weights, gradient: &self.gradient, touched: &self.touched }
    }

    /// Forward and backward. The gradient becomes Σᵢ wᵢ ∂lossᵢ/∂θ, not divided by Σ wᵢ.
    ///
    /// # Errors
    /// `InvalidData` when the batch does not fit the network, or what `sink` returns.
    pub(crate) fn step(&mut self, step: u64, batch: &Batch, sink: &mut dyn Sink) -> Result<Totals> {
        if batch.rows > self.runner.rows() {
            return Err(Error::argument(format!(
                "the batch has {} rows, the plan was made for {}; reserve more",
                batch.rows,
                self.runner.rows()
            )));
        }
        check_inputs(self.graph(), batch.rows, batch.inputs)?;
        check_length("positions", batch.positions.len(), batch.rows)?;
        self.loss.check_batch(self.graph().output_len(), batch.rows, batch.targets, batch.weights)?;
        let training = Training {
            backward: &self.backward,
            loss: self.loss,
            batch,
            seed: self.seed,
            step,
            gradient: Shared::new(&mut self.gradient),
            gradients: Shared::new(&mut self.gradients),
            sparse: Shared::new(&mut self.sparse),
            room: self.runner.rows(),
            buffers: Shared::new(&mut self.buffers),
            totals: Shared::new(&mut self.totals),
            touched: Shared::new(&mut self.touched),
            gathers: Shared::new(&mut self.gathers),
        };
        let reads = Reads { inputs: batch.inputs, weights: &self.weights, buffers: &[] };
        self.runner.train(reads, &training, sink)
    }

    /// Inference on any number of rows: dropout off, batch norm by its running statistics.
    /// `output` is `(rows, outputs)`.
    ///
    /// # Errors
    /// `InvalidData` when the inputs do not fit the network.
    pub(crate) fn forward(&mut self, rows: usize, inputs: &[Values], output: &mut [f32]) -> Result<()> {
        check_inputs(self.graph(), rows, inputs)?;
        check_outputs(output.len(), rows, self.graph().output_len())?;
        let reads = Reads { inputs, weights: &self.weights, buffers: &self.buffers };
        self.runner.infer(rows, &reads, output);
        Ok(())
    }
}

/// Whether the weights leave room for activations beside them.
pub(crate) fn fits_tiles(graph: &Graph) -> bool {
    graph.dense_len() * 4 <= TILED_WEIGHTS
}

/// Whether training runs tiled.
fn is_tiled(graph: &Graph, mode: Mode) -> Result<bool> {
    let norm = graph.nodes().iter().find(|n| matches!(n.op, Op::BatchNorm { .. }));
    match (mode, norm) {
        (Mode::Tiled, Some(norm)) => Err(Error::argument(format!(
            "layer '{}' (batch_norm) needs the whole batch at once, mode is tiled, expected wide or auto",
            norm.name
        ))),
        (Mode::Tiled, None) => Ok(true),
        (Mode::Wide, _) | (Mode::Auto, Some(_)) => Ok(false),
        (Mode::Auto, None) => Ok(fits_tiles(graph)),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::Host as Replica;
    use super::*;
    use crate::batch::Targets;
    use crate::pass::{Kernel, Pass};
    use crate::precision::Precision;
    use firesteel_model::Spec;
    use pulp::Arch;

    const SPEC: &str = r#"{"version":1,"inputs":[{"name":"x","kind":{"dense":{"shape":[3,11,9]}}}],"layers":[
        {"name":"a","op":{"conv2d":{"outputs":7,"kernel":[3,3],"padding":[1,1]}}},{"name":"b","op":"relu"},
        {"name":"c","op":{"max_pool2d":{"kernel":[2,2]}}},
        {"name":"d","op":{"conv2d":{"outputs":14,"kernel":[2,3],"groups":7,"stride":[1,2]}}},
        {"name":"e","op":"tanh"},{"name":"f","op":"flatten"},
        {"name":"g","op":{"linear":{"outputs":70}}},{"name":"h","op":"gelu"},
        {"name":"i","op":{"layer_norm":{}}},{"name":"j","op":{"dropout":{"rate":0.2}}},
        {"name":"k","op":{"linear":{"outputs":5}}}]}"#;

    fn replica(mode: Mode) -> Replica {
        let graph = Arc::new(Graph::new(&Spec::from_json(SPEC).unwrap()).unwrap());
        let config = PlanConfig {
            rows: 70,
            threads: 2,
            mode,
            loss: Loss::SoftmaxCrossEntropy,
            precision: Precision::F32,
            seed: 3,
        };
        Replica::new(graph, config).unwrap()
    }

    /// 70 rows for [`SPEC`].
    struct Rows {
        x: Vec<f32>,
        classes: Vec<u32>,
        positions: Vec<u64>,
    }

    impl Rows {
        fn new() -> Rows {
            Rows {
                x: (0..70 * 297).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect(),
                classes: (0..70).map(|i| i % 5).collect(),
                positions: (0..70).collect(),
            }
        }

        /// Loss and gradient of a step.
        fn step(&self, replica: &mut Replica) -> Result<(f64, Vec<f32>)> {
            let batch = Batch {
                rows: 70,
                inputs: &[Values::Dense(&self.x)],
                targets: Targets::Classes(&self.classes),
                weights: None,
                positions: &self.positions,
            };
            let totals = replica.step(1, &batch, &mut ())?;
            Ok((totals.loss, replica.gradient().to_vec()))
        }
    }

    /// Loss and gradient of a step on an instruction set.
    fn step(arch: Arch, mode: Mode) -> (f64, Vec<f32>) {
        let mut replica = replica(mode);
        replica.runner.arch = arch;
        Rows::new().step(&mut replica).unwrap()
    }

    #[test]
    fn small_networks_run_tiled_and_large_ones_wide() {
        let auto = |json: &str, shape: &str| {
            let input = format!(r#"{{"name":"x","kind":{{"dense":{{"shape":{shape}}}}}}}"#);
            let network = firesteel_model::Network::from_json(json).unwrap();
            let spec = network.build(vec![serde_json::from_str(&input).unwrap()], 10).unwrap();
            is_tiled(&Graph::new(&spec).unwrap(), Mode::Auto).unwrap()
        };
        assert!(auto(r#""lenet5""#, "[1,28,28]"));
        assert!(auto(r#"{"mlp":{"hidden":[64]}}"#, "[784]"));
        assert!(!auto(r#"{"mlp":{"hidden":[512,256]}}"#, "[784]"));
        assert!(!auto(r#"{"sequential":{"layers":[{"batch_norm":{}}]}}"#, "[7]"));
    }

    /// All instruction sets that this machine has.
    fn sets() -> Vec<Arch> {
        let mut sets = vec![Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            sets.extend(pulp::x86::V3::try_new().map(Arch::V3));
            sets.extend(pulp::x86::V4::try_new().map(Arch::V4));
        }
        sets
    }

    /// The outputs of one sample of `shape` through layers whose weights are 1 and biases 0.
    fn output(arch: Arch, shape: &str, layers: &str, x: &[f32]) -> Vec<f32> {
        let json = format!(
            r#"{{"version":1,"inputs":[{{"name":"x","kind":{{"dense":{{"shape":{shape}}}}}}}],"layers":[{layers}]}}"#
        );
        let graph = Arc::new(Graph::new(&Spec::from_json(&json).unwrap()).unwrap());
        let config = PlanConfig {
            rows: 1,
            threads: 1,
            mode: Mode::Auto,
            loss: Loss::MeanSquaredError,
            precision: Precision::F32,
            seed: 0,
        };
        let mut replica = Replica::new(graph.clone(), config).unwrap();
        replica.runner.arch = arch;
        for parameter in graph.parameters() {
            let value = if parameter.name.ends_with("weight") { 1.0 } else { 0.0 };
            replica.weights_mut()[parameter.range.clone()].fill(value);
        }
        let mut output = vec![0.0; graph.output_len()];
        replica.forward(1, &[Values::Dense(x)], &mut output).unwrap();
        output
    }

    #[test]
    fn nan_is_the_largest_of_a_fused_pool_wherever_it_stands() {
        const CONVOLUTION: &str = r#"{"name":"a","op":{"conv2d":{"outputs":1,"kernel":[1,1]}}}"#;
        const POOL: &str = r#"{"name":"b","op":{"max_pool2d":{"kernel":[2,2]}}}"#;
        for arch in sets() {
            for rest in ["", r#",{"name":"c","op":"relu"}"#, r#",{"name":"c","op":"tanh"}"#] {
                for place in 0..4 {
                    let mut x = [1.0, 3.0, 2.0, -4.0];
                    x[place] = f32::NAN;
                    let found = output(arch, "[1,2,2]", &format!("{CONVOLUTION},{POOL}{rest}"), &x);
                    assert!(found[0].is_nan(), "{arch:?} {rest} {place}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn nan_goes_through_products_with_and_without_relu() {
        let linear = r#"{"name":"a","op":{"linear":{"outputs":3}}}"#;
        let convolution = r#"{"name":"a","op":{"conv2d":{"outputs":2,"kernel":[1,2]}}}"#;
        for arch in sets() {
            for rest in ["", r#",{"name":"b","op":"relu"}"#, r#",{"name":"b","op":"sigmoid"}"#] {
                for (shape, layer) in [("[2]", linear), ("[1,1,2]", convolution)] {
                    let found = output(arch, shape, &format!("{layer}{rest}"), &[f32::NAN, -1.0]);
                    assert!(found.iter().all(|v| v.is_nan()), "{arch:?} {layer}{rest}: {found:?}");
                    let found = output(arch, shape, &format!("{layer}{rest}"), &[f32::NEG_INFINITY, 1.0]);
                    let expected = if rest.is_empty() { f32::NEG_INFINITY } else { 0.0 };
                    assert!(found.iter().all(|v| *v == expected), "{arch:?} {layer}{rest}: {found:?}");
                }
            }
        }
    }

    /// Panics as one rank.
    #[derive(Debug)]
    struct Bomb(usize);

    // SAFETY: touches nothing.
    unsafe impl Kernel for Bomb {
        fn run(&self, pass: &Pass<'_>) {
            // A tiled rank is rank 0 of its own pass; its rows tell it from the others.
            let rank = if pass.of == 1 { usize::from(pass.first > 0) } else { pass.rank };
            assert!(rank != self.0, "rank {rank} on purpose");
        }
    }

    #[test]
    fn a_panic_in_a_kernel_is_the_callers_and_the_replica_works_on() {
        for (mode, rank) in [(Mode::Tiled, 0), (Mode::Tiled, 1), (Mode::Wide, 0), (Mode::Wide, 1)] {
            let mut replica = replica(mode);
            let rows = Rows::new();
            let expected = rows.step(&mut replica).unwrap();
            let calls = replica.backward.calls.len();
            for at in [0, calls / 2, calls] {
                replica.backward.calls.insert(at, Box::new(Bomb(rank)));
                let step = AssertUnwindSafe(|| rows.step(&mut replica));
                let payload = catch_unwind(step).unwrap_err();
                let message = payload.downcast_ref::<String>().unwrap();
                assert_eq!(*message, format!("rank {rank} on purpose"), "{mode:?}");
                replica.backward.calls.remove(at);
                assert_eq!(rows.step(&mut replica).unwrap(), expected, "{mode:?}");
            }
        }
    }

    #[test]
    fn instruction_sets_agree() {
        let sets = sets();
        for mode in [Mode::Tiled, Mode::Wide] {
            let (loss, gradient) = step(Arch::new(), mode);
            for set in &sets {
                let (again, found) = step(*set, mode);
                assert!((loss - again).abs() < 1e-5 * loss, "{set:?}");
                for (f, e) in found.iter().zip(&gradient) {
                    assert!((f - e).abs() < 1e-4 * (1.0 + e.abs()), "{set:?} {mode:?}: {f}, expected {e}");
                }
            }
        }
    }
}
