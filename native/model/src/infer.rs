//! The output shape and the parameters of each operation, or what is wrong with what it reads.

use crate::graph::{Init, MOST_VALUES};
use crate::spec::{Input, InputKind, Op};

/// What an operation gives and trains; what is wrong names shapes, the caller adds the layer.
pub(crate) type Result = std::result::Result<Inferred, String>;

/// What an operation gives and trains.
pub(crate) struct Inferred {
    pub(crate) shape: Vec<usize>,
    pub(crate) parameters: Vec<Unplaced>,
}

/// A parameter before it has a place.
pub(crate) struct Unplaced {
    pub(crate) suffix: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) len: usize,
    pub(crate) init: Init,
    pub(crate) table: bool,
}

impl Unplaced {
    fn new(suffix: &'static str, shape: Vec<usize>, init: Init) -> std::result::Result<Unplaced, String> {
        let len = product(&shape).map_err(|found| format!("its {suffix} has {found}"))?;
        Ok(Unplaced { suffix, shape, len, init, table: false })
    }
}

/// The number of values of a shape, at most [`MOST_VALUES`].
pub(crate) fn product(shape: &[usize]) -> std::result::Result<usize, String> {
    let product = shape.iter().try_fold(1usize, |product, axis| product.checked_mul(*axis));
    product
        .filter(|values| *values <= MOST_VALUES)
        .ok_or_else(|| format!("shape {shape:?}, more than {MOST_VALUES} values"))
}

/// An operation on dense operands.
pub(crate) fn dense(op: &Op, shapes: &[&[usize]]) -> Result {
    let shape = shapes[0];
    let inferred = match op {
        Op::Linear { outputs, bias } => linear(*outputs, *bias, shape),
        Op::Conv2d { outputs, kernel, stride, padding, groups, bias } => {
            let channels = Channels { outputs: *outputs, groups: *groups, bias: *bias };
            convolution(channels, &Window { kernel: *kernel, stride: *stride, padding: *padding }, shape)
        }
        Op::MaxPool2d { kernel, stride, padding } | Op::AvgPool2d { kernel, stride, padding } => {
            let stride = stride.unwrap_or(*kernel);
            pool(&Window { kernel: *kernel, stride, padding: *padding }, shape)
        }
        Op::Flatten => Ok(plain(vec![product(shape)?])),
        Op::Concat => concat(shapes),
        Op::Add => add(shapes),
        Op::Relu | Op::Tanh | Op::Sigmoid | Op::Gelu => Ok(plain(shape.to_vec())),
        Op::Dropout { rate } => dropout(*rate, shape),
        Op::BatchNorm { epsilon, momentum } => batch_norm(*epsilon, *momentum, shape),
        Op::LayerNorm { epsilon } => layer_norm(*epsilon, shape),
        Op::Embedding { .. } => Err("reads dense values, expected an index input".into()),
    }?;
    product(&inferred.shape).map_err(|found| format!("gives {found}"))?;
    Ok(inferred)
}

/// An embedding of an input; none is a layer.
pub(crate) fn embedding(dims: usize, input: Option<&Input>) -> Result {
    let input = input.ok_or("reads a layer, expected an index input")?;
    let InputKind::Index { cardinality } = input.kind else {
        return Err(format!("reads '{}', which holds no indices", input.name));
    };
    if dims == 0 {
        return Err("dims is 0, expected at least 1".into());
    }
    let weight = Unplaced::new("weight", vec![cardinality, dims], Init::Embedding { std: 0.05 })?;
    Ok(Inferred { shape: vec![dims], parameters: vec![Unplaced { table: true, ..weight }] })
}

/// The result of an operation that trains nothing.
fn plain(shape: Vec<usize>) -> Inferred {
    Inferred { shape, parameters: Vec::new() }
}

/// A weight and perhaps a bias, uniform within 1/√fan_in as PyTorch draws them.
fn weighted(shape: Vec<usize>, weight: Vec<usize>, bias: bool) -> Result {
    let fan_in: f32 = weight[1..].iter().map(|axis| *axis as f32).product();
    let init = Init::Uniform { bound: 1.0 / fan_in.sqrt() };
    let outputs = weight[0];
    let mut parameters = vec![Unplaced::new("weight", weight, init)?];
    if bias {
        parameters.push(Unplaced::new("bias", vec![outputs], init)?);
    }
    Ok(Inferred { shape, parameters })
}

fn linear(outputs: usize, bias: bool, shape: &[usize]) -> Result {
    let [features] = shape else {
        return Err(format!("reads shape {shape:?}, expected [features]; put a flatten before it"));
    };
    if outputs == 0 {
        return Err("outputs is 0, expected at least 1".into());
    }
    weighted(vec![outputs], vec![outputs, *features], bias)
}

struct Channels {
    outputs: usize,
    groups: usize,
    bias: bool,
}

fn convolution(Channels { outputs, groups, bias }: Channels, window: &Window, shape: &[usize]) -> Result {
    let [channels, _, _] = image(shape)?;
    if groups == 0 || channels % groups != 0 || outputs % groups != 0 || outputs == 0 {
        return Err(format!(
            "{channels} channels to {outputs} in {groups} groups; groups must divide both, and none may be 0"
        ));
    }
    let [height, width] = window.positions(shape)?;
    let [down, across] = window.kernel;
    weighted(vec![outputs, height, width], vec![outputs, channels / groups, down, across], bias)
}

fn pool(window: &Window, shape: &[usize]) -> Result {
    let Window { kernel, padding, .. } = window;
    if padding[0] > kernel[0] / 2 || padding[1] > kernel[1] / 2 {
        return Err(format!("padding {padding:?} is more than half the kernel {kernel:?}"));
    }
    let [channels, _, _] = image(shape)?;
    let [height, width] = window.positions(shape)?;
    Ok(plain(vec![channels, height, width]))
}

fn concat(shapes: &[&[usize]]) -> Result {
    let shape = shapes[0];
    if let Some(other) = shapes.iter().find(|s| s[1..] != shape[1..]) {
        return Err(format!("joins shapes {shape:?} and {other:?}, which differ beyond the first axis"));
    }
    let mut joined = shape.to_vec();
    let length = shapes.iter().try_fold(0usize, |sum, s| sum.checked_add(s[0]));
    joined[0] = length.ok_or_else(|| format!("joins more than {MOST_VALUES} values"))?;
    Ok(plain(joined))
}

fn add(shapes: &[&[usize]]) -> Result {
    let shape = shapes[0];
    if let Some(other) = shapes.iter().find(|s| **s != shape) {
        return Err(format!("adds shapes {shape:?} and {other:?}, expected equal ones"));
    }
    Ok(plain(shape.to_vec()))
}

fn dropout(rate: f32, shape: &[usize]) -> Result {
    if !(0.0..1.0).contains(&rate) {
        return Err(format!("rate is {rate}, expected at least 0 and below 1"));
    }
    Ok(plain(shape.to_vec()))
}

fn batch_norm(epsilon: f32, momentum: f32, shape: &[usize]) -> Result {
    if shape.len() != 1 && shape.len() != 3 {
        return Err(format!("reads shape {shape:?}, expected [features] or [channels, height, width]"));
    }
    if !(0.0..=1.0).contains(&momentum) {
        return Err(format!("momentum is {momentum}, expected 0 to 1"));
    }
    norm(epsilon, shape[0], shape)
}

fn layer_norm(epsilon: f32, shape: &[usize]) -> Result {
    norm(epsilon, shape[shape.len() - 1], shape)
}

/// A norm that scales and shifts `features`.
fn norm(epsilon: f32, features: usize, shape: &[usize]) -> Result {
    if !(epsilon > 0.0 && epsilon.is_finite()) {
        return Err(format!("epsilon is {epsilon}, expected above 0"));
    }
    let weight = Unplaced::new("weight", vec![features], Init::Constant(1.0))?;
    let bias = Unplaced::new("bias", vec![features], Init::Constant(0.0))?;
    Ok(Inferred { shape: shape.to_vec(), parameters: vec![weight, bias] })
}

fn image(shape: &[usize]) -> std::result::Result<[usize; 3], String> {
    <[usize; 3]>::try_from(shape)
        .map_err(|_| format!("reads shape {shape:?}, expected an image [channels, height, width]"))
}

/// A window that slides over an image.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Window {
    /// How many positions it has, down and across.
    fn positions(&self, shape: &[usize]) -> std::result::Result<[usize; 2], String> {
        let Window { kernel, stride, padding } = self;
        let [channels, height, width] = image(shape)?;
        if kernel.contains(&0) || stride.contains(&0) {
            return Err(format!("kernel {kernel:?} and stride {stride:?} must be at least 1"));
        }
        let padded = |size: usize, axis: usize| {
            let padded = padding[axis].checked_mul(2).and_then(|both| both.checked_add(size));
            padded.ok_or_else(|| format!("padding {padding:?} is more than there can be"))
        };
        let (high, wide) = (padded(height, 0)?, padded(width, 1)?);
        product(&[channels, high, wide]).map_err(|found| format!("padding {padding:?} gives {found}"))?;
        let along = |padded: usize, axis: usize| {
            let room = padded.checked_sub(kernel[axis]);
            room.map(|r| r / stride[axis] + 1).ok_or_else(|| {
                format!("a window of {kernel:?} does not fit {height}×{width} with padding {padding:?}")
            })
        };
        Ok([along(high, 0)?, along(wide, 1)?])
    }
}
