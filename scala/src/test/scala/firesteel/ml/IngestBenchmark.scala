package firesteel.ml

import java.nio.file.Files

import org.apache.spark.sql.{DataFrame, SparkSession}
import org.apache.spark.sql.firesteel.SqlBridge
import org.apache.spark.sql.functions._

/** How fast rows reach native memory, by the way they take: `make bench` runs it and keeps the table. */
object IngestBenchmark {
  private val rounds = 9

  def main(arguments: Array[String]): Unit = {
    val spark = SparkSession.builder().master("local[2]").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    // A file is a partition.
    spark.conf.set("spark.sql.files.maxPartitionBytes", "2g")
    val folder = Files.createTempDirectory("firesteel-ingest")
    try {
      println("| Parquet, two partitions, MB/s | read as rows, not written | rows | column batches |")
      println("| --- | ---: | ---: | ---: |")
      val scalars = spark.range(0, 1000000, 1, 2).select((0 until 30).map(i => rand(i).as(s"c$i")): _*)
      measure(spark, folder.resolve("scalars").toString, scalars, "30 doubles", 30 * 8)
      val floats = transform(sequence(lit(1), lit(784)), x => (x / 784.0).cast("float"))
      val arrays = spark.range(0, 60000, 1, 2).select(floats.as("x"))
      measure(spark, folder.resolve("arrays").toString, arrays, "array of 784 floats", 784 * 4)
    } finally {
      spark.stop()
      org.apache.commons.io.FileUtils.deleteDirectory(folder.toFile)
    }
  }

  private def measure(spark: SparkSession, path: String, made: DataFrame, name: String, width: Int): Unit = {
    made.write.parquet(path)
    val data = spark.read.parquet(path)
    val bytes = made.count().toDouble * width
    val columns = data.schema.fields.zipWithIndex.map { case (f, i) => InputColumn(f.name, f.dataType, i) }
    val rows = SqlBridge.rows(data)
    val batches = SqlBridge.batches(data).getOrElse(throw new IllegalStateException("no column batches"))
    val ways = Seq(
      () => rows.foreachPartition(_.foreach(_ => ())),
      () => rows.foreachPartition(r => write(Feed.rows(r), columns)),
      () => batches.foreachPartition(b => write(Feed.batches(b), columns))
    )
    // Alternately, so that a change in the machine's mood meets all.
    val seconds =
      Seq.fill(rounds)(ways.map(timed)).drop(2).transpose.map(all => all.sorted.apply(all.size / 2))
    println(s"| $name | ${seconds.map(s => f"${bytes / s / 1e6}%,.0f").mkString(" | ")} |")
  }

  private def timed(work: () => Unit): Double = {
    val started = System.nanoTime()
    work()
    (System.nanoTime() - started) / 1e9
  }

  private def write(feed: Feed, columns: Array[InputColumn]): Unit = {
    NativeLibrary.load()
    val batch = new ColumnBatch(columns, 4096)
    val writer = new RowWriter(batch)
    while (feed.hasNext) {
      feed.fill(writer)
      writer.reset()
    }
    batch.close()
  }
}
