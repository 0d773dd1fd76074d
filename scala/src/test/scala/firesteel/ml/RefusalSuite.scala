package firesteel.ml

import scala.collection.mutable.ArrayBuffer

import org.apache.spark.SparkException
import org.apache.spark.sql.{Column, DataFrame, Row}
import org.apache.spark.sql.functions._

/** What is refused before training starts, and in which words. */
class RefusalSuite extends SparkSuite {
  private lazy val data = signs(200, 2).cache()
  private def quick = classifier().setEpochs(1)
  private def assertSays(message: String, expected: String): Unit = assert(message == expected)
  private def fit(data: DataFrame): String = refusal(quick.fit(data))
  private def broken(column: String, value: Column): DataFrame =
    data.withColumn(column, when(col("id") === 77, value).otherwise(col(column)))

  /** The message names all of these. */
  private def names(message: String, parts: String*): Unit =
    parts.foreach(p => assert(message.toLowerCase.contains(p.toLowerCase), s"'$p' in: $message"))

  test("an unknown column") {
    names(
      refusal(quick.setFeaturesCols("a", "zz").fit(data)),
      "feature column zz does not exist",
      "a, b, word")
    names(refusal(quick.setLabelCol("y").fit(data)), "label column y does not exist")
    names(refusal(quick.setWeightCol("w").fit(data)), "weight column w does not exist")
    names(refusal(quick.fit(data).transform(data.drop("b"))), "feature column b does not exist")
  }

  test("a column of the wrong type") {
    names(
      fit(data.withColumn("a", current_timestamp())),
      "column a has type timestamp",
      "a feature is a number")
    names(fit(data.withColumn("label", col("word"))), "label column label has type string", "StringIndexer")
    names(refusal(quick.setWeightCol("word").fit(data)), "weight column word has type string")
    names(refusal(quick.setInputShape(1, 2).fit(data)), "inputShape needs one vector column")
  }

  test("a column named twice, or both ways of naming columns") {
    names(refusal(quick.setFeaturesCols("a", "a").fit(data)), "names column a twice")
    names(refusal(quick.setFeaturesCol("a").fit(data)), "set featuresCol or featuresCols, not both")
  }

  test("a label that is NULL, not whole, negative or not a number") {
    names(fit(broken("label", lit(null))), "label", "NULL")
    names(fit(broken("label", lit(0.5))), "label", "0.5")
    names(fit(broken("label", lit(-1.0))), "label", "-1")
    names(fit(broken("label", lit(Double.NaN))), "label", "NaN")
  }

  test("a NULL, NaN or infinite feature, unless it is to be skipped or kept") {
    names(fit(broken("a", lit(null))), "a", "NULL")
    names(fit(broken("a", lit(Double.NaN))), "a", "NaN")
    names(fit(broken("b", lit(Double.PositiveInfinity))), "b", "inf")
    val nan = broken("a", lit(Double.NaN))
    val skipping = quick.setHandleInvalid("skip").fit(nan)
    assert(skipping.transform(nan).count() == 199)
    val keeping = quick.setHandleInvalid("keep").fit(nan)
    assert(keeping.transform(nan).count() == 200)
    // The model's own setting decides when it is applied.
    assert(keeping.setHandleInvalid("skip").transform(nan).count() == 199)
    val e = intercept[Exception](quick.fit(data).transform(nan).count())
    assert(
      Iterator.iterate[Throwable](e)(_.getCause).takeWhile(_ != null).exists(_.getMessage.contains("NaN")),
      e)
  }

  test("ragged arrays") {
    val ragged =
      data.withColumn("v", when(col("id") === 77, array(lit(1f))).otherwise(array(lit(1f), lit(2f))))
    names(refusal(quick.setFeaturesCols("v").fit(ragged)), "v", "1", "2")
  }

  test("a vector that does not fit the input shape") {
    val vectors = data.withColumn("v", array(lit(1f), lit(2f), lit(3f)))
    names(refusal(quick.setFeaturesCols("v").setInputShape(1, 2, 2).fit(vectors)), "v", "3")
  }

  test("zero rows") {
    names(fit(data.filter("id < 0")), "no", "row")
    names(fit(data.limit(0)), "no", "row")
    names(fit(signs(0, 2)), "no", "row")
    names(fit(spark.createDataFrame(java.util.List.of[Row](), data.schema)), "no", "row")
  }

  test("a network that does not suit the data") {
    names(refusal(quick.setNetwork(Lenet5).fit(data)), "lenet5 reads an image")
    names(refusal(quick.setNetwork("""{"mlp": 3}""").fit(data)), "the network is not valid")
  }

  test("options that do not fit each other, before anything runs") {
    def check(c: NeuralClassifier) = refusal(c.transformSchema(data.schema))
    assertSays(
      check(quick.setOptimizer("sgd").setNesterov(true)),
      "nesterov is true, which needs optimizer sgd with a momentum above 0")
    assertSays(
      check(quick.setLoss("huber")),
      "loss is huber, classification expects auto, softmax_cross_entropy or binary_cross_entropy")
    assert(
      check(quick.setLearningRate(Double.PositiveInfinity))
        .matches("learning_?[rR]ate is \"Infinity\", expected a number above 0"))
    assertSays(
      refusal(
        new NeuralRegressor()
          .setFeaturesCols("a")
          .setLoss("softmax_cross_entropy")
          .transformSchema(data.schema)),
      "loss is softmax_cross_entropy, regression expects auto, mean_squared_error or huber"
    )
  }

  test("more workers than slots") {
    val message = refusal(quick.setNumWorkers(3).fit(data))
    names(message, "numWorkers is 3", "only 2 tasks at once", "lower numWorkers")
  }

  test("fewer rows than workers is no error") {
    val two = data.filter("label = 1").limit(1).union(data.filter("label = 0").limit(1))
    assert(quick.setNumWorkers(2).fit(two.coalesce(1)).transform(data).count() == 200)
    val regressor = new NeuralRegressor().setFeaturesCols("a").setNumWorkers(2).setEpochs(1)
    assert(regressor.setShowProgress(false).fit(data.filter("id = 5")).transform(data).count() == 200)
  }

  test("a checkpoint directory that is a file") {
    val file = java.nio.file.Files.createFile(temporary.resolve("file"))
    var jobs = 0
    val message = refusal(quick.setCheckpointDir(file.toString).addListener(_ => jobs += 1).fit(data))
    assert(message.startsWith(s"checkpointDir is $file, where no checkpoint can be written: "))
    assert(jobs == 0)
  }

  test("a training that broke off goes on from its own checkpoint, another network does not see it") {
    val folder = temporary.resolve("checkpoints")
    def kept = folder.toFile.listFiles().toSeq.flatMap(_.list()).count(_.startsWith("firesteel-checkpoint-"))
    val many = signs(20000, 2).cache()
    def heard(c: NeuralClassifier): (NeuralClassifier, ArrayBuffer[Int]) = {
      val epochs = ArrayBuffer.empty[Int]
      (c.setCheckpointDir(folder.toString).addListener(e => epochs += e.epoch), epochs)
    }
    val group = "to be stopped"
    def first = quick.setEpochs(400)
    val (stopped, before) = heard(first.addListener { e =>
      if (e.epoch == 3) spark.sparkContext.cancelJobGroup(group)
    })
    spark.sparkContext.setJobGroup(group, group, interruptOnCancel = false)
    try intercept[SparkException](stopped.fit(many))
    finally spark.sparkContext.clearJobGroup()
    assert(kept == 1 && before.last < 400)
    val (other, others) = heard(quick.setEpochs(2).setNetwork(Mlp(33)))
    other.fit(many)
    assert(others == Seq(1, 2) && kept == 1)
    val (again, after) = heard(first)
    assert(again.fit(many).history.map(_.epoch) == (1 to 400))
    assert(after.head > 3 && after.last == 400)
    assert(folder.toFile.list().isEmpty)
  }

  test("a job that is cancelled ends at once and is not started again") {
    for (interrupt <- Seq(false, true)) {
      var retries = 0
      val group = s"to be cancelled, interrupt $interrupt"
      val endless = quick
        .setEpochs(10000000)
        .setMaxRetries(3)
        .addListener(new TrainingListener {
          override def onEpoch(e: EpochRecord): Unit =
            if (e.epoch == 2) spark.sparkContext.cancelJobGroup(group)
          override def onRetry(attempt: Int, cause: Throwable): Unit = retries += 1
        })
      spark.sparkContext.setJobGroup(group, group, interruptOnCancel = interrupt)
      try names(intercept[SparkException](endless.fit(data)).getMessage, "cancelled")
      finally spark.sparkContext.clearJobGroup()
      assert(retries == 0)
      // Its slots are free again.
      assert(quick.setNumWorkers(2).fit(data).history.length == 1)
    }
  }

  test("an untrained model") {
    val e = intercept[IllegalStateException](new NeuralClassificationModel().numClasses)
    names(e.getMessage, "holds no network")
  }
}

/** Spark may take executors away while workers train. */
class DynamicAllocationSuite extends SparkSuite {
  override def settings: Map[String, String] =
    Map("spark.dynamicAllocation.enabled" -> "true", "spark.dynamicAllocation.testing" -> "true")

  test("dynamic allocation is refused with what to set") {
    val message = refusal(classifier().fit(signs(100, 2)))
    assert(message.contains("spark.dynamicAllocation.enabled=false"), message)
  }
}
