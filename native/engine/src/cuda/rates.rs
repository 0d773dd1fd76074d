//! How fast the kernels are by themselves.

use std::sync::Arc;
use std::time::Instant;

use firesteel_error::Result;
use pulp::bytemuck;

use super::device::Device;
use super::frame::{THREADS, TILE, each};
use super::gpu::Gpu;
use super::memory::Memory;
use super::moments::{DeviceMoments, NOW, Part};
use super::product::{Product, Shape};
use super::source::{Arg, Work};
use crate::optim::Optimizer;
use crate::precision::Precision;

/// The width of an embedding's rows.
const DIMS: usize = 64;

/// How long a kernel took, and what it did.
#[derive(Clone, Copy, Debug)]
pub struct KernelRate {
    /// Its name; `copy` is the driver's copy within the device.
    pub kernel: &'static str,
    /// Bytes that it reads and writes.
    pub bytes: f64,
    /// Multiplications and additions, of products.
    pub operations: f64,
    /// The median of the rounds.
    pub seconds: f64,
}

impl Gpu {
    /// The copy within the device first, then the kernels that wait for memory on vectors of `values`, a multiple of 64, then
    /// products of matrices of `side` by `side`. Each is started so many times a round.
    ///
    /// # Errors
    /// `Io` of the GPU.
    pub fn kernel_rates(
        &self,
        precision: Precision,
        [values, side]: [usize; 2],
        [times, rounds]: [usize; 2],
    ) -> Result<Vec<KernelRate>> {
        let device = self.device(precision)?;
        let bench = Bench { device, precision, values, times, rounds };
        let mut rates = vec![bench.copy()?];
        rates.extend(bench.optimizers()?);
        rates.extend(bench.elementwise()?);
        rates.extend(bench.tables()?);
        rates.extend(bench.products(side)?);
        Ok(rates)
    }
}

struct Bench {
    device: Arc<dyn Device>,
    precision: Precision,
    values: usize,
    times: usize,
    rounds: usize,
}

impl Bench {
    fn memory(&self, bytes: usize) -> Result<Memory> {
        Memory::new(&self.device, bytes)
    }

    fn list<T: bytemuck::Pod>(&self, values: &[T]) -> Result<Memory> {
        let memory = self.memory(size_of_val(values))?;
        memory.set(values)?;
        Ok(memory)
    }

    fn measure(
        &self,
        kernel: &'static str,
        [bytes, operations]: [usize; 2],
        queue: impl Fn() -> Result<()>,
    ) -> Result<KernelRate> {
        let mut all = Vec::new();
        // The first round warms up.
        for _ in 0..=self.rounds {
            let begin = Instant::now();
            (0..self.times).try_for_each(|_| queue())?;
            self.device.finish()?;
            all.push(begin.elapsed().as_secs_f64() / self.times as f64);
        }
        all.remove(0);
        all.sort_by(f64::total_cmp);
        let seconds = all.get(all.len() / 2).copied().unwrap_or(f64::NAN);
        Ok(KernelRate { kernel, bytes: bytes as f64, operations: operations as f64, seconds })
    }

    fn each(&self, kernel: &'static str, len: usize, args: &[Arg]) -> Result<()> {
        // SAFETY: the callers pass what the kernel takes, and there is room for what it reads and writes until `measure` has
        // waited for it.
        unsafe { each(self.device.as_ref(), kernel, len as u64, args) }
    }

    fn copy(&self) -> Result<KernelRate> {
        let bytes = 4 * self.values;
        let [from, to] = [self.memory(bytes)?, self.memory(bytes)?];
        self.measure("copy", [2 * bytes, 0], || {
            // SAFETY: both are so long, and are there until `measure` has waited.
            unsafe { self.device.copy(to.address(), from.address(), bytes) }
        })
    }

    fn optimizers(&self) -> Result<Vec<KernelRate>> {
        let len = self.values;
        let [weights, gradient] = [self.memory(4 * len)?, self.memory(4 * len)?];
        // A loss of 0 and a weight of 1.
        let (now, totals) = (self.memory(4 * NOW)?, self.list(&[0.0f64, 1.0, 0.0, 0.0])?);
        let at = [&weights, &gradient, &now, &totals].map(Memory::address);
        let sgd = |momentum| Optimizer::Sgd { momentum, nesterov: false, weight_decay: 0.0 };
        let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let all = [("sgd", sgd(0.0)), ("sgd_momentum", sgd(0.9)), ("adam", adam)];
        let one = |(kernel, optimizer): (&'static str, Optimizer)| {
            let moments = DeviceMoments::new(&self.device, optimizer, len)?;
            // Weights are read and written, so is all state, gradients are read.
            let bytes = 4 * len * (3 + 2 * optimizer.slots());
            self.measure(kernel, [bytes, 0], || moments.update(Part { start: 0, len, rows: None }, at))
        };
        all.into_iter().map(one).collect()
    }

    fn elementwise(&self) -> Result<Vec<KernelRate>> {
        let (len, each) = (self.values, self.precision.bytes());
        let [from, to] = [self.memory(each * len)?, self.memory(each * len)?];
        let args =
            [Arg::Pointer(from.address()), Arg::Pointer(to.address()), Arg::U64(len as u64), Arg::U32(1)];
        // A flag of 1 adds; activation 1 is relu.
        let one = |(kernel, passes)| {
            self.measure(kernel, [passes * each * len, 0], || self.each(kernel, len, &args))
        };
        [("activate", 2), ("accumulate", 3)].into_iter().map(one).collect()
    }

    /// Of every row once, in an order that is no order.
    fn tables(&self) -> Result<Vec<KernelRate>> {
        let (rows, each) = (self.values / DIMS, self.precision.bytes());
        let (table, values) = (self.memory(4 * rows * DIMS)?, self.memory(each * rows * DIMS)?);
        // Odd, so prime to a power of two; of other numbers of rows some come twice.
        let stride = 2_654_435_761usize;
        let drawn: Vec<u32> = (0..rows).map(|row| (row.wrapping_mul(stride) % rows) as u32).collect();
        let ordered: Vec<u32> = (0..=rows as u32).collect();
        let (drawn, ordered, count) = (self.list(&drawn)?, self.list(&ordered)?, self.list(&[rows as u32])?);
        let [table, values] = [&table, &values].map(|memory| Arg::Pointer(memory.address()));
        let [drawn, ordered, count] = [&drawn, &ordered, &count].map(|memory| Arg::Pointer(memory.address()));
        let dims = Arg::U32(DIMS as u32);
        let bytes = rows * DIMS * (4 + each) + 4 * rows;
        let gather = [table, drawn, values, Arg::U64(rows as u64), dims];
        let scatter = [values, ordered, ordered, drawn, table, count, dims];
        Ok(vec![
            self.measure("gather", [bytes, 0], || self.each("gather", rows * DIMS, &gather))?,
            // A warp a row.
            self.measure("scatter", [bytes + 8 * rows, 0], || self.each("scatter", 32 * rows, &scatter))?,
        ])
    }

    /// Of our kernel, and of the libraries' where there are any.
    fn products(&self, side: usize) -> Result<Vec<KernelRate>> {
        let each = self.precision.bytes();
        let memory: Vec<Memory> = (0..3).map(|_| self.memory(each * side * side)).collect::<Result<_>>()?;
        let [a, b, to] = [0, 1, 2].map(|nth: usize| memory[nth].address());
        let (s, none, off) = (side as u64, Arg::Pointer(0), Arg::U32(0));
        let work = Work { groups: 1, m: s, k: s, n: side as u32, splits: 1, parts: 0, arrived: 0 };
        let tiles = side.div_ceil(TILE as usize).pow(2);
        let ours = |to: u64| {
            let [a, b, to] = [a, b, to].map(Arg::Pointer);
            let args = [a, b, Arg::Matrices([s, 1, s, 1]), to, none, off, off, Arg::Work(work)];
            self.each("product", tiles * THREADS as usize, &args)
        };
        let done = [3 * each * side * side, 2 * side.pow(3)];
        let mut rates = vec![self.measure("product", done, || ours(to))?];
        if self.device.has_library() {
            let [wide, bias, relu, add] = [false; 4];
            let shape = Shape { m: s, n: s, k: s, a: [s, 1], b: [s, 1], wide, bias, relu, add };
            let product = Product { shape, a, b, bias: 0, to };
            // SAFETY: the matrices have so many values, and are there until `measure` has waited.
            let library = || unsafe { self.device.multiply(&product, &ours) };
            rates.push(self.measure("library product", done, library)?);
        }
        Ok(rates)
    }
}
