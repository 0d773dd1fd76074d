//! `firesteel sql`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{CONFIG, firesteel, flights, stderr, train};

/// Of a run that must end well.
fn stdout(folder: &Path, arguments: &[&str]) -> String {
    let done = firesteel(folder, arguments);
    assert!(done.status.success(), "{}", stderr(&done));
    String::from_utf8(done.stdout).unwrap()
}

/// A value of a line of CSV with a header.
fn value(csv: &str, column: &str) -> f64 {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let at = lines.next().unwrap().iter().position(|name| *name == column).unwrap();
    lines.next().unwrap()[at].parse().unwrap()
}

#[test]
fn the_example_of_the_flights() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let models = tempfile::tempdir().unwrap();
    let (models, script) = (models.path().to_str().unwrap(), root.join("examples/sql/flight-delays.sql"));
    let data = root.join("examples/data/nycflights13");
    let script = ["sql", "--models", models, "--format", "csv", "-f", script.to_str().unwrap()];
    let printed = stdout(&data, &script);
    let measures =
        printed.split_inclusive('\n').skip_while(|line| !line.starts_with("precision")).collect::<String>();
    assert!((0.0..=1.0).contains(&value(&measures, "roc_auc")), "{printed}");
    assert_eq!(printed.lines().skip_while(|line| !line.starts_with("part,")).count(), 11, "{printed}");

    // Lists become text.
    let probabilities = "SELECT [0.5, 0.25] AS p, 1 AS one";
    let csv = stdout(&data, &["sql", "--models", models, "--format", "csv", "-c", probabilities]);
    assert_eq!(csv, "p,one\n\"[0.5, 0.25]\",1\n");

    // The next run finds the model.
    let again = stdout(&data, &["sql", "--models", models, "--format", "csv", "-c", "SHOW MODELS"]);
    assert!(again.contains("delays"), "{again}");
}

#[test]
fn a_statement_that_fails_ends_a_script() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("a.sql"),
        "SELECT 1 AS one;\nSELECT * FROM ML.PREDICT(MODEL m, TABLE t);\nSELECT 2 AS two;",
    )
    .unwrap();
    let failed = firesteel(folder.path(), &["sql", "-f", "a.sql"]);
    assert!(!failed.status.success());
    let printed = String::from_utf8_lossy(&failed.stdout);
    assert!(printed.contains("one") && !printed.contains("two"), "{printed}");
    assert!(stderr(&failed).contains("model 'm' not found"), "{}", stderr(&failed));
}

/// Ends a program that a failed test leaves behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn a_training_that_is_killed_leaves_the_models_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = |iterations: usize| {
        format!(
            "CREATE OR REPLACE MODEL m OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['y'], hidden_units = [4], \
             max_iterations = {iterations}) AS SELECT value AS x, 2 * value AS y FROM generate_series(1, 100)"
        )
    };
    stdout(folder, &["sql", "-c", &create(2)]);
    let predict =
        ["sql", "--format", "csv", "-c", "SELECT predicted_y FROM ML.PREDICT(MODEL m, (SELECT 5 AS x))"];
    let before = stdout(folder, &predict);

    let mut command = Command::new(env!("CARGO_BIN_EXE_firesteel"));
    command.current_dir(folder).args(["sql", "-c", &create(100_000_000)]).stderr(Stdio::piped());
    let mut training = Running(command.spawn().unwrap());
    let mut epochs = BufReader::new(training.0.stderr.take().unwrap()).lines();
    assert!(epochs.any(|line| line.unwrap().starts_with("epoch   2")));
    // SIGKILL: nothing of the program's own runs after it.
    training.0.kill().unwrap();
    training.0.wait().unwrap();

    let models = stdout(folder, &["sql", "--format", "json", "-c", "SHOW MODELS"]);
    assert!(models.contains(r#""active_version":1,"versions":1"#), "{models}");
    assert_eq!(stdout(folder, &predict), before);
    stdout(folder, &["sql", "-c", "VACUUM MODELS", "-c", &create(2)]);
    assert_eq!(stdout(folder, &predict), before, "the same statement gives the same model");
}

#[test]
fn models_are_measured_and_listed_without_sql() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    flights(folder);
    assert!(train(folder, CONFIG, &[]).status.success());
    let evaluate = ["evaluate", "--model", "model", "--data", "flights.csv", "--format", "csv"];
    let measures = stdout(folder, &evaluate);
    assert!(value(&measures, "accuracy") > 0.95 && value(&measures, "log_loss") < 0.3, "{measures}");
    let failed = firesteel(folder, &["evaluate", "--model", "model", "--data", "config.json"]);
    assert!(!failed.status.success() && stderr(&failed).contains("ends in none of"), "{}", stderr(&failed));

    stdout(folder, &["sql", "-c", "CREATE MODEL late FROM 'model'"]);
    let listed = stdout(folder, &["models", "--format", "csv"]);
    assert!(listed.contains("public,late,1,1,dnn_classifier,classification,late"), "{listed}");
}
