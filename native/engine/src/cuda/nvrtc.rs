//! Kernels compiled for a card by NVRTC, where its library is found. What was compiled is kept on disk.

use std::ffi::{CString, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::nvrtc::{result as nvrtc, sys};
use firesteel_error::{Error, Kind, Result};
use sha2::{Digest, Sha256};

use super::library::{Found, find};
use super::source::Source;
use crate::precision::Precision;

/// Names the library where the system finds none.
const VARIABLE: &str = "FIRESTEEL_NVRTC";

/// Another folder for what was compiled.
const CACHE: &str = "FIRESTEEL_CACHE";

/// Loads the library, for all that comes.
///
/// # Errors
/// `Io` when there is none, saying what was looked for.
pub(crate) fn load() -> Result<()> {
    static LOADED: OnceLock<()> = OnceLock::new();
    if LOADED.get().is_some() {
        return Ok(());
    }
    // SAFETY: it only looks.
    if unsafe { find(VARIABLE, sys::is_culib_present) }? == Found::No {
        let what = "NVRTC is not there: looked for libnvrtc.so on the library path";
        return Err(Error::new(Kind::Io, format!("{what}; {VARIABLE} may name it")));
    }
    _ = LOADED.set(());
    Ok(())
}

/// Kernels that a driver loads: machine code, or PTX that ends with a zero.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    /// Where it was kept, if it was.
    kept: Option<PathBuf>,
}

impl Image {
    /// Throws away what was kept, which no driver takes; whether there was any.
    pub(crate) fn forget(&self) -> bool {
        self.kept.as_ref().is_some_and(|file| std::fs::remove_file(file).is_ok())
    }
}

/// A source compiled for a card's capability, from disk if it was compiled before.
///
/// # Errors
/// `Io` when the library is not there, or is newer than a driver for CUDA `major` takes; as of [`compile`].
pub(crate) fn image(
    source: &Source,
    precision: Precision,
    capability: [i32; 2],
    major: i32,
) -> Result<Image> {
    load()?;
    let [own, minor] = version()?;
    if own > major {
        let what = format!("NVRTC {own}.{minor} is newer than NVIDIA's driver, which is for CUDA {major}");
        let needed = format!("expected NVRTC {major} or older, which {VARIABLE} may name, or a newer driver");
        return Err(Error::new(Kind::Io, format!("{what}; {needed}")));
    }
    let architecture = architecture(capability)?;
    let Some(folder) = folder() else {
        return Ok(Image { bytes: compile(source, precision, &architecture)?, kept: None });
    };
    let mut hash = Sha256::new();
    hash.update(format!("{own}.{minor} {architecture} {}\n", source.fuses));
    hash.update(source.text(precision));
    let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let file = folder.join(name);
    if let Ok(mut bytes) = std::fs::read(&file) {
        // The driver reads PTX up to a zero, and a file may have lost its own.
        bytes.push(0);
        return Ok(Image { bytes, kept: Some(file) });
    }
    let bytes = compile(source, precision, &architecture)?;
    // Who cannot write there compiles again.
    _ = keep(&folder, &file, &bytes);
    Ok(Image { bytes, kept: None })
}

/// Writes a file so that whoever sees it sees all of it.
fn keep(folder: &Path, file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    /// Threads of a process may write the same.
    static PARTS: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(folder)?;
    let part = PARTS.fetch_add(1, Ordering::Relaxed);
    let part = file.with_extension(format!("{}-{part}", std::process::id()));
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, file)
}

/// Where compiled kernels are kept; none for a user without a home.
fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Some(variable(CACHE).or_else(|| Some(caches()?.join("firesteel")))?.join("kernels"))
}

/// What to compile for: machine code of the card's own capability, where the library knows it, else PTX of the newest that it
/// knows and the card runs.
fn architecture([major, minor]: [i32; 2]) -> Result<String> {
    let mut count: c_int = 0;
    // SAFETY: the library is loaded, and writes one number.
    let counted = unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) };
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: it writes as many as it said.
    let listed = unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) };
    counted.result().and(listed.result()).map_err(said("listing architectures"))?;
    let own = 10 * major + minor;
    match known.into_iter().filter(|known| *known <= own).max() {
        Some(newest) if newest == own => Ok(format!("sm_{own}")),
        Some(newest) => Ok(format!("compute_{newest}")),
        None => {
            let what =
                format!("NVRTC no longer compiles for compute capability {major}.{minor}; an older one does");
            Err(Error::new(Kind::Io, what))
        }
    }
}

fn version() -> Result<[c_int; 2]> {
    let [mut major, mut minor] = [0; 2];
    // SAFETY: the library is loaded, and writes two numbers.
    let told = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    told.result().map_err(said("saying its version"))?;
    Ok([major, minor])
}

fn said<E: std::fmt::Debug>(doing: &str) -> impl FnOnce(E) -> Error + '_ {
    move |e| Error::new(Kind::Io, format!("NVRTC, {doing}: {e:?}"))
}

/// A source for `architecture`: machine code for `sm_90`, PTX for `compute_90`.
///
/// # Errors
/// `Io` when the library is not there, `Internal` with what the compiler says.
pub(crate) fn compile(source: &Source, precision: Precision, architecture: &str) -> Result<Vec<u8>> {
    load()?;
    let text = CString::new(source.text(precision)).map_err(|e| Error::internal(e.to_string()))?;
    let program = nvrtc::create_program(&text, None).map_err(said("taking a source"))?;
    let compiled = compile_program(program, source, architecture);
    // SAFETY: it was made just now.
    let destroyed = unsafe { nvrtc::destroy_program(program) };
    let bytes = compiled
        .map_err(|e| Error::internal(format!("{} in {precision} for {architecture}: {e}", source.name)))?;
    destroyed.map_err(said("giving a program back"))?;
    Ok(bytes)
}

fn compile_program(
    program: sys::nvrtcProgram,
    source: &Source,
    architecture: &str,
) -> std::result::Result<Vec<u8>, String> {
    let options = [
        "--std=c++17".to_owned(),
        format!("--gpu-architecture={architecture}"),
        format!("--fmad={}", source.fuses),
    ];
    let plain = |what: &str| format!("{what} cannot be asked for");
    // SAFETY: the program is there until the caller destroys it.
    unsafe {
        if nvrtc::compile_program(program, &options).is_err() {
            let log = nvrtc::get_program_log(program).map_err(|_| plain("the compiler's words"))?;
            let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).take_while(|byte| *byte != 0).collect();
            return Err(String::from_utf8_lossy(&log).into_owned());
        }
        if architecture.starts_with("compute_") {
            let ptx = nvrtc::get_ptx(program).map_err(|_| plain("PTX"))?;
            return Ok(ptx.into_iter().map(|byte| byte as u8).collect());
        }
        let mut len = 0;
        sys::nvrtcGetCUBINSize(program, &raw mut len).result().map_err(|_| plain("machine code"))?;
        let mut code = vec![0u8; len];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result().map_err(|_| plain("machine code"))?;
        Ok(code)
    }
}
