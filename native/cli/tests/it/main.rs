//! The command as a user runs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod export;
mod sql;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;

/// 400 flights whose lateness depends on a number and a string.
fn flights(folder: &Path) {
    let mut csv = String::from("distance,carrier,late\n");
    for i in 0..400 {
        let (distance, carrier) = (i % 37, ["AA", "BB", "CC"][i % 3]);
        let late = u8::from(distance > 18) ^ u8::from(carrier == "BB");
        csv += &format!("{distance},{carrier},{late}\n");
    }
    fs::write(folder.join("flights.csv"), csv).unwrap();
}

const CONFIG: &str = r#"{
    "task": "classification",
    "network": {"tabular": {"hidden": [16]}},
    "params": {"epochs": 40, "batch_size": 32, "learning_rate": 0.02},
    "data": {"features": [{"column": "distance"}, {"column": "carrier"}], "label": "late"}
}"#;

fn firesteel(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_firesteel")).current_dir(folder).args(arguments).output().unwrap()
}

fn train(folder: &Path, config: &str, more: &[&str]) -> Output {
    fs::write(folder.join("config.json"), config).unwrap();
    let arguments = ["train", "--config", "config.json", "--data", "flights.csv", "--out", "model"];
    firesteel(folder, &[arguments.as_slice(), more].concat())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn trains_and_predicts() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    for workers in ["1", "2"] {
        let trained = train(folder.path(), CONFIG, &["--workers", workers]);
        assert!(trained.status.success(), "{}", stderr(&trained));
        assert_eq!(stderr(&trained), "training on cpu\n");
        let lines = String::from_utf8(trained.stdout).unwrap();
        assert_eq!(lines.lines().count(), 40);
        assert!(lines.starts_with("epoch   1  step      13  loss 0."), "{lines}");

        let scored = firesteel(folder.path(), &["predict", "--model", "model", "--data", "flights.csv"]);
        assert!(scored.status.success(), "{}", stderr(&scored));
        let csv = fs::read_to_string(folder.path().join("flights.csv")).unwrap();
        let truth = csv.lines().skip(1).map(|l| l.rsplit(',').next().unwrap());
        let scores = String::from_utf8(scored.stdout).unwrap();
        assert_eq!(scores.lines().next(), Some("prediction,probability_0,probability_1"));
        let hits = scores.lines().skip(1).zip(truth).filter(|(s, t)| s.split(',').next() == Some(*t)).count();
        assert!(hits > 390, "{hits} of 400 right with {workers} workers");
        fs::remove_dir_all(folder.path().join("model")).unwrap();
    }
}

/// The losses that were printed, without the samples a second.
fn losses(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let loss = |line: &str| line.split_whitespace().nth(5).unwrap().to_string();
    text.lines().map(loss).collect()
}

#[test]
fn any_number_of_workers_prints_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    let config = CONFIG.replace("40", "3");
    let alone = losses(&train(folder.path(), &config, &[]));
    assert_eq!(alone.len(), 3);
    for workers in ["2", "3"] {
        fs::remove_dir_all(folder.path().join("model")).unwrap();
        assert_eq!(losses(&train(folder.path(), &config, &["--workers", workers])), alone);
    }
}

#[test]
fn workers_train_together_as_they_are_told() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    let with = |strategy: &str| {
        CONFIG.replace("\"epochs\": 40", &format!("\"strategy\": \"{strategy}\", \"epochs\": 3"))
    };
    let trained = train(folder.path(), &with("two_phase(bf16, bf16)"), &["--workers", "2"]);
    assert!(trained.status.success(), "{}", stderr(&trained));
    fs::remove_dir_all(folder.path().join("model")).unwrap();
    let refused = |strategy: &str| {
        let refused = train(folder.path(), &with(strategy), &["--workers", "3"]);
        assert!(!refused.status.success() && !folder.path().join("model").exists());
        stderr(&refused)
    };
    assert!(
        refused("two_fase").contains("strategy: there is no strategy 'two_fase', expected one of sharded, ")
    );
    assert!(refused("dpsgd(shift_one)").contains("shift_one among 3 workers, expected an even number"));

    let listed = firesteel(folder.path(), &["strategies"]);
    assert!(
        String::from_utf8(listed.stdout)
            .unwrap()
            .contains("  two_phase(to=plain, from=plain, feedback=false)\n")
    );
    let unknown = firesteel(folder.path(), &["strategies", "two_fase"]);
    assert!(
        !unknown.status.success() && stderr(&unknown).starts_with("firesteel: nothing is called 'two_fase'")
    );
}

#[test]
fn training_goes_on_from_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    let run = |epochs: &str, more: &[&str]| {
        _ = fs::remove_dir_all(folder.path().join("model"));
        let output = train(folder.path(), &CONFIG.replace("40", epochs), more);
        assert!(output.status.success(), "{}", stderr(&output));
        (losses(&output), fs::read(folder.path().join("model/weights.safetensors")).unwrap())
    };
    let (all, weights) = run("5", &[]);
    let (first, _) = run("2", &["--checkpoint", "c.safetensors"]);
    // Whoever holds the checkpoint of before keeps it: a new one takes its place and is not written over it.
    let (place, second) = (folder.path().join("c.safetensors"), folder.path().join("second"));
    fs::hard_link(&place, &second).unwrap();
    let before = fs::read(&place).unwrap();
    let (rest, resumed) = run("5", &["--checkpoint", "c.safetensors"]);
    assert_eq!([first, rest].concat(), all);
    assert_eq!(resumed, weights);
    assert!(fs::read(&place).unwrap() != before && fs::read(&second).unwrap() == before);
    let (_, _) = run("2", &["--checkpoint", "c.beside"]);
    fs::remove_file(&second).unwrap();
    fs::hard_link(folder.path().join("c.beside"), &second).unwrap();
    let before = fs::read(&second).unwrap();
    let (_, _) = run("3", &["--checkpoint", "c.beside"]);
    assert!(fs::read(&second).unwrap() == before, "a checkpoint was written in place");
    let hidden = |entry: std::io::Result<fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().starts_with(".firesteel")
    };
    assert!(!fs::read_dir(folder.path()).unwrap().any(hidden));
    fs::remove_dir_all(folder.path().join("model")).unwrap();
    let output = train(folder.path(), CONFIG, &["--checkpoint", "nowhere/c"]);
    assert!(stderr(&output).contains("cannot write nowhere/c"), "{}", stderr(&output));
    fs::write(folder.path().join("bad"), "not a checkpoint").unwrap();
    let output = train(folder.path(), CONFIG, &["--checkpoint", "bad"]);
    assert!(stderr(&output).contains("reading the checkpoint: the file of weights cannot be read"));
}

#[test]
fn says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let said = |argument| String::from_utf8(firesteel(folder.path(), &[argument]).stdout).unwrap();
    assert_eq!(said("--version"), concat!("firesteel ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(
        said("--help")
            .starts_with("Deep learning inside Spark jobs and SQL; this command is the engine by itself\n")
    );
}

#[test]
fn mistakes_are_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    let cases = [
        (
            CONFIG.replace("\"epochs\": 40", "\"epoch\": 40"),
            "there is no option 'epoch'; did you mean 'epochs'?",
        ),
        (CONFIG.replace("\"late\"", "\"later\""), "'later'"),
        (CONFIG.replace("\"late\"", "\"distance2\"").replace("distance2", "carrier"), "carrier"),
        (
            CONFIG.replace("{\"column\": \"carrier\"}", "\"carrier\""),
            r#"expected an object like {"column": "distance"}"#,
        ),
        (
            CONFIG.replace("\"epochs\": 40", "\"device\": \"cuda:4321\""),
            "firesteel: device is cuda:4321: there is no ",
        ),
        (CONFIG.replace("[16]", "[0]"), "layer 'hidden1' (linear): outputs is 0, expected at least 1"),
    ];
    for (config, expected) in cases {
        let output = train(folder.path(), &config, &[]);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(expected), "{} should contain {expected}", stderr(&output));
        assert!(!folder.path().join("model").exists());
    }
    fs::create_dir(folder.path().join("model")).unwrap();
    assert!(stderr(&train(folder.path(), CONFIG, &[])).contains("model is there already"));
}

#[test]
fn every_format_of_the_same_rows_gives_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    flights(folder.path());
    let column = |f: fn(usize) -> i64| Arc::new(Int64Array::from_iter_values((0..400).map(f))) as ArrayRef;
    let carrier = StringArray::from_iter_values((0..400).map(|i| ["AA", "BB", "CC"][i % 3]));
    let late = |i: usize| i64::from((i % 37 > 18) != (i % 3 == 1));
    let rows = RecordBatch::try_from_iter([
        ("late", column(late)),
        ("carrier", Arc::new(carrier)),
        ("distance", column(|i| (i % 37) as i64)),
    ])
    .unwrap();
    let create = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
    let mut parquet = ArrowWriter::try_new(create("rows.parquet"), rows.schema(), None).unwrap();
    parquet.write(&rows).unwrap();
    parquet.close().unwrap();
    let mut file = FileWriter::try_new(create("rows.arrow"), &rows.schema()).unwrap();
    file.write(&rows).unwrap();
    file.finish().unwrap();
    let mut stream = StreamWriter::try_new(create("rows.arrows"), &rows.schema()).unwrap();
    stream.write(&rows).unwrap();
    stream.finish().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG.replace("40", "2")).unwrap();
    let weights = ["flights.csv", "rows.parquet", "rows.arrow", "rows.arrows"].map(|data| {
        let out = format!("model of {data}");
        let arguments = ["train", "--config", "config.json", "--data", data, "--out", &out];
        let output = firesteel(folder.path(), &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        fs::read(folder.path().join(out).join("weights.safetensors")).unwrap()
    });
    assert!(weights.iter().all(|w| *w == weights[0]));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    let with = |data: &str| {
        let arguments = ["train", "--config", "config.json", "--data", data, "--out", "model"];
        stderr(&firesteel(folder.path(), &arguments))
    };
    assert!(with("rows.xlsx").contains("cannot read rows.xlsx"));
    fs::write(folder.path().join("rows.xlsx"), "").unwrap();
    assert!(with("rows.xlsx").contains("rows.xlsx ends in none of .parquet, .arrow, .arrows, .csv"));
    fs::write(folder.path().join("rows.parquet"), "PAR").unwrap();
    assert!(with("rows.parquet").contains("cannot read rows.parquet"));
}

#[test]
fn generated_files_are_what_the_tables_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let checked = firesteel(&root, &["generate", "--check"]);
    assert!(checked.status.success(), "{}", stderr(&checked));
}
