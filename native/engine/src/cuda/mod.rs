//! Plans on NVIDIA GPUs, and on a device that runs the same kernels on the CPU.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `source` | the kernels' sources, and how they are called |
//! | `nvrtc` | kernels compiled for a card |
//! | `card` | a GPU, by NVIDIA's driver |
//! | `device` | what a plan needs of a device |
//! | `product`, `convolution` | what libraries take |
//! | `library`, `cublaslt`, `cudnn`, `nccl` | NVIDIA's libraries |
//! | `tune` | which of several ways to a result is taken |
//! | `lower`, `frame` | a network as launches; where everything is while they are made |
//! | `memory`, `moments` | memory of a device, events, kept launches; an optimizer on one |
//! | `slot` | where a batch waits for its step |
//! | `rates` | how fast the kernels are by themselves |
//! | `peers` | workers whose devices add up among themselves |
//! | `gpu`, `mirror` | which device; a network there whose weights are here too |
//! | `replica` | a worker's copy of a network on a device |
//! | `emulated` | a device without a GPU: kernels compiled by the C++ compiler, threads in a drawn order |
//! | `meeting` | sums over several of these |
//!
//! Values lie in rows, `(rows, features)`, images in `(rows, channels, height, width)`; weights and gradients lie flat, as
//! on the CPU.

mod card;
mod convolution;
mod cublaslt;
mod cudnn;
mod device;
#[cfg(any(test, feature = "emulated"))]
mod emulated;
mod frame;
mod gpu;
mod library;
mod lower;
#[cfg(any(test, feature = "emulated"))]
mod meeting;
mod memory;
mod mirror;
mod moments;
mod nccl;
mod nvrtc;
mod peers;
mod product;
mod rates;
mod replica;
mod slot;
mod source;
#[cfg(test)]
mod tests;
mod tune;

pub use gpu::{Gpu, GpuAddress};
pub(crate) use mirror::Mirror;
pub use peers::{Peers, Watch};
pub use rates::KernelRate;
