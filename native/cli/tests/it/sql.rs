//! `firesteel sql`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
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

/// What an example prints that runs in this folder, as CSV.
fn example(name: &str, folder: &Path, models: &Path) -> String {
    let script = root().join("examples/sql").join(name);
    let models = models.to_str().unwrap();
    let arguments = ["sql", "--models", models, "--format", "csv", "-f", script.to_str().unwrap()];
    stdout(folder, &arguments)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The results from the one on that has this header, or one that begins so.
fn results<'a>(printed: &'a str, header: &str) -> &'a str {
    let at = printed.find(header).unwrap_or_else(|| panic!("no {header} in {printed}"));
    &printed[at..]
}

/// The cells of so many lines behind a header.
fn rows<'a>(printed: &'a str, header: &str, count: usize) -> Vec<Vec<&'a str>> {
    let lines = results(printed, header).lines().skip(1).take(count);
    let cells: Vec<Vec<_>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(cells.len(), count, "{printed}");
    cells
}

fn number(cell: &str) -> f64 {
    cell.parse().unwrap_or_else(|_| panic!("no number: {cell}"))
}

#[test]
fn the_example_of_the_flights() {
    let models = tempfile::tempdir().unwrap();
    let data = root().join("examples/data/nycflights13");
    let printed = example("flight-delays.sql", &data, models.path());
    let measures = results(&printed, "precision,");
    assert!((0.0..=1.0).contains(&value(measures, "roc_auc")), "{printed}");
    assert_eq!(results(&printed, "part,").lines().count(), 11, "{printed}");
    let models = models.path().to_str().unwrap();

    // Lists become text.
    let probabilities = "SELECT [0.5, 0.25] AS p, 1 AS one";
    let csv = stdout(&data, &["sql", "--models", models, "--format", "csv", "-c", probabilities]);
    assert_eq!(csv, "p,one\n\"[0.5, 0.25]\",1\n");

    // The next run finds the model.
    let again = stdout(&data, &["sql", "--models", models, "--format", "csv", "-c", "SHOW MODELS"]);
    assert!(again.contains("delays"), "{again}");
}

#[test]
fn the_example_of_the_digits() {
    let models = tempfile::tempdir().unwrap();
    let printed = example("digits.sql", &root(), models.path());
    let accuracy = value(&printed, "accuracy");
    assert!(accuracy >= 0.97, "{printed}");
    let matrix = rows(&printed, "expected_label,", 10);
    let right: f64 = (0..10).map(|digit| number(matrix[digit][1 + digit])).sum();
    let all: f64 = matrix.iter().flat_map(|row| &row[1..]).map(|cell| number(cell)).sum();
    assert!((358.5..359.5).contains(&all) && (right / all - accuracy).abs() < 1e-9, "{printed}");
    // Three pictures of eight lines.
    assert_eq!(results(&printed, "id,digit,").lines().count(), 1 + 24, "{printed}");
}

/// Ratings in the format of InstEval. Half the students like the lectures that the other half does not, which no mean of a
/// student or a lecturer shows. Student 7 has rated all lecturers but 4, 9, 14 and so on.
fn ratings(folder: &Path) {
    let mut csv = String::from("student,lecturer,studage,lectage,service,dept,rating\n");
    for student in 1..=300 {
        for lecturer in (1..=100).filter(|lecturer| (student * 31 + lecturer * 17) % 5 != 0) {
            let mood = f64::from(student * 37 % 11 - 5) / 5.0 + f64::from(lecturer * 53 % 13 - 6) / 6.0;
            let (service, likes) = (lecturer % 2, if (student + lecturer) % 2 == 0 { 0.8 } else { -0.8 });
            let rating = (3.0 + mood + likes).round().clamp(1.0, 5.0);
            let (studage, lectage, dept) = (2 + student % 4 * 2, 1 + (student + lecturer) % 6, lecturer % 5);
            csv += &format!("{student},{lecturer},{studage},{lectage},{service},{dept},{rating}\n");
        }
    }
    fs::write(folder.join("insteval.csv"), csv).unwrap();
}

#[test]
fn the_example_of_the_recommendation() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ratings(folder);
    let printed = example("recommendation.sql", folder, &folder.join("models"));
    let errors = results(&printed, "ratings,mean_only");
    assert!((2300.0..2500.0).contains(&value(errors, "ratings")), "{printed}");
    assert!(value(errors, "mean_only") > 1.1 && value(errors, "biases_only") > 0.8, "{printed}");
    assert!(value(errors, "network") < 0.5, "{printed}");
    let parts = rows(&printed, "part,", 5);
    assert!(number(parts[0][3]) > 4.0 && number(parts[4][3]) < 2.0, "{printed}");

    let best = rows(&printed, "lecturer,", 10);
    let lecturers: Vec<_> = best.iter().map(|row| row[0].parse::<u32>().unwrap()).collect();
    assert!(lecturers.iter().all(|lecturer| lecturer % 5 == 4), "rated already: {printed}");
    assert!(lecturers[..5].iter().all(|lecturer| lecturer % 2 == 1), "disliked: {printed}");
}

#[test]
fn the_example_of_the_churn() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let printed = example("churn.sql", folder, &folder.join("models"));
    let features = rows(&printed, "input,", 8);
    assert!(features.iter().any(|row| row[0] == "days_away" && row[7] == "705"), "{printed}");
    assert!(features.iter().any(|row| row[0] == "tags" && row[9] == "multi-hot"), "{printed}");
    // Who knows the rule has 0.848.
    assert!(value(results(&printed, "precision,"), "roc_auc") > 0.82, "{printed}");
    // All that leave, and no one else, would be 5,450; to call all loses 1,825.
    assert!((2300.0..5450.0).contains(&value(results(&printed, "call_from,"), "gained")), "{printed}");
    let parts = rows(&printed, "part,", 5);
    assert!(number(parts[0][1]) > 48.0 && number(parts[4][1]) < 5.0, "{printed}");
    assert_eq!(rows(&printed, "id,probability,", 11)[10][0], "line", "ten to call: {printed}");
    let offered = rows(&printed, "line,customers", 3);
    assert!(offered.iter().all(|row| number(row[3]) < number(row[2])), "{printed}");
}

#[test]
fn the_example_of_the_anomaly() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let sample = fs::read_to_string(root().join("examples/data/nycflights13/weather.csv")).unwrap();
    // Of the whole table: the wind that cannot be, and the snow that others are compared with.
    let slip = "EWR,2013,2,12,3,39.02,26.96,61.63,260,1048.36058,NA,0,1008.3,10,2013-02-12T08:00:00Z";
    let snow = "JFK,2013,3,8,6,30.92,28.94,92.25,10,23.0156,NA,0.02,1003.9,1,2013-03-08T11:00:00Z";
    fs::write(folder.join("weather.csv"), format!("{}\n{slip}\n{snow}\n", sample.trim_end())).unwrap();
    let printed = example("anomaly.sql", folder, &folder.join("models"));
    let odd = rows(&printed, "origin,day,hour,loss", 12);
    assert_eq!(odd[0][..3], ["EWR", "2013-02-12", "3"], "{printed}");
    assert_eq!(odd[0][4], "wind_speed", "{printed}");
    assert!(number(odd[0][3]) > 1.5 * number(odd[1][3]), "{printed}");
    let near = rows(&printed, "origin,day,hour,temp", 6);
    assert_eq!((near[0][1], number(near[0][7])), ("2013-03-08", 0.0), "{printed}");
    assert!(near.iter().all(|row| number(row[7]) < 2.0), "{printed}");
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
fn a_training_that_is_interrupted_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = "CREATE MODEL m OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['y'], hidden_units = [4], \
                  sync = 'average', workers = 2, max_iterations = 100000000) \
                  AS SELECT value AS x, 2 * value AS y FROM generate_series(1, 100)";
    let mut command = Command::new(env!("CARGO_BIN_EXE_firesteel"));
    command.current_dir(folder).args(["sql", "-c", create]).stderr(Stdio::piped());
    let mut training = Running(command.spawn().unwrap());
    let mut told = BufReader::new(training.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line.starts_with("epoch   2")));
    let interrupt = Command::new("kill").args(["-INT", &training.0.id().to_string()]).status().unwrap();
    assert!(interrupt.success() && !training.0.wait().unwrap().success());
    let rest: Vec<String> = told.collect();
    assert!(rest.last().unwrap().contains("stopped"), "{rest:?}");
    assert!(!folder.join("models/public/m").exists());
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
