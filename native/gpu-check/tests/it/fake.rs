//! On a driver without a card, which ends the process when it is used in a way that NVIDIA's forbids: `fake_cuda.cpp`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// The driver's folder, with the kernels that it runs and what NVRTC compiled; none without NVRTC.
static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    if std::env::var_os("FIRESTEEL_NVRTC").is_none() {
        eprintln!("skipped: FIRESTEEL_NVRTC names no NVRTC");
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake-driver");
    _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let driver = folder.join("libcuda.so");
    compile("fake_cuda.cpp", &driver, &["-ldl"]);
    for (source, within, library) in [
        ("fake_cublaslt.cpp", PRODUCTS, "libcublasLt.so"),
        ("fake_cudnn.cpp", CONVOLUTIONS, "libcudnn.so"),
        ("fake_nccl.cpp", SUMS, "libnccl.so"),
    ] {
        std::fs::create_dir(folder.join(within)).unwrap();
        compile(source, &folder.join(within).join(library), &[driver.to_str().unwrap()]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    command.arg("emulate").arg(&folder).args(["f32", "bf16"]).env("FIRESTEEL_CACHE", folder.join("cache"));
    assert!(command.status().unwrap().success());
    Some(folder)
});

/// Where cuBLASLt is, for who is to find it.
const PRODUCTS: &str = "products";

/// The same of cuDNN.
const CONVOLUTIONS: &str = "convolutions";

/// The same of NCCL.
const SUMS: &str = "sums";

fn compile(source: &str, library: &Path, with: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source);
    let mut command = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".into()));
    command
        .args(["-std=c++17", "-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .arg(library)
        .arg(source)
        .args(with);
    assert!(command.status().unwrap().success());
}

/// What `gpu-check` says on that driver; none without NVRTC.
fn check(arguments: &[&str], variables: &[(&str, &str)]) -> Option<Output> {
    gpu_check(&[&["check"], arguments].concat(), variables)
}

fn gpu_check(arguments: &[&str], variables: &[(&str, &str)]) -> Option<Output> {
    let folder = FOLDER.as_ref()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    command.args(arguments).env("LD_LIBRARY_PATH", folder).env("FAKE_CUDA_KERNELS", folder);
    command.env("FIRESTEEL_CACHE", folder.join("cache")).envs(variables.iter().copied());
    Some(command.output().unwrap())
}

fn said(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    texts.join("")
}

#[test]
fn all_checks_pass_on_a_strict_driver() {
    let Some(done) = check(&["--quick", "--precision", "f32,bf16"], &[]) else { return };
    let said = said(&done);
    assert!(done.status.success(), "{said}");
    assert!(said.contains(" passed, 0 failed") && said.contains("Fake 0"), "{said}");
    // Launches were kept and replayed.
    assert!(!said.contains(" 0 graphs were launched"), "{said}");
}

/// Plans of one check, then one of another.
const SHORT: [&str; 7] = ["--quick", "--plans", "1", "--precision", "f32", "--only", "leaks,memory"];

#[test]
fn a_call_that_fails_is_an_error_and_others_go_on() {
    let all = [
        ("cuMemAlloc_v2:4:2", "the GPU has no 64 bytes: ", "the plan's largest: "),
        ("cuMemAlloc_v2:30:999", "allocating memory", "CUDA_ERROR_UNKNOWN"),
        ("cuMemHostAlloc:5:2", "that the GPU can read", "no memory for"),
        ("cuMemHostAlloc:5:999", "pinning memory", "CUDA_ERROR_UNKNOWN"),
        ("cuMemsetD8Async:6:1", "clearing memory", "CUDA_ERROR_INVALID_VALUE"),
        ("cuStreamCreate:2:999", "making a stream", "CUDA_ERROR_UNKNOWN"),
        ("cuEventCreate:5:999", "making an event", "CUDA_ERROR_UNKNOWN"),
        ("cuEventRecord:4:999", "recording an event", "CUDA_ERROR_UNKNOWN"),
        ("cuStreamWaitEvent:3:999", "holding a stream", "CUDA_ERROR_UNKNOWN"),
        ("cuMemcpyHtoDAsync_v2:7:1", "copying to a card", "CUDA_ERROR_INVALID_VALUE"),
        ("cuMemcpyDtoHAsync_v2:4:1", "copying from a card", "CUDA_ERROR_INVALID_VALUE"),
        ("cuLaunchKernel:9:719", "starting ", "CUDA_ERROR_LAUNCH_FAILED"),
        ("cuLaunchKernel:70:719", "starting ", "CUDA_ERROR_LAUNCH_FAILED"),
        ("cuStreamBeginCapture_v2:1:999", "capturing a step", "CUDA_ERROR_UNKNOWN"),
        ("cuStreamEndCapture:2:999", "capturing a step", "CUDA_ERROR_UNKNOWN"),
        ("cuGraphInstantiateWithFlags:1:2", "making a graph", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuGraphLaunch:2:719", "starting a step", "CUDA_ERROR_LAUNCH_FAILED"),
    ];
    for (fail, doing, words) in all {
        let Some(done) = check(&SHORT, &[("FAKE_CUDA_FAIL", fail)]) else { return };
        let said = said(&done);
        assert_eq!(done.status.code(), Some(1), "{fail}: {said}");
        assert!(said.contains(doing) && said.contains(words), "{fail}: {said}");
        assert!(
            said.contains("ok      a plan that is too large") && said.contains("1 failed"),
            "{fail}: {said}"
        );
    }
}

#[test]
fn a_kernel_that_fails_is_an_error_of_all_that_follows() {
    for nth in [3, 40, 90] {
        let fail = format!("kernel:{nth}:700");
        let Some(done) = check(&SHORT, &[("FAKE_CUDA_FAIL", &fail)]) else { return };
        let said = said(&done);
        assert_eq!(done.status.code(), Some(1), "{fail}: {said}");
        assert!(said.contains("CUDA_ERROR_ILLEGAL_ADDRESS") && said.contains("2 failed"), "{fail}: {said}");
        assert!(!said.contains("panicked"), "{fail}: {said}");
    }
}

#[test]
fn a_card_that_does_not_open_says_why() {
    let all = [
        (["FAKE_CUDA_FAIL", "cuInit:1:999"], "cuda:0", "the GPU's driver, starting: "),
        (["FAKE_CUDA_DEVICES", "0"], "cuda:0", "CUDA_ERROR_NO_DEVICE"),
        (["FAKE_CUDA_DEVICES", "2"], "cuda:2", "there is no device cuda:2; the driver has Fake 0, Fake 1"),
        (["FAKE_CUDA_FAIL", "cuDevicePrimaryCtxRetain:1:2"], "cuda:0", "CUDA_ERROR_OUT_OF_MEMORY"),
    ];
    for ([name, value], device, words) in all {
        let Some(done) = check(&["--device", device], &[(name, value)]) else { return };
        let said = said(&done);
        assert!(done.status.code() == Some(1) && said.contains(words), "{value}: {said}");
    }
    let all = [
        ("f32", ["FAKE_CUDA_FAIL", "cuModuleLoadData:3:222"], "loading kernels"),
        ("f32", ["FAKE_CUDA_FAIL", "cuModuleGetFunction:5:500"], "looking a kernel up"),
        ("bf16", ["FAKE_CUDA_CAPABILITY", "7.5"], "precision is bf16, which needs compute capability 8.0"),
    ];
    for (precision, [name, value], words) in all {
        let arguments = ["--quick", "--only", "networks", "--precision", precision];
        // Nothing can be kept there: what was kept and is not taken would be compiled anew.
        let nowhere = ("FIRESTEEL_CACHE", "/dev/null/kernels");
        let Some(done) = check(&arguments, &[(name, value), nowhere]) else { return };
        let said = said(&done);
        assert!(done.status.code() == Some(1) && said.contains(words), "{value}: {said}");
    }
}

#[test]
fn the_second_of_two_cards_is_used_like_the_first() {
    let arguments = [&SHORT[..], &["--device", "cuda:1"]].concat();
    let Some(done) = check(&arguments, &[("FAKE_CUDA_DEVICES", "2")]) else { return };
    let said = said(&done);
    assert!(done.status.success() && said.contains("Fake 1"), "{said}");
}

#[test]
fn a_small_benchmark_ends_on_a_strict_driver() {
    let arguments = ["bench", "--small", "--precision", "f32", "--rounds", "1", "--seconds", "0.01"];
    let python = ["--python", "/there/is/no/python"];
    let Some(done) = gpu_check(&[&arguments[..], &python].concat(), &[]) else { return };
    let said = said(&done);
    assert!(done.status.success() && said.contains("| scatter | f32 |"), "{said}");
    assert!(said.contains("skipped PyTorch: cannot run /there/is/no/python"), "{said}");
}

#[test]
fn a_library_multiplies_where_it_computes_the_same() {
    let Some(folder) = FOLDER.as_ref() else { return };
    let path = format!("{}:{}", folder.display(), folder.join(PRODUCTS).display());
    for precision in ["f32", "bf16"] {
        let arguments = ["--quick", "--plans", "4", "--only", "networks,leaks", "--precision", precision];
        let Some(done) = check(&arguments, &[("LD_LIBRARY_PATH", &path)]) else { return };
        let said = said(&done);
        assert!(done.status.success() && !said.contains("fake cuBLASLt: 0 products"), "{said}");
        assert!(said.contains("fake cuBLASLt: "), "{said}");
    }
}

#[test]
fn a_library_convolves_where_it_computes_the_same() {
    let Some(folder) = FOLDER.as_ref() else { return };
    let path = format!("{}:{}", folder.display(), folder.join(CONVOLUTIONS).display());
    let arguments = ["--quick", "--only", "networks,training", "--precision", "f32,bf16"];
    // Ours is never the fastest: whatever the library computes as ours does is taken.
    let variables = [("LD_LIBRARY_PATH", path.as_str()), ("FAKE_CUDA_SLOW", "convolution:5000")];
    let Some(done) = check(&arguments, &variables) else { return };
    let said = said(&done);
    assert!(done.status.success(), "{said}");
    for pass in ["forward", "backward filter", "backward data"] {
        let line = said.lines().find(|line| line.starts_with(&format!("fake cuDNN: {pass}: ")));
        assert!(
            line.is_some_and(|line| !line.contains(": 0 shapes") && line.ends_with(", 0 not taken")),
            "{said}"
        );
    }
}

#[test]
fn gpus_add_up_by_nccl() {
    let Some(folder) = FOLDER.as_ref() else { return };
    let path = format!("{}:{}", folder.display(), folder.join(SUMS).display());
    let arguments = ["--quick", "--only", "peers", "--precision", "f32"];
    for (cards, seed) in [("2", "1"), ("3", "2")] {
        let variables = [("LD_LIBRARY_PATH", &*path), ("FAKE_CUDA_DEVICES", cards), ("FAKE_CUDA_SEED", seed)];
        let Some(done) = check(&arguments, &variables) else { return };
        let said = said(&done);
        assert!(done.status.success() && said.contains(&format!("ok      {cards} GPUs, ")), "{said}");
        assert!(said.contains("fake NCCL: ") && !said.contains("fake NCCL: 0 groups"), "{said}");
    }
    let without = [("LD_LIBRARY_PATH", &*path), ("FAKE_CUDA_DEVICES", "2"), ("FIRESTEEL_NCCL", "off")];
    for (variables, words) in [(&without[..], "there is no NCCL"), (&without[..1], "there is one")] {
        let Some(done) = check(&arguments, variables) else { return };
        let said = said(&done);
        assert!(done.status.success() && said.contains(words), "{said}");
    }
}
