//! The kernels' sources, and how they are called.

use std::ffi::c_void;

use crate::precision::Precision;

/// What stands before every source.
const COMMON: &str = include_str!("kernels/common.cuh");

/// A file of kernels.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    text: &'static str,
    /// Its kernels.
    pub(crate) kernels: &'static [&'static str],
    /// Whether a multiplication may be fused with an addition.
    pub(crate) fuses: bool,
}

/// All kernels.
pub(crate) const SOURCES: &[Source] = &[
    Source {
        name: "optimizer.cu",
        text: include_str!("kernels/optimizer.cu"),
        kernels: &[
            "sgd",
            "sgd_momentum",
            "adam",
            "find_overflow",
            "unscale",
            "settle_overflow",
            "pack",
            "unpack",
        ],
        fuses: false,
    },
    Source {
        name: "elementwise.cu",
        text: include_str!("kernels/elementwise.cu"),
        kernels: &[
            "activate",
            "activate_backward",
            "bias_activate",
            "widen",
            "accumulate",
            "round_weights",
            "narrow",
            "dropout",
        ],
        fuses: true,
    },
    Source {
        name: "loss.cu",
        text: include_str!("kernels/loss.cu"),
        kernels: &["softmax_cross_entropy", "loss_by_value", "sum_totals"],
        fuses: true,
    },
    Source {
        name: "norm.cu",
        text: include_str!("kernels/norm.cu"),
        kernels: &[
            "layer_norm",
            "layer_norm_backward",
            "layer_norm_parameters",
            "sum_columns",
            "sum_features",
            "batch_norm_measure",
            "batch_norm_recall",
            "batch_norm",
            "batch_norm_parameters",
            "batch_norm_backward",
        ],
        fuses: true,
    },
    Source {
        name: "table.cu",
        text: include_str!("kernels/table.cu"),
        kernels: &["gather", "scatter", "mark", "list_marked", "join", "part"],
        fuses: true,
    },
    Source {
        name: "pool.cu",
        text: include_str!("kernels/pool.cu"),
        kernels: &["max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward"],
        fuses: true,
    },
    Source {
        name: "product.cu",
        text: include_str!("kernels/product.cu"),
        kernels: &["product", "product_weight", "convolution", "convolution_weight", "convolution_images"],
        fuses: true,
    },
];

impl Source {
    /// The whole text, for a precision.
    pub(crate) fn text(&self, precision: Precision) -> String {
        let number = match precision {
            Precision::F32 => 0,
            Precision::Tf32 => 1,
            Precision::Bf16 => 2,
            Precision::F16 => 3,
        };
        format!("#define PRECISION {number}\n{COMMON}\n{}", self.text)
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arg {
    /// An address on the device; 0 is null.
    Pointer(u64),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    /// Kernel, stride and padding of a window, height before width.
    Window([[i32; 2]; 3]),
    /// Groups, channels and outputs of one, height, width, out height, out width, then a window.
    Convolution([i32; 13]),
    /// Steps along the rows and columns of two matrices.
    Matrices([u64; 4]),
    Work(Work),
    Columns(Columns),
}

/// How columns are added up.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Columns {
    pub(crate) rows: u64,
    pub(crate) width: u32,
    pub(crate) splits: u32,
    pub(crate) parts: u64,
    pub(crate) arrived: u64,
}

/// How the places of a product are divided.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Work {
    pub(crate) groups: u64,
    pub(crate) m: u64,
    pub(crate) k: u64,
    pub(crate) n: u32,
    pub(crate) splits: u32,
    pub(crate) parts: u64,
    pub(crate) arrived: u64,
}

/// A call: blocks and threads a block, in one dimension.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) kernel: &'static str,
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) args: &'a [Arg],
}

/// Where an argument's value is, as launches take it.
pub(crate) fn place(arg: &mut Arg) -> *mut c_void {
    match arg {
        Arg::Pointer(value) | Arg::U64(value) => std::ptr::from_mut(value).cast(),
        Arg::U32(value) => std::ptr::from_mut(value).cast(),
        Arg::I32(value) => std::ptr::from_mut(value).cast(),
        Arg::F32(value) => std::ptr::from_mut(value).cast(),
        Arg::Window(value) => std::ptr::from_mut(value).cast(),
        Arg::Convolution(value) => std::ptr::from_mut(value).cast(),
        Arg::Matrices(value) => std::ptr::from_mut(value).cast(),
        Arg::Work(value) => std::ptr::from_mut(value).cast(),
        Arg::Columns(value) => std::ptr::from_mut(value).cast(),
    }
}
