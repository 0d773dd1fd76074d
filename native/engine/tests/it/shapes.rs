//! Convolutions and pools of many shapes, drawn by chance.

use firesteel_engine::{Loss, Mode};
use firesteel_model::{Graph, Input, InputKind, Layer, Op, SPEC_VERSION, Spec};
use std::sync::Arc;

use crate::gradients::check_gradient;
use crate::networks::Random;

/// A network of up to five convolutions, pools and activations, and a head of 3; none when a window does not fit.
fn draw(random: &mut Random) -> Option<Arc<Graph>> {
    let mut below = |most: u32| (random.word() % most) as usize;
    let shape = vec![below(6) + 1, below(10) + 1, below(10) + 1];
    let mut channels = shape[0];
    let mut layers = Vec::new();
    for _ in 0..below(5) + 1 {
        let kernel = [below(4) + 1, below(4) + 1];
        let padding = [below(kernel[0] as u32 / 2 + 1), below(kernel[1] as u32 / 2 + 1)];
        let stride = [below(3) + 1, below(3) + 1];
        let divides = |g: &usize| channels % g == 0;
        let op = match below(8) {
            0..=2 => {
                let groups = [3, 2, 1].into_iter().skip(below(3)).find(divides).unwrap_or(1);
                channels = (below(4) + 1) * groups;
                Op::Conv2d { outputs: channels, kernel, stride, padding, groups, bias: below(2) == 0 }
            }
            3 => Op::MaxPool2d { kernel: [2, 2], stride: None, padding: [0, 0] },
            4 => Op::MaxPool2d { kernel, stride: Some(stride), padding },
            5 => Op::AvgPool2d { kernel, stride: Some(stride), padding },
            6 => Op::Tanh,
            _ => Op::Sigmoid,
        };
        layers.push(op);
    }
    layers.extend([Op::Flatten, Op::Linear { outputs: 3, bias: true }]);
    let layers = layers.into_iter().enumerate();
    let layers = layers.map(|(i, op)| Layer { name: format!("l{i}"), inputs: Vec::new(), op });
    let inputs = vec![Input { name: "x".into(), kind: InputKind::Dense { shape } }];
    Graph::new(&Spec { version: SPEC_VERSION, inputs, layers: layers.collect() }).ok().map(Arc::new)
}

#[test]
fn networks_drawn_by_chance_are_right() {
    let mut random = Random::new(2);
    let graphs: Vec<_> = (0..600).filter_map(|_| draw(&mut random)).take(150).collect();
    assert!(graphs.len() >= 100);
    for (i, graph) in graphs.iter().enumerate() {
        let mode = if i % 2 == 0 { Mode::Tiled } else { Mode::Wide };
        let layers: Vec<_> = graph.spec().layers.iter().map(|l| &l.op).collect();
        check_gradient(&format!("{layers:?}"), graph, 3, mode, Loss::SoftmaxCrossEntropy);
    }
}
