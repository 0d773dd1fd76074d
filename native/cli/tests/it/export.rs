//! `firesteel export`. What is in the file is tested in `native/onnx` and `tests/onnx`.

use std::fs;

use super::{CONFIG, firesteel, flights, stderr, train};

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    assert!(train(folder.path(), &CONFIG.replace("40", "1"), &[]).status.success());
    let export = |out: &str| firesteel(folder.path(), &["export", "--model", "model", "--out", out]);
    let place = folder.path().join("model.onnx");
    // Whoever holds the file of before keeps it.
    fs::write(&place, "before").unwrap();
    fs::hard_link(&place, folder.path().join("before")).unwrap();
    let output = export("model.onnx");
    assert!(output.status.success() && output.stdout.is_empty(), "{}", stderr(&output));
    assert_eq!(fs::read(folder.path().join("before")).unwrap(), b"before");
    let file = fs::read(&place).unwrap();
    assert!(file.starts_with(b"\x08\x08\x12\x09firesteel"));

    let output = export("nowhere/model.onnx");
    assert!(stderr(&output).contains("cannot write nowhere/model.onnx"), "{}", stderr(&output));
    fs::remove_file(folder.path().join("model/spec.json")).unwrap();
    let output = export("model.onnx");
    assert!(stderr(&output).contains("the model has no file spec.json"), "{}", stderr(&output));
    assert_eq!(fs::read(&place).unwrap(), file);
}

#[test]
fn what_cannot_be_exported_is_named() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    let csv = fs::read_to_string(folder.path().join("flights.csv")).unwrap();
    fs::write(folder.path().join("flights.csv"), csv.replace("distance", "prediction")).unwrap();
    let config = CONFIG.replace("distance", "prediction").replace("40", "1");
    assert!(train(folder.path(), &config, &[]).status.success());
    let output = firesteel(folder.path(), &["export", "--model", "model", "--out", "model.onnx"]);
    let expected = "exporting model model: feature column 'prediction' has the name of an output";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    assert!(!folder.path().join("model.onnx").exists());
}
