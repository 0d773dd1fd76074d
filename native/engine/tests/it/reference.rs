//! The plainest possible engine, in f64: what every kernel is held to.

use firesteel_engine::{Loss, Targets, Values};
use firesteel_model::{Graph, Node, Op, Source};

/// Samples of one value: `(rows)(features)`.
type Samples = Vec<Vec<f64>>;

/// Σ wᵢ·lossᵢ of a training forward.
pub fn loss(
    graph: &Graph,
    weights: &[f64],
    inputs: &[Values],
    targets: Targets,
    row_weights: &[f64],
    loss: Loss,
) -> f64 {
    let outputs = forward(graph, weights, inputs, row_weights.len());
    let one = |row: usize| match targets {
        Targets::Classes(classes) => {
            let most = outputs[row].iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = outputs[row].iter().map(|x| (x - most).exp()).sum();
            sum.ln() + most - outputs[row][classes[row] as usize]
        }
        Targets::Values(values) => {
            let width = outputs[row].len();
            let targets = values[row * width..].iter().map(|y| f64::from(*y));
            outputs[row].iter().zip(targets).map(|(x, y)| by_value(loss, *x, y)).sum::<f64>() / width as f64
        }
    };
    (0..row_weights.len()).map(|row| row_weights[row] * one(row)).sum()
}

fn by_value(loss: Loss, x: f64, y: f64) -> f64 {
    let distance = (x - y).abs();
    match loss {
        Loss::BinaryCrossEntropy => x.max(0.0) - x * y + (-x.abs()).exp().ln_1p(),
        Loss::MeanSquaredError => distance * distance,
        Loss::Huber { delta } if distance > f64::from(delta) => {
            f64::from(delta) * (distance - 0.5 * f64::from(delta))
        }
        _ => 0.5 * distance * distance,
    }
}

/// The output of a training forward; batch norm uses the batch.
pub fn forward(graph: &Graph, weights: &[f64], inputs: &[Values], rows: usize) -> Samples {
    let mut values: Vec<Samples> = Vec::new();
    for node in graph.nodes() {
        let sources: Vec<Samples> = node
            .sources
            .iter()
            .map(|s| match *s {
                Source::Node(n) => values[n].clone(),
                Source::Input(i) => input(&inputs[i], rows),
            })
            .collect();
        let shape = graph.shape(node.sources[0]).to_vec();
        let parameters: Vec<&[f64]> =
            node.parameters.iter().map(|p| &weights[graph.parameters()[*p].range.clone()]).collect();
        values.push(layer(node, &shape, &sources, &parameters));
    }
    values.pop().unwrap()
}

fn input(values: &Values, rows: usize) -> Samples {
    match values {
        Values::Dense(values) => {
            let width = values.len() / rows.max(1);
            (0..rows).map(|r| values[r * width..][..width].iter().map(|v| f64::from(*v)).collect()).collect()
        }
        Values::Index(indices) => indices.iter().map(|i| vec![f64::from(*i)]).collect(),
    }
}

fn layer(node: &Node, shape: &[usize], sources: &[Samples], parameters: &[&[f64]]) -> Samples {
    let x = &sources[0];
    let each = |f: &dyn Fn(f64) -> f64| x.iter().map(|row| row.iter().map(|v| f(*v)).collect()).collect();
    let rows = |f: &dyn Fn(&Vec<f64>) -> Vec<f64>| x.iter().map(f).collect();
    match &node.op {
        Op::Linear { outputs, .. } => rows(&|row| linear(row, *outputs, parameters)),
        Op::Embedding { dims } => rows(&|row| parameters[0][row[0] as usize * dims..][..*dims].to_vec()),
        Op::Conv2d { .. } => rows(&|row| convolution(node, shape, row, parameters)),
        Op::MaxPool2d { .. } | Op::AvgPool2d { .. } => rows(&|row| pool(node, shape, row)),
        Op::Flatten | Op::Dropout { .. } => x.clone(),
        Op::Concat => (0..x.len()).map(|r| sources.iter().flat_map(|s| s[r].clone()).collect()).collect(),
        Op::Add => (0..x.len())
            .map(|r| (0..x[r].len()).map(|i| sources.iter().map(|s| s[r][i]).sum()).collect())
            .collect(),
        Op::Relu => each(&|v| v.max(0.0)),
        Op::Tanh => each(&f64::tanh),
        Op::Sigmoid => each(&|v| 1.0 / (1.0 + (-v).exp())),
        Op::Gelu => each(&|v| 0.5 * v * (1.0 + erf(v / 2f64.sqrt()))),
        Op::BatchNorm { epsilon, .. } => batch_norm(x, shape[0], *epsilon, parameters),
        Op::LayerNorm { epsilon } => {
            let width = parameters[0].len();
            rows(&|row| row.chunks(width).flat_map(|v| standard(v, *epsilon, parameters)).collect())
        }
    }
}

fn linear(row: &[f64], outputs: usize, parameters: &[&[f64]]) -> Vec<f64> {
    let one = |o: usize| {
        let weights = &parameters[0][o * row.len()..][..row.len()];
        weights.iter().zip(row).map(|(w, x)| w * x).sum::<f64>() + parameters.get(1).map_or(0.0, |b| b[o])
    };
    (0..outputs).map(one).collect()
}

fn convolution(node: &Node, shape: &[usize], row: &[f64], parameters: &[&[f64]]) -> Vec<f64> {
    let Op::Conv2d { outputs, kernel, stride, padding, groups, .. } = node.op else { unreachable!() };
    let (channels, per) = (shape[0] / groups, outputs / groups);
    let mut result = Vec::new();
    for o in 0..outputs {
        for y in 0..node.shape[1] {
            for x in 0..node.shape[2] {
                let mut sum = parameters.get(1).map_or(0.0, |b| b[o]);
                for c in 0..channels {
                    for (i, j) in (0..kernel[0]).flat_map(|i| (0..kernel[1]).map(move |j| (i, j))) {
                        let at = image(
                            shape,
                            o / per * channels + c,
                            y * stride[0] + i,
                            x * stride[1] + j,
                            padding,
                        );
                        let tap = ((o * channels + c) * kernel[0] + i) * kernel[1] + j;
                        sum += parameters[0][tap] * at.map_or(0.0, |at| row[at]);
                    }
                }
                result.push(sum);
            }
        }
    }
    result
}

/// Where a position of the padded image lies in the image.
fn image(shape: &[usize], c: usize, y: usize, x: usize, padding: [usize; 2]) -> Option<usize> {
    let (y, x) = (y.checked_sub(padding[0])?, x.checked_sub(padding[1])?);
    (y < shape[1] && x < shape[2]).then(|| (c * shape[1] + y) * shape[2] + x)
}

fn pool(node: &Node, shape: &[usize], row: &[f64]) -> Vec<f64> {
    let (Op::MaxPool2d { kernel, stride, padding } | Op::AvgPool2d { kernel, stride, padding }) = node.op
    else {
        unreachable!()
    };
    let stride = stride.unwrap_or(kernel);
    let mut result = Vec::new();
    for c in 0..shape[0] {
        for y in 0..node.shape[1] {
            for x in 0..node.shape[2] {
                let window = (0..kernel[0]).flat_map(|i| (0..kernel[1]).map(move |j| (i, j)));
                let values: Vec<f64> = window
                    .filter_map(|(i, j)| image(shape, c, y * stride[0] + i, x * stride[1] + j, padding))
                    .map(|at| row[at])
                    .collect();
                result.push(match node.op {
                    Op::MaxPool2d { .. } => values.iter().copied().fold(f64::MIN, f64::max),
                    _ => values.iter().sum::<f64>() / (kernel[0] * kernel[1]) as f64,
                });
            }
        }
    }
    result
}

fn standard(values: &[f64], epsilon: f32, parameters: &[&[f64]]) -> Vec<f64> {
    let (mean, scale) = measure(values, epsilon);
    let one = |(i, v): (usize, &f64)| (v - mean) * scale * parameters[0][i] + parameters[1][i];
    values.iter().enumerate().map(one).collect()
}

fn measure(values: &[f64], epsilon: f32) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, 1.0 / (variance + f64::from(epsilon)).sqrt())
}

fn batch_norm(x: &Samples, features: usize, epsilon: f32, parameters: &[&[f64]]) -> Samples {
    let mut result = x.clone();
    let positions = x.first().map_or(0, Vec::len) / features;
    for (f, (weight, bias)) in parameters[0].iter().zip(parameters[1]).enumerate() {
        let part = f * positions..(f + 1) * positions;
        let all: Vec<f64> = x.iter().flat_map(|row| row[part.clone()].to_vec()).collect();
        let (mean, scale) = measure(&all, epsilon);
        for row in &mut result {
            for v in &mut row[part.clone()] {
                *v = (*v - mean) * scale * weight + bias;
            }
        }
    }
    result
}

/// By its series: slow and exact.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = 0.0;
    for n in 0..200 {
        sum += term;
        term *= 2.0 * x * x / f64::from(2 * n + 3);
    }
    (-x * x).exp() * sum * 2.0 / std::f64::consts::PI.sqrt()
}
