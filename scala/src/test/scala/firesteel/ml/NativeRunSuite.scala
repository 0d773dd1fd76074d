package firesteel.ml

import java.io.File
import java.nio.file.{Files, Path}

import scala.sys.process._

import org.apache.spark.sql.functions._

/** Spark against the `firesteel` command, on the same rows. */
class NativeRunSuite extends SparkSuite {
  private val command = new File(System.getProperty("firesteel.cli"))
  private def rows(partitions: Int) =
    signs(3000, partitions).withColumn("word", when(col("id") % 9 =!= 0, col("word")))
  private lazy val data = rows(1)

  private def estimator = classifier()
    .setFeaturesCols("a", "b", "word", "noise")
    .setNetwork(Tabular(Seq(16), dropout = 0.1))
    .setEpochs(3)

  /** The weights that the command trains on the rows of a Parquet file. */
  private def native(e: NeuralClassifier, parquet: Path): Array[Byte] = {
    val config = temporary.resolve("config.json")
    Files.writeString(config, e.config("classification", e.trainingColumns(data.schema)).toString)
    val out = temporary.resolve("native")
    val run = Seq(command.toString, "train", "--config", config.toString, "--data", parquet.toString)
    assert(
      (run ++ Seq("--out", out.toString, "--workers", "1", "--threads", "1")).!(ProcessLogger(_ => ())) == 0)
    Files.readAllBytes(out.resolve("weights.safetensors"))
  }

  private def weights(m: NeuralClassificationModel): Array[Byte] =
    m.files.files.collectFirst { case ("weights.safetensors", bytes) => bytes }.get

  test("one Spark worker equals the native run bit for bit") {
    assume(command.canExecute, s"there is no $command")
    val folder = temporary.resolve("data")
    data.write.parquet(folder.toString)
    val parquet = folder.toFile.listFiles().filter(_.getName.endsWith(".parquet"))
    assert(parquet.length == 1)
    val read = spark.read.parquet(folder.toString).repartition(1)
    val spark1 = estimator.setNumWorkers(1).fit(read)
    assert(java.util.Arrays.equals(weights(spark1), native(estimator, parquet.head.toPath)))
    // Column batches too, which a bare Parquet file gives.
    val columns = spark.read.parquet(folder.toString)
    assert(Source(columns, 1).isInstanceOf[Source.Batches])
    assert(java.util.Arrays.equals(weights(spark1), weights(estimator.setNumWorkers(1).fit(columns))))
    // However Spark partitions the rows.
    for (partitions <- Seq(2, 5)) {
      val dealt = estimator.setNumWorkers(1).fit(rows(partitions))
      assert(java.util.Arrays.equals(weights(spark1), weights(dealt)), s"from $partitions partitions")
    }
  }

  test("two workers take the same steps as one") {
    // The same rows in the same order, so the same batches: only sums are rounded elsewhere.
    val one = estimator.setNumWorkers(1).fit(rows(1))
    val two = estimator.setNumWorkers(2).fit(rows(2))
    for ((a, b) <- one.history.zip(two.history)) assert(math.abs(a.loss - b.loss) < 1e-4 * a.loss)
  }
}
