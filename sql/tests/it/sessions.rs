//! Several sessions on one store, trainings that nobody waits for, and trainings that memory does not hold.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Float32Array, RecordBatch};
use arrow::datatypes::Float64Type;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use firesteel_sql::{Firesteel, ModelStore};
use futures::StreamExt;

use crate::ALONE;

/// A session with the flowers, on a store that others have too.
pub async fn session(store: &Path) -> Firesteel {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    let firesteel = Firesteel::register(&context, ModelStore::directory(store).unwrap()).await.unwrap();
    let table = "CREATE EXTERNAL TABLE iris STORED AS CSV LOCATION 'tests/data/iris.csv' \
                 OPTIONS ('format.has_header' 'true')";
    run(&firesteel, table).await.unwrap();
    firesteel
}

/// What a statement prints.
pub async fn run(firesteel: &Firesteel, sql: &str) -> Result<String> {
    Ok(pretty_format_batches(&firesteel.sql(sql).await?.collect().await?)?.to_string())
}

fn create(head: &str, iterations: usize, seed: usize) -> String {
    format!(
        "{head} OPTIONS(model_type='dnn_classifier', input_label_cols=['species'], hidden_units=[8], batch_size=16, \
         max_iterations={iterations}, seed={seed}, early_stop=FALSE) AS SELECT * FROM iris"
    )
}

/// A number that tells models apart.
async fn checksum(firesteel: &Firesteel) -> f64 {
    let sql = "SELECT sum(predicted_species_probs[1]['prob'] * (1 + sepal_length)) FROM ML.PREDICT(MODEL m, TABLE iris)";
    let batches = firesteel.sql(sql).await.unwrap().collect().await.unwrap();
    batches[0].column(0).as_primitive::<Float64Type>().value(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_one_version_or_the_other() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let (writer, reader) = (session(store.path()).await, session(store.path()).await);
    run(&writer, &create("CREATE MODEL m", 3, 1)).await.unwrap();
    let first = checksum(&reader).await;
    let training = tokio::spawn(async move {
        run(&writer, &create("CREATE OR REPLACE MODEL m", 300, 2)).await.unwrap();
        checksum(&writer).await
    });
    let mut seen = Vec::new();
    while !training.is_finished() {
        seen.push(checksum(&reader).await);
    }
    let second = training.await.unwrap();
    assert!(seen.len() > 1 && (first - second).abs() > 1e-3, "{first} {second} {seen:?}");
    seen.push(checksum(&reader).await);
    // The sum's order is not fixed.
    let near = |value: f64, other: f64| (value - other).abs() < 1e-9;
    let switch = seen.iter().position(|value| !near(*value, first)).unwrap();
    assert!(seen[switch..].iter().all(|value| near(*value, second)), "{first} {second} {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_create_one_wins() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let (one, other) = (session(store.path()).await, session(store.path()).await);
    let (sql_one, sql_other) = (create("CREATE MODEL m", 5, 1), create("CREATE MODEL m", 5, 2));
    let (one_made, other_made) = tokio::join!(run(&one, &sql_one), run(&other, &sql_other));
    let refusal = match (one_made, other_made) {
        (Ok(_), Err(e)) | (Err(e), Ok(_)) => e.strip_backtrace(),
        both => panic!("{both:?}"),
    };
    assert!(refusal.contains("model 'm' already exists"), "{refusal}");
    let versions = run(&one, "SELECT count(*) AS n FROM ml.model_versions").await.unwrap();
    assert!(versions.contains("| 1 |"), "{versions}");
}

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect()
}

/// Threads of this process that train.
fn training_threads() -> BTreeSet<String> {
    threads().into_iter().filter(|name| name.starts_with("train-")).collect()
}

/// Waits for the end of trainings that nobody waits for.
pub fn all_stopped() {
    let dropped = Instant::now();
    while !training_threads().is_empty() {
        assert!(dropped.elapsed() < Duration::from_secs(1), "{:?}", training_threads());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_that_nobody_waits_for_ends() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let statements = firesteel.parse(&create("CREATE MODEL m", 100_000_000, 1)).unwrap();
    let frame = firesteel.plan(statements.into_iter().next().unwrap()).await.unwrap();
    let mut epochs = frame.execute_stream().await.unwrap();
    for _ in 0..2 {
        epochs.next().await.unwrap().unwrap();
    }
    assert_eq!(training_threads().len(), 1, "the file has one partition");
    drop(epochs);
    all_stopped();
    let models = run(&firesteel, "SELECT count(*) AS n FROM ml.model_versions").await.unwrap();
    assert!(models.contains("| 0 |"), "{models}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_train_side_by_side() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let sql = create("CREATE MODEL m", 100_000_000, 1).replace(
        "early_stop=FALSE",
        "early_stop=FALSE, data_split_method='random', learn_rate=HPARAM_CANDIDATES([0.01, 0.02, 0.03]), \
         hparam_tuning_algorithm='grid_search', max_parallel_trials=2",
    );
    let statements = firesteel.parse(&sql).unwrap();
    let frame = firesteel.plan(statements.into_iter().next().unwrap()).await.unwrap();
    let epochs = frame.execute_stream().await.unwrap();
    let trials = || threads().iter().filter(|name| name.trim() == "trial").count();
    let start = Instant::now();
    while trials() < 2 {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", threads());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(epochs);
    all_stopped();
    assert_eq!(trials(), 0);
}

/// Starts a training and drops it after some epochs.
async fn stop(firesteel: &Firesteel, sql: &str, epochs: usize) {
    let statements = firesteel.parse(sql).unwrap();
    let frame = firesteel.plan(statements.into_iter().next().unwrap()).await.unwrap();
    let mut rows = frame.execute_stream().await.unwrap();
    for _ in 0..epochs {
        rows.next().await.unwrap().unwrap();
    }
    drop(rows);
    all_stopped();
}

/// The epochs behind the checkpoint that a notice names.
fn kept(notices: &[String]) -> usize {
    let notice = notices.iter().find(|notice| notice.contains("has a checkpoint of")).unwrap();
    let words: Vec<&str> = notice.split(' ').collect();
    words[words.iter().position(|word| *word == "epochs;").unwrap() - 1].parse().unwrap()
}

/// The iterations of a training, from the first to the last.
fn iterations(printed: &str) -> (usize, usize) {
    let cell = |line: &str| line.split('|').nth(2)?.trim().parse::<usize>().ok();
    let all: Vec<usize> = printed.lines().filter_map(cell).collect();
    (all[0], *all.last().unwrap())
}

/// Acceptance query 23: what was learned before a stop is not lost, and nothing shows that there was one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_training_goes_on_from_its_checkpoint() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let train = |iterations: usize, more: &str| {
        let sql = create("CREATE MODEL m", iterations, 1);
        sql.replace("seed=1", &format!("seed=1, checkpoint_every=2, {more}"))
    };
    stop(&firesteel, &train(100_000_000, "learn_rate=0.01"), 4).await;
    let done = kept(&firesteel.take_notices());
    assert!(done >= 2 && done.is_multiple_of(2), "{done}");

    // Another process sees it; it is the checkpoint of this statement only.
    let firesteel = session(store.path()).await;
    let e = run(&firesteel, &train(done + 9, "learn_rate=0.02, warm_start=TRUE")).await.unwrap_err();
    let e = e.strip_backtrace();
    assert!(
        e.contains("the checkpoint is of another statement: learn_rate is 0.01 there and 0.02 here"),
        "{e}"
    );
    let sql = train(done + 9, "warm_start=TRUE, learn_rate=0.01").replace("SELECT *", "select  * /* all */");
    let plan = run(&firesteel, &format!("EXPLAIN {sql}")).await.unwrap();
    assert!(plan.contains("warm_start=the checkpoint of"), "{plan}");
    // The last checkpoint may have been written after the notice.
    let (first, last) = iterations(&run(&firesteel, &sql).await.unwrap());
    assert!(first >= done && last == done + 8, "{done} {first} {last}");
    assert!(firesteel.take_notices().concat().contains("goes on from the checkpoint of"));
    let resumed = checksum(&firesteel).await;
    let history = "SELECT count(*) AS n, max(iteration) AS last FROM ML.TRAINING_INFO(MODEL m)";
    let history = run(&firesteel, history).await.unwrap();
    assert!(history.contains(&format!("| {} | {}", done + 9, done + 8)), "{history}");
    let shown = run(&firesteel, "SHOW CREATE MODEL m").await.unwrap();
    assert!(!shown.contains("warm_start"), "{shown}");

    run(&firesteel, "DROP MODEL m").await.unwrap();
    run(&firesteel, &train(done + 9, "learn_rate=0.01")).await.unwrap();
    assert_eq!(resumed, checksum(&firesteel).await);

    // A model that is made needs no checkpoint any more.
    let again = train(3, "learn_rate=0.01, warm_start=TRUE");
    let again = again.replace("CREATE MODEL", "EXPLAIN CREATE OR REPLACE MODEL");
    let plan = run(&firesteel, &again).await.unwrap();
    assert!(plan.contains("warm_start=version 2"), "{plan}");
}

/// With several workers and transforms, whose statistics are those of before; and other rows are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_of_its_rows() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let table = "CREATE TABLE t AS SELECT value % 37 AS a, value % 11 AS b, value % 37 + 2.0 * (value % 11) AS y \
                 FROM generate_series(1, 4000)";
    run(&firesteel, table).await.unwrap();
    let train = |name: &str, iterations: usize, more: &str| {
        format!(
            "CREATE MODEL {name} TRANSFORM (ML.STANDARD_SCALER(a) OVER () AS a, b, y) OPTIONS(model_type='dnn_regressor', \
             input_label_cols=['y'], hidden_units=[8], max_iterations={iterations}, early_stop=FALSE, workers=2, \
             checkpoint_every=1{more}) AS SELECT * FROM t"
        )
    };
    stop(&firesteel, &train("m", 1_000_000, ""), 2).await;
    let done = kept(&firesteel.take_notices());
    // Whoever begins anew hears what is lost.
    run(&firesteel, &format!("EXPLAIN {}", train("m", 3, ""))).await.unwrap();
    assert!(firesteel.take_notices().concat().contains("has a checkpoint, which is replaced"));
    run(&firesteel, &train("m", done + 5, ", warm_start=TRUE")).await.unwrap();
    run(&firesteel, &train("whole", done + 5, "")).await.unwrap();
    let apart = "SELECT max(abs(p.predicted_y - q.predicted_y)) < 1e-4 AS near FROM \
                 (SELECT * FROM ML.PREDICT(MODEL m, TABLE t)) p JOIN (SELECT * FROM ML.PREDICT(MODEL whole, TABLE t)) q \
                 ON p.a = q.a AND p.b = q.b";
    assert!(run(&firesteel, apart).await.unwrap().contains("true"));

    stop(&firesteel, &train("n", 1_000_000, ""), 2).await;
    run(&firesteel, "INSERT INTO t VALUES (1, 2, 5.0)").await.unwrap();
    let e = run(&firesteel, &train("n", 1_000_000, ", warm_start=TRUE")).await.unwrap_err().strip_backtrace();
    assert!(e.contains("the checkpoint is of a training on 4000 rows, the query has 4001"), "{e}");
    // Nobody has to keep it.
    firesteel.take_notices();
    run(&firesteel, "DROP MODEL IF EXISTS n").await.unwrap();
    assert!(firesteel.take_notices().concat().contains("checkpoints of its trainings are removed"));
    let e = run(&firesteel, &train("n", 5, ", warm_start=TRUE")).await.unwrap_err().strip_backtrace();
    assert!(e.contains("warm_start goes on from the model") && e.contains("'n' not found"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_cannot_be_written_costs_no_training() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    std::fs::create_dir_all(store.path().join("public/m")).unwrap();
    std::fs::write(store.path().join("public/m/checkpoint"), "in the way").unwrap();
    let sql = create("CREATE MODEL m", 5, 1).replace("seed=1", "seed=1, checkpoint_every=2");
    run(&firesteel, &sql).await.unwrap();
    let notices = firesteel.take_notices().join("; ");
    assert!(notices.contains("the checkpoint of epoch 2 is not kept"), "{notices}");
    assert!(!notices.contains("epoch 4"), "once is enough: {notices}");
    checksum(&firesteel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_beyond_the_memory_go_to_disk() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let pool = Arc::new(FairSpillPool::new(8 << 20));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
    let context = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(2), runtime);
    let firesteel =
        Firesteel::register(&context, ModelStore::directory(store.path()).unwrap()).await.unwrap();
    // 600,000 rows of five numbers: 24 MB.
    let create = |name: &str, cache: &str| {
        format!(
            "CREATE MODEL {name} OPTIONS(model_type='linear_reg', input_label_cols=['y'], max_iterations=1, batch_size=4096, \
             cache='{cache}', data_split_method='no_split') AS SELECT value % 7.0 AS a, value % 11.0 AS b, value % 13.0 AS c, \
             value % 17.0 AS d, value % 3.0 AS y FROM generate_series(1, 600000)"
        )
    };
    let plan =
        run(&firesteel, &format!("EXPLAIN ANALYZE {}", create("kept", "memory_then_disk"))).await.unwrap();
    let spills = plan.split("spill_count=").nth(1).unwrap().split([',', ']']).next().unwrap();
    assert_ne!(spills.trim(), "0", "{plan}");
    run(&firesteel, &create("spilled", "memory_then_disk")).await.unwrap();
    let refusal = run(&firesteel, &create("refused", "memory")).await.unwrap_err().strip_backtrace();
    assert!(refusal.contains("Resources exhausted") && refusal.contains("cache='memory'"), "{refusal}");
    let models = run(&firesteel, "SELECT model_name FROM ml.models").await.unwrap();
    assert!(
        models.contains("spilled") && !models.contains("kept") && !models.contains("refused"),
        "{models}"
    );
}

/// On one thread, where whoever blocks it keeps everybody else from reading the model.
#[tokio::test]
async fn a_query_keeps_the_version_that_it_started_with() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let maker = session(store.path()).await;
    run(&maker, &create("CREATE MODEL m", 3, 1)).await.unwrap();
    let mut seed = 1;
    for sql in [
        "SELECT predicted_species AS p FROM ML.PREDICT(MODEL m, TABLE iris)",
        "SELECT nn_predict_value('m', sepal_length, sepal_width, petal_length, petal_width) AS p FROM iris",
        "SELECT a.predicted_species AS p FROM ML.PREDICT(MODEL m, TABLE iris) a
         WHERE nn_prob('m', 'setosa', a.sepal_length, a.sepal_width, a.petal_length, a.petal_width) >= 0",
    ] {
        // Another session has nothing of the model in memory.
        let reader = session(store.path()).await;
        let before = run(&reader, sql).await.unwrap();
        let reader = session(store.path()).await;
        let plan = reader.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        run(&reader, "DROP MODEL m").await.unwrap();
        seed += 1;
        run(&maker, &create("CREATE OR REPLACE MODEL m", 3, seed)).await.unwrap();
        let rows = datafusion::physical_plan::collect(plan, reader.context().task_ctx()).await.unwrap();
        assert_eq!(pretty_format_batches(&rows).unwrap().to_string(), before, "{sql}");
        assert_ne!(run(&reader, sql).await.unwrap(), before, "both versions say the same: {sql}");
    }
}

/// Which filters run below the network, and how many rows it sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_sees_each_row_once_that_other_filters_leave() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    run(&firesteel, &create("CREATE MODEL m", 3, 1)).await.unwrap();
    let sql = "SELECT predicted_species, predicted_species_probs FROM ML.PREDICT(MODEL m, TABLE iris) \
               WHERE petal_length > 2 AND predicted_species = 'virginica'";
    let plan = run(&firesteel, &format!("EXPLAIN {sql}")).await.unwrap();
    assert!(plan.contains("PredictExec: ML.PREDICT model=m@1"), "{plan}");
    let place = |text: &str| plan.rfind(text).unwrap_or_else(|| panic!("no {text} in {plan}"));
    assert!(place("predicted_species@") < place("PredictExec"), "{plan}");
    assert!(place("petal_length@") > place("PredictExec"), "{plan}");
    // 100 of the 150 flowers have such petals.
    let ran = run(&firesteel, &format!("EXPLAIN ANALYZE {sql}")).await.unwrap();
    assert!(ran.contains("rows_predicted=100"), "{ran}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_forbids_ddl_forbids_ours() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let few = || SQLOptions::new().with_allow_ddl(false);
    run(&firesteel, &create("CREATE MODEL m", 1, 1)).await.unwrap();
    for sql in [
        create("CREATE MODEL n", 1, 1),
        format!("EXPLAIN ANALYZE {}", create("CREATE MODEL n", 1, 1)),
        "RETRAIN MODEL m".to_owned(),
        "ALTER MODEL m RENAME TO n".to_owned(),
        "DROP MODEL m".to_owned(),
        "VACUUM MODELS".to_owned(),
        format!("EXPORT MODEL m OPTIONS(uri='{}')", store.path().join("out").display()),
    ] {
        let e = firesteel.sql_with_options(&sql, few()).await.unwrap_err().strip_backtrace();
        assert!(e.contains("DDL not supported"), "{sql}: {e}");
    }
    assert!(!store.path().join("out").exists());
    let rows =
        firesteel.sql_with_options("SELECT * FROM ML.PREDICT(MODEL m, TABLE iris)", few()).await.unwrap();
    assert_eq!(rows.count().await.unwrap(), 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_columns_are_no_trouble() {
    // DataFusion's planner compares the columns of a SELECT with each other, half a minute at 10,000.
    const COLUMNS: usize = 3_000;
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().unwrap();
    let firesteel = session(store.path()).await;
    let column = |of: usize| -> ArrayRef {
        Arc::new((0..60).map(|row| ((row * (of + 7)) % 11) as f32).collect::<Float32Array>())
    };
    let columns = (0..COLUMNS).map(|of| (format!("c{of}"), column(of)));
    let wide = RecordBatch::try_from_iter(columns).unwrap();
    let wide = MemTable::try_new(wide.schema(), vec![vec![wide]]).unwrap();
    firesteel.context().register_table("wide", Arc::new(wide)).unwrap();
    let started = Instant::now();
    let train = "CREATE MODEL w OPTIONS(model_type='linear_reg', input_label_cols=['c0'], max_iterations=1) AS SELECT * FROM wide";
    run(&firesteel, train).await.unwrap();
    let predicted = "SELECT count(predicted_c0) AS n FROM ML.PREDICT(MODEL w, TABLE wide)";
    assert!(run(&firesteel, predicted).await.unwrap().contains("| 60 |"));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
