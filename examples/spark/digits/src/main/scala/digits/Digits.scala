package digits

import java.nio.file.{Files, Paths}

import firesteel.ml.{Lenet5, NeuralClassifier}
import org.apache.spark.ml.evaluation.MulticlassClassificationEvaluator
import org.apache.spark.sql.{DataFrame, SparkSession}

/** LeNet-5 learns to read handwritten digits: the 60,000 images of MNIST as a column of arrays. Arguments: the folder with
  * MNIST's four files.
  */
object Digits {
  def main(args: Array[String]): Unit = {
    val spark = SparkSession.builder().appName("digits").getOrCreate()
    val folder = args.headOption.getOrElse(cache + "/firesteel/data/mnist")
    val train = images(spark, folder, "train").cache()
    val test = images(spark, folder, "t10k")
    println(s"${train.count()} images to learn from")

    val classifier = new NeuralClassifier()
      .setFeaturesCol("pixels")
      .setInputShape(1, 28, 28) // channels, height, width
      .setLabelCol("digit")
      .setNetwork(Lenet5)
      .setStandardization("per_column") // one mean for all pixels, as many are always black
      .setEpochs(5)
      .setBatchSize(128)
      .setLearningRate(2e-3)
      .setSchedule("cosine")
      .setSeed(1)

    val start = System.nanoTime()
    val model = classifier.fit(train)
    val seconds = (System.nanoTime() - start) / 1e9
    val evaluator = new MulticlassClassificationEvaluator().setLabelCol("digit").setMetricName("accuracy")
    val accuracy = evaluator.evaluate(model.transform(test))
    println(f"test accuracy ${accuracy * 100}%.2f %%, trained in $seconds%.1f s")
    spark.stop()
  }

  /** `pixels`, from 0 to 1, row by row, and the `digit` they show. */
  private def images(spark: SparkSession, folder: String, part: String): DataFrame = {
    import spark.implicits._
    val pixels =
      Files.readAllBytes(Paths.get(folder, s"$part-images-idx3-ubyte")).drop(16) // behind the header
    val labels = Files.readAllBytes(Paths.get(folder, s"$part-labels-idx1-ubyte")).drop(8)
    val rows = pixels.grouped(28 * 28).zip(labels.iterator).toSeq
    spark.sparkContext
      .parallelize(rows, numSlices = 8)
      .map { case (image, label) => (image.map(byte => (byte & 0xff) / 255f), label.toDouble) }
      .toDF("pixels", "digit")
  }

  private def cache = sys.env.getOrElse("XDG_CACHE_HOME", sys.props("user.home") + "/.cache")
}
