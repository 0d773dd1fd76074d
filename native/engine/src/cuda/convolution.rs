//! A convolution as libraries take it.

/// What is computed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// The results, of images and weights.
    Results,
    /// The gradient of the weights, of images and the results' gradient.
    Weights,
    /// The gradient of the images, of weights and the results' gradient.
    Images,
}

/// Sizes of a convolution, and what becomes of its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    pub(crate) pass: Pass,
    pub(crate) rows: u32,
    pub(crate) groups: u32,
    /// Channels and outputs of a group.
    pub(crate) channels: u32,
    pub(crate) outputs: u32,
    /// Height and width of images, of results and of a window, its steps, and the zeros around an image.
    pub(crate) image: [u32; 2],
    pub(crate) result: [u32; 2],
    pub(crate) kernel: [u32; 2],
    pub(crate) stride: [u32; 2],
    pub(crate) padding: [u32; 2],
    /// As the kernels number it.
    pub(crate) activation: u32,
    pub(crate) add: bool,
}

/// With the places of its parts, of which the pass writes one: images, weights, results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    pub(crate) sizes: Sizes,
    pub(crate) images: u64,
    pub(crate) weights: u64,
    pub(crate) results: u64,
    /// f32; 0 for none.
    pub(crate) bias: u64,
}

impl Sizes {
    /// How many values the pass writes.
    pub(crate) fn written(&self) -> u64 {
        let of = |axes: [u32; 2]| u64::from(axes[0]) * u64::from(axes[1]);
        let [groups, channels, outputs] = [self.groups, self.channels, self.outputs].map(u64::from);
        let rows = u64::from(self.rows) * groups;
        match self.pass {
            Pass::Results => rows * outputs * of(self.result),
            Pass::Weights => groups * outputs * channels * of(self.kernel),
            Pass::Images => rows * channels * of(self.image),
        }
    }
}

impl Convolution {
    /// Where the pass writes.
    pub(crate) fn to(&self) -> u64 {
        match self.sizes.pass {
            Pass::Results => self.results,
            Pass::Weights => self.weights,
            Pass::Images => self.images,
        }
    }

    /// The same with another place to write.
    pub(crate) fn with(mut self, to: u64) -> Convolution {
        match self.sizes.pass {
            Pass::Results => self.results = to,
            Pass::Weights => self.weights = to,
            Pass::Images => self.images = to,
        }
        self
    }
}
