//! The checks again under NVIDIA's compute-sanitizer, where it is installed.

use std::process::{Command, Stdio};

use super::Options;
use crate::report::{Report, wrong};

const TOOL: &str = "compute-sanitizer";

/// What it exits with when it has found something; the checks themselves exit with 1.
const FOUND: i32 = 86;

/// Lines of what it says that are passed on.
const LINES: usize = 20;

pub(super) fn run(options: &Options, report: &mut Report) {
    let there = Command::new(TOOL).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_err() {
        return report.skip(TOOL, "it was not found on PATH");
    }
    for tool in ["memcheck", "racecheck"] {
        report.check(&format!("{TOOL}, {tool}"), || {
            let io = |e: std::io::Error| wrong(format!("{TOOL} cannot be run: {e}"));
            let mut command = Command::new(TOOL);
            command.args(["--tool", tool, "--error-exitcode", &FOUND.to_string()]);
            if tool == "memcheck" {
                command.args(["--leak-check", "full"]);
            }
            command.arg(std::env::current_exe().map_err(io)?);
            command.args(["check", "--quick", "--device", &options.device.to_string()]);
            command.args(["--only", "networks,training", "--precision", "f32,bf16"]);
            let done = command.output().map_err(io)?;
            if done.status.success() {
                return Ok("nothing found".into());
            }
            let said = String::from_utf8_lossy(&done.stdout);
            let told =
                said.lines().filter(|line| line.starts_with("=========") || line.starts_with("FAILED"));
            let told: Vec<&str> = told.take(LINES).collect();
            Err(wrong(format!("{}\n{}", done.status, told.join("\n"))))
        });
    }
}
