package firesteel.ml

import java.nio.file.{Files, Path}

import org.apache.commons.io.FileUtils
import org.apache.spark.sql.{DataFrame, SparkSession}
import org.apache.spark.sql.functions._
import org.scalatest.BeforeAndAfterAll
import org.scalatest.funsuite.AnyFunSuite

/** A suite with a Spark session of its own. */
trait SparkSuite extends AnyFunSuite with BeforeAndAfterAll {
  def master: String = "local[2]"
  def settings: Map[String, String] = Map.empty

  lazy val spark: SparkSession = {
    val builder = SparkSession
      .builder()
      .master(master)
      .appName(getClass.getSimpleName)
      .config("spark.ui.enabled", "false")
      .config("spark.sql.shuffle.partitions", "2")
      .config("spark.driver.host", "127.0.0.1")
      .config("spark.sql.warehouse.dir", temporary.resolve("warehouse").toString)
    settings.foreach { case (name, value) => builder.config(name, value) }
    builder.getOrCreate()
  }

  lazy val temporary: Path = Files.createTempDirectory("firesteel-test-")

  override def afterAll(): Unit = {
    spark.stop()
    FileUtils.deleteDirectory(temporary.toFile)
    super.afterAll()
  }

  /** Rows whose class is whether two numbers have one sign; with a string and a number that say nothing. */
  def signs(rows: Int, partitions: Int, seed: Long = 1): DataFrame =
    spark
      .range(0, rows, 1, partitions)
      .select(
        // Uniform in -1 to 1, the same whatever the partitioning.
        (pmod(hash(col("id"), lit(seed)), lit(20001)) / 10000.0 - 1.0).as("a"),
        (pmod(hash(col("id"), lit(seed + 1)), lit(20001)) / 10000.0 - 1.0).as("b"),
        concat(lit("v"), col("id") % 5).as("word"),
        (col("id") % 7).cast("float").as("noise"),
        col("id")
      )
      .withColumn("label", (col("a") * col("b") > 0).cast("double"))

  def classifier(): NeuralClassifier = new NeuralClassifier("nc")
    .setFeaturesCols("a", "b")
    .setNetwork(Mlp(32))
    .setEpochs(20)
    .setBatchSize(64)
    .setLearningRate(0.01)
    .setShowProgress(false)

  def accuracy(predictions: DataFrame): Double =
    predictions.select(avg((col("prediction") === col("label")).cast("double"))).head().getDouble(0)

  /** The message of the exception that `run` must throw. */
  def refusal(run: => Any): String = intercept[IllegalArgumentException](run).getMessage
}
