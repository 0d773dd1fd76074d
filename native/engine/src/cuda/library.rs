//! NVIDIA's libraries, which the system finds or a variable names.

use firesteel_error::{Error, Kind, Result};
use libloading::Library;

/// What is there of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    No,
    /// By the system.
    Yes,
    /// By the variable: somebody wants this one.
    Named,
}

/// Looks for a library, and loads the one that `variable` names, `off` for none.
///
/// # Errors
/// `Io` when the variable names one that cannot be loaded.
///
/// # Safety
/// `is_present` says whether it can be loaded, and does nothing else.
pub(crate) unsafe fn find(variable: &str, is_present: unsafe fn() -> bool) -> Result<Found> {
    let named = std::env::var_os(variable);
    match &named {
        Some(name) if name == "off" => return Ok(Found::No),
        Some(path) => {
            // SAFETY: NVIDIA's libraries have no initialisers that depend on ours.
            let library = unsafe { Library::new(path) };
            let library = library.map_err(|e| {
                let what = format!("cannot load {variable} = {}: {e}", path.to_string_lossy());
                Error::new(Kind::Io, what)
            })?;
            // By its soname it is found from now on.
            std::mem::forget(library);
        }
        None => {}
    }
    // SAFETY: by the caller.
    Ok(match (unsafe { is_present() }, named) {
        (false, _) => Found::No,
        (true, None) => Found::Yes,
        (true, Some(_)) => Found::Named,
    })
}
