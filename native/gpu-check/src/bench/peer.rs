//! PyTorch, in a process that trains when it is told to: `peer.py`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use firesteel_engine::Precision;
use firesteel_error::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::device::Device;

/// As it is; behind `torch.compile`; recorded as a CUDA graph.
pub(super) const VARIANTS: [&str; 3] = ["eager", "compile", "graphs"];

pub(super) struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Of PyTorch.
    pub(super) version: String,
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |e| Error::new(Kind::Io, what.to_owned()).with_source(e)
}

impl Peer {
    /// # Errors
    /// `Io` when there is no Python, no PyTorch, or none for that card.
    pub(super) fn start(python: &Path, kind: &str, device: Device) -> Result<Peer> {
        let number = match device {
            Device::Card(number) => number,
            #[cfg(feature = "emulated")]
            Device::Emulated if kind == "cuda" => return Err(Error::argument("it has no emulated device")),
            #[cfg(feature = "emulated")]
            Device::Emulated => 0,
        };
        let mut command = Command::new(python);
        command.args(["-c", include_str!("peer.py")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(io(&format!("cannot run {}", python.display())))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("a child without pipes"));
        };
        let mut peer = Peer { child, to, from: BufReader::new(from), version: String::new() };
        let answer = peer.ask(&json!({"hello": kind, "number": number}))?;
        peer.version = answer["torch"].as_str().unwrap_or_default().to_owned();
        Ok(peer)
    }

    fn ask(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.to, "{command}").map_err(io("PyTorch's process does not listen"))?;
        self.to.flush().map_err(io("PyTorch's process does not listen"))?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(io("PyTorch's process does not answer"))?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|_| Error::new(Kind::Io, "PyTorch's process ended, and said why above"))?;
        match answer["error"].as_str() {
            Some(error) => Err(Error::new(Kind::Io, error.to_owned())),
            None => Ok(answer),
        }
    }

    fn number(&mut self, command: &Value, name: &str) -> Result<f64> {
        let answer = self.ask(command)?;
        answer[name].as_f64().ok_or_else(|| Error::new(Kind::Io, format!("no {name} in {answer}")))
    }

    /// Multiplications and additions a second of a product of matrices of `side` by `side`.
    pub(super) fn product(&mut self, side: usize, precision: Precision) -> Result<f64> {
        let command = json!({"product": side, "precision": precision.name()});
        Ok(2.0 * (side as f64).powi(3) / self.number(&command, "seconds")?)
    }

    /// Reads what is shared; the first loss.
    pub(super) fn prepare(&mut self, variant: &str, folder: &Path, precision: Precision) -> Result<f64> {
        let command = json!({"prepare": variant, "folder": folder, "precision": precision.name()});
        self.number(&command, "loss")
    }

    /// Seconds a step.
    pub(super) fn round(&mut self, variant: &str, steps: u64) -> Result<f64> {
        let command = json!({"train": variant, "steps": steps});
        Ok(self.number(&command, "seconds")? / steps as f64)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        _ = writeln!(self.to, "{}", json!({"end": true}));
        _ = self.child.wait();
    }
}
