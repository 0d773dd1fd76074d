package firesteel.ml

import scala.collection.mutable.ArrayBuffer

import org.apache.spark.ml.{Pipeline, PipelineModel}
import org.apache.spark.ml.attribute.{Attribute, AttributeGroup, BinaryAttribute, NominalAttribute}
import org.apache.spark.ml.evaluation.{BinaryClassificationEvaluator, MulticlassClassificationEvaluator}
import org.apache.spark.ml.feature.{StringIndexer, VectorAssembler}
import org.apache.spark.ml.linalg.Vector
import org.apache.spark.ml.param.ParamMap
import org.apache.spark.ml.tuning.{CrossValidator, CrossValidatorModel, ParamGridBuilder}
import org.apache.spark.sql.functions._

/** The classifier in one JVM. */
class ClassifierSuite extends SparkSuite {
  private lazy val data = signs(2000, 2).cache()
  private lazy val model = classifier().fit(data)

  test("it learns, and the model says what Spark's models say") {
    val scored = model.transform(data)
    assert(accuracy(scored) > 0.95)
    assert(model.numClasses == 2 && model.numFeatures == 2)
    assert(model.history.length == 20)
    assert(model.history.last.loss < model.history.head.loss)
    assert(model.hasSummary && model.summary.totalIterations == 20)
    assert(model.summary.objectiveHistory.toSeq == model.history.map(_.loss))
    assert(scored.columns.takeRight(3).toSeq == Seq("rawPrediction", "probability", "prediction"))
    val auc = new BinaryClassificationEvaluator().evaluate(scored)
    assert(auc > 0.98, "rawPrediction(1) must rank rows as the probability does")
    for (row <- scored.select("rawPrediction", "probability", "prediction").take(20)) {
      val (raw, p) = (row.getAs[Vector](0), row.getAs[Vector](1))
      assert(raw(0) == -raw(1) && math.abs(p(0) + p(1) - 1) < 1e-12)
      assert(row.getDouble(2) == (if (p(1) > p(0)) 1.0 else 0.0))
    }
  }

  test("columns carry ML attributes") {
    val schema = model.transform(data).schema
    assert(AttributeGroup.fromStructField(schema("probability")).size == 2)
    assert(
      Attribute.fromStructField(schema("prediction")).asInstanceOf[NominalAttribute].getNumValues.contains(2))
    assert(schema == model.transformSchema(data.schema))
  }

  test("transform is lazy, narrow, and works in joins, filters and SQL") {
    val broken = data.withColumn(
      "a",
      udf((_: Double) => (throw new IllegalStateException("ran")): Double).apply(col("a")))
    model.transform(broken)
    val scored = model.transform(data)
    assert(scored.rdd.getNumPartitions == 2)
    val joined = scored.as("l").join(scored.as("r"), col("l.id") === col("r.id"))
    assert(joined.filter(col("l.prediction") === col("r.prediction")).count() == 2000)
    assert(
      scored.filter(col("prediction") === 1).select("id").count() == scored.filter("prediction = 1").count())
    scored.createOrReplaceTempView("scored")
    assert(spark.sql("SELECT count(*) FROM scored WHERE prediction IN (0, 1)").head().getLong(0) == 2000)
    assert(model.transform(data.limit(0)).count() == 0)
    assert(model.transform(data.drop("label")).count() == 2000)
  }

  test("output columns can be left out and renamed") {
    val copy = model.copy(ParamMap.empty).setRawPredictionCol("").setProbabilityCol("p").setPredictionCol("")
    assert(copy.transform(data).columns.last == "p")
    assert(copy.setProbabilityCol("").transform(data).columns.toSeq == data.columns.toSeq)
    assert(
      refusal(
        model.transform(
          data.withColumn("prediction", lit(1)))) == "the output column prediction already exists")
  }

  test("thresholds shift the prediction") {
    val shifted = model.copy(ParamMap.empty).setThresholds(Array(0.0, 1.0))
    assert(shifted.transform(data).filter("prediction = 1").count() < 20)
  }

  test("one vector column does the same as columns of numbers, dense or sparse, and scores single vectors") {
    val assembled =
      new VectorAssembler().setInputCols(Array("a", "b")).setOutputCol("features").transform(data)
    val c = new NeuralClassifier().setNetwork(Mlp(32)).setEpochs(20).setBatchSize(64).setLearningRate(0.01)
    val m = c.setShowProgress(false).fit(assembled)
    val scored = m.transform(assembled)
    assert(accuracy(scored) > 0.95)
    for (row <- scored.select("features", "rawPrediction", "probability", "prediction").take(5)) {
      val features = row.getAs[Vector](0)
      assert(m.predictRaw(features) == row.getAs[Vector](1))
      assert(m.predictProbability(features) == row.getAs[Vector](2))
      assert(m.predict(features) == row.getDouble(3))
    }
    val arrays = data.withColumn("features", array(col("a").cast("float"), col("b").cast("float")))
    assert(accuracy(c.fit(arrays).transform(arrays)) > 0.95)
  }

  test("strings, booleans and numbers mix, NULL strings have a place") {
    val mixed = data
      .withColumn("word", when(col("id") % 11 =!= 0, when(col("label") === 1, "yes").otherwise("no")))
      .withColumn("even", col("id") % 2 === 0)
    val m = new NeuralClassifier()
      .setFeaturesCols("word", "even", "noise")
      .setNetwork(Tabular(Seq(16)))
      .setEpochs(10)
      .setBatchSize(32)
      .setLearningRate(0.01)
      .setShowProgress(false)
      .fit(mixed)
    assert(accuracy(m.transform(mixed).filter("word is not null")) > 0.99)
    assert(
      m.transform(mixed.withColumn("word", lit("never seen"))).filter("prediction in (0, 1)").count() == 2000)
  }

  test("three classes, weights and a validation column") {
    val three = data
      .withColumn("label", when(col("a") < -0.3, 0).when(col("a") < 0.3, 1).otherwise(2))
      .withColumn("w", when(col("label") === 2, 0.0).otherwise(1.0))
      .withColumn("held", col("id") % 4 === 0)
    val m = classifier().setWeightCol("w").setValidationIndicatorCol("held").fit(three)
    assert(m.numClasses == 3)
    val scored = m.transform(three)
    assert(scored.filter("prediction = 2").count() < 100, "a class of weight 0 is not learned")
    assert(m.history.forall(e => e.validationLoss.isDefined && e.validationMetric.isDefined))
    val evaluator = new MulticlassClassificationEvaluator().setMetricName("accuracy")
    assert(evaluator.evaluate(scored.filter("label < 2")) > 0.95)
  }

  test("epochs are heard while training runs") {
    val heard = ArrayBuffer.empty[EpochRecord]
    val m = classifier().setEpochs(3).addListener(e => heard.synchronized(heard += e)).fit(data)
    assert(heard.map(_.epoch) == Seq(1, 2, 3))
    assert(heard == m.history)
    assert(heard.head.toString.matches("epoch +1  step +32  loss [0-9.]+  [0-9,]+ samples/s"), heard.head)
  }

  test("params are copied, explained and checked") {
    val c = classifier().setEpochs(7)
    val copy = c.copy(new ParamMap().put(c.epochs, 9))
    assert(copy.uid == c.uid && copy.getEpochs == 9 && c.getEpochs == 7 && copy.getNetwork == c.getNetwork)
    assert(c.explainParams().contains("epochs: "))
    assert(refusal(c.setEpochs(0)) == "epochs is 0, expected a whole number from 1 on")
    assert(refusal(c.setOptimizer("adma")) == "optimizer is adma, expected one of adam, adamw, sgd")
    assert(model.getLearningRate == 0.01, "a model has its estimator's params")
    assert(model.parent.uid == "nc")
  }

  test("saved and loaded, estimator and model are what they were") {
    val path = temporary.resolve("model").toString
    model.write.save(path)
    val loaded = NeuralClassificationModel.load(path)
    assert(loaded.uid == model.uid && loaded.history == model.history)
    assert(loaded.getFeaturesCols.toSeq == Seq("a", "b"))
    val columns = Seq("id", "rawPrediction", "probability", "prediction").map(col)
    val before = model.transform(data).select(columns: _*).collect().toSet
    assert(loaded.transform(data).select(columns: _*).collect().toSet == before)
    assert(intercept[java.io.IOException](model.save(path)).getMessage.contains("already exists"))
    model.write.overwrite().save(path)
    val left = temporary.toFile.list().filter(_.startsWith(".model"))
    assert(left.isEmpty, "what is written beside is renamed or removed")

    classifier().setEpochs(3).save(temporary.resolve("estimator").toString)
    val estimator = NeuralClassifier.load(temporary.resolve("estimator").toString)
    assert(estimator.getEpochs == 3 && estimator.getNetwork == Mlp(32).toJson)
  }

  test("a damaged model is refused by name") {
    val path = temporary.resolve("damaged")
    model.save(path.toString)
    val weights = path.resolve("network/weights.safetensors")
    java.nio.file.Files.write(weights, java.nio.file.Files.readAllBytes(weights).take(100))
    org.apache.commons.io.FileUtils.deleteQuietly(path.resolve("network/.weights.safetensors.crc").toFile)
    val e = intercept[CorruptException](NeuralClassificationModel.load(path.toString).transform(data))
    assert(e.getMessage.contains("weights.safetensors"), e.getMessage)
  }

  test("it is a stage of a pipeline, which is saved and loaded") {
    val labelled = data.withColumn("answer", when(col("label") === 1, "yes").otherwise("no")).drop("label")
    val pipeline = new Pipeline().setStages(
      Array(
        new StringIndexer().setInputCol("answer").setOutputCol("label").setStringOrderType("alphabetAsc"),
        classifier()))
    val fitted = pipeline.fit(labelled)
    val before = fitted.transform(labelled)
    assert(accuracy(before) > 0.95)
    fitted.save(temporary.resolve("pipeline").toString)
    val loaded = PipelineModel.load(temporary.resolve("pipeline").toString)
    val columns = Seq("id", "probability", "prediction").map(col)
    val after = loaded.transform(labelled).select(columns: _*).collect().toSet
    assert(after == before.select(columns: _*).collect().toSet)
  }

  test("a cross-validator chooses among its params") {
    val c = classifier().setEpochs(8)
    val grid = new ParamGridBuilder().addGrid(c.learningRate, Array(1e-6, 0.02)).build()
    val cv = new CrossValidator()
      .setEstimator(c)
      .setEvaluator(new BinaryClassificationEvaluator())
      .setEstimatorParamMaps(grid)
      .setNumFolds(2)
    val fitted = cv.fit(data)
    assert(fitted.avgMetrics(1) > fitted.avgMetrics(0))
    assert(fitted.bestModel.asInstanceOf[NeuralClassificationModel].getLearningRate == 0.02)
    fitted.save(temporary.resolve("cv").toString)
    val loaded = CrossValidatorModel.load(temporary.resolve("cv").toString)
    assert(loaded.avgMetrics.toSeq == fitted.avgMetrics.toSeq)
    assert(accuracy(loaded.transform(data)) > 0.8)
  }

  test("folds and params do not go on from each other's checkpoints") {
    val folder = temporary.resolve("checkpoints")
    def metrics(directory: String) = {
      val c = classifier().setEpochs(8).setNumWorkers(1).setCheckpointDir(directory)
      val grid = new ParamGridBuilder().addGrid(c.learningRate, Array(1e-6, 0.002, 0.02)).build()
      new CrossValidator()
        .setEstimator(c)
        .setEvaluator(new BinaryClassificationEvaluator())
        .setEstimatorParamMaps(grid)
        .setNumFolds(2)
        .setParallelism(2)
        .fit(data)
        .avgMetrics
        .toSeq
    }
    // The evaluator adds in the order in which its shuffle's blocks come.
    for ((found, expected) <- metrics(folder.toString).zip(metrics("")))
      assert(math.abs(found - expected) < 1e-12)
    assert(folder.toFile.list().isEmpty)
  }

  test("the label's ML attribute says how many classes there are") {
    def attribute(values: Int) =
      NominalAttribute.defaultAttr.withName("y").withNumValues(values).toMetadata()
    val four = data.withColumn("y", (col("id") % 4).cast("double").as("y", attribute(4)))
    val c = classifier().setEpochs(1).setLabelCol("y")
    assert(c.fit(four).numClasses == 4)
    assert(c.fit(four.filter("y < 2")).numClasses == 4, "a fold without the last classes keeps its width")
    val stray = four.withColumn("y", when(col("id") === 77, 7.0).otherwise(col("y")).as("y", attribute(4)))
    assert(
      refusal(c.fit(stray)) ==
        "label column 'y', row 77 of rank 0: 7, expected a class, a whole number from 0 to 3")
    val two = data.withColumn("y", lit(0.0).as("y", BinaryAttribute.defaultAttr.toMetadata()))
    assert(c.fit(two).numClasses == 2)
    val told = data.withColumn("y", col("label").as("y", attribute(1)))
    assert(c.fit(told).numClasses == 2, "one value is no promise")
    assert(c.fit(data.withColumn("y", col("label") === 1)).numClasses == 2, "a boolean has no attribute")
    // Numbers are not classes, whatever is said of them.
    assert(
      new NeuralRegressor()
        .setFeaturesCols("a")
        .setLabelCol("y")
        .setEpochs(1)
        .setShowProgress(false)
        .fit(four)
        .summary
        .totalIterations == 1)
  }

  test("training leaves no handle open, a model that nothing refers to is freed") {
    def settled(): Long = {
      for (_ <- 1 to 5) { System.gc(); Thread.sleep(50) }
      Native.openHandles()
    }
    val before = settled()
    var kept = classifier().setEpochs(1).fit(data)
    assert(settled() <= before)
    assert(kept.numClasses == 2)
    assert(Native.openHandles() > 0)
    val opened = settled()
    kept = null
    assert(settled() < opened)
  }
}
