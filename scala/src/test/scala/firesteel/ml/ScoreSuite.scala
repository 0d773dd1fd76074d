package firesteel.ml

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow
import org.apache.spark.sql.firesteel.{Scorer, ScoreStrategy, Scoring, SqlBridge}
import org.apache.spark.sql.functions._
import org.apache.spark.sql.types._
import org.scalatest.concurrent.Eventually
import org.scalatest.time.SpanSugar._

/** Doubles a column, five rows at a time, and drops rows where it is negative. */
private class Doubling extends Scoring {
  override def open(ordinals: Array[Int]): Scorer = new Scorer {
    Doubling.opened.incrementAndGet()
    private val in = scala.collection.mutable.ArrayBuffer.empty[Double]
    private var out = Array.empty[Double]
    override def add(row: InternalRow): Unit = in += row.getDouble(ordinals(0))
    override def isFull: Boolean = in.length == 5
    override def run(): Unit = { out = in.map(_ * 2).toArray; in.clear() }
    override def result(row: Int): InternalRow =
      if (out(row) < 0) null else new GenericInternalRow(Array[Any](out(row)))
    override def close(): Unit = Doubling.closed.incrementAndGet()
  }
}

private object Doubling {
  val opened = new java.util.concurrent.atomic.AtomicInteger
  val closed = new java.util.concurrent.atomic.AtomicInteger
}

/** The operator that appends columns to rows in batches. */
class ScoreSuite extends SparkSuite with Eventually {
  override implicit val patienceConfig: PatienceConfig = PatienceConfig(timeout = 10.seconds)
  private lazy val data = spark.range(0, 17, 1, 3).select(col("id"), col("id").cast("double").as("x"))
  private def doubled(df: org.apache.spark.sql.DataFrame) =
    SqlBridge.score(df, Seq("x"), Seq(StructField("y", DoubleType, nullable = false)), new Doubling)

  test("every row gets its own result, whatever the batches") {
    val rows = doubled(data).collect()
    assert(rows.map(_.getLong(0)).toSeq == (0L until 17L))
    assert(rows.forall(r => r.getDouble(2) == r.getLong(0) * 2.0))
    assert(doubled(data.limit(0)).count() == 0)
  }

  test("rows without a result are dropped, at the edges of batches too") {
    for (bad <- Seq(Set(0L), Set(4L, 5L), Set(16L), (0L until 17L).toSet)) {
      val some = data.withColumn("x", when(col("id").isin(bad.toSeq: _*), -1.0).otherwise(col("x")))
      assert(doubled(some).select("id").collect().map(_.getLong(0)).toSet == (0L until 17L).toSet -- bad)
    }
  }

  test("a scorer is closed however its task ends") {
    val failing = data.withColumn(
      "x",
      when(col("id") === 11, raise_error(lit("broken")).cast("double")).otherwise(col("x")))
    for ((name, run) <- Seq[(String, () => Unit)](
        "all rows" -> (() => doubled(data).foreach(_ => ())),
        "some rows" -> (() => doubled(data.coalesce(1)).limit(1).collect()),
        "a failure" -> (() => { intercept[Exception](doubled(failing).foreach(_ => ())); () }),
        "a failure behind" -> { () =>
          intercept[Exception](doubled(data).foreach(_ => throw new IllegalStateException("behind")))
          ()
        }
      )) {
      val before = Doubling.opened.get
      run()
      assert(Doubling.opened.get > before, name)
      // Of several tasks one fails first, and Spark does not wait for the others to end.
      eventually(assert(Doubling.closed.get == Doubling.opened.get, name))
    }
  }

  test("a frame is read in another session, through a global view") {
    doubled(data).createOrReplaceGlobalTempView("scored")
    val before = spark.newSession()
    for (session <- Seq(before, spark.newSession()))
      assert(session.sql("SELECT sum(y) FROM global_temp.scored").head().getDouble(0) == 2 * (0 until 17).sum)
    spark.catalog.dropGlobalTempView("scored")
  }

  test("names are taken by the letter, and one that two columns have is refused") {
    spark.conf.set("spark.sql.caseSensitive", "true")
    val both = data.select(lit("a text").as("X"), col("x"))
    spark.conf.unset("spark.sql.caseSensitive")
    assert(doubled(both).agg(sum("y")).head().getDouble(0) == 2 * (0 until 17).sum)
    val twice = data.select(col("x"), (-col("x")).as("x"))
    assert(refusal(doubled(twice)) == "2 columns have the name x; rename or drop all but one")
  }

  test("two threads register the strategy with one session once") {
    val session = spark.newSession().asInstanceOf[org.apache.spark.sql.classic.SparkSession]
    val threads = Seq.fill(8)(new Thread(() => ScoreStrategy.register(session)))
    threads.foreach(_.start())
    threads.foreach(_.join())
    assert(session.sessionState.planner.strategies.count(_ == ScoreStrategy) == 1)
  }

  test("joined with itself, twice applied, aggregated, cached, written") {
    val d = doubled(data)
    assert(d.as("l").join(d.as("r"), col("l.y") === col("r.y")).count() == 17)
    assert(d.join(d.withColumnRenamed("y", "z").select("id", "z"), "id").filter("y = z").count() == 17)
    val twice = SqlBridge.score(
      d.drop("x").withColumnRenamed("y", "x"),
      Seq("x"),
      Seq(StructField("y", DoubleType)),
      new Doubling)
    assert(twice.agg(sum("y")).head().getDouble(0) == 4 * (0 until 17).sum)
    assert(d.groupBy((col("y") / 8).cast("int")).count().count() == 5)
    val cached = d.cache()
    assert(cached.count() == 17 && cached.filter("y > 30").count() == 1)
    cached.unpersist()
    d.write.parquet(temporary.resolve("scored").toString)
    assert(spark.read.parquet(temporary.resolve("scored").toString).count() == 17)
    assert(d.union(d).count() == 34)
    assert(d.unpersist().selectExpr("sum(y) over (order by id)").count() == 17)
  }

  test("a stream is scored as it flows") {
    data.write.parquet(temporary.resolve("stream").toString)
    val stream = spark.readStream.schema(data.schema).parquet(temporary.resolve("stream").toString)
    val query = doubled(stream).writeStream.format("memory").queryName("scored_stream").start()
    query.processAllAvailable()
    query.stop()
    assert(spark.table("scored_stream").filter("y = 2 * id").count() == 17)
  }
}
