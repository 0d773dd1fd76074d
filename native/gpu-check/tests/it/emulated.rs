//! On the device that runs kernels on the CPU.

use std::process::Command;

#[test]
fn all_checks_pass_on_the_emulated_device() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    let command = command.args(["check", "--device", "emulated", "--quick", "--precision", "f32"]);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}");
    assert!(said.contains(" passed, 0 failed"), "{said}");
}

#[test]
fn a_small_benchmark_ends_with_tables_and_json() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    command.args([
        "bench",
        "--device",
        "emulated",
        "--precision",
        "f32",
        "--rounds",
        "1",
        "--seconds",
        "0.01",
    ]);
    let done = command.arg("--json").arg(&path).output().unwrap();
    let said = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text)).join("");
    assert!(done.status.success() && said.contains("| mlp 12-16-10 | 8 | f32 |"), "{said}");
    assert!(said.contains("skipped PyTorch: "), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(json["steps"].as_array().unwrap().iter().all(|step| step["seconds"].as_f64().unwrap() > 0.0));
    let kernels: Vec<&str> =
        json["kernels"].as_array().unwrap().iter().map(|kernel| kernel["kernel"].as_str().unwrap()).collect();
    assert_eq!(kernels[0], "copy");
    assert_eq!(kernels.len(), 9);
    assert_eq!(json["date"].as_str().unwrap().len(), 10);
}
