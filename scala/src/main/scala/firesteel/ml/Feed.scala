package firesteel.ml

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.vectorized.ColumnarBatch

/** What a worker trains on, as Spark has it. */
private[ml] trait Feed {
  def hasNext: Boolean

  /** Writes until the writer is full or nothing is left. */
  def fill(writer: RowWriter): Unit
}

private[ml] object Feed {

  def rows(rows: Iterator[InternalRow]): Feed = new Feed {
    override def hasNext: Boolean = rows.hasNext
    override def fill(writer: RowWriter): Unit = while (!writer.isFull && rows.hasNext)
      writer.write(rows.next())
  }

  def batches(batches: Iterator[ColumnarBatch]): Feed = new Feed {
    private var batch: ColumnarBatch = _
    private var from = 0

    /** Moves to the next batch once all of this one is written; empty ones are passed over. */
    override def hasNext: Boolean = {
      while ((batch == null || from == batch.numRows) && batches.hasNext) {
        batch = batches.next()
        from = 0
        freeWritten()
      }
      batch != null && from < batch.numRows
    }

    /** Batches that their source does not use again, Arrow's for example, are the reader's to free. */
    private def freeWritten(): Unit = if (from == batch.numRows) batch.closeIfFreeable()

    override def fill(writer: RowWriter): Unit = while (!writer.isFull && hasNext) {
      from = writer.write(batch, from, batch.numRows)
      freeWritten()
    }
  }
}
