//! What each operation launches.

use firesteel_error::Result;
use firesteel_model::Source;

use super::{Lowering, Value};
use crate::cuda::convolution::{Convolution, Pass, Sizes};
use crate::cuda::frame::{At, Frame, THREADS};
use crate::cuda::product::{Product, Shape};
use crate::cuda::source::Arg;
use crate::fuse::{Activation, Stage};

/// As the kernels number them.
pub(super) fn number(activation: Option<Activation>) -> Arg {
    Arg::U32(match activation {
        None => 0,
        Some(Activation::Relu) => 1,
        Some(Activation::Tanh) => 2,
        Some(Activation::Sigmoid) => 3,
    })
}

pub(super) const GELU: Arg = Arg::U32(4);

pub(super) fn flag(set: bool) -> Arg {
    Arg::U32(set.into())
}

pub(super) fn count(len: usize) -> Arg {
    Arg::U32(len as u32)
}

/// One of two matrices: where it is, and the steps along its rows and columns.
type Matrix = (At, usize, usize);

/// What becomes of the sums of a product.
#[derive(Clone, Copy, Debug)]
struct End {
    to: At,
    /// Its place in the flat weights.
    bias: Option<usize>,
    activation: Option<Activation>,
    add: bool,
}

impl End {
    fn at(to: At) -> End {
        End { to, bias: None, activation: None, add: false }
    }
}

/// The product of two matrices, (m, k) and (k, n).
fn multiply(frame: &Frame, a: Matrix, b: Matrix, [m, n, k]: [u64; 3], end: End) -> Result<()> {
    let wide = matches!(end.to, At::Gradient(_));
    // Libraries have no other behind a product.
    if frame.device.has_library() && !matches!(end.activation, None | Some(Activation::Relu)) {
        multiply(frame, a, b, [m, n, k], End { activation: None, ..end })?;
        let (at, len) = (frame.pointer(end.to), m * n);
        return frame.each("activate", len, &[at, at, Arg::U64(len), number(end.activation)]);
    }
    let steps = |of: Matrix| [of.1 as u64, of.2 as u64];
    let shape = Shape {
        m,
        n,
        k,
        a: steps(a),
        b: steps(b),
        wide,
        bias: end.bias.is_some(),
        relu: end.activation == Some(Activation::Relu),
        add: end.add,
    };
    let [left, right] = [a, b].map(|of| frame.address(of.0));
    let factors = end.bias.map_or(0, |bias| frame.address(At::Factors(bias)));
    let product = Product { shape, a: left, b: right, bias: factors, to: frame.address(end.to) };
    let matrices =
        [Arg::Pointer(left), Arg::Pointer(right), Arg::Matrices([a.1, a.2, b.1, b.2].map(|s| s as u64))];
    let bias = optional(frame, end.bias.map(At::Weights));
    let ours = |to: u64| {
        let to = Arg::Pointer(to);
        if wide {
            return frame.multiply("product_weight", 1, [m, n, k], &[&matrices[..], &[to]].concat());
        }
        let rest = [to, bias, number(end.activation), flag(end.add)];
        frame.multiply("product", 1, [m, n, k], &[&matrices[..], &rest].concat())
    };
    if shape.is_empty() {
        return ours(product.to);
    }
    // SAFETY: as of `launch`.
    unsafe { frame.device.multiply(&product, &ours) }
}

/// A pass of a convolution: of images, weights and results it writes one.
fn convolve(frame: &Frame, sizes: Sizes, places: [At; 3], bias: Option<At>) -> Result<()> {
    let sizes = Sizes { rows: frame.rows as u32, ..sizes };
    let [images, weights, results] = places.map(|at| frame.address(at));
    let bias = optional(frame, bias);
    let added = if let Arg::Pointer(at) = bias { at } else { 0 };
    let what = Convolution { sizes, images, weights, results, bias: added };
    let Sizes { groups, channels, outputs, kernel: [down, across], .. } = sizes;
    let of = |axes: [u32; 2]| u64::from(axes[0]) * u64::from(axes[1]);
    let [many, inner, outer] = [groups, channels, outputs].map(u64::from);
    let (positions, pixels) = (frame.rows * of(sizes.result), frame.rows * of(sizes.image));
    let window = u64::from(down) * u64::from(across);
    let head = [sizes.groups, channels, outputs];
    let axes = [sizes.image, sizes.result, sizes.kernel, sizes.stride, sizes.padding];
    let mut numbers = [0; 13];
    let all = head.iter().chain(axes.as_flattened());
    numbers.iter_mut().zip(all).for_each(|(to, size)| *to = *size as i32);
    let shape = Arg::Convolution(numbers);
    let ours = |to: u64| {
        let [images, weights, results, to] = [images, weights, results, to].map(Arg::Pointer);
        match sizes.pass {
            Pass::Results => {
                let args = [images, weights, bias, to, Arg::U32(sizes.activation), shape];
                frame.multiply("convolution", many, [positions, outer, inner * window], &args)
            }
            Pass::Weights => {
                let args = [results, images, to, shape];
                frame.multiply("convolution_weight", many, [outer, inner * window, positions], &args)
            }
            Pass::Images => {
                let args = [results, weights, to, flag(sizes.add), shape];
                frame.multiply("convolution_images", many, [pixels, inner, outer * window], &args)
            }
        }
    };
    // SAFETY: as of `launch`.
    unsafe { frame.device.convolve(&what, &ours) }
}

fn optional(frame: &Frame, at: Option<At>) -> Arg {
    at.map_or(Arg::Pointer(0), |at| frame.pointer(at))
}

/// Windows over images.
#[derive(Clone, Copy, Debug)]
struct Pool {
    channels: usize,
    from: [usize; 2],
    to: [usize; 2],
    window: [[usize; 2]; 3],
}

impl Pool {
    /// Planes and sizes.
    fn args(&self, frame: &Frame) -> [Arg; 6] {
        let int = |value: usize| Arg::I32(value as i32);
        let window = self.window.map(|axes| axes.map(|axis| axis as i32));
        let planes = Arg::U64(frame.rows * self.channels as u64);
        let ([height, width], [out_height, out_width]) = (self.from.map(int), self.to.map(int));
        [planes, height, width, out_height, out_width, Arg::Window(window)]
    }
}

impl Lowering<'_> {
    pub(super) fn linear(&mut self, stage: &Stage, outputs: usize) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let weight = self.parameter(stage, 0).expect("a linear layer has a weight").start;
        let bias = self.parameter(stage, 1);
        let (inputs, activation, node) = (source.len, stage.activation, stage.node);
        let added = bias.as_ref().map(|bias| bias.start);
        self.call(&[source.at, result.at], move |frame| {
            let (x, w) = ((source.at, inputs, 1), (At::Factors(weight), 1, inputs));
            let end = End { to: result.at, bias: added, activation, add: false };
            multiply(frame, x, w, [frame.rows, outputs as u64, inputs as u64], end)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            lowering.unfinish(result, gradient, activation);
            lowering.call(&[source.at, gradient], move |frame| {
                let (g, x) = ((gradient, 1, outputs), (source.at, inputs, 1));
                let sizes = [outputs as u64, inputs as u64, frame.rows];
                multiply(frame, g, x, sizes, End::at(At::Gradient(weight)))
            });
            lowering.finishes(node, 0);
            if let Some(bias) = bias {
                lowering.bias_gradient(bias, gradient, [outputs, 1]);
                lowering.finishes(node, 1);
            }
            if let Some((to, add)) = lowering.edge(source) {
                lowering.call(&[gradient, to], move |frame| {
                    let (g, w) = ((gradient, outputs, 1), (At::Factors(weight), inputs, 1));
                    let sizes = [frame.rows, inputs as u64, outputs as u64];
                    multiply(frame, g, w, sizes, End { add, ..End::at(to) })
                });
            }
        }));
    }

    pub(super) fn convolution(
        &mut self,
        stage: &Stage,
        outputs: usize,
        window: [[usize; 2]; 3],
        groups: usize,
    ) {
        let source = self.sources(stage)[0];
        let &[channels, height, width] = self.shape(self.source_nodes(stage)[0]) else {
            unreachable!("the graph has checked that a convolution reads an image");
        };
        let &[_, out_height, out_width] = self.graph.nodes()[stage.node].shape.as_slice() else {
            unreachable!("a convolution gives an image");
        };
        let positions = out_height * out_width;
        self.pixels = self.pixels.max(positions).max(height * width);
        let whole = match stage.pool {
            true => self.value(outputs * positions, true),
            false => self.result(stage, &[source]),
        };
        let weight = self.parameter(stage, 0).expect("a convolution has a weight").start;
        let bias = self.parameter(stage, 1);
        let int = |size: usize| size as u32;
        let [kernel, stride, padding] = window.map(|axes| axes.map(int));
        let inside = stage.activation.filter(|_| !stage.pool);
        let sizes = Sizes {
            pass: Pass::Results,
            rows: 0,
            groups: int(groups),
            channels: int(channels / groups),
            outputs: int(outputs / groups),
            image: [height, width].map(int),
            result: [out_height, out_width].map(int),
            kernel,
            stride,
            padding,
            activation: inside.map_or(0, |activation| activation as u32 + 1),
            add: false,
        };
        let plain = Sizes { activation: 0, ..sizes };
        let node = stage.node;
        let added = bias.as_ref().map(|bias| At::Weights(bias.start));
        self.call(&[source.at, whole.at], move |frame| {
            convolve(frame, sizes, [source.at, At::Factors(weight), whole.at], added)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = whole.gradient.expect("a layer with weights has a gradient");
            lowering.unfinish(whole, gradient, inside);
            lowering.call(&[source.at, gradient], move |frame| {
                let sizes = Sizes { pass: Pass::Weights, ..plain };
                convolve(frame, sizes, [source.at, At::Gradient(weight), gradient], None)
            });
            lowering.finishes(node, 0);
            if let Some(bias) = bias {
                lowering.bias_gradient(bias, gradient, [outputs, positions]);
                lowering.finishes(node, 1);
            }
            if let Some((to, add)) = lowering.edge(source) {
                lowering.call(&[gradient, to], move |frame| {
                    let sizes = Sizes { pass: Pass::Images, add, ..plain };
                    convolve(frame, sizes, [to, At::Factors(weight), gradient], None)
                });
            }
        }));
        if stage.pool {
            let halves = [[2, 2], [2, 2], [0, 0]];
            let pool = Pool {
                channels: outputs,
                from: [out_height, out_width],
                to: [out_height / 2, out_width / 2],
                window: halves,
            };
            let result = self.result(stage, &[whole]);
            self.max_pool(whole, result, pool, stage.activation);
        }
    }

    pub(super) fn pool(&mut self, stage: &Stage, window: [[usize; 2]; 3], max: bool) {
        let source = self.sources(stage)[0];
        let &[channels, height, width] = self.shape(self.source_nodes(stage)[0]) else {
            unreachable!("the graph has checked that a pool reads an image");
        };
        let &[_, out_height, out_width] = self.graph.nodes()[stage.node].shape.as_slice() else {
            unreachable!("a pool gives an image");
        };
        let pool = Pool { channels, from: [height, width], to: [out_height, out_width], window };
        let result = self.result(stage, &[source]);
        if max {
            return self.max_pool(source, result, pool, stage.activation);
        }
        self.call(&[source.at, result.at], move |frame| {
            let pointers = [source.at, result.at].map(|at| frame.pointer(at));
            let len = frame.rows * result.len as u64;
            frame.each("avg_pool", len, &[&pointers[..], &pool.args(frame)].concat())
        });
        self.backwards.push(Box::new(move |lowering| {
            let (Some((to, add)), Some(gradient)) = (lowering.edge(source), result.gradient) else { return };
            lowering.call(&[gradient, to], move |frame| {
                let pointers = [gradient, to].map(|at| frame.pointer(at));
                let len = frame.rows * source.len as u64;
                let args = [&pointers[..], &pool.args(frame), &[flag(add)]].concat();
                frame.each("avg_pool_backward", len, &args)
            });
        }));
    }

    fn max_pool(&mut self, source: Value, result: Value, pool: Pool, activation: Option<Activation>) {
        let chosen = self.buffer_of(4 * result.len);
        self.call(&[source.at, result.at, chosen], move |frame| {
            let pointers = [source.at, result.at, chosen].map(|at| frame.pointer(at));
            let len = frame.rows * result.len as u64;
            frame.each("max_pool", len, &[&pointers[..], &pool.args(frame), &[number(activation)]].concat())
        });
        self.backwards.push(Box::new(move |lowering| {
            let Some(gradient) = result.gradient else { return };
            lowering.unfinish(result, gradient, activation);
            let Some((to, add)) = lowering.edge(source) else { return };
            lowering.call(&[gradient, chosen, to], move |frame| {
                let pointers = [gradient, chosen, to].map(|at| frame.pointer(at));
                let len = frame.rows * source.len as u64;
                let args = [&pointers[..], &pool.args(frame), &[flag(add)]].concat();
                frame.each("max_pool_backward", len, &args)
            });
        }));
    }

    pub(super) fn activation(&mut self, stage: &Stage, activation: Arg) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        self.call(&[source.at, result.at], move |frame| {
            let len = frame.rows * result.len as u64;
            let [from, to] = [source.at, result.at].map(|at| frame.pointer(at));
            frame.each("activate", len, &[from, to, Arg::U64(len), activation])
        });
        let seen = if activation == GELU { source.at } else { result.at };
        self.backwards.push(Box::new(move |lowering| {
            let (Some((to, add)), Some(gradient)) = (lowering.edge(source), result.gradient) else { return };
            lowering.call(&[seen, gradient, to], move |frame| {
                let len = frame.rows * result.len as u64;
                let [g, seen, to] = [gradient, seen, to].map(|at| frame.pointer(at));
                frame.each("activate_backward", len, &[g, seen, to, Arg::U64(len), activation, flag(add)])
            });
        }));
    }

    pub(super) fn add(&mut self, stage: &Stage) {
        let sources = self.sources(stage);
        let result = self.result(stage, &sources);
        for (place, source) in sources.iter().enumerate() {
            self.accumulate(source.at, result.at, result.len, place > 0);
        }
        self.backwards.push(Box::new(move |lowering| {
            let Some(gradient) = result.gradient else { return };
            for source in sources {
                if let Some((to, add)) = lowering.edge(source) {
                    lowering.accumulate(gradient, to, result.len, add);
                }
            }
        }));
    }

    fn accumulate(&mut self, from: At, to: At, len: usize, add: bool) {
        self.call(&[from, to], move |frame| {
            let len = frame.rows * len as u64;
            let [from, to] = [from, to].map(|at| frame.pointer(at));
            frame.each("accumulate", len, &[from, to, Arg::U64(len), flag(add)])
        });
    }

    pub(super) fn concat(&mut self, stage: &Stage) {
        let sources = self.sources(stage);
        let result = self.result(stage, &sources);
        let mut first = 0;
        let mut parts = Vec::new();
        for source in sources {
            parts.push((source, first));
            let sizes = [source.len, result.len, first].map(count);
            self.call(&[source.at, result.at], move |frame| {
                let [from, to] = [source.at, result.at].map(|at| frame.pointer(at));
                let args = [&[from, to, Arg::U64(frame.rows)][..], &sizes].concat();
                frame.each("join", frame.rows * source.len as u64, &args)
            });
            first += source.len;
        }
        self.backwards.push(Box::new(move |lowering| {
            let Some(gradient) = result.gradient else { return };
            for (source, first) in parts {
                let Some((to, add)) = lowering.edge(source) else { continue };
                let sizes = [source.len, result.len, first].map(count);
                lowering.call(&[gradient, to], move |frame| {
                    let [from, to] = [gradient, to].map(|at| frame.pointer(at));
                    let args = [&[from, to, Arg::U64(frame.rows)][..], &sizes, &[flag(add)]].concat();
                    frame.each("part", frame.rows * source.len as u64, &args)
                });
            }
        }));
    }

    pub(super) fn dropout(&mut self, stage: &Stage, rate: f32) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let features = result.len;
        let nth = self.drops.len() as u64;
        self.drops.push(stage.node);
        // A word below it drops: `rate` of all words.
        let bound = Arg::U32((f64::from(rate) * 4_294_967_296.0) as u32);
        let kept = Arg::F32(1.0 / (1.0 - rate));
        let drop = move |frame: &Frame, from: At, to: At, add: bool| {
            let [from, to] = [from, to].map(|at| frame.pointer(at));
            let len = frame.rows * features as u64;
            let Some(step) = &frame.training else {
                return frame.each("accumulate", len, &[from, to, Arg::U64(len), flag(add)]);
            };
            let words = [step.positions, step.keys + 8 * nth].map(Arg::Pointer);
            let sizes = [Arg::U64(frame.rows), count(features), bound, kept, flag(add)];
            frame.each("dropout", len.div_ceil(4), &[&[from, to][..], &words, &sizes].concat())
        };
        self.call(&[source.at, result.at], move |frame| drop(frame, source.at, result.at, false));
        self.backwards.push(Box::new(move |lowering| {
            let (Some((to, add)), Some(gradient)) = (lowering.edge(source), result.gradient) else { return };
            lowering.call(&[gradient, to], move |frame| drop(frame, gradient, to, add));
        }));
    }

    pub(super) fn batch_norm(&mut self, stage: &Stage, epsilon: f32, momentum: f32) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let weight = self.parameter(stage, 0).expect("a batch norm has a weight");
        let bias = self.parameter(stage, 1).expect("a batch norm has a bias").start;
        let (features, weight) = (weight.len(), weight.start);
        let (inner, node) = (result.len / features, stage.node);
        self.pixels = self.pixels.max(inner);
        let statistics = self.fixed(2 * features);
        let buffers = &self.graph.nodes()[stage.node].buffers;
        let running = [0, 1].map(|i| At::Statistics(self.graph.buffers()[buffers[i]].range.start));
        let epsilon = Arg::F32(epsilon);
        self.call(&[source.at], move |frame| {
            let [mean, variance] = running.map(|at| frame.pointer(at));
            let statistics = frame.pointer(statistics);
            let Some(step) = &frame.training else {
                let args = [mean, variance, statistics, count(features), epsilon];
                return frame.each("batch_norm_recall", features as u64, &args);
            };
            let pointers = [frame.pointer(source.at), statistics, mean, variance];
            let rest = [Arg::Pointer(step.count), count(inner), epsilon, Arg::F32(momentum)];
            frame.features("batch_norm_measure", [features, inner], 2, &[pointers, rest].concat())
        });
        self.call(&[source.at, result.at], move |frame| {
            let len = frame.rows * result.len as u64;
            let pointers = [source.at, statistics, At::Weights(weight), At::Weights(bias), result.at];
            let sizes = [Arg::U64(len), count(features), count(inner)];
            frame.each("batch_norm", len, &[&pointers.map(|at| frame.pointer(at))[..], &sizes].concat())
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            let rows = |frame: &Frame| Arg::Pointer(frame.training.map_or(0, |step| step.count));
            let by = [At::Gradient(weight), At::Gradient(bias)];
            lowering.call(&[gradient, source.at], move |frame| {
                let pointers = [gradient, source.at, statistics, by[0], by[1]].map(|at| frame.pointer(at));
                let args = [&pointers[..], &[rows(frame), count(inner)]].concat();
                frame.features("batch_norm_parameters", [features, inner], 2, &args)
            });
            if let Some((to, add)) = lowering.edge(source) {
                lowering.call(&[gradient, source.at, to], move |frame| {
                    let read = [gradient, source.at, statistics, At::Weights(weight), by[0], by[1]];
                    let len = frame.rows * result.len as u64;
                    let sizes = [rows(frame), Arg::U64(len), count(features), count(inner), flag(add)];
                    let pointers = read.map(|at| frame.pointer(at));
                    let args = [&pointers[..], &[frame.pointer(to)], &sizes].concat();
                    frame.each("batch_norm_backward", len, &args)
                });
            }
            [0, 1].into_iter().for_each(|index| lowering.finishes(node, index));
        }));
    }

    pub(super) fn layer_norm(&mut self, stage: &Stage, epsilon: f32) {
        let source = self.sources(stage)[0];
        let result = self.result(stage, &[source]);
        let weight = self.parameter(stage, 0).expect("a layer norm has a weight");
        let bias = self.parameter(stage, 1).expect("a layer norm has a bias").start;
        let (width, weight) = (weight.len(), weight.start);
        // Of each row.
        let lines = result.len / width;
        let statistics = self.buffer_of(8 * lines);
        let node = stage.node;
        let warps = u64::from(THREADS / 32);
        self.call(&[source.at, result.at, statistics], move |frame| {
            let rows = frame.rows * lines as u64;
            let pointers = [source.at, At::Weights(weight), At::Weights(bias), result.at, statistics];
            let sizes = [Arg::U64(rows), count(width), Arg::F32(epsilon)];
            let args = [&pointers.map(|at| frame.pointer(at))[..], &sizes].concat();
            frame.launch("layer_norm", rows.div_ceil(warps), &args)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            lowering.call(&[gradient, source.at, statistics], move |frame| {
                let pointers = [gradient, source.at, statistics, At::Gradient(weight), At::Gradient(bias)];
                let args = pointers.map(|at| frame.pointer(at));
                frame.columns("layer_norm_parameters", frame.rows * lines as u64, width, 2, &args)
            });
            [0, 1].into_iter().for_each(|index| lowering.finishes(node, index));
            let Some((to, add)) = lowering.edge(source) else { return };
            lowering.call(&[gradient, source.at, statistics, to], move |frame| {
                let rows = frame.rows * lines as u64;
                let pointers = [gradient, source.at, At::Weights(weight), statistics, to];
                let sizes = [Arg::U64(rows), count(width), flag(add)];
                let args = [&pointers.map(|at| frame.pointer(at))[..], &sizes].concat();
                frame.launch("layer_norm_backward", rows.div_ceil(warps), &args)
            });
        }));
    }

    pub(super) fn embedding(&mut self, stage: &Stage, dims: usize) {
        let result = self.result(stage, &[]);
        let Source::Input(input) = self.source_nodes(stage)[0] else {
            unreachable!("the graph has checked that an embedding reads an input");
        };
        let weight = self.parameter(stage, 0).expect("an embedding has a weight").start;
        let parameter = self.graph.nodes()[stage.node].parameters[0];
        let table = self.graph.tables().iter().position(|t| t.parameter == parameter);
        let table = table.expect("an embedding's weight is a table");
        self.call(&[result.at], move |frame| {
            let [table, indices, to] =
                [At::Weights(weight), At::Input(input), result.at].map(|at| frame.pointer(at));
            let args = [table, indices, to, Arg::U64(frame.rows), count(dims)];
            frame.each("gather", frame.rows * dims as u64, &args)
        });
        self.backwards.push(Box::new(move |lowering| {
            let gradient = result.gradient.expect("a layer with weights has a gradient");
            lowering.call(&[gradient], move |frame| {
                let touched = frame.training.map(|step| step.touched[table]).unwrap_or_default();
                let [g, to] = [gradient, At::Gradient(weight)].map(|at| frame.pointer(at));
                let lists = [touched.rows, touched.starts, touched.order].map(Arg::Pointer);
                let args = [&[g][..], &lists, &[to, Arg::Pointer(touched.count), count(dims)]].concat();
                frame.launch("scatter", frame.rows.div_ceil(u64::from(THREADS / 32)), &args)
            });
        }));
    }
}
