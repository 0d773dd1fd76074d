//! What `TRANSFORM` must know of the training rows, asked of the rows that are kept.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use firesteel_comm::Cancel;
use tokio::runtime::Handle;

use crate::spool::{Reading, Spool};

/// The name that the training rows have in a [`Statistic`].
pub(super) const ROWS: &str = "training_rows";

/// Batches that are read ahead.
const AHEAD: usize = 2;

/// A value that is asked for, as SQL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Statistic {
    /// An aggregate; all of them are asked for at once.
    Aggregate(String),
    /// A query of at most one row.
    Query(String),
}

/// Their values, in their order; NULL, of some type, where there is none. The memory is that of the training's session.
///
/// # Errors
/// Of DataFusion.
pub(crate) async fn ask(
    statistics: &[Statistic],
    spool: &Spool,
    schema: SchemaRef,
    context: &Arc<TaskContext>,
) -> Result<Vec<ScalarValue>> {
    let session = SessionContext::new_with_config_rt(SessionConfig::new(), context.runtime_env());
    let rows = Rows { spool: spool.clone(), schema: schema.clone() };
    session.register_table(ROWS, Arc::new(StreamingTable::try_new(schema, vec![Arc::new(rows)])?))?;
    let aggregates = statistics.iter().filter_map(|s| match s {
        Statistic::Aggregate(sql) => Some(sql.as_str()),
        Statistic::Query(_) => None,
    });
    let aggregates: Vec<String> = aggregates.enumerate().map(|(i, sql)| format!("{sql} AS s{i}")).collect();
    let mut aggregated = match aggregates.is_empty() {
        true => Vec::new(),
        false => row(&session, &format!("SELECT {} FROM {ROWS}", aggregates.join(", "))).await?,
    }
    .into_iter();
    let mut answers = Vec::with_capacity(statistics.len());
    for statistic in statistics {
        let answer = match statistic {
            Statistic::Aggregate(_) => aggregated.next(),
            Statistic::Query(sql) => row(&session, sql).await?.into_iter().next(),
        };
        answers.push(answer.unwrap_or(ScalarValue::Boolean(None)));
    }
    Ok(answers)
}

/// The first row of a query's result.
async fn row(session: &SessionContext, sql: &str) -> Result<Vec<ScalarValue>> {
    let batches = session.sql(sql).await?.collect().await?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    batch.columns().iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
}

/// The rows as a table.
#[derive(Debug)]
struct Rows {
    spool: Spool,
    schema: SchemaRef,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), AHEAD);
        let (spool, out) = (self.spool.clone(), builder.tx());
        // Who reads no longer refuses the next batch, which ends it too.
        let reading = Reading { handle: Handle::current(), cancel: Cancel::new() };
        builder.spawn_blocking(move || {
            spool.read(0..spool.rows(), &reading, |_, batch| {
                out.blocking_send(Ok(batch))
                    .map_err(|_| exec_datafusion_err!("nobody reads the rows any more"))
            })
        });
        builder.build()
    }
}

/// The strings of a list.
pub(super) fn words(value: &ScalarValue) -> Vec<String> {
    let ScalarValue::List(list) = value else { return Vec::new() };
    if list.is_empty() || list.is_null(0) {
        return Vec::new();
    }
    match cast(&list.value(0), &DataType::Utf8) {
        Ok(words) => words.as_string::<i32>().iter().flatten().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}
