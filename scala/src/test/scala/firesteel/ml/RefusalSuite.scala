package firesteel.ml

import scala.collection.mutable.ArrayBuffer

import org.apache.spark.SparkException
import org.apache.spark.sql.{Column, DataFrame, Row}
import org.apache.spark.sql.functions._

/** What is refused before training starts, and in which words. */
class RefusalSuite extends SparkSuite {
  private lazy val data = signs(200, 2).cache()
  private def quick = classifier().setEpochs(1)
  private def fit(data: DataFrame): String = refusal(quick.fit(data))
  private def broken(column: String, value: Column): DataFrame =
    data.withColumn(column, when(col("id") === 77, value).otherwise(col(column)))

  private def says(message: String, expected: String): Unit = assert(message == expected)

  test("an unknown column") {
    says(
      refusal(quick.setFeaturesCols("a", "zz").fit(data)),
      "the feature column zz does not exist; there are a, b, word, noise, id, label")
    says(
      refusal(quick.setLabelCol("y").fit(data)),
      "the label column y does not exist; there are a, b, word, noise, id, label")
    says(
      refusal(quick.setWeightCol("w").fit(data)),
      "the weight column w does not exist; there are a, b, word, noise, id, label")
    says(
      refusal(quick.fit(data).transform(data.drop("b"))),
      "the feature column b does not exist; there are a, word, noise, id, label")
  }

  test("a column of the wrong type") {
    says(
      fit(data.withColumn("a", current_timestamp())),
      "column a has type timestamp; a feature is a number, boolean, string, array of numbers or ML Vector")
    says(
      fit(data.withColumn("label", col("word"))),
      "the label column label has type string, not a number; a StringIndexer makes class numbers of strings")
    says(
      refusal(quick.setWeightCol("word").fit(data)),
      "the weight column word has type string, not a number")
    says(
      refusal(quick.setInputShape(1, 2).fit(data)),
      "inputShape needs one vector column, the features are a, b")
  }

  test("a column named twice, or both ways of naming columns") {
    says(refusal(quick.setFeaturesCols("a", "a").fit(data)), "featuresCols names column a twice")
    says(refusal(quick.setFeaturesCol("a").fit(data)), "set featuresCol or featuresCols, not both")
  }

  test("a label that is NULL, not whole, negative or not a number") {
    val values = Seq("NULL" -> null, "0.5" -> 0.5, "-1" -> -1.0, "NaN" -> Double.NaN)
    for ((name, value) <- values)
      says(
        fit(broken("label", lit(value))),
        s"label column 'label', row 77 of rank 0: $name, expected a class, a whole number from 0 to 99999")
  }

  test("a NULL, NaN or infinite feature, unless it is to be skipped or kept") {
    val values =
      Seq(("a", "NULL", lit(null)), ("a", "NaN", lit(Double.NaN)), ("b", "inf", lit(Double.PositiveInfinity)))
    for ((column, name, value) <- values)
      says(
        fit(broken(column, value)),
        s"column '$column', row 77 of rank 0: $name, expected a finite number; handleInvalid 'skip' drops such " +
          "rows, 'keep' takes the mean instead"
      )
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
    says(
      refusal(quick.setFeaturesCols("v").fit(ragged)),
      "column 'v', row 77 of rank 0: a vector of 1 values, expected 2 as in the rows before")
  }

  test("a vector that does not fit the input shape") {
    val vectors = data.withColumn("v", array(lit(1f), lit(2f), lit(3f)))
    says(
      refusal(quick.setNumWorkers(1).setFeaturesCols("v").setInputShape(1, 2, 2).fit(vectors)),
      "column 'v', row 0 of rank 0: a vector of 3 values, expected 4 for shape [1, 2, 2]"
    )
  }

  test("zero rows, with a shuffle and without") {
    val none = Seq(
      data.filter("id < 0"),
      data.limit(0),
      signs(0, 2),
      signs(0, 3),
      spark.createDataFrame(java.util.List.of[Row](), data.schema))
    none.foreach(d => says(fit(d), "there are no rows to train on"))
  }

  test("a network that does not suit the data") {
    says(
      refusal(quick.setNetwork(Lenet5).fit(data)),
      "lenet5 reads an image of [channels, 28, 28] or [channels, 32, 32], the data has [numbers: dense [2]]")
    says(
      refusal(quick.setNetwork("""{"mlp": 3}""").fit(data)),
      "the network is not valid: mlp: invalid type: integer `3`, expected struct variant Network::Mlp at line 1 column 9"
    )
  }

  test("options that do not fit each other, before anything runs") {
    def check(c: NeuralClassifier) = refusal(c.transformSchema(data.schema))
    says(
      check(quick.setOptimizer("sgd").setNesterov(true)),
      "nesterov is true, which needs optimizer sgd with a momentum above 0")
    says(
      check(quick.setLoss("huber")),
      "loss is huber, classification expects auto, softmax_cross_entropy or binary_cross_entropy")
    says(
      check(quick.setPatience(2).setValidationFraction(0)),
      "patience is 2, but no row is held out: set validationFraction or a validation column")
    says(
      refusal(quick.setLearningRate(Double.PositiveInfinity)),
      "learningRate is Infinity, expected a number above 0 and at most 1e30")
    says(
      check(quick.setDevice("cpu").setPrecision("bf16")),
      "precision is bf16, which needs a GPU, and device is cpu; expected f32")
    says(
      check(quick.setStrategy("two_phase(sgin, sign, feedback=true)")).takeWhile(_ != ','),
      "strategy: to of two_phase: there is no compressor 'sgin'")
    says(
      check(quick.setStrategy("quasi_global")),
      "strategy is quasi_global(topology=ring, momentum=0.9, keep=0.9, nesterov=true), which has its own momentum and " +
        "needs optimizer sgd with momentum 0"
    )
    says(
      refusal(quick.setStrategy("dpsgd(davis)").setNumWorkers(2).fit(data)),
      "the strategy dpsgd(topology=davis, order=update_mix): davis among 2 workers, expected 32"
    )
    says(
      refusal(quick.setDevice("cuda:-1")),
      "device is cuda:-1, expected auto, cpu, cuda or cuda:N, N a GPU's number")
    says(refusal(quick.setNumWorkers(-1)), "numWorkers is -1, expected a whole number from 0 on")
    says(refusal(quick.setMaxRetries(-1)), "maxRetries is -1, expected a whole number from 0 on")
    says(
      refusal(
        new NeuralRegressor()
          .setFeaturesCols("a")
          .setLoss("softmax_cross_entropy")
          .transformSchema(data.schema)),
      "loss is softmax_cross_entropy, regression expects auto, mean_squared_error or huber"
    )
  }

  test("a GPU that is not there") {
    for (params <- Seq(quick.setDevice("cuda:4321"), quick.setNumWorkers(2).setDevice("cuda:4321"))) {
      val message = refusal(params.fit(data))
      assert(message.matches("device is cuda:4321: there is no (GPU|device cuda:4321).*"), message)
    }
  }

  test("more workers than slots") {
    says(
      refusal(quick.setNumWorkers(3).fit(data)),
      "numWorkers is 3, but Spark can run only 2 tasks at once (cores of all executors divided by " +
        "spark.task.cpus=1, master local[2]): all workers must run at the same time, so lower numWorkers or give " +
        "the application more cores"
    )
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
    // The epoch that was told last may have had no time for its checkpoint.
    assert(after.head >= 3 && after.last == 400)
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
      try assert(intercept[SparkException](endless.fit(data)).getCondition == "SPARK_JOB_CANCELLED")
      finally spark.sparkContext.clearJobGroup()
      assert(retries == 0)
      // Its slots are free again.
      assert(quick.setNumWorkers(2).fit(data).history.length == 1)
    }
  }

  test("an untrained model") {
    val model = new NeuralClassificationModel()
    says(
      intercept[IllegalStateException](model.numClasses).getMessage,
      s"the model ${model.uid} holds no network: it was not trained or loaded")
  }
}

/** Spark may take executors away while workers train. */
class DynamicAllocationSuite extends SparkSuite {
  override def settings: Map[String, String] =
    Map("spark.dynamicAllocation.enabled" -> "true", "spark.dynamicAllocation.testing" -> "true")

  test("dynamic allocation is refused with what to set") {
    val message = refusal(classifier().fit(signs(100, 2)))
    assert(
      message == "training needs all its workers at once, which Spark does not promise with dynamic allocation: " +
        "set spark.dynamicAllocation.enabled=false and a fixed number of executors")
  }
}
