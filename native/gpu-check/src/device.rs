//! Which device, and in which precisions.

use std::fmt;
use std::str::FromStr;

use firesteel_engine::{Gpu, Precision};
use firesteel_error::Result;

/// A device by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// By the driver's number.
    Card(usize),
    /// The kernels on the CPU.
    #[cfg(feature = "emulated")]
    Emulated,
}

pub(crate) const PRECISIONS: [Precision; 4] =
    [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16];

impl Device {
    pub(crate) fn open(self) -> Result<Gpu> {
        match self {
            Device::Card(number) => Gpu::open(number),
            #[cfg(feature = "emulated")]
            Device::Emulated => Gpu::emulated(),
        }
    }

    /// Whether it takes as long as the CPU for every thread.
    pub(crate) fn is_slow(self) -> bool {
        !matches!(self, Device::Card(_))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Card(number) => write!(f, "cuda:{number}"),
            #[cfg(feature = "emulated")]
            Device::Emulated => f.write_str("emulated"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Device, String> {
        #[cfg(feature = "emulated")]
        if name == "emulated" {
            return Ok(Device::Emulated);
        }
        let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        number.map(Device::Card).ok_or_else(|| "expected cuda:N or emulated".to_owned())
    }
}

/// A precision by its name.
pub(crate) fn precision(name: &str) -> std::result::Result<Precision, String> {
    let found = PRECISIONS.into_iter().find(|precision| precision.name() == name);
    found.ok_or_else(|| "expected f32, tf32, bf16 or f16".to_owned())
}

/// The version of NVIDIA's driver, as the kernel tells it.
pub(crate) fn driver() -> String {
    let told = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let version =
        told.split_whitespace().find(|word| word.contains('.') && word.starts_with(char::is_numeric));
    version.unwrap_or("of unknown version").to_owned()
}
