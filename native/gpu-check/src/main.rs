//! The command `gpu-check`: whether a GPU computes what the CPU does and gives back what it takes, and how fast it is.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `device` | which device, and in which precisions |
//! | `report` | a line a check |
//! | `work` | networks and batches |
//! | `check` | a file a check |
//! | `bench` | times beside PyTorch's and beside what the card can do |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod bench;
mod check;
mod device;
mod report;
mod work;

#[cfg(feature = "emulated")]
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use firesteel_error::Result;

/// Whether a GPU computes what the CPU does and gives back what it takes, and how fast it is.
#[derive(Debug, Parser)]
#[command(name = "gpu-check", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare with the CPU, look for leaks, run out of memory.
    Check(check::Options),
    /// Measure steps and kernels.
    Bench(bench::Options),
    /// Write the kernels as libraries for the tests' driver without a card.
    #[cfg(feature = "emulated")]
    #[command(hide = true)]
    Emulate {
        /// Where.
        folder: PathBuf,
        /// Of f32, tf32, bf16 and f16.
        #[arg(value_parser = device::precision)]
        precision: Vec<firesteel_engine::Precision>,
    },
}

/// The compute capability of the tests' driver.
#[cfg(feature = "emulated")]
const CAPABILITY: [i32; 2] = [9, 1];

fn main() -> ExitCode {
    let outcome: Result<bool> = match Arguments::parse().command {
        Command::Check(options) => check::run(&options),
        Command::Bench(options) => bench::run(&options).map(|()| true),
        #[cfg(feature = "emulated")]
        Command::Emulate { folder, precision } => precision
            .into_iter()
            .try_for_each(|precision| firesteel_engine::Gpu::write_emulated(precision, CAPABILITY, &folder))
            .map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("gpu-check: {e}");
            ExitCode::FAILURE
        }
    }
}
