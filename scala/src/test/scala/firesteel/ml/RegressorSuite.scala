package firesteel.ml

import org.apache.spark.ml.evaluation.RegressionEvaluator
import org.apache.spark.ml.linalg.Vectors
import org.apache.spark.ml.feature.VectorAssembler
import org.apache.spark.sql.functions._

/** The regressor in one JVM. */
class RegressorSuite extends SparkSuite {
  private lazy val data =
    signs(2000, 2).withColumn("label", col("a") * 30 + col("b") * col("b") * 20 + 1000).cache()
  private def regressor() = new NeuralRegressor()
    .setNetwork(Mlp(32))
    .setEpochs(20)
    .setBatchSize(64)
    .setLearningRate(0.01)
    .setShowProgress(false)

  test("it learns a value far from zero") {
    val model = regressor().setFeaturesCols("a", "b").fit(data)
    val rmse = new RegressionEvaluator().evaluate(model.transform(data))
    assert(rmse < 2.0, "the label's deviation is 18")
    assert(model.history.length == 20)
  }

  test("saved, loaded, and applied to a single vector") {
    val assembled =
      new VectorAssembler().setInputCols(Array("a", "b")).setOutputCol("features").transform(data)
    val model = regressor().setEpochs(3).fit(assembled)
    model.save(temporary.resolve("regressor").toString)
    val loaded = NeuralRegressionModel.load(temporary.resolve("regressor").toString)
    val x = Vectors.dense(0.5, -0.5)
    assert(loaded.predict(x) == model.predict(x))
    val columns = Seq("id", "prediction").map(col)
    val after = loaded.transform(assembled).select(columns: _*).collect().toSet
    assert(after == model.transform(assembled).select(columns: _*).collect().toSet)
  }

  test("Huber loss and a NULL label") {
    val model = regressor().setFeaturesCols("a", "b").setLoss("huber").setEpochs(5).fit(data)
    assert(new RegressionEvaluator().evaluate(model.transform(data)) < 10.0)
    val broken = data.withColumn("label", when(col("id") =!= 77, col("label")))
    val message = refusal(regressor().setFeaturesCols("a", "b").fit(broken))
    assert(message.contains("label") && message.contains("NULL"), message)
  }
}
