//! Model directories: whole or not at all.

use std::sync::Arc;

use firesteel_error::Kind;
use firesteel_train::{Model, Predictor};

use crate::support::*;

fn scores(model: &Model, rows: &arrow_array::RecordBatch) -> Vec<f32> {
    Predictor::new(Arc::new(model.clone()), 1).predict(rows).unwrap().values
}

#[test]
fn what_was_saved_is_loaded_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let network = r#"{"sequential": {"layers": [{"linear": {"outputs": 8}}, {"batch_norm": {}}, "relu"]}}"#;
    let numbers =
        config("regression", network, r#"{"epochs": 2}"#, r#"["distance", "hour"]"#, r#""label": "delay""#);
    let cases = [
        (flights(r#"{"epochs": 2}"#), tabular(200)),
        (digits(r#"{"epochs": 2}"#), images(200)),
        (numbers, tabular(200)),
    ];
    for (number, (config, rows)) in cases.into_iter().enumerate() {
        let model = train(&config, &rows);
        let directory = folder.path().join(format!("deep/model{number}"));
        model.save(&directory).unwrap();
        let loaded = Model::load(&directory).unwrap();
        assert_eq!(loaded.weights(), model.weights());
        assert_eq!(loaded.preprocessing(), model.preprocessing());
        assert_eq!(loaded.history(), model.history());
        assert_eq!(scores(&loaded, &rows), scores(&model, &rows));
        assert_eq!(Model::from_files(&model.files().unwrap()).unwrap().weights(), model.weights());
        let left: Vec<_> = std::fs::read_dir(directory.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), number + 1, "only the models are left: {left:?}");
        let e = model.save(&directory).unwrap_err();
        assert!(e.to_string().ends_with("already exists"), "{e}");
        model.replace(&directory).unwrap();
        assert_eq!(Model::load(&directory).unwrap().weights(), model.weights());
    }
    let e = train(&flights(r#"{"epochs": 1}"#), &tabular(50)).replace(folder.path()).unwrap_err();
    assert!(e.to_string().ends_with("is there and is no model"), "{e}");
}

#[test]
fn a_half_written_directory_is_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = train(&flights(r#"{"epochs": 1}"#), &tabular(100));
    let whole = model.files().unwrap();
    let write = |files: &[(String, Vec<u8>)]| {
        let directory = folder.path().join("m");
        _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(directory.join(name), bytes).unwrap());
        Model::load(&directory)
    };
    write(&whole).unwrap();
    for missing in 0..whole.len() {
        let mut files = whole.clone();
        let (name, _) = files.remove(missing);
        let e = write(&files).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert!(e.message().contains(&format!("has no file {name}")), "{e}");
    }
    for short in 0..whole.len() {
        let mut files = whole.clone();
        let half = files[short].1.len() / 2;
        files[short].1.truncate(half);
        let e = write(&files).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert!(e.message().contains(&files[short].0), "{e}");
    }
    let e = Model::load(folder.path().join("nowhere")).unwrap_err();
    assert!(e.to_string().contains("nowhere: the model has no file model.json"), "{e}");
}

#[test]
fn many_threads_score_at_once() {
    let rows = tabular(300);
    let predictor = Predictor::new(Arc::new(train(&flights(r#"{"epochs": 1}"#), &rows)), 1);
    let expected = predictor.predict(&rows).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in [300, 1, 77, 0] {
                    let part = predictor.predict(&rows.slice(0, n)).unwrap();
                    assert_eq!(part.values, expected.values[..2 * n]);
                }
            });
        }
    });
}

/// A name that a folder cannot take: it is a link to nothing, so it does not seem to be there.
#[cfg(unix)]
#[test]
fn a_save_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let model = train(&flights(r#"{"epochs": 1}"#), &tabular(50));
    let place = folder.path().join("m");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &place).unwrap();
    let e = model.save(&place).unwrap_err();
    assert_eq!(e.kind(), Kind::Io, "{e}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["m"]);
}
