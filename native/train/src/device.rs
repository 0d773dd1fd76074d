//! What computes: the CPU or a GPU, as it is asked for and as it is there.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use firesteel_engine::{Gpu, Precision};
use firesteel_error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::params::Params;

/// What a device may be, in words.
pub(crate) const EXPECTED: &str = "auto, cpu, cuda or cuda:N, N a GPU's number";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// As [`Device::Cuda`] without a number where that can be had, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number; without one the GPU that a scheduler gave the worker, else one of the machine's.
    Cuda(Option<usize>),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(None) => f.write_str("cuda"),
            Device::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` with what was found and what is expected.
    fn from_str(text: &str) -> Result<Device> {
        let device = match text {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(None)),
            _ => text.strip_prefix("cuda:").and_then(number).map(|number| Device::Cuda(Some(number))),
        };
        device.ok_or_else(|| Error::argument(format!("device is '{text}', expected {EXPECTED}")))
    }
}

/// Of digits alone: no sign, no blanks.
fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl TryFrom<String> for Device {
    type Error = Error;

    fn try_from(text: String) -> Result<Device> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

/// What one worker computes on; none is the CPU. `given` are the addresses of the GPUs that a scheduler gave it, of which it
/// takes the first. Without one it takes a GPU of the machine by its rank, so that workers spread over all.
///
/// # Errors
/// `InvalidArgument` saying what was looked for, when the device or the precision cannot be had.
pub fn choose(params: &Params, given: &[String], rank: usize) -> Result<Option<Gpu>> {
    let chosen = pick(params, given, rank..rank + 1, Gpu::names, open(params))?;
    Ok(chosen.and_then(|mut gpus| gpus.pop()))
}

/// What the workers of a training compute on that are threads of this process, by rank. Those of one GPU share it.
///
/// # Errors
/// As [`choose`].
pub fn choose_all(params: &Params, workers: usize) -> Result<Vec<Option<Gpu>>> {
    let chosen = pick(params, &[], 0..workers, Gpu::names, open(params))?;
    Ok(match chosen {
        Some(gpus) => gpus.into_iter().map(Some).collect(),
        None => vec![None; workers],
    })
}

/// Opens a GPU of which all that a training needs is there.
fn open(params: &Params) -> impl FnMut(usize) -> Result<Gpu> {
    let precision = params.precision;
    move |number| {
        let gpu = Gpu::open(number)?;
        gpu.prepare(precision)?;
        Ok(gpu)
    }
}

/// A GPU for each rank, or none for any. `names` are those of the machine's GPUs, and `open` opens one by its number.
fn pick<G: Clone>(
    params: &Params,
    given: &[String],
    ranks: Range<usize>,
    names: impl FnOnce() -> Result<Vec<String>>,
    open: impl FnMut(usize) -> Result<G>,
) -> Result<Option<Vec<G>>> {
    let (device, precision) = (params.device, params.precision);
    let numbers = match device {
        Device::Cpu => return Ok(None),
        Device::Cuda(Some(number)) => Ok(vec![number; ranks.len()]),
        Device::Auto | Device::Cuda(None) => match given.first() {
            Some(address) => Ok(vec![given_number(device, address)?; ranks.len()]),
            None => spread(names, ranks),
        },
    };
    match numbers.and_then(|numbers| open_each(&numbers, open)) {
        Ok(gpus) => Ok(Some(gpus)),
        Err(e) if device == Device::Auto && precision == Precision::F32 => {
            info!("training runs on the CPU, as device is auto and {e}");
            Ok(None)
        }
        Err(e) if device == Device::Auto => Err(Error::argument(format!(
            "precision is {precision}, which needs a GPU, and device auto found no GPU: {e}; expected f32"
        ))),
        // What is not there now is not there in a moment either.
        Err(e) if e.kind() == Kind::Io => Err(Error::argument(format!("device is {device}: {e}"))),
        Err(e) => Err(e.context(format!("device is {device}"))),
    }
}

fn given_number(device: Device, address: &str) -> Result<usize> {
    number(address).ok_or_else(|| {
        Error::argument(format!(
            "device is {device}, and the GPU that the task was given has the address '{address}', expected its number; \
             device cuda:N names a GPU"
        ))
    })
}

/// The machine's GPUs in turn.
fn spread(names: impl FnOnce() -> Result<Vec<String>>, ranks: Range<usize>) -> Result<Vec<usize>> {
    match names()?.len() {
        0 => Err(Error::new(Kind::Io, "there is no GPU: NVIDIA's driver has none")),
        count => Ok(ranks.map(|rank| rank % count).collect()),
    }
}

/// Each GPU once, as opening it compiles its kernels.
fn open_each<G: Clone>(numbers: &[usize], mut open: impl FnMut(usize) -> Result<G>) -> Result<Vec<G>> {
    let mut opened: Vec<(usize, G)> = Vec::new();
    let one = |number: &usize| {
        if let Some((_, gpu)) = opened.iter().find(|(of, _)| of == number) {
            return Ok(gpu.clone());
        }
        let gpu = open(*number)?;
        opened.push((*number, gpu.clone()));
        Ok(gpu)
    };
    numbers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(device: &str, precision: &str) -> Params {
        let json = format!(r#"{{"device": "{device}", "precision": "{precision}"}}"#);
        Params::from_map(&serde_json::from_str(&json).unwrap()).unwrap()
    }

    const NO_DRIVER: &str = "there is no GPU: looked for libcuda.so";

    /// What `workers` take on a machine with so many GPUs, and which of them were opened.
    fn taken(
        (device, precision): (&str, &str),
        given: &[&str],
        ranks: Range<usize>,
        gpus: Option<usize>,
    ) -> (Result<Option<Vec<usize>>>, Vec<usize>) {
        let given: Vec<String> = given.iter().map(|address| (*address).to_owned()).collect();
        let names = || match gpus {
            Some(count) => Ok(vec!["NVIDIA H200".to_owned(); count]),
            None => Err(Error::new(Kind::Io, NO_DRIVER)),
        };
        let mut opened = Vec::new();
        let open = |number: usize| {
            opened.push(number);
            match gpus {
                Some(count) if number < count => Ok(number),
                Some(_) => Err(Error::new(Kind::Io, format!("there is no device cuda:{number}"))),
                None => Err(Error::new(Kind::Io, NO_DRIVER)),
            }
        };
        let taken = pick(&params(device, precision), &given, ranks, names, open);
        (taken, opened)
    }

    #[test]
    fn texts_are_read_and_written() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:12"] {
            let device: Device = text.parse().unwrap();
            assert_eq!(device.to_string(), text);
            let json = serde_json::to_value(device).unwrap();
            assert_eq!((&json, serde_json::from_value(json.clone()).ok()), (&text.into(), Some(device)));
        }
        let wrong =
            ["gpu", "", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:1 ", "cuda:1.0", "cuda0"];
        for text in wrong {
            let e = text.parse::<Device>().unwrap_err();
            let expected = "expected auto, cpu, cuda or cuda:N, N a GPU's number";
            assert_eq!(e.to_string(), format!("device is '{text}', {expected}"));
        }
        assert!("cuda:99999999999999999999999".parse::<Device>().is_err());
    }

    #[test]
    fn workers_take_what_they_were_given_else_the_machines_gpus_in_turn() {
        let of = |device, given: &[&str], ranks, gpus| {
            let (taken, opened) = taken((device, "f32"), given, ranks, gpus);
            (taken.unwrap(), opened)
        };
        for device in ["auto", "cuda"] {
            assert_eq!(of(device, &[], 0..1, Some(4)), (Some(vec![0]), vec![0]));
            assert_eq!(of(device, &[], 6..7, Some(4)), (Some(vec![2]), vec![2]));
            assert_eq!(of(device, &[], 0..5, Some(2)), (Some(vec![0, 1, 0, 1, 0]), vec![0, 1]));
            assert_eq!(of(device, &["3", "1"], 2..3, Some(4)), (Some(vec![3]), vec![3]));
        }
        assert_eq!(of("cuda:1", &["3"], 0..3, Some(4)), (Some(vec![1; 3]), vec![1]));
        // Nobody looks for a driver.
        assert_eq!(of("cpu", &["3"], 0..2, None), (None, vec![]));
    }

    #[test]
    fn auto_trains_on_the_cpu_where_no_gpu_can_be_had() {
        for (given, gpus) in [(&[][..], None), (&[][..], Some(0)), (&["5"][..], Some(4)), (&["0"][..], None)]
        {
            assert_eq!(taken(("auto", "f32"), given, 0..2, gpus).0.unwrap(), None);
        }
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let of = |asked, given: &[&str], gpus| {
            let e = taken(asked, given, 0..2, gpus).0.unwrap_err();
            // Running it again would not help.
            assert_eq!(e.kind(), Kind::InvalidArgument);
            e.to_string()
        };
        assert_eq!(of(("cuda", "f32"), &[], None), format!("device is cuda: {NO_DRIVER}"));
        assert_eq!(of(("cuda:9", "f32"), &[], Some(1)), "device is cuda:9: there is no device cuda:9");
        assert_eq!(
            of(("cuda", "f32"), &[], Some(0)),
            "device is cuda: there is no GPU: NVIDIA's driver has none"
        );
        assert_eq!(
            of(("auto", "bf16"), &[], None),
            format!(
                "precision is bf16, which needs a GPU, and device auto found no GPU: {NO_DRIVER}; expected f32"
            )
        );
        for device in ["auto", "cuda"] {
            assert_eq!(
                of((device, "f32"), &["GPU-1f", "0"], Some(4)),
                format!(
                    "device is {device}, and the GPU that the task was given has the address 'GPU-1f', expected its number; \
                     device cuda:N names a GPU"
                )
            );
        }
        let by_number = taken(("cuda:2", "f32"), &["GPU-1f"], 0..1, Some(4)).0.unwrap();
        assert_eq!(by_number, Some(vec![2]));
    }

    #[test]
    fn a_bug_in_a_kernel_stays_one() {
        let broken = |_| Err::<usize, _>(Error::internal("product.cu for compute_90: syntax"));
        let names = || Ok(vec!["NVIDIA H200".to_owned()]);
        let e = pick(&params("cuda", "f32"), &[], 0..1, names, broken).unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (Kind::Internal, "device is cuda: product.cu for compute_90: syntax")
        );
    }
}
