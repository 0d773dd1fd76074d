//! The rows of a training query: run once, kept in memory and, where that is refused, on disk.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use datafusion::common::{DataFusionError, Result, exec_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SpillFile};
use datafusion::physical_plan::SpillManager;
use datafusion::physical_plan::metrics::SpillMetrics;
use firesteel_comm::Cancel;
use futures::StreamExt;
use tokio::runtime::Handle;

use crate::job::{Block, Shelf};
use crate::transform::Training;

/// Where rows may be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd)]
pub enum CacheMode {
    /// In memory as long as the memory pool allows it.
    #[default]
    MemoryThenDisk,
    /// In memory only.
    Memory,
    /// On disk only.
    Disk,
}

/// Some of the rows, one behind the other.
pub(crate) struct Part {
    rows: u64,
    kept: Kept,
}

/// Where they are.
enum Kept {
    /// The reservation is held as long as the batches are, where a query gave them.
    Memory(Vec<RecordBatch>, #[expect(dead_code)] Option<MemoryReservation>),
    Disk(Arc<dyn SpillFile>, SpillManager),
    /// In a file of the store.
    Store(Shelf, String),
}

/// What a partition needs to keep its rows.
pub(crate) struct Keeper {
    pub(crate) mode: CacheMode,
    pub(crate) partition: usize,
    pub(crate) runtime: Arc<RuntimeEnv>,
    pub(crate) metrics: SpillMetrics,
}

impl Keeper {
    /// Runs a partition to its end. `look` sees each batch once.
    ///
    /// # Errors
    /// Those of the query; `ResourcesExhausted` naming `ml.train.spool` where there is no memory and no disk allowed.
    pub(crate) async fn keep(
        self,
        mut stream: SendableRecordBatchStream,
        mut look: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<Part> {
        let manager = SpillManager::new(self.runtime.clone(), self.metrics.clone(), stream.schema());
        let name = format!("ml.train.spool[{}]", self.partition);
        let reservation = MemoryConsumer::new(name).with_can_spill(true).register(&self.runtime.memory_pool);
        let (mut rows, mut batches) = (0, Vec::new());
        let mut file = match self.mode {
            CacheMode::Disk => Some(manager.create_in_progress_file("ml.train.spool")?),
            _ => None,
        };
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            look(&batch)?;
            rows += batch.num_rows() as u64;
            if let Some(file) = &mut file {
                file.append_batch(&batch)?;
                continue;
            }
            match reservation.try_grow(batch.get_array_memory_size()) {
                Ok(()) => batches.push(batch),
                Err(e) if self.mode == CacheMode::Memory => return Err(refused(e)),
                Err(_) => {
                    let mut spill = manager.create_in_progress_file("ml.train.spool")?;
                    for batch in batches.drain(..).chain([batch]) {
                        spill.append_batch(&batch)?;
                    }
                    reservation.free();
                    file = Some(spill);
                }
            }
        }
        let kept = match file.map(|mut f| f.finish()).transpose()?.flatten() {
            Some(file) => Kept::Disk(file, manager),
            None => Kept::Memory(batches, Some(reservation)),
        };
        Ok(Part { rows, kept })
    }
}

fn refused(e: DataFusionError) -> DataFusionError {
    e.context("the rows of a training with cache='memory' do not fit; use cache='memory_then_disk' or raise datafusion.runtime.memory_limit")
}

/// What whoever reads rows needs.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// Where files are read.
    pub(crate) handle: Handle,
    /// Ends the reading at the next batch.
    pub(crate) cancel: Cancel,
}

/// All rows of a training query, in the order of its partitions. A clone has the same.
#[derive(Clone)]
pub(crate) struct Spool {
    parts: Arc<Vec<Part>>,
    /// The place of the first row: that of the first block that is here.
    first: u64,
    through: Option<Arc<Training>>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl Spool {
    pub(crate) fn new(parts: Vec<Part>) -> Spool {
        Spool { parts: Arc::new(parts), first: 0, through: None }
    }

    /// Rows that somebody else keeps count of.
    pub(crate) fn of(batch: RecordBatch) -> Spool {
        let rows = batch.num_rows() as u64;
        Spool::new(vec![Part { rows, kept: Kept::Memory(vec![batch], None) }])
    }

    /// Rows in files of the store, from the row `first` on.
    pub(crate) fn stored(shelf: &Shelf, blocks: &[Block], first: u64) -> Spool {
        let part =
            |block: &Block| Part { rows: block.rows, kept: Kept::Store(shelf.clone(), block.file.clone()) };
        Spool { first, ..Spool::new(blocks.iter().map(part).collect()) }
    }

    /// The same rows, each with the columns that are made of it.
    pub(crate) fn through(&self, training: Arc<Training>) -> Spool {
        Spool { through: Some(training), ..self.clone() }
    }

    /// With the columns that another has made of its rows.
    pub(crate) fn made_like(self, other: &Spool) -> Spool {
        Spool { through: other.through.clone(), ..self }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Calls `take` with the batches of a range of rows and where each starts. Blocks.
    ///
    /// # Errors
    /// Of reading what was spilled, and those of `take`; `Execution` when it was cancelled.
    pub(crate) fn read(
        &self,
        rows: Range<u64>,
        reading: &Reading,
        mut take: impl FnMut(u64, RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let mut take = |first, batch: RecordBatch| {
            if reading.cancel.is_cancelled() {
                return exec_err!("the training was cancelled while rows were read");
            }
            match &self.through {
                None => take(first, batch),
                Some(training) => take(first, training.apply(&batch)?),
            }
        };
        let mut first = self.first;
        for part in self.parts.iter() {
            let end = first + part.rows;
            if first < rows.end && rows.start < end {
                let mut cut = Cut { rows: rows.clone(), at: first, take: &mut take };
                match &part.kept {
                    Kept::Memory(batches, _) => batches.iter().try_for_each(|batch| cut.batch(batch))?,
                    Kept::Store(shelf, file) => {
                        let bytes = reading.handle.block_on(shelf.read(file))?;
                        StreamReader::try_new(bytes.as_ref(), None)?.try_for_each(|b| cut.batch(&b?))?;
                        if cut.at != end {
                            return exec_err!("{file} has {} rows, expected {}", cut.at - first, part.rows);
                        }
                    }
                    Kept::Disk(file, manager) => {
                        let mut stream = manager.read_spill_as_stream_unbuffered(file.clone(), None)?;
                        while let Some(batch) = reading.handle.block_on(stream.next()) {
                            cut.batch(&batch?)?;
                        }
                    }
                }
            }
            first = end;
        }
        Ok(())
    }
}

/// Hands on what of each batch is in a range.
struct Cut<'a, F> {
    rows: Range<u64>,
    at: u64,
    take: &'a mut F,
}

impl<F: FnMut(u64, RecordBatch) -> Result<()>> Cut<'_, F> {
    fn batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let (start, end) = (self.at, self.at + batch.num_rows() as u64);
        self.at = end;
        let part = self.rows.start.max(start)..self.rows.end.min(end);
        if part.is_empty() {
            return Ok(());
        }
        let (offset, length) = ((part.start - start) as usize, (part.end - part.start) as usize);
        (self.take)(part.start, batch.slice(offset, length))
    }
}
