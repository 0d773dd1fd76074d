package firesteel.ml

import java.nio.file.Files

import org.apache.spark.sql.{DataFrame, SparkSession}
import org.apache.spark.sql.firesteel.SqlBridge
import org.apache.spark.sql.functions._
import org.apache.spark.unsafe.Platform

/** How fast rows reach the shards of two workers, by the way they take: `make bench` runs it and keeps the table. Rows
  * are the peer of column batches; reading rows without writing them shows what Spark itself needs.
  */
object IngestBenchmark {
  private val rounds = 9

  /** Rounds that warm the JVM and the page cache. */
  private val warm = 2

  def main(arguments: Array[String]): Unit = {
    val spark = SparkSession.builder().master("local[2]").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    // A file is a partition.
    spark.conf.set("spark.sql.files.maxPartitionBytes", "2g")
    val folder = Files.createTempDirectory("firesteel-ingest")
    try {
      println(
        "| Parquet, two partitions, MB/s | read, not written | rows | column batches | ratio | single rounds |")
      println("| --- | ---: | ---: | ---: | ---: | ---: |")
      val label = col("id").cast("double").as("y")
      val scalars =
        spark.range(0, 1000000, 1, 2).select((0 until 30).map(i => rand(i).as(s"c$i")) :+ label: _*)
      new Ingest(spark, folder.resolve("scalars").toString, scalars, 31 * 8).report("30 doubles")
      val floats = transform(sequence(lit(1), lit(784)), x => ((x + col("id")) / 784.0).cast("float"))
      val arrays = spark.range(0, 60000, 1, 2).select(floats.as("x"), label)
      new Ingest(spark, folder.resolve("arrays").toString, arrays, 784 * 4 + 8).report("array of 784 floats")
    } finally {
      spark.stop()
      org.apache.commons.io.FileUtils.deleteDirectory(folder.toFile)
    }
  }

  /** One table of rows; the last column is the label. */
  private final class Ingest(spark: SparkSession, path: String, made: DataFrame, width: Int) {
    made.write.parquet(path)
    private val data = spark.read.parquet(path)
    private val bytes = made.count().toDouble * width
    private val (columns, config) = {
      val names = data.columns
      val estimator = new NeuralRegressor().setFeaturesCols(names.init).setLabelCol(names.last)
      val training = estimator.trainingColumns(data.schema)
      (training.selected, estimator.config("regression", training).toString)
    }
    private val rows = SqlBridge.rows(data)
    private val batches =
      SqlBridge.batches(data).getOrElse(throw new IllegalStateException("no column batches"))

    def report(name: String): Unit = {
      check()
      // Copies, so that a task does not want this object.
      val (columns, config) = (this.columns, this.config)
      val ways = Seq(
        () => rows.foreachPartition(_.foreach(_ => ())),
        () => rows.foreachPartition(r => push(Feed.rows(r), columns, config)),
        () => batches.foreachPartition(b => push(Feed.batches(b), columns, config))
      )
      // Alternately, so that a change in the machine's mood meets all.
      val seconds = Seq.fill(rounds)(ways.map(timed)).drop(warm)
      val speeds = seconds.transpose.map(all => f"${bytes / median(all) / 1e6}%,.0f")
      val ratios = seconds.map(round => round(1) / round(2))
      println(
        s"| $name | ${speeds.mkString(" | ")} | ${f"${median(ratios)}%.2f"} | " +
          f"${ratios.min}%.2f–${ratios.max}%.2f |")
    }

    /** Both ways must write the same. */
    private def check(): Unit = {
      val columns = this.columns
      val byRows = rows.mapPartitions(r => Iterator(digest(Feed.rows(r), columns))).collect().toSeq
      val byBatches = batches.mapPartitions(b => Iterator(digest(Feed.batches(b), columns))).collect().toSeq
      if (byRows != byBatches)
        throw new IllegalStateException(s"rows wrote $byRows, column batches $byBatches")
    }
  }

  private def median(values: Seq[Double]): Double = values.sorted.apply(values.size / 2)

  private def timed(work: () => Unit): Double = {
    val started = System.nanoTime()
    work()
    (System.nanoTime() - started) / 1e9
  }

  /** What a worker does before it trains. */
  private def push(feed: Feed, columns: Array[InputColumn], config: String): Unit = {
    val shard = new Handle("shard", Native.shardNew(config, 0, Array.empty))
    try each(feed, columns)((batch, rows) => batch.take(Native.shardPush(shard.value, _, rows)))
    finally shard.close()
  }

  /** How many rows there were, and a number that depends on every value and its place. */
  private def digest(feed: Feed, columns: Array[InputColumn]): (Int, Long) = {
    var (count, sum) = (0, 0L)
    each(feed, columns) { (batch, rows) =>
      for (c <- columns.indices) {
        val values =
          if (batch.offsets(c) == 0) rows else Platform.getInt(null, batch.offsets(c) + 4L * rows)
        for (at <- 0L until values.toLong * columns(c).kind.width / 4)
          sum = 31 * sum + Platform.getInt(null, batch.values(c) + 4 * at)
      }
      count += rows
    }
    (count, sum)
  }

  private def each(feed: Feed, columns: Array[InputColumn])(use: (ColumnBatch, Int) => Unit): Unit = {
    NativeLibrary.load()
    val batch = new ColumnBatch(columns, 4096)
    try {
      val writer = new RowWriter(batch)
      while (feed.hasNext) {
        feed.fill(writer)
        use(batch, writer.rows)
        writer.reset()
      }
    } finally batch.close()
  }
}
