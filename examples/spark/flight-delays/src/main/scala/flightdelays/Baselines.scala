package flightdelays

import org.apache.spark.ml.{Pipeline, PipelineStage}
import org.apache.spark.ml.classification.{LogisticRegression, MultilayerPerceptronClassifier}
import org.apache.spark.ml.feature._

/** Spark's own classifiers, and the usual preparation of columns for them. */
object Baselines {
  import Flights.{numbers, strings}

  def logisticRegression: LogisticRegression = new LogisticRegression().setLabelCol("late")

  def perceptron(inputs: Int, seed: Long): MultilayerPerceptronClassifier =
    new MultilayerPerceptronClassifier()
      .setLabelCol("late")
      .setLayers(Array(inputs, 32, 2))
      .setMaxIter(50)
      .setBlockSize(1024)
      .setSeed(seed)

  /** Means for what is missing, numbers standardised, one-hot vectors of strings, all in one vector. */
  def preparation: Pipeline = {
    val filled = numbers.map(_ + "_filled")
    val indexed = strings.map(_ + "_index")
    val encoded = strings.map(_ + "_vector")
    new Pipeline().setStages(
      Array[PipelineStage](
        new Imputer().setInputCols(numbers).setOutputCols(filled),
        new VectorAssembler().setInputCols(filled).setOutputCol("numbers"),
        new StandardScaler().setWithMean(true).setInputCol("numbers").setOutputCol("scaled"),
        new StringIndexer().setInputCols(strings).setOutputCols(indexed).setHandleInvalid("keep"),
        new OneHotEncoder().setInputCols(indexed).setOutputCols(encoded),
        new VectorAssembler().setInputCols("scaled" +: encoded).setOutputCol("features")
      )
    )
  }
}
