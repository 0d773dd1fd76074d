//! Products by cuBLASLt, where its library is found and it is faster than our own kernel.

use std::ffi::c_void;

use cudarc::cublaslt::result as lt;
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Describe};
use cudarc::cublaslt::sys::{cublasLtMatmulPreferenceAttributes_t as Prefer, cudaDataType_t as Type};
use firesteel_error::{Error, Kind, Result};

use super::library::{Found, find};
use super::product::{Columns, Product, Shape};
use crate::precision::Precision;

/// Names the library where the system finds none; `off` does without.
const VARIABLE: &str = "FIRESTEEL_CUBLASLT";

/// Memory that an algorithm may use, in bytes: what NVIDIA recommends for Hopper.
pub(crate) const WORKSPACE: usize = 32 * 1024 * 1024;

/// Algorithms that are tried for a shape.
const TRIED: usize = 6;

/// All matrices begin at multiples of this many bytes.
const ALIGNMENT: u32 = 16;

/// The library.
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    precision: Precision,
}

/// One of its ways to a product.
pub(crate) type Algorithm = sys::cublasLtMatmulAlgo_t;

// SAFETY: the library's handle may be used by all threads.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

/// Where a library works: on a stream, with memory beside.
#[derive(Clone, Copy)]
pub(crate) struct Workspace {
    pub(crate) stream: *mut c_void,
    /// So many bytes of the device.
    pub(crate) at: u64,
}

fn failed(doing: &str) -> impl FnOnce(lt::CublasError) -> Error + '_ {
    move |e| Error::new(Kind::Io, format!("cuBLASLt, {doing}: {e}"))
}

impl Products {
    /// Opens the library in the context that is current; none where there is no library.
    ///
    /// # Errors
    /// `Io` when a variable names one that is not there, or it cannot be used.
    pub(crate) fn open(precision: Precision) -> Result<Option<Products>> {
        // SAFETY: it only looks.
        let found = unsafe { find(VARIABLE, sys::is_culib_present) }?;
        if found == Found::No {
            return Ok(None);
        }
        match lt::create_handle() {
            Ok(handle) => Ok(Some(Products { handle, precision })),
            // Nobody has asked for it.
            Err(_) if found == Found::Yes => Ok(None),
            Err(e) => Err(failed("starting")(e)),
        }
    }

    /// What the library thinks is fast, the best first.
    ///
    /// # Errors
    /// `Io` of the library.
    pub(crate) fn algorithms(&self, shape: &Shape) -> Result<Vec<Algorithm>> {
        Call::new(self.precision, shape)?.algorithms(self.handle)
    }

    /// Queues a product.
    ///
    /// # Errors
    /// `Io` of the library.
    ///
    /// # Safety
    /// The matrices are there until it has been done.
    pub(crate) unsafe fn queue(
        &self,
        product: &Product,
        algorithm: &Algorithm,
        workspace: Workspace,
    ) -> Result<()> {
        let call = Call::new(self.precision, &product.shape)?;
        // SAFETY: by the caller.
        unsafe { call.queue(self.handle, product, algorithm, workspace) }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

/// A product described to the library.
struct Call {
    shape: Shape,
    description: sys::cublasLtMatmulDesc_t,
    /// Left, right and result, by columns.
    layouts: Vec<sys::cublasLtMatrixLayout_t>,
}

impl Call {
    fn new(precision: Precision, shape: &Shape) -> Result<Call> {
        let (compute, factors) = match precision {
            Precision::F32 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F),
            Precision::Tf32 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, Type::CUDA_R_32F),
            Precision::Bf16 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, Type::CUDA_R_16BF),
            Precision::F16 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, Type::CUDA_R_16F),
        };
        let to = if shape.wide { Type::CUDA_R_32F } else { factors };
        let description = lt::create_matmul_desc(compute, Type::CUDA_R_32F);
        let mut call = Call {
            shape: *shape,
            description: description.map_err(failed("describing a product"))?,
            layouts: Vec::new(),
        };
        let [left, right, result] = shape.by_columns();
        for (Columns { rows, columns, step, .. }, kind) in [(left, factors), (right, factors), (result, to)] {
            let layout = lt::create_matrix_layout(kind, rows, columns, step as i64);
            call.layouts.push(layout.map_err(failed("describing a matrix"))?);
        }
        call.describe(Describe::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(left.transposed))?;
        call.describe(Describe::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(right.transposed))?;
        let epilogue = match (shape.bias, shape.relu) {
            (false, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            (false, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU,
            (true, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (true, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
        };
        call.describe(Describe::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
        Ok(call)
    }

    fn describe<T>(&self, attribute: Describe, value: &T) -> Result<()> {
        let value = std::ptr::from_ref(value);
        // SAFETY: the description is there, and so is the value.
        let set = unsafe {
            lt::set_matmul_desc_attribute(self.description, attribute, value.cast(), size_of::<T>())
        };
        set.map_err(failed("describing a product"))
    }

    fn algorithms(&self, handle: sys::cublasLtHandle_t) -> Result<Vec<Algorithm>> {
        let preference = lt::create_matmul_pref().map_err(failed("preferring algorithms"))?;
        let found = self.preferred(handle, preference);
        // SAFETY: it was made just now.
        _ = unsafe { lt::destroy_matmul_pref(preference) };
        found
    }

    fn preferred(
        &self,
        handle: sys::cublasLtHandle_t,
        preference: sys::cublasLtMatmulPreference_t,
    ) -> Result<Vec<Algorithm>> {
        let prefer = |attribute, value: *const c_void, bytes| {
            // SAFETY: the preference is there, and so is the value.
            let set = unsafe { lt::set_matmul_pref_attribute(preference, attribute, value, bytes) };
            set.map_err(failed("preferring algorithms"))
        };
        let most = Prefer::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        prefer(most, std::ptr::from_ref(&WORKSPACE).cast(), size_of::<usize>())?;
        for attribute in [
            Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            prefer(attribute, std::ptr::from_ref(&ALIGNMENT).cast(), size_of::<u32>())?;
        }
        let [left, right, to] = [self.layouts[0], self.layouts[1], self.layouts[2]];
        // SAFETY: plain numbers, for which 0 is a value.
        let mut found: [sys::cublasLtMatmulHeuristicResult_t; TRIED] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: all descriptions are there, and so much room for results.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.description,
                left,
                right,
                to,
                to,
                preference,
                TRIED as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        match asked {
            // There is none: ours is.
            sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED => return Ok(Vec::new()),
            other => other.result().map_err(failed("looking for algorithms"))?,
        }
        let found = found.iter().take(usize::try_from(count).unwrap_or(0));
        let usable = found.filter(|one| one.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        Ok(usable.map(|one| one.algo).collect())
    }

    /// # Safety
    /// The matrices are there until it has been done.
    unsafe fn queue(
        &self,
        handle: sys::cublasLtHandle_t,
        product: &Product,
        algorithm: &Algorithm,
        workspace: Workspace,
    ) -> Result<()> {
        if self.shape.bias {
            self.describe(Describe::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias)?;
        }
        let (one, added) = (1.0f32, f32::from(u8::from(self.shape.add)));
        let [left, right, to] = [self.layouts[0], self.layouts[1], self.layouts[2]];
        // SAFETY: by the caller; the descriptions are those of the matrices.
        let queued = unsafe {
            lt::matmul(
                handle,
                self.description,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&added).cast(),
                product.b as *const c_void,
                left,
                product.a as *const c_void,
                right,
                product.to as *const c_void,
                to,
                product.to as *mut c_void,
                to,
                algorithm,
                workspace.at as *mut c_void,
                WORKSPACE,
                workspace.stream.cast(),
            )
        };
        let Shape { m, n, k, .. } = self.shape;
        queued.map_err(failed(&format!("multiplying ({m}, {k}) by ({k}, {n})")))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: both were made in `new` and nobody else has them.
        unsafe {
            for layout in &self.layouts {
                _ = lt::destroy_matrix_layout(*layout);
            }
            _ = lt::destroy_matmul_desc(self.description);
        }
    }
}
