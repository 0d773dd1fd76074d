//! `firesteel evaluate` and `firesteel models`: what `firesteel sql` says, without SQL.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use datafusion::datasource::MemTable;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use firesteel_error::Result;
use firesteel_sql::{Firesteel, ModelStore};

use crate::rows;
use crate::sql::stores::{self, Stores};
use crate::sql::{self, Format};

/// What `firesteel evaluate` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// The model's folder
    #[arg(long)]
    model: PathBuf,
    /// The rows, with their labels: a .parquet, .arrow, .arrows or .csv file
    #[arg(long)]
    data: PathBuf,
    /// How the measures are shown
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What `firesteel models` is told.
#[derive(Debug, Args)]
pub struct Listing {
    /// Where models are kept: a folder, or s3://bucket/folder with the credentials of AWS_* variables
    #[arg(long, value_name = "PLACE", default_value = "models", env = "FIRESTEEL_MODELS")]
    models: String,
    /// How they are shown
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Prints what `ML.EVALUATE` says of a model and a file.
///
/// # Errors
/// Whatever is wrong with the model or the rows.
pub fn run(options: &Options) -> Result<()> {
    let reader = rows::open(&options.data)?;
    let schema = reader.schema();
    let batches = reader.map(|batch| rows::check(batch, &options.data)).collect::<Result<Vec<_>>>()?;
    let model = options.model.display().to_string().replace('\'', "''");
    sql::block_on(async {
        let context = SessionContext::new();
        context.register_table("rows", Arc::new(MemTable::try_new(schema, vec![batches])?))?;
        let firesteel = Firesteel::register(&context, ModelStore::memory()).await?;
        firesteel.sql(&format!("CREATE MODEL model FROM '{model}'")).await?;
        let measures = firesteel.sql("SELECT * FROM ML.EVALUATE(MODEL model, TABLE rows)").await?;
        sql::print(measures, options.format).await
    })
}

/// Prints what `SHOW MODELS` says.
///
/// # Errors
/// Of the store.
pub fn list(options: &Listing) -> Result<()> {
    sql::block_on(async {
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(Stores::default()));
        let runtime = runtime.build_arc()?;
        let store = stores::models_there(&options.models, &runtime)?;
        let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
        let firesteel = Firesteel::register(&context, store).await?;
        sql::print(firesteel.sql("SHOW MODELS").await?, options.format).await
    })
}
