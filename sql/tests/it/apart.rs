//! `sync = 'average'`: trainings whose workers never meet, as those of a cluster do not.

use std::path::Path;
use std::time::{Duration, Instant};

use firesteel_sql::Firesteel;
use futures::StreamExt;

use crate::ALONE;
use crate::sessions::{run, session};

/// Over rows in two partitions.
const ROWS: &str =
    "SELECT * FROM iris WHERE sepal_length < 6 UNION ALL SELECT * FROM iris WHERE sepal_length >= 6";

fn create(name: &str, options: &str, query: &str) -> String {
    format!(
        "CREATE MODEL {name} OPTIONS(model_type='dnn_classifier', input_label_cols=['species'], hidden_units=[8], \
         batch_size=8, learn_rate=0.02, {options}) AS {query}"
    )
}

/// Files of trainings that have ended, or not.
fn work(store: &Path) -> Vec<String> {
    let models = std::fs::read_dir(store.join("public")).into_iter().flatten();
    let works =
        models.flat_map(|model| std::fs::read_dir(model.unwrap().path().join("work")).into_iter().flatten());
    works.map(|folder| folder.unwrap().path().display().to_string()).collect()
}

/// What a training leaves that was dropped is removed soon.
fn gets_tidy(store: &Path) {
    let start = Instant::now();
    while !work(store).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", work(store));
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn accuracy(firesteel: &Firesteel, model: &str) -> f64 {
    let sql = format!(
        "SELECT avg(CASE WHEN predicted_species = species THEN 1.0 ELSE 0.0 END) AS a FROM ML.PREDICT(MODEL {model}, TABLE iris)"
    );
    let printed = run(firesteel, &sql).await.unwrap();
    printed.lines().nth(3).unwrap().trim_matches(['|', ' ']).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_trains_as_ever() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let splits = [
        "max_iterations=4",
        "max_iterations=6, data_split_method='random', data_split_eval_fraction=0.2, data_split_test_fraction=0.2",
        "max_iterations=4, data_split_method='seq', data_split_col='petal_width', auto_class_weights=TRUE",
        "max_iterations=4, data_split_method='custom', data_split_col='held', sample_weight_col='sepal_width'",
    ];
    let query = "SELECT *, CASE WHEN petal_length > 5 THEN 'EVAL' ELSE 'TRAIN' END AS held FROM iris";
    for (i, split) in splits.iter().enumerate() {
        for (name, sync) in [(format!("together{i}"), "sync"), (format!("apart{i}"), "average")] {
            let options = format!("workers=1, sync='{sync}', {split}");
            run(&firesteel, &create(&name, &options, query)).await.unwrap();
        }
        let of = |name: &str| {
            [
                format!(
                    "SELECT training_run, iteration, loss, eval_loss, eval_metric FROM ML.TRAINING_INFO(MODEL {name}{i})"
                ),
                format!("SELECT * FROM ML.FEATURE_INFO(MODEL {name}{i})"),
                format!("SELECT * FROM ML.PREDICT(MODEL {name}{i}, ({query}))"),
                format!("SELECT * FROM ML.EVALUATE(MODEL {name}{i})"),
            ]
        };
        for (together, apart) in of("together").iter().zip(of("apart")) {
            let wanted =
                run(&firesteel, together).await.map_err(|e| e.strip_backtrace().replace("together", "apart"));
            let found = run(&firesteel, &apart).await.map_err(|e| e.strip_backtrace());
            assert_eq!(found, wanted, "{split}: {apart}");
        }
    }
    assert_eq!(work(store.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_model_trains_as_ever() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let series = "FROM generate_series(1, 600)";
    let cases = [
        ("model_type='autoencoder', hidden_units=[4, 2, 4]".to_owned(), "SELECT * FROM iris".to_owned()),
        ("model_type='linear_reg', input_label_cols=['y']".into(), format!("SELECT value * 1e5 AS x, value * 2.0 AS y {series}")),
        (
            "model_type='dnn_regressor', input_label_cols=['y'], on_null='skip'".into(),
            format!("SELECT nullif(value % 7, 3) AS x, CASE WHEN value < 99 THEN NULL ELSE [value, 1] END AS v, value / 9 AS y {series}"),
        ),
        (
            "model_type='dnn_linear_combined_classifier', input_label_cols=['y']".into(),
            format!("SELECT [CAST(value % 3 AS TEXT), 'x'] AS w, CAST(value % 7 AS TEXT) AS c, to_timestamp(value * 86400) AS t, value % 3 = 1 AS y {series}"),
        ),
        (
            "model_type='dnn_classifier', input_label_cols=['species'], learn_rate=HPARAM_CANDIDATES([0.001, 0.05]), \
             hparam_tuning_algorithm='grid_search', data_split_method='random'"
                .into(),
            "SELECT * FROM iris".into(),
        ),
        ("model_type='dnn_classifier', input_label_cols=['species'], warm_start=TRUE".into(), "SELECT * FROM iris".into()),
    ];
    for (options, query) in cases {
        let warm = options.contains("warm_start");
        let mut told = Vec::new();
        for (name, sync) in [("together", "sync"), ("apart", "average")] {
            if warm {
                let before = create(name, "max_iterations=3", "SELECT * FROM iris")
                    .replace("CREATE", "CREATE OR REPLACE");
                run(&firesteel, &before.replace("hidden_units=[8], batch_size=8, learn_rate=0.02, ", ""))
                    .await
                    .unwrap();
            }
            let sql = format!(
                "CREATE OR REPLACE MODEL {name} OPTIONS({options}, sync='{sync}', workers=1, max_iterations=3) AS {query}"
            );
            run(&firesteel, &sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            let info = "SELECT iteration, loss, eval_loss, eval_metric FROM ML.TRAINING_INFO";
            told.push((
                run(&firesteel, &format!("{info}(MODEL {name})")).await.unwrap(),
                run(&firesteel, &format!("SELECT * FROM ML.FEATURE_INFO(MODEL {name})")).await.unwrap(),
            ));
        }
        assert_eq!(told[0], told[1], "{options}");
        // More workers than some have rows.
        let few = query.replace("600", "5").replace("FROM iris", "FROM iris LIMIT 9");
        if !warm && !options.contains("grid_search") {
            let sql = format!(
                "CREATE OR REPLACE MODEL few OPTIONS({options}, sync='average', workers=20, max_iterations=2) AS {few}"
            );
            let made = run(
                &firesteel,
                &sql.replace("value < 99", "value < 2").replace("species", "petal_width > 0.2"),
            )
            .await;
            match made {
                Ok(_) => {}
                Err(e) => assert!(!e.to_string().to_lowercase().contains("internal"), "{sql}: {e}"),
            }
        }
    }
    assert_eq!(work(store.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_diverges_is_told_and_the_search_goes_on() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let sql = "CREATE MODEL m OPTIONS(model_type='dnn_classifier', input_label_cols=['species'], optimizer='sgd', sync='average', \
               workers=2, l2_reg=HPARAM_CANDIDATES([0.0, 1e30]), hparam_tuning_algorithm='grid_search', \
               data_split_method='random', max_iterations=3) AS SELECT * FROM iris";
    run(&firesteel, sql).await.unwrap();
    let trials = run(&firesteel, "SELECT trial_id, status, error LIKE '%worker%training diverged%' AS told FROM ML.TRIAL_INFO(MODEL m)").await.unwrap();
    assert!(
        trials.contains("| 1        | SUCCEEDED | ") && trials.contains("| 2        | FAILED    | true"),
        "{trials}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_that_learn_the_same_side_by_side_share_files() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let sql = "CREATE MODEL m OPTIONS(model_type='dnn_classifier', input_label_cols=['species'], hidden_units=[8], \
               sync='average', workers=2, max_iterations=HPARAM_CANDIDATES([6, 7, 8]), max_parallel_trials=3, \
               hparam_tuning_algorithm='grid_search', data_split_method='random') AS SELECT * FROM iris";
    run(&firesteel, sql).await.unwrap();
    assert_eq!(work(store.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_transform_makes_is_made_where_workers_are() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    for (name, sync) in [("together", "sync"), ("apart", "average")] {
        let sql = format!(
            "CREATE MODEL {name} TRANSFORM(ML.STANDARD_SCALER(petal_length) OVER () AS p, sepal_width * 2 AS w, species) \
             OPTIONS(model_type='logistic_reg', input_label_cols=['species'], max_iterations=5, batch_size=8, workers=1, \
             sync='{sync}') AS SELECT * FROM iris"
        );
        run(&firesteel, &sql).await.unwrap();
    }
    let predicted = async |name: &str| {
        run(&firesteel, &format!("SELECT * FROM ML.PREDICT(MODEL {name}, TABLE iris)")).await.unwrap()
    };
    assert_eq!(predicted("apart").await, predicted("together").await);
    assert_eq!(work(store.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_learn_and_always_the_same() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let options = "sync='average', max_iterations=40, early_stop=FALSE";
    for (name, workers) in [("two", ""), ("again", ""), ("five", ", workers=5")] {
        run(&firesteel, &create(name, &format!("{options}{workers}"), ROWS)).await.unwrap();
        assert!(accuracy(&firesteel, name).await > 0.9, "{name}");
    }
    let predicted = async |name: &str| {
        run(&firesteel, &format!("SELECT * FROM ML.PREDICT(MODEL {name}, TABLE iris)")).await.unwrap()
    };
    assert_eq!(predicted("two").await, predicted("again").await);
    assert_ne!(predicted("two").await, predicted("five").await);
    assert_eq!(work(store.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_rows_is_said_and_leaves_nothing() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let refused = async |options: &str, query: &str| {
        let sql = create("m", &format!("sync='average', {options}"), query);
        run(&firesteel, &sql).await.unwrap_err().strip_backtrace()
    };
    let e = refused("max_iterations=3", "SELECT * FROM iris WHERE false").await;
    assert_eq!(e, "Execution error: the training query returned 0 rows");
    let e = refused("max_iterations=3, cache='disk'", ROWS).await;
    assert!(
        e.contains("cache (other than memory_then_disk, with sync = 'average') is not supported yet"),
        "{e}"
    );
    let e = refused("max_iterations=3", "SELECT *, 1 / (row_number() OVER () - 60) AS x FROM iris").await;
    assert!(e.contains("Divide by zero"), "{e}");
    let e = refused(
        "max_iterations=3, on_null='error'",
        "SELECT * EXCLUDE (sepal_width), nullif(sepal_width, 3.0) AS sepal_width FROM iris",
    )
    .await;
    assert!(e.contains("column 'sepal_width'") && e.contains("row"), "{e}");
    let e = refused("max_iterations=3, workers=2, device='cuda:4321'", ROWS).await;
    assert!(e.contains("worker 0: device is cuda:4321: there is no "), "{e}");
    let e = refused("max_iterations=3, optimizer='sgd', l2_reg=1e30", ROWS).await;
    assert!(e.contains("training diverged in epoch") && e.contains("learn_rate"), "{e}");
    let models = run(&firesteel, "SELECT count(*) AS n FROM ml.model_versions").await.unwrap();
    assert!(models.contains("| 0 |"), "{models}");
    assert_eq!(work(store.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_nobody_waits_for_ends_and_goes_on_later() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let options =
        |rest: &str| format!("sync='average', workers=2, early_stop=FALSE, checkpoint_every=2{rest}");
    let begin = create("m", &options(", max_iterations=100000"), ROWS);
    let statements = firesteel.parse(&begin).unwrap();
    let frame = firesteel.plan(statements.into_iter().next().unwrap()).await.unwrap();
    let mut epochs = frame.execute_stream().await.unwrap();
    for _ in 0..5 {
        epochs.next().await.unwrap().unwrap();
    }
    assert_eq!(work(store.path()).len(), 1);
    drop(epochs);
    gets_tidy(store.path());
    firesteel.take_notices();
    run(&firesteel, &create("m", &options(", max_iterations=20, warm_start=TRUE"), ROWS)).await.unwrap();
    let notices = firesteel.take_notices();
    assert!(notices.iter().any(|n| n.contains("goes on from the checkpoint of")), "{notices:?}");
    run(&firesteel, &create("whole", &options(", max_iterations=20"), ROWS)).await.unwrap();
    let predicted = async |name: &str| {
        run(&firesteel, &format!("SELECT * FROM ML.PREDICT(MODEL {name}, TABLE iris)")).await.unwrap()
    };
    assert_eq!(predicted("m").await, predicted("whole").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_plan_says_so() {
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let plan = run(&firesteel, &format!("EXPLAIN {}", create("m", "sync='average', workers=3", ROWS)))
        .await
        .unwrap();
    for line in [
        "MlJob: keep rows for workers",
        "TrainExec: model=m, workers=3, sync=average",
        "JobExec: keep rows for workers",
    ] {
        assert!(plan.contains(line), "{line}\n{plan}");
    }
    assert_eq!(work(store.path()), [""; 0]);
}
