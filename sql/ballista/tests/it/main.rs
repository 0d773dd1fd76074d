//! A cluster gives what one process gives.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cluster;

use std::path::Path;

use cluster::{Cluster, listens};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::Float64Type;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{SessionConfig, SessionContext};
use firesteel_sql::{Firesteel, ModelStore};

const FILES: u64 = 8;
const ROWS: u64 = 1000;

/// The rows of one query, in one batch.
async fn rows(firesteel: &Firesteel, sql: &str) -> RecordBatch {
    let frame = firesteel.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let schema = frame.schema().as_arrow().clone().into();
    let batches = frame.collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    concat_batches(&schema, &batches).unwrap()
}

async fn fails(firesteel: &Firesteel, sql: &str) -> String {
    match firesteel.sql(sql).await {
        Err(e) => e.to_string(),
        Ok(frame) => frame.collect().await.unwrap_err().to_string(),
    }
}

/// Files of customers: numbers, strings and NULLs.
async fn write_customers(folder: &Path) {
    let context = SessionContext::new();
    for file in 0..FILES {
        let sql = format!(
            "COPY (SELECT value AS id, (value * 37 % 60) + 18 AS age,
                     CASE value % 4 WHEN 0 THEN 'gold' WHEN 1 THEN 'silver' WHEN 2 THEN 'bronze' END AS plan,
                     (value * 7919 % 1000) / 10.0 AS spend,
                     (value * 37 % 60) + CASE value % 4 WHEN 0 THEN -20 ELSE 10 END > 30 AS churned
                   FROM generate_series({}, {}))
             TO '{}/{file}.parquet' STORED AS PARQUET",
            file * ROWS,
            file * ROWS + ROWS - 1,
            folder.display()
        );
        context.sql(&sql).await.unwrap().collect().await.unwrap();
    }
}

async fn local(customers: &Path, models: &Path) -> Firesteel {
    // As Ballista reads strings, so that results have the same types.
    let config = SessionConfig::new().set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    let context = SessionContext::new_with_config(config);
    let firesteel = Firesteel::register(&context, ModelStore::directory(models).unwrap()).await.unwrap();
    with_customers(&firesteel, customers).await;
    firesteel
}

async fn with_customers(firesteel: &Firesteel, customers: &Path) {
    let table =
        format!("CREATE EXTERNAL TABLE customers STORED AS PARQUET LOCATION '{}/'", customers.display());
    rows(firesteel, &table).await;
}

fn train(name: &str) -> String {
    format!(
        "CREATE MODEL {name}
         OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['churned'], hidden_units = [16],
                  max_iterations = 3, workers = 1, seed = 7)
         AS SELECT age, plan, spend, churned FROM customers"
    )
}

fn shown(batch: &RecordBatch) -> String {
    pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string()
}

/// Largest difference of a column of numbers; everything else must be equal.
fn difference(a: &RecordBatch, b: &RecordBatch, column: &str) -> f64 {
    assert_eq!((a.num_rows(), a.schema().fields()), (b.num_rows(), b.schema().fields()));
    let index = a.schema().index_of(column).unwrap();
    for other in (0..a.num_columns()).filter(|c| *c != index) {
        assert_eq!(a.column(other), b.column(other), "{}", a.schema().field(other));
    }
    let numbers = |batch: &RecordBatch| batch.column(index).as_primitive::<Float64Type>().clone();
    numbers(a).iter().zip(&numbers(b)).map(|(x, y)| (x.unwrap() - y.unwrap()).abs()).fold(0.0, f64::max)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_executors_predict_what_one_process_predicts() {
    let (customers, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_customers(customers.path()).await;
    let start = || Cluster::start(2, models.path());
    let cluster = tokio::task::block_in_place(start);
    let store = || ModelStore::directory(models.path()).unwrap();
    let remote = firesteel_ballista::connect(&cluster.url(), store()).await.unwrap();
    with_customers(&remote, customers.path()).await;
    let here = local(customers.path(), models.path()).await;

    // After the cluster was started: its stores have to look.
    rows(&here, &train("churn")).await;
    assert_eq!(cluster.written(), [0, 0]);

    predictions(&here, &remote).await;
    let written = cluster.written();
    assert!(written.iter().all(|files| *files > 0), "files of each executor: {written:?}");

    measures_and_answers(&here, &remote).await;
    trainings(&here, &remote).await;
    let before = cluster.written();
    averages(&here, &remote).await;
    let epochs = cluster.written().iter().zip(before).map(|(now, before)| now - before).min();
    assert!(epochs.unwrap() > 10, "each executor trained: {epochs:?}");
    for model in ["average", "distant_average"] {
        let folder = models.path().join("public").join(model);
        assert!(folder.exists() && !folder.join("work").exists(), "{model}");
    }
    errors(&remote).await;

    let (ports, folders) = tokio::task::block_in_place(|| cluster.stop());
    assert!(!ports.into_iter().any(listens));
    assert!(!folders.iter().any(|folder| folder.exists()));
}

async fn predictions(here: &Firesteel, remote: &Firesteel) {
    let everything = "SELECT id, plan, predicted_churned, predicted_churned_probs[1]['prob'] AS prob
         FROM ML.PREDICT(MODEL churn, TABLE customers) ORDER BY id";
    let (a, b) = (rows(here, everything).await, rows(remote, everything).await);
    assert_eq!(a.num_rows() as u64, FILES * ROWS);
    assert!(difference(&a, &b, "prob") <= 1e-6);

    // Filters go below the node, joins and groups around it; the list of probabilities is not made.
    let grouped = "SELECT c.plan, count(*) AS n, avg(CASE WHEN p.predicted_churned THEN 1.0 ELSE 0.0 END) AS share
         FROM ML.PREDICT(MODEL churn, (SELECT * FROM customers WHERE age > 30)) p JOIN customers c ON p.id = c.id
         GROUP BY c.plan ORDER BY c.plan";
    assert!(difference(&rows(here, grouped).await, &rows(remote, grouped).await, "share") <= 1e-6);

    let settings = "SELECT id, predicted_churned FROM
         ML.PREDICT(MODEL churn, TABLE customers, STRUCT(0.9 AS threshold)) ORDER BY id LIMIT 500";
    assert_eq!(rows(here, settings).await, rows(remote, settings).await);

    let functions = "SELECT id, nn_predict_value('churn', age, plan, spend) AS late,
                nn_prob('churn', true, age, plan, spend) AS prob FROM customers ORDER BY id";
    assert!(difference(&rows(here, functions).await, &rows(remote, functions).await, "prob") <= 1e-6);

    let explain =
        shown(&rows(remote, "EXPLAIN SELECT * FROM ML.PREDICT(MODEL churn, TABLE customers)").await);
    assert!(explain.contains("PredictExec: ML.PREDICT model=churn@1"), "{explain}");
}

async fn measures_and_answers(here: &Firesteel, remote: &Firesteel) {
    for sql in [
        "SELECT accuracy, log_loss FROM ML.EVALUATE(MODEL churn, TABLE customers)",
        "SELECT accuracy, log_loss FROM ML.EVALUATE(MODEL churn)",
    ] {
        assert!(difference(&rows(here, sql).await, &rows(remote, sql).await, "log_loss") <= 1e-6, "{sql}");
    }
    for sql in [
        "SELECT model_name FROM ml.models",
        "SHOW CREATE MODEL churn",
        "SELECT iteration, loss FROM ML.TRAINING_INFO(MODEL churn)",
        "SELECT 1 AS one",
    ] {
        assert_eq!(shown(&rows(here, sql).await), shown(&rows(remote, sql).await), "{sql}");
    }
}

async fn trainings(here: &Firesteel, remote: &Firesteel) {
    let before = rows(here, "SELECT * FROM ml.models").await.num_rows();
    rows(remote, &train("distant")).await;
    assert_eq!(rows(here, "SELECT * FROM ml.models").await.num_rows(), before + 1);
    let both = |model: &str| {
        format!("SELECT id, nn_prob('{model}', true, age, plan, spend) AS prob FROM customers ORDER BY id")
    };
    let (near, far) = (rows(here, &both("churn")).await, rows(here, &both("distant")).await);
    assert!(difference(&near, &far, "prob") <= 1e-6);
    let losses =
        |model| format!("SELECT iteration, loss FROM ML.TRAINING_INFO(MODEL {model}) ORDER BY iteration");
    assert!(
        difference(&rows(here, &losses("churn")).await, &rows(here, &losses("distant")).await, "loss")
            <= 1e-6
    );
    let plan = shown(&rows(remote, &format!("EXPLAIN {}", train("third"))).await);
    assert!(plan.contains("TrainExec: model=third") && plan.contains("DistributedQueryExec"), "{plan}");

    // A version that follows, and one that is asked for.
    rows(here, &train("distant").replace("CREATE", "CREATE OR REPLACE").replace("= 3", "= 1")).await;
    let of = |version: &str| {
        format!(
            "SELECT id, nn_prob('distant{version}', true, age, plan, spend) AS prob FROM customers ORDER BY id"
        )
    };
    assert!(difference(&rows(remote, &of("@1")).await, &far, "prob") <= 1e-6);
    let newest = rows(remote, &of("")).await;
    assert!(difference(&newest, &rows(here, &of("@2")).await, "prob") <= 1e-6);
    assert!(difference(&newest, &far, "prob") > 1e-6);
}

/// Trainings whose rows stay on the cluster and whose epochs are jobs of it.
async fn averages(here: &Firesteel, remote: &Firesteel) {
    let train = |name: &str, rest: &str| {
        format!(
            "CREATE MODEL {name} TRANSFORM (ML.STANDARD_SCALER(age) OVER () AS age, plan, spend, churned)
             OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['churned'], hidden_units = [16],
                      sync = 'average', workers = {FILES}, learn_rate = 0.01, {rest})
             AS SELECT age, plan, spend, churned FROM customers"
        )
    };
    // One file a partition, here and there.
    for (firesteel, name) in [(here, "average"), (remote, "distant_average")] {
        let told = rows(firesteel, &train(name, "max_iterations = 10, data_split_method = 'random'")).await;
        assert_eq!(told.num_rows(), 10);
    }
    let predicted = |model: &str| {
        format!("SELECT id, nn_prob('{model}', true, age, plan, spend) AS prob FROM customers ORDER BY id")
    };
    let (near, far) =
        (rows(here, &predicted("average")).await, rows(here, &predicted("distant_average")).await);
    assert!(difference(&near, &far, "prob") <= 1e-6);
    let measured = "SELECT roc_auc > 0.95 AS good FROM ML.EVALUATE(MODEL distant_average, TABLE customers)";
    assert!(shown(&rows(here, measured).await).contains("true"));

    let plan = shown(&rows(remote, &format!("EXPLAIN {}", train("third", "max_iterations = 1"))).await);
    assert!(plan.contains("TrainExec: model=third, workers=8, sync=average"), "{plan}");
    let e = fails(remote, &train("third", "optimizer = 'sgd', l2_reg = 1e30")).await;
    assert!(e.contains("training diverged in epoch"), "{e}");
}

async fn errors(remote: &Firesteel) {
    let e = fails(remote, "SELECT * FROM ML.PREDICT(MODEL chur, TABLE customers)").await;
    assert!(e.contains("did you mean 'churn'"), "{e}");
    let e = fails(remote, "SELECT nn_predict_value('churn', age) FROM customers").await;
    assert!(e.contains("expects 3 features"), "{e}");
}
