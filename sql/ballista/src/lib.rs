//! Firesteel on a Ballista cluster.
//!
//! Predictions run where the rows are: a query with `ML.PREDICT` or `nn_predict_value` is shipped, and every executor
//! reads the model from the store by itself. `CREATE MODEL` and measures run their query on the cluster and the rest in
//! the client, to which the rows stream; with `sync = 'average'` the executors train, by a job an epoch, and rows stay.
//! All three roles need Firesteel, and a store that all of them reach:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
//! # use ballista_scheduler::{cluster::BallistaCluster, config::SchedulerConfig, scheduler_process::start_server};
//! # use firesteel_sql::ModelStore;
//! # async fn roles() -> Result<(), Box<dyn std::error::Error>> {
//! // In the scheduler's program.
//! let config = firesteel_ballista::scheduler(SchedulerConfig::default(), ModelStore::directory("/models")?).await?;
//! let cluster = BallistaCluster::new_from_config(&config).await?;
//! start_server(cluster, "0.0.0.0:50050".parse()?, Arc::new(config)).await?;
//!
//! // In the executors'.
//! let config = firesteel_ballista::executor(ExecutorProcessConfig::default(), ModelStore::directory("/models")?).await?;
//! start_executor_process(Arc::new(config)).await?;
//!
//! // In the client's.
//! let firesteel = firesteel_ballista::connect("df://scheduler:50050", ModelStore::directory("/models")?).await?;
//! firesteel.sql("SELECT * FROM ML.PREDICT(MODEL late, TABLE flights)").await?.show().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`codec`] | `ML.PREDICT` inside the plans that Ballista sends |
//! | `client` | what the client runs by itself, and what it sends |
//! | `roles` | the scheduler's and the executors' share |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod client;
pub mod codec;
mod roles;

pub use client::{connect, connect_with};
pub use roles::{executor, scheduler};
