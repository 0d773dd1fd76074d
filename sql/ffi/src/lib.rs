//! Firesteel's functions in Python's DataFusion: the module `firesteel_datafusion`.
//!
//! ```python
//! import firesteel_datafusion
//! from datafusion import SessionContext
//!
//! context = SessionContext()
//! firesteel_datafusion.register(context, "models")
//! context.sql("SELECT nn_predict_value('late', distance, hour) FROM flights")
//! ```
//!
//! What DataFusion hands between libraries is functions; statements and relations need a planner, and so a Rust program or
//! the `firesteel` command. The functions themselves are `firesteel_sql::hosted`'s, guarded against panics; here is what makes
//! them Python objects.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion_ffi::udaf::FFI_AggregateUDF;
use datafusion_ffi::udf::FFI_ScalarUDF;
use firesteel_sql::{ModelStore, guard, hosted};
use pyo3::exceptions::{PyFileNotFoundError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// Functions that networks trained by Firesteel answer, for DataFusion's `SessionContext`.
#[pymodule(gil_used = false)]
mod firesteel_datafusion {
    #[pymodule_export]
    use super::{Aggregate, Function, aggregates, functions, register};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}

/// A function of a folder of models, as `datafusion.udf` takes it.
#[pyclass(frozen, module = "firesteel_datafusion")]
struct Function {
    function: Arc<ScalarUDF>,
}

#[pymethods]
impl Function {
    /// Its name in SQL.
    #[getter]
    fn name(&self) -> &str {
        self.function.name()
    }

    fn __repr__(&self) -> String {
        format!("<firesteel_datafusion.Function {}>", self.name())
    }

    /// For DataFusion of the same major version.
    fn __datafusion_scalar_udf__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        PyCapsule::new_with_value(py, FFI_ScalarUDF::from(self.function.clone()), c"datafusion_scalar_udf")
    }
}

/// A function of many rows, as `datafusion.udaf` takes it.
#[pyclass(frozen, module = "firesteel_datafusion")]
struct Aggregate {
    function: Arc<AggregateUDF>,
}

#[pymethods]
impl Aggregate {
    /// Its name in SQL.
    #[getter]
    fn name(&self) -> &str {
        self.function.name()
    }

    fn __repr__(&self) -> String {
        format!("<firesteel_datafusion.Aggregate {}>", self.name())
    }

    /// For DataFusion of the same major version.
    fn __datafusion_aggregate_udf__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        PyCapsule::new_with_value(
            py,
            FFI_AggregateUDF::from(self.function.clone()),
            c"datafusion_aggregate_udf",
        )
    }
}

/// nn_predict_value, nn_prob and nn_predict for the models in a folder, those too that are trained later; nn_apply and
/// nn_apply_class for models that are values.
#[pyfunction]
fn functions(py: Python<'_>, models: PathBuf) -> PyResult<Vec<Function>> {
    if !models.is_dir() {
        // A store would be made there, and a misspelt name look like one without models.
        let what = format!("there is no folder '{}', where models would be", models.display());
        return Err(PyFileNotFoundError::new_err(what));
    }
    let open = || hosted::functions(ModelStore::directory(models)?);
    let functions = py.detach(open).map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
    Ok(functions.into_iter().map(|f| Function { function: Arc::new(guard::scalar(f)) }).collect())
}

/// nn_fit, which makes such values.
#[pyfunction]
fn aggregates() -> Vec<Aggregate> {
    hosted::aggregates().into_iter().map(|f| Aggregate { function: Arc::new(guard::aggregate(f)) }).collect()
}

/// Registers the functions on a SessionContext.
#[pyfunction]
fn register(context: &Bound<'_, PyAny>, models: PathBuf) -> PyResult<()> {
    let py = context.py();
    let datafusion = py.import("datafusion")?;
    for function in functions(py, models)? {
        context.call_method1("register_udf", (datafusion.call_method1("udf", (function,))?,))?;
    }
    for function in aggregates() {
        context.call_method1("register_udaf", (datafusion.call_method1("udaf", (function,))?,))?;
    }
    Ok(())
}
