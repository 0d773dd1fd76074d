//! The rows of a dense input into lanes, with zeros around images that a convolution pads.

use crate::batch::Values;
use crate::kernels::lanes::{from_rows, lanes_mut};
use crate::memory::LANES;
use crate::pass::{Id, Kernel, Pass};
use crate::plan::{Builder, Value};

/// The value of an input, padded if it is an image.
pub(crate) fn lower(builder: &mut Builder, input: usize, padding: [usize; 2]) -> Value {
    let shape = builder.input_shape(input);
    let image = <[usize; 3]>::try_from(shape).unwrap_or([1, 1, shape.iter().product()]);
    let [down, across] = padding;
    let len = image[0] * (image[1] + 2 * down) * (image[2] + 2 * across);
    let value = builder.value(len, false);
    builder.call(Load { input, result: value.id, image, padding }, &[value.id], 0);
    value
}

#[derive(Debug)]
struct Load {
    input: usize,
    result: Id,
    /// `(channels, height, width)`; a vector is one line.
    image: [usize; 3],
    padding: [usize; 2],
}

// SAFETY: writes the result in the rank's share of blocks only.
unsafe impl Kernel for Load {
    fn run(&self, pass: &Pass) {
        let Values::Dense(values) = pass.job.inputs[self.input] else {
            unreachable!("the batch was checked against the graph");
        };
        let [channels, height, width] = self.image;
        let row = channels * height * width;
        for block in pass.block_share() {
            let first = (pass.first + block * LANES) * row;
            let rows = &values[first..first + pass.lanes(block) * row];
            // SAFETY: the block is in this rank's share; nothing else that is in use now lies there.
            let to = lanes_mut(unsafe { pass.write(self.result, block) });
            if self.padding == [0, 0] {
                from_rows(pass.job.arch, rows, row, 0, to);
                continue;
            }
            let [down, across] = self.padding;
            let wide = width + 2 * across;
            to.as_flattened_mut().fill(0.0);
            for line in 0..channels * height {
                let (c, y) = (line / height, line % height);
                let start = (c * (height + 2 * down) + y + down) * wide + across;
                from_rows(pass.job.arch, rows, row, line * width, &mut to[start..start + width]);
            }
        }
    }
}
