package flightdelays

import firesteel.ml.{NeuralClassificationModel, NeuralClassifier, Tabular}
import org.apache.spark.ml.{Pipeline, PipelineModel, PipelineStage}
import org.apache.spark.ml.evaluation.BinaryClassificationEvaluator
import org.apache.spark.ml.functions.vector_to_array
import org.apache.spark.ml.linalg.Vector
import org.apache.spark.sql.{DataFrame, SparkSession}
import org.apache.spark.sql.functions._

import scala.util.Properties.versionNumberString

/** Will a flight be more than fifteen minutes late? Joins tables, trains a network in the tasks of the job, compares it with
  * Spark's own models, saves it, and scores with what a new session loads.
  */
object FlightDelays {
  def main(args: Array[String]): Unit = {
    val options = Options(args)
    val spark = session()
    val table = s"${options.out}/flights.parquet"
    val (_, joining) = timed(Flights.features(spark, options.data).write.mode("overwrite").parquet(table))
    println(f"joined and written to $table in $joining%.1f s")

    val flights = spark.read.parquet(table)
    val train = flights.where(col("month") <= 10).cache()
    val test = flights.where(col("month") > 10).cache()
    val rows = Map("train" -> train.count(), "test" -> test.count())
    println(s"${rows("train")} flights to learn from, January to October; ${rows("test")} to be tested on")

    val network = classifier(options)
    val (model, ours) = evaluated(network, train, test)
    val fits = ours +: baselines(train, test, options.seed)

    model.write.overwrite().save(s"${options.out}/model")
    scores(model, test).write.mode("overwrite").parquet(s"${options.out}/scores.parquet")
    val results = Results(
      fits,
      model.stages.last.asInstanceOf[NeuralClassificationModel].history,
      network.params
        .filter(network.isSet)
        .map(param => param.name -> shown(network.getOrDefault(param)))
        .toMap,
      Map("Spark" -> spark.version, "Scala" -> versionNumberString, "Java" -> sys.props("java.version")),
      rows
    )
    println(s"\n${results.table}\n")

    spark.stop()
    val differing = scoredAgain(session(), options.out)
    println(s"saved, loaded in a new session, scored again: $differing of ${rows("test")} scores differ")
    results.copy(differing = differing).write(s"${options.out}/results.json")
    if (differing > 0) sys.exit(1)
  }

  private def classifier(options: Options) = new NeuralClassifier()
    .setFeaturesCols(Flights.numbers ++ Flights.strings)
    .setLabelCol("late")
    .setHandleInvalid("keep") // no reading, no earlier flight: the mean
    .setNetwork(Tabular(hidden = Seq(128, 64), embeddingDims = 8, dropout = 0.2))
    .setEpochs(options.epochs)
    .setBatchSize(1024)
    .setOptimizer("adamw")
    .setWeightDecay(1e-3)
    .setLearningRate(2e-3)
    .setSchedule("cosine")
    .setValidationFraction(0.05)
    .setSeed(options.seed)

  /** Spark's models on the same columns; their time includes preparing these. */
  private def baselines(train: DataFrame, test: DataFrame, seed: Long): Seq[Fit] = {
    val (preparation, preparing) = timed(Baselines.preparation.fit(train))
    val vectors = preparation.transform(train).select("late", "features").cache()
    val testVectors = preparation.transform(test)
    val inputs = vectors.first().getAs[Vector]("features").size
    Seq[PipelineStage](Baselines.logisticRegression, Baselines.perceptron(inputs, seed)).map { classifier =>
      val (_, fit) = evaluated(classifier, vectors, testVectors)
      fit.copy(seconds = fit.seconds + preparing)
    }
  }

  private def session(): SparkSession =
    SparkSession
      .builder()
      .appName("flight-delays")
      .config("spark.sql.shuffle.partitions", 8)
      .config("spark.sql.session.timeZone", "UTC") // the times of arrival are computed in it
      .getOrCreate()

  /** Fits a classifier and measures it on the test months. */
  private def evaluated(
      classifier: PipelineStage,
      train: DataFrame,
      test: DataFrame): (PipelineModel, Fit) = {
    val name = classifier.getClass.getSimpleName
    println(s"\n$name")
    val (model, seconds) = timed(new Pipeline().setStages(Array(classifier)).fit(train))
    val scored = model.transform(test).select("late", "rawPrediction", "probability").cache()
    val auc = new BinaryClassificationEvaluator().setLabelCol("late").evaluate(scored)
    val fit = Fit(name, auc, seconds, Results.roc(scored))
    scored.unpersist()
    println(f"test AUC $auc%.4f, trained in $seconds%.1f s")
    (model, fit)
  }

  private def timed[T](work: => T): (T, Double) = {
    val start = System.nanoTime()
    (work, (System.nanoTime() - start) / 1e9)
  }

  private def shown(value: Any): String = value match {
    case many: Array[_] => many.mkString(", ")
    case one => one.toString
  }

  private def scores(model: PipelineModel, flights: DataFrame): DataFrame =
    model.transform(flights).select(col("id"), vector_to_array(col("probability"))(1).as("probability"))

  private def scoredAgain(spark: SparkSession, out: String): Long = {
    val flights = spark.read.parquet(s"$out/flights.parquet")
    val again = scores(PipelineModel.load(s"$out/model"), flights.where(col("month") > 10))
    val before = spark.read.parquet(s"$out/scores.parquet").withColumnRenamed("probability", "before")
    again.join(before, Seq("id"), "full").where(!(col("before") <=> col("probability"))).count()
  }
}

/** `--data folder --out folder --epochs n --seed n` */
final case class Options(
    data: String = Options.cache + "/firesteel/data/nycflights13",
    out: String = "target/demo",
    epochs: Int = 6,
    seed: Long = 1
)

object Options {
  private def cache = sys.env.getOrElse("XDG_CACHE_HOME", sys.props("user.home") + "/.cache")

  def apply(args: Array[String]): Options = args.grouped(2).foldLeft(Options()) {
    case (options, Array("--data", folder)) => options.copy(data = folder)
    case (options, Array("--out", folder)) => options.copy(out = folder)
    case (options, Array("--epochs", n)) => options.copy(epochs = n.toInt)
    case (options, Array("--seed", n)) => options.copy(seed = n.toLong)
    case (_, other) => sys.error(s"unknown option ${other.mkString(" ")}")
  }
}
