//! `(channels, height, width) -> (channels, height + 2p, width + 2q)`: zeros around an image, for convolutions.
//! The batch's own images are padded while they are loaded.

use firesteel_model::Source;

use super::load;
use crate::fuse::Stage;
use crate::kernels::lanes::{lanes, lanes_mut};
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Backward, Builder, Edge, Value};

/// The image a stage reads with `padding` around it, its padded shape, and the backward of the padding.
pub(crate) fn lower(
    builder: &mut Builder,
    stage: &Stage,
    padding: [usize; 2],
) -> (Value, [usize; 3], Option<Backward>) {
    let source = builder.source_nodes(stage)[0];
    let shape = builder.graph.shape(source);
    let image = <[usize; 3]>::try_from(shape).expect("the graph has checked that it is an image");
    let [channels, height, width] = image;
    let padded = [channels, height + 2 * padding[0], width + 2 * padding[1]];
    if let (Source::Input(input), true) = (source, padding != [0, 0]) {
        return (load::lower(builder, input, padding), padded, None);
    }
    let source = builder.only_source(stage);
    if padding == [0, 0] {
        return (source, padded, None);
    }
    let result = builder.value(padded.iter().product(), source.gradient.is_some());
    let pad = Pad { source: source.id, result: result.id, image, padding };
    builder.call(Forward(pad.clone()), &[source.id, result.id], 0);
    let backward: Backward = Box::new(move |builder| {
        let (Some(edge), Some(gradient)) = (builder.edge(source), result.gradient) else { return };
        builder.call(BackwardCall { pad, gradient, edge }, &[gradient, edge.id], 0);
    });
    (result, padded, Some(backward))
}

#[derive(Clone, Debug)]
struct Pad {
    source: Id,
    result: Id,
    image: [usize; 3],
    padding: [usize; 2],
}

impl Pad {
    /// Where each line of the image lies in the padded one.
    fn lines(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let [channels, height, width] = self.image;
        let [down, across] = self.padding;
        (0..channels * height).map(move |line| {
            let (c, y) = (line / height, line % height);
            let start = (c * (height + 2 * down) + y + down) * (width + 2 * across) + across;
            start..start + width
        })
    }
}

#[derive(Debug)]
struct Forward(Pad);

// SAFETY: writes the result in the rank's share of blocks only.
unsafe impl Kernel for Forward {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let from = lanes(pass.read(self.0.source, block));
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.0.result, block) });
            to.as_flattened_mut().fill(0.0);
            for (line, place) in from.chunks_exact(self.0.image[2]).zip(self.0.lines()) {
                to[place].copy_from_slice(line);
            }
        }
    }
}

#[derive(Debug)]
struct BackwardCall {
    pad: Pad,
    gradient: Id,
    edge: Edge,
}

// SAFETY: writes the source's gradient in the rank's share of blocks only.
unsafe impl Kernel for BackwardCall {
    fn run(&self, pass: &Pass) {
        for block in pass.block_share() {
            let from = lanes(pass.read(self.gradient, block));
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.edge.id, block) });
            for (line, place) in to.chunks_exact_mut(self.pad.image[2]).zip(self.pad.lines()) {
                let (line, from) = (line.as_flattened_mut(), from[place].as_flattened());
                crate::kernels::lanes::copy(pass.job.arch, from, line, self.edge.add);
            }
        }
    }
}
