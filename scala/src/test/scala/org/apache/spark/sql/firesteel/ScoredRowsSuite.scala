package org.apache.spark.sql.firesteel

import java.util.concurrent.{CountDownLatch, TimeUnit}

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{GenericInternalRow, UnsafeProjection}
import org.apache.spark.sql.types.{DoubleType, StructType}
import org.scalatest.funsuite.AnyFunSuite

/** Rows that a thread reads which the task does not wait for. */
class ScoredRowsSuite extends AnyFunSuite {

  /** Two rows a batch; `run` says that it has started and waits to be let go. */
  private class Slow extends Scorer {
    val started = new CountDownLatch(1)
    val go = new CountDownLatch(1)
    @volatile var closed = 0
    @volatile var closedWhileRunning = false
    private var rows = 0
    override def add(row: InternalRow): Unit = rows += 1
    override def isFull: Boolean = rows == 2
    override def run(): Unit = {
      started.countDown()
      assert(go.await(10, TimeUnit.SECONDS))
      closedWhileRunning = closed > 0
      rows = 0
    }
    override def result(row: Int): InternalRow = new GenericInternalRow(Array[Any](0.5))
    override def close(): Unit = closed += 1
  }

  test("closing waits for the batch that is scored, its rows are still read, the next batch is refused") {
    val input = Iterator.tabulate(4)(i => new GenericInternalRow(Array[Any](i.toDouble)))
    val scorer = new Slow
    val project = UnsafeProjection.create(new StructType().add("x", DoubleType).add("y", DoubleType))
    val rows = new ScoredRows(input, scorer, project)
    val read = scala.collection.mutable.ArrayBuffer.empty[Double]
    @volatile var end: Throwable = null
    val reader = new Thread(() =>
      try rows.foreach(r => read.synchronized(read += r.getDouble(0)))
      catch { case e: Throwable => end = e })
    reader.start()
    assert(scorer.started.await(10, TimeUnit.SECONDS))
    val closer = new Thread(() => rows.close())
    closer.start()
    // It must not get past the reader.
    closer.join(100)
    assert(closer.isAlive && scorer.closed == 0)
    scorer.go.countDown()
    Seq(reader, closer).foreach(_.join(10000))
    rows.close()
    assert(!scorer.closedWhileRunning && scorer.closed == 1)
    // The reader may have come first again, then there was no batch to refuse.
    assert(read.take(2) == Seq(0.0, 1.0))
    if (read.length < 4) assert(end.getMessage == "the task that scores these rows has ended")
  }

  test("a closed scorer is asked for nothing") {
    val scorer = new Slow
    scorer.go.countDown()
    val input = Iterator.tabulate(4)(i => new GenericInternalRow(Array[Any](i.toDouble)))
    val project = UnsafeProjection.create(new StructType().add("x", DoubleType).add("y", DoubleType))
    val rows = new ScoredRows(input, scorer, project)
    assert(rows.next().getDouble(1) == 0.5)
    rows.close()
    assert(rows.next().getDouble(0) == 1.0)
    assert(intercept[IllegalStateException](rows.hasNext).getMessage.contains("has ended"))
  }
}
