//! Firesteel for DataFusion: `CREATE MODEL`, `ML.PREDICT` and their like.
//!
//! [`Firesteel::register`] puts everything on a `SessionContext`; [`Firesteel::sql`] then understands our statements
//! besides DataFusion's. Relations, functions and the tables of the schema `ml` work in `SessionContext::sql` too, where a
//! model is a string and rows are a query: `MODEL m` and `TABLE t` are words of ours.
//!
//! ```no_run
//! use datafusion::prelude::SessionContext;
//! use firesteel_sql::{Firesteel, ModelStore};
//!
//! # async fn example() -> datafusion::error::Result<()> {
//! let context = SessionContext::new();
//! let firesteel = Firesteel::register(&context, ModelStore::directory("models")?).await?;
//! let sql = "CREATE MODEL late OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'])
//!            AS SELECT distance, carrier, arr_delay > 15 AS late FROM flights";
//! firesteel.sql(sql).await?.collect().await?;
//! context.sql("SELECT * FROM ML.PREDICT('late', (SELECT * FROM flights))").await?.show().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`session`] | [`Firesteel`] |
//! | [`parse`] | statements |
//! | [`options`], [`spec`] | what a `CREATE MODEL` asks for, as written and as the training loop takes it |
//! | [`store`] | versions of models on an object store |
//! | [`models`], [`loaded`] | the models of a session, and those in memory |
//! | [`about`], [`encode`] | what a model reads and predicts; columns of a query to those of the loop |
//! | [`transform`] | `TRANSFORM (…)` |
//! | `config` | `SET ml.seed` and the like |
//! | [`create`], [`train`] | `CREATE MODEL` as a plan, and its operator |
//! | [`spool`], `fit`, `roles`, `weights`, `profile` | its rows, its training, what rows are for and count, what is known of its features |
//! | `apart`, [`job`], `task` | its training by workers that never meet, such as tasks of a cluster |
//! | `unfinished`, `pack` | trainings that did not end; several files as one value |
//! | `trials`, `draw` | the trainings of a search; numbers that look random |
//! | [`predict`], [`measure`] | `ML.PREDICT`, `ML.EVALUATE` and the like as plans |
//! | [`answer`], `explain` | what they say of each row; why a prediction is so |
//! | `relation`, [`planner`] | how they get into plans |
//! | `evaluate`, `info` | measures; what a commit says |
//! | `functions`, [`hosted`], [`guard`] | `nn_predict_value` and the like; for hosts that plan without us; without panics |
//! | `aggregate` | `nn_fit` and `nn_apply` |
//! | [`wire`], `wait` | nodes and operators as bytes; waiting for the store where nothing can be awaited |
//! | [`tables`] | the schema `ml` |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod about;
mod aggregate;
pub mod answer;
mod apart;
mod config;
pub mod create;
mod draw;
pub mod encode;
mod error;
mod evaluate;
mod explain;
mod export;
mod fit;
mod functions;
pub mod guard;
pub mod hosted;
mod import;
mod info;
pub mod job;
pub mod loaded;
pub mod measure;
pub mod models;
pub mod name;
pub mod options;
mod pack;
pub mod parse;
pub mod planner;
pub mod predict;
mod profile;
mod relation;
mod roles;
pub mod session;
pub mod spec;
pub mod spool;
pub mod store;
pub mod tables;
mod task;
pub mod train;
pub mod transform;
mod trials;
mod unfinished;
mod wait;
mod weights;
pub mod wire;

pub use name::ModelName;
pub use session::Firesteel;
pub use store::ModelStore;
