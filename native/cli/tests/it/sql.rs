//! `firesteel sql`.

use std::fs;
use std::path::Path;

use crate::{firesteel, stderr};

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
