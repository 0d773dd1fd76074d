package firesteel.ml

import org.apache.spark.sql.execution.vectorized.OnHeapColumnVector
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.{ColumnarBatch, ColumnVector}
import org.scalatest.funsuite.AnyFunSuite

/** Rows on their way to native memory. */
class FeedSuite extends AnyFunSuite {

  test("a batch is freed once all of it is written, an empty one too") {
    var freed = 0
    def batch(rows: Int) = {
      val vector = new OnHeapColumnVector(math.max(rows, 1), LongType)
      for (i <- 0 until rows) vector.putLong(i, i)
      new ColumnarBatch(Array[ColumnVector](vector), rows) {
        override def closeIfFreeable(): Unit = freed += 1
      }
    }
    val feed = Feed.batches(Iterator(batch(5), batch(0), batch(2)))
    val memory = new ColumnBatch(Array(InputColumn("x", LongType, 0)), 3)
    val writer = new RowWriter(memory)
    val seen = Iterator
      .continually(feed.hasNext)
      .takeWhile(identity)
      .map { _ =>
        val before = freed
        feed.fill(writer)
        val rows = writer.rows
        writer.reset()
        (before, rows, freed)
      }
      .toSeq
    assert(seen == Seq((0, 3, 0), (0, 3, 2), (2, 1, 3)))
    memory.close()
  }
}
