//! A steady step allocates nothing, on any thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use firesteel_engine::{Loss, Mode, Moments, Optimizer, PlanConfig, Precision, Replica};
use firesteel_model::{Graph, Input, InputKind, Network};

use crate::networks::Rows;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: by the caller.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn networks() -> Vec<(&'static str, Graph)> {
    let dense =
        |shape: &[usize]| Input { name: "x".into(), kind: InputKind::Dense { shape: shape.to_vec() } };
    let index = |name: &str, cardinality| Input { name: name.into(), kind: InputKind::Index { cardinality } };
    let of = |json: &str, inputs| {
        Graph::new(&Network::from_json(json).unwrap().build(inputs, 4).unwrap()).unwrap()
    };
    let table = vec![dense(&[9]), index("a", 30), index("b", 500)];
    let normed =
        r#"{"sequential":{"layers":[{"linear":{"outputs":9}},{"batch_norm":{}},{"layer_norm":{}}]}}"#;
    vec![
        ("mlp", of(r#"{"mlp":{"hidden":[64,32]}}"#, vec![dense(&[50])])),
        ("lenet5", of(r#""lenet5""#, vec![dense(&[1, 28, 28])])),
        ("tabular", of(r#"{"tabular":{"hidden":[32],"dropout":0.2}}"#, table)),
        ("norms", of(normed, vec![dense(&[9])])),
    ]
}

#[test]
fn a_steady_step_allocates_nothing() {
    // In a process of its own: the harness and other tests allocate.
    let this = std::env::current_exe().unwrap();
    let arguments = ["--exact", "allocations::counts_alone", "--ignored", "--test-threads=1"];
    let output = std::process::Command::new(this).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "counts in a process of its own, started by the test above"]
fn counts_alone() {
    for (name, graph) in networks() {
        let graph = Arc::new(graph);
        let rows = Rows::new(&graph, 40, 4);
        let few = Rows::new(&graph, 17, 4);
        let (inputs, few_inputs) = (rows.inputs(), few.inputs());
        let loss = Loss::SoftmaxCrossEntropy;
        let modes = [Mode::Wide, if graph.buffers().is_empty() { Mode::Tiled } else { Mode::Wide }];
        for (threads, mode) in [1, 2].into_iter().flat_map(|t| modes.map(|m| (t, m))) {
            let config = PlanConfig { rows: 40, threads, mode, loss, precision: Precision::F32, seed: 1 };
            let mut replica = Replica::new(graph.clone(), config).unwrap();
            let adam = Optimizer::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
            let mut moments = Moments::new(adam, graph.dense_len()).unwrap();
            let mut output = vec![0.0; 40 * 4];
            let mut forty = || {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                for _ in 0..40 {
                    replica.step(1, &rows.batch(&inputs, loss), &mut ()).unwrap();
                    replica.step(2, &few.batch(&few_inputs, loss), &mut ()).unwrap();
                    let dense = 0..graph.dense_len();
                    let parts = replica.parts();
                    moments.update(
                        0,
                        0.1,
                        1,
                        0.01,
                        &mut parts.weights[dense.clone()],
                        &parts.gradient[dense],
                    );
                    replica.forward(40, &inputs, &mut output).unwrap();
                }
                ALLOCATIONS.load(Ordering::Relaxed) - before
            };
            // The harness's main thread may still be setting up while the first forty run.
            let counts: Vec<usize> = (0..4).map(|_| forty()).collect();
            assert!(counts[1..].contains(&0), "{name}, {threads} threads, {mode:?}: {counts:?}");
        }
    }
}
