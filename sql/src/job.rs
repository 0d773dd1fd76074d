//! What a training whose workers never meet has done elsewhere: its rows kept where workers find them, and the tasks of
//! its epochs. Both are one operator, which works partition by partition, so that a cluster runs it where it likes.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::draw::draw;
use crate::encode::{Feature, Vocabularies};
use crate::models::Models;
use crate::pack::stream;
use crate::store::WorkFolder;
use crate::task;

/// Rows are kept in blocks of about so many bytes: a worker reads those that have its rows.
const BLOCK: usize = 32 << 20;

/// What is done, each of whose partitions answers with one row or more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// The input's rows are kept; `look` is what to learn of them meanwhile.
    Deal {
        /// Absent where `TRANSFORM` has yet to make of them what is looked at.
        look: Option<Look>,
        /// Each partition's rows are dealt into so many strands, one of which goes to one worker as a rule: whatever order
        /// the query's rows have, all workers see some of all.
        strands: usize,
    },
    /// The input's rows are tasks, which are done.
    Work,
}

/// What is learned of rows before they can be encoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// The columns that are learned from.
    pub features: Vec<Feature>,
    /// The column that is learned.
    pub label: Option<String>,
    /// Whether it has classes.
    pub classifier: bool,
}

impl Look {
    pub(crate) fn at(&self, batch: &RecordBatch, seen: &mut Vocabularies) -> Result<()> {
        seen.push(batch, &self.features, self.label.as_deref(), self.classifier)
    }
}

/// Where a training keeps what its workers pass on.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) models: Arc<Models>,
    pub(crate) folder: WorkFolder,
}

impl Shelf {
    pub(crate) async fn keep(&self, bytes: impl Into<Bytes>) -> Result<String> {
        self.models.store().keep_work(&self.folder, bytes.into()).await
    }

    pub(crate) async fn read(&self, file: &str) -> Result<Bytes> {
        self.models.store().work(&self.folder, file).await
    }

    pub(crate) async fn remove(&self, file: &str) -> Result<()> {
        self.models.store().drop_work(&self.folder, file).await
    }
}

/// Rows that are kept: an Arrow stream in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Block {
    pub(crate) file: String,
    pub(crate) rows: u64,
}

/// Keeps batches.
pub(crate) struct Blocks {
    shelf: Shelf,
    batches: Vec<RecordBatch>,
    bytes: usize,
    /// Bytes of a block.
    most: usize,
    kept: Vec<Block>,
}

impl Blocks {
    /// One of `of` that fill at the same time.
    pub(crate) fn new(shelf: &Shelf, of: usize) -> Blocks {
        let most = BLOCK / of.max(1);
        Blocks { shelf: shelf.clone(), batches: Vec::new(), bytes: 0, most, kept: Vec::new() }
    }

    pub(crate) async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = compact(&batch)?;
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
        match self.bytes < self.most {
            true => Ok(()),
            false => self.keep().await,
        }
    }

    pub(crate) async fn finish(mut self) -> Result<Vec<Block>> {
        self.keep().await?;
        Ok(self.kept)
    }

    async fn keep(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.batches);
        self.bytes = 0;
        let Some(schema) = batches.first().map(RecordBatch::schema) else { return Ok(()) };
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let file = self.shelf.keep(stream(&schema, &batches)?).await?;
        self.kept.push(Block { file, rows });
        Ok(())
    }
}

/// Without the strings of rows that are elsewhere, which views bring along.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let compact = |column: &ArrayRef| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => column.clone(),
        }
    };
    Ok(RecordBatch::try_new(batch.schema(), batch.columns().iter().map(compact).collect())?)
}

/// What a partition of [`Job::Deal`] answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Dealt {
    /// One a strand.
    pub(crate) strands: Vec<Vec<Block>>,
    pub(crate) seen: Vocabularies,
}

async fn deal(
    mut rows: SendableRecordBatchStream,
    shelf: &Shelf,
    look: Option<&Look>,
    strands: usize,
) -> Result<Dealt> {
    let count = strands.max(1);
    let mut blocks: Vec<Blocks> = (0..count).map(|_| Blocks::new(shelf, count)).collect();
    let (mut seen, mut first) = (Vocabularies::default(), 0);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        if let Some(look) = look {
            look.at(&batch, &mut seen)?;
        }
        for (blocks, part) in blocks.iter_mut().zip(dealt(&batch, first, count)?) {
            blocks.push(part).await?;
        }
        first += batch.num_rows() as u64;
    }
    let mut strands = Vec::with_capacity(count);
    for blocks in blocks {
        strands.push(blocks.finish().await?);
    }
    Ok(Dealt { strands, seen })
}

/// The rows of a batch, strand by strand; it begins at row `first` of its partition.
fn dealt(batch: &RecordBatch, first: u64, strands: usize) -> Result<Vec<RecordBatch>> {
    if strands == 1 {
        return Ok(vec![batch.clone()]);
    }
    let mut picked = vec![Vec::new(); strands];
    for row in 0..batch.num_rows() as u32 {
        let strand = draw(0, first + u64::from(row)) * strands as f64;
        picked[strand as usize].push(row);
    }
    let take = |rows: Vec<u32>| Ok(take_record_batch(batch, &UInt32Array::from(rows))?);
    picked.into_iter().map(take).collect()
}

/// Longer messages are files.
const INLINE: usize = 64 << 10;

/// In front of the name of a file that has the message.
const FILE: char = '@';

/// The schema of answers: JSON, or where it is.
pub(crate) fn answers() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("answer", DataType::Utf8, false)]))
}

/// A message as [`messages`] reads it.
///
/// # Errors
/// Of the store.
pub(crate) async fn written(message: &impl Serialize, shelf: &Shelf) -> Result<String> {
    let json = serde_json::to_string(message).map_err(|e| DataFusionError::External(e.into()))?;
    match json.len() {
        0..=INLINE => Ok(json),
        _ => Ok(format!("{FILE}{}", shelf.keep(json).await?)),
    }
}

async fn answer(message: &impl Serialize, shelf: &Shelf) -> Result<RecordBatch> {
    let text = StringArray::from(vec![written(message, shelf).await?]);
    Ok(RecordBatch::try_new(answers(), vec![Arc::new(text)])?)
}

/// The messages in the first column of batches.
///
/// # Errors
/// `Internal` for one that cannot be read; of the store.
pub(crate) async fn messages<T: DeserializeOwned>(batches: &[RecordBatch], shelf: &Shelf) -> Result<Vec<T>> {
    let mut messages = Vec::new();
    for batch in batches {
        let texts = arrow::compute::cast(batch.column(0), &DataType::Utf8)?;
        for text in texts.as_string::<i32>().iter().flatten() {
            let message = match text.strip_prefix(FILE) {
                None => serde_json::from_str(text),
                Some(file) => serde_json::from_slice(&shelf.read(file).await?),
            };
            messages.push(message.or_else(|e| internal_err!("a message of a training cannot be read: {e}"))?);
        }
    }
    Ok(messages)
}

/// The logical node.
#[derive(Clone, Debug)]
pub struct MlJob {
    input: Arc<LogicalPlan>,
    folder: WorkFolder,
    job: Job,
    schema: DFSchemaRef,
}

impl MlJob {
    /// Over rows to keep, or over tasks.
    ///
    /// # Errors
    /// Of DataFusion.
    pub fn new(input: LogicalPlan, folder: WorkFolder, job: Job) -> Result<MlJob> {
        let schema = Arc::new(DFSchema::try_from(answers().as_ref().clone())?);
        Ok(MlJob { input: Arc::new(input), folder, job, schema })
    }

    /// What is done.
    pub fn job(&self) -> &Job {
        &self.job
    }

    pub(crate) fn parts(&self) -> (&WorkFolder, &Job) {
        (&self.folder, &self.job)
    }
}

impl PartialEq for MlJob {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts() && self.input == other.input
    }
}

impl Eq for MlJob {}

impl PartialOrd for MlJob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.parts().partial_cmp(&other.parts())?.then(self.input.partial_cmp(&other.input)?))
    }
}

impl Hash for MlJob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
        self.input.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for MlJob {
    fn name(&self) -> &str {
        "MlJob"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "MlJob: {}", self.job)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("MlJob has one input") };
        Ok(MlJob { input: Arc::new(input), ..self.clone() })
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Job::Deal { .. } => "keep rows for workers",
            Job::Work => "train",
        })
    }
}

/// The physical operator.
#[derive(Debug, Clone)]
pub struct JobExec {
    input: Arc<dyn ExecutionPlan>,
    job: Job,
    shelf: Shelf,
    properties: Arc<PlanProperties>,
}

impl JobExec {
    pub(crate) fn new(
        input: Arc<dyn ExecutionPlan>,
        folder: WorkFolder,
        job: Job,
        models: Arc<Models>,
    ) -> JobExec {
        let properties = properties(&input);
        JobExec { input, job, shelf: Shelf { models, folder }, properties }
    }

    pub(crate) fn parts(&self) -> (&WorkFolder, &Job) {
        (&self.shelf.folder, &self.job)
    }
}

fn properties(input: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(answers()),
        Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
        EmissionType::Incremental,
        input.boundedness(),
    ))
}

impl DisplayAs for JobExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "JobExec: {}", self.job)
    }
}

impl ExecutionPlan for JobExec {
    fn name(&self) -> &str {
        "JobExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// The number of workers is the user's to choose, not the machine's.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(input) = children.pop() else { return internal_err!("JobExec has one input") };
        Ok(Arc::new(JobExec { properties: properties(&input), input, ..(*self).clone() }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut input = self.input.execute(partition, context)?;
        let mut builder = RecordBatchReceiverStreamBuilder::new(answers(), 1);
        let (out, shelf, job) = (builder.tx(), self.shelf.clone(), self.job.clone());
        // Dropping the stream ends it.
        builder.spawn(async move {
            let told = async |answer| _ = out.send(Ok(answer)).await;
            match job {
                Job::Deal { look, strands } => {
                    let dealt = deal(input, &shelf, look.as_ref(), strands).await?;
                    told(answer(&dealt, &shelf).await?).await;
                }
                Job::Work => {
                    while let Some(batch) = input.next().await {
                        for task in messages(&[batch?], &shelf).await? {
                            told(answer(&task::perform(task, &shelf).await?, &shelf).await?).await;
                        }
                    }
                }
            }
            Ok(())
        });
        Ok(builder.build())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::UInt32Array;
    use arrow::datatypes::UInt32Type;

    use super::*;

    #[test]
    fn every_strand_has_rows_from_everywhere() {
        let rows: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..10_000));
        let batch = RecordBatch::try_from_iter([("row", rows)]).unwrap();
        let strands = dealt(&batch, 77, 4).unwrap();
        let mut all = Vec::new();
        for strand in &strands {
            let rows = strand.column(0).as_primitive::<UInt32Type>().values();
            let mean = rows.iter().map(|row| f64::from(*row)).sum::<f64>() / rows.len() as f64;
            assert!((2_300..2_700).contains(&rows.len()) && (mean - 5_000.0).abs() < 300.0, "{mean}");
            all.extend(rows.iter().copied());
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..10_000));
        // The same in two batches.
        let (first, second) = (batch.slice(0, 3_000), batch.slice(3_000, 7_000));
        let (first, second) = (dealt(&first, 77, 4).unwrap(), dealt(&second, 3_077, 4).unwrap());
        for (strand, parts) in strands.iter().zip(first.iter().zip(&second)) {
            let joined = arrow::compute::concat_batches(&strand.schema(), [parts.0, parts.1]).unwrap();
            assert_eq!(joined, *strand);
        }
        assert_eq!(dealt(&batch, 0, 1).unwrap(), [batch]);
    }
}
