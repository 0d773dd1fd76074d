//! Convolutions by cuDNN, where its library is found.

use std::ffi::{c_int, c_void};

use cudarc::cudnn::result as dnn;
use cudarc::cudnn::sys;
use firesteel_error::{Error, Kind, Result};

use super::convolution::{Convolution, Pass, Sizes};
use super::cublaslt::Workspace;
use super::library::{Found, find};
use crate::precision::Precision;

/// Names the library where the system finds none; `off` does without.
const VARIABLE: &str = "FIRESTEEL_CUDNN";

/// Algorithms that are tried for a shape.
const TRIED: usize = 4;

/// Algorithms that the library may list, 8 numbers with 4 ways to multiply each; it leaves out none that is of no use here.
const LISTED: usize = 32;

/// What f32 may be multiplied by, as the library lists it.
const EXACT: [sys::cudnnMathType_t; 2] =
    [sys::cudnnMathType_t::CUDNN_FMA_MATH, sys::cudnnMathType_t::CUDNN_DEFAULT_MATH];

/// The library.
pub(crate) struct Convolutions {
    handle: sys::cudnnHandle_t,
    precision: Precision,
}

// SAFETY: the handle may be used by any thread, by one at a time: whoever has it keeps it behind a lock.
unsafe impl Send for Convolutions {}

/// One of the library's ways to a pass. Its memory and whether it always gives the same bits hold for this way to multiply only.
#[derive(Clone, Copy)]
pub(crate) struct Algorithm {
    number: Number,
    math: sys::cudnnMathType_t,
}

#[derive(Clone, Copy)]
enum Number {
    Results(sys::cudnnConvolutionFwdAlgo_t),
    Weights(sys::cudnnConvolutionBwdFilterAlgo_t),
    Images(sys::cudnnConvolutionBwdDataAlgo_t),
}

fn failed(doing: &str) -> impl FnOnce(dnn::CudnnError) -> Error + '_ {
    move |e| Error::new(Kind::Io, format!("cuDNN, {doing}: {e}"))
}

impl Convolutions {
    /// Opens the library in the context that is current; none where there is no library. The stream is there until it is dropped.
    ///
    /// # Errors
    /// `Io` when a variable names one that is not there, or it cannot be used.
    pub(crate) fn open(precision: Precision, stream: *mut c_void) -> Result<Option<Convolutions>> {
        // SAFETY: it only looks.
        let found = unsafe { find(VARIABLE, sys::is_culib_present) }?;
        if found == Found::No {
            return Ok(None);
        }
        let handle = match dnn::create_handle() {
            Ok(handle) => handle,
            // Nobody has asked for it.
            Err(_) if found == Found::Yes => return Ok(None),
            Err(e) => return Err(failed("starting")(e)),
        };
        let library = Convolutions { handle, precision };
        // SAFETY: both are there.
        unsafe { dnn::set_stream(handle, stream.cast()) }.map_err(failed("taking a stream"))?;
        Ok(Some(library))
    }

    /// What the library thinks is fast and always gives the same bits, the best first; `room` bytes may be used beside.
    ///
    /// # Errors
    /// `Io` of the library.
    pub(crate) fn algorithms(&self, sizes: &Sizes, room: usize) -> Result<Vec<Algorithm>> {
        let call = Call::new(self.precision, sizes)?;
        let Call { images, weights, convolution, results, .. } = call;
        let mut count: c_int = 0;
        let exact = self.precision == Precision::F32;
        macro_rules! ask {
            ($function:ident($($description:expr),*), $perf:ty, $number:path) => {{
                // SAFETY: plain numbers, for which 0 is a value.
                let mut found: [$perf; LISTED] = unsafe { std::mem::zeroed() };
                // SAFETY: all descriptions are there, and so much room for results.
                let asked = unsafe {
                    sys::$function(self.handle, $($description,)* LISTED as c_int, &raw mut count, found.as_mut_ptr())
                };
                asked.result().map_err(failed("looking for algorithms"))?;
                let found = found.into_iter().take(usize::try_from(count).unwrap_or(0));
                let usable = found.filter(|one| {
                    one.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                        && one.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                        && one.memory <= room
                        // It lists others than were asked for, and may call what was asked for the usual.
                        && (!exact || EXACT.contains(&one.mathType))
                });
                let math = |listed| if exact { sys::cudnnMathType_t::CUDNN_FMA_MATH } else { listed };
                let usable = usable.take(TRIED);
                usable.map(|one| Algorithm { number: $number(one.algo), math: math(one.mathType) }).collect()
            }};
        }
        Ok(match sizes.pass {
            Pass::Results => ask!(
                cudnnGetConvolutionForwardAlgorithm_v7(images, weights, convolution, results),
                sys::cudnnConvolutionFwdAlgoPerf_t,
                Number::Results
            ),
            Pass::Weights => ask!(
                cudnnGetConvolutionBackwardFilterAlgorithm_v7(images, results, convolution, weights),
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                Number::Weights
            ),
            Pass::Images => ask!(
                cudnnGetConvolutionBackwardDataAlgorithm_v7(weights, results, convolution, images),
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                Number::Images
            ),
        })
    }

    /// Queues a pass, without bias and activation; weights are as precise as images.
    ///
    /// # Errors
    /// `Io` of the library.
    ///
    /// # Safety
    /// The parts are there until it has been done, and `room` bytes beside.
    pub(crate) unsafe fn queue(
        &self,
        what: &Convolution,
        algorithm: Algorithm,
        workspace: Workspace,
        room: usize,
    ) -> Result<()> {
        let call = Call::new(self.precision, &what.sizes)?;
        // SAFETY: it was made just now.
        let set = unsafe { dnn::set_convolution_math_type(call.convolution, algorithm.math) };
        set.map_err(failed("describing a convolution"))?;
        let (one, added) = (1.0f32, f32::from(u8::from(what.sizes.add)));
        let [one, added] = [&one, &added].map(|value| std::ptr::from_ref(value).cast::<c_void>());
        let read = |at: u64| at as *const c_void;
        let beside = workspace.at as *mut c_void;
        // SAFETY: by the caller; the descriptions are those of the parts.
        let queued = unsafe {
            match algorithm.number {
                Number::Results(number) => sys::cudnnConvolutionForward(
                    self.handle,
                    one,
                    call.images,
                    read(what.images),
                    call.weights,
                    read(what.weights),
                    call.convolution,
                    number,
                    beside,
                    room,
                    added,
                    call.results,
                    what.results as *mut c_void,
                ),
                Number::Weights(number) => sys::cudnnConvolutionBackwardFilter(
                    self.handle,
                    one,
                    call.images,
                    read(what.images),
                    call.results,
                    read(what.results),
                    call.convolution,
                    number,
                    beside,
                    room,
                    added,
                    call.weights,
                    what.weights as *mut c_void,
                ),
                Number::Images(number) => sys::cudnnConvolutionBackwardData(
                    self.handle,
                    one,
                    call.weights,
                    read(what.weights),
                    call.results,
                    read(what.results),
                    call.convolution,
                    number,
                    beside,
                    room,
                    added,
                    call.images,
                    what.images as *mut c_void,
                ),
            }
        };
        queued.result().map_err(failed("convolving"))
    }
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        _ = unsafe { dnn::destroy_handle(self.handle) };
    }
}

/// A convolution described to the library.
struct Call {
    images: sys::cudnnTensorDescriptor_t,
    weights: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
    results: sys::cudnnTensorDescriptor_t,
}

impl Call {
    fn new(precision: Precision, sizes: &Sizes) -> Result<Call> {
        let mut call = Call {
            images: std::ptr::null_mut(),
            weights: std::ptr::null_mut(),
            convolution: std::ptr::null_mut(),
            results: std::ptr::null_mut(),
        };
        call.describe(precision, sizes).map_err(failed("describing a convolution"))?;
        Ok(call)
    }

    fn describe(&mut self, precision: Precision, sizes: &Sizes) -> std::result::Result<(), dnn::CudnnError> {
        let (values, math) = match precision {
            // The default may round factors to 10 bits.
            Precision::F32 => (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnMathType_t::CUDNN_FMA_MATH),
            Precision::Tf32 => {
                (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH)
            }
            Precision::Bf16 => {
                (sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16, sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH)
            }
            Precision::F16 => {
                (sys::cudnnDataType_t::CUDNN_DATA_HALF, sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH)
            }
        };
        let whole = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
        let int = |size: u32| size as c_int;
        let [groups, channels, outputs] = [sizes.groups, sizes.channels, sizes.outputs].map(int);
        let [image, result, kernel] = [sizes.image, sizes.result, sizes.kernel].map(|axes| axes.map(int));
        let [stride, padding] = [sizes.stride, sizes.padding].map(|axes| axes.map(int));
        let rows = int(sizes.rows);
        self.images = dnn::create_tensor_descriptor()?;
        self.results = dnn::create_tensor_descriptor()?;
        self.weights = dnn::create_filter_descriptor()?;
        self.convolution = dnn::create_convolution_descriptor()?;
        // SAFETY: all were made just now.
        unsafe {
            let all = [rows, groups * channels, image[0], image[1]];
            dnn::set_tensor4d_descriptor(self.images, whole, values, all)?;
            let all = [rows, groups * outputs, result[0], result[1]];
            dnn::set_tensor4d_descriptor(self.results, whole, values, all)?;
            let all = [groups * outputs, channels, kernel[0], kernel[1]];
            dnn::set_filter4d_descriptor(self.weights, values, whole, all)?;
            dnn::set_convolution2d_descriptor(
                self.convolution,
                padding[0],
                padding[1],
                stride[0],
                stride[1],
                1,
                1,
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            )?;
            dnn::set_convolution_group_count(self.convolution, groups)?;
            dnn::set_convolution_math_type(self.convolution, math)
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: all were made in `describe`, and nobody else has them.
        unsafe {
            for tensor in [self.images, self.results].into_iter().filter(|one| !one.is_null()) {
                _ = dnn::destroy_tensor_descriptor(tensor);
            }
            if !self.weights.is_null() {
                _ = dnn::destroy_filter_descriptor(self.weights);
            }
            if !self.convolution.is_null() {
                _ = dnn::destroy_convolution_descriptor(self.convolution);
            }
        }
    }
}
