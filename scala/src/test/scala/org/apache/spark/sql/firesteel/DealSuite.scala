package org.apache.spark.sql.firesteel

import firesteel.ml.SparkSuite
import org.apache.spark.sql.functions._

/** Rows dealt out to workers. */
class DealSuite extends SparkSuite {

  /** The ids that each worker gets. */
  private def dealt(rows: Long, partitions: Int, workers: Int): Option[Seq[Seq[Long]]] = {
    val data = spark.range(0, rows, 1, partitions).toDF()
    SqlBridge
      .deal(data, SqlBridge.rows(data), workers)
      .map(_.mapPartitions(r => Iterator.single(r.map(_.getLong(0)).toArray)).collect().toSeq.map(_.toSeq))
  }

  for ((partitions, workers) <- Seq(1 -> 1, 3 -> 1, 3 -> 2, 5 -> 2, 2 -> 3, 1 -> 8, 7 -> 8, 40 -> 3))
    test(s"$partitions partitions to $workers workers: one behind the other they keep their order") {
      for (rows <- Seq(1L, 2L, 5L, 997L, 30011L)) {
        val parts = dealt(rows, partitions, workers).get
        assert(parts.length == workers)
        assert(parts.flatten == (0L until rows), s"$rows rows")
        assert(parts.map(_.length).max - parts.map(_.length).min <= 1)
      }
      assert(dealt(0, partitions, workers).isEmpty)
    }

  test("partitions of different sizes, empty ones among them") {
    val data = spark.range(0, 10000, 1, 6).filter("id < 10 or (id > 5000 and id % 3 = 0)").toDF()
    val expected = data.collect().map(_.getLong(0)).toSeq
    for (workers <- Seq(1, 2, 4, 9)) {
      val parts = SqlBridge.deal(data, SqlBridge.rows(data), workers).get
      assert(parts.mapPartitions(_.map(_.getLong(0))).collect().toSeq == expected)
    }
  }

  test("no partition at all") {
    val data = spark.range(0).toDF()
    assert(SqlBridge.deal(data, SqlBridge.rows(data).mapPartitions(_.take(0)), 2).isEmpty)
    val none = spark.sparkContext.emptyRDD[org.apache.spark.sql.catalyst.InternalRow]
    assert(SqlBridge.deal(data, none, 2).isEmpty)
  }

  test("strings and arrays arrive whole") {
    val data = spark
      .range(0, 1000, 1, 3)
      .select(
        col("id"),
        concat(lit("row "), col("id")).as("text"),
        array(col("id"), col("id") + 1).as("list"))
    val parts = SqlBridge.deal(data, SqlBridge.rows(data), 2).get
    val rows = parts.map(r => (r.getLong(0), r.getUTF8String(1).toString, r.getArray(2).getLong(1))).collect()
    assert(rows.toSeq == (0L until 1000).map(i => (i, s"row $i", i + 1)))
  }

  test("what computes the rows runs once") {
    val computed = spark.sparkContext.longAccumulator
    val count = udf { (id: Long) => computed.add(1); id }.asNondeterministic()
    val data = spark.range(0, 1000, 1, 3).select(count(col("id")).as("id"))
    val parts = SqlBridge.deal(data, SqlBridge.rows(data), 2).get
    assert(parts.count() == 1000 && parts.count() == 1000)
    assert(computed.value == 1000)
  }

  test("blocks grow by an eighth, so a range has little around it") {
    val chunks = Chunks(Chunks.most)
    val counter = chunks.counter()
    for (row <- 0L until 5000L) assert(counter.next() == chunks.of(row))
    assert(chunks.starts.sliding(2).forall { case Array(a, b) => b > a && b - a <= math.max(64, a / 8) })
    assert(chunks.starts.last > 1e11)
  }
}

/** The same where Spark sorts what it writes by block. */
class SortedDealSuite extends DealSuite {
  override def settings: Map[String, String] = Map("spark.shuffle.sort.bypassMergeThreshold" -> "0")
}
