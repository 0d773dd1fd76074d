package firesteel.ml

import java.nio.file.{Files, Path}

import org.apache.commons.io.FileUtils
import org.apache.spark.ml.feature.VectorAssembler
import org.apache.spark.ml.linalg.{Vector, Vectors}
import org.apache.spark.ml.param.ParamMap
import org.apache.spark.sql.functions._

/** What a trained model does with rows and vectors, good and bad. */
class ScoringSuite extends SparkSuite {
  private lazy val data = signs(400, 2).cache()
  private lazy val assembled =
    new VectorAssembler().setInputCols(Array("a", "b")).setOutputCol("features").transform(data)
  private def quick = new NeuralClassifier().setNetwork(Mlp(8)).setEpochs(1).setShowProgress(false)
  private lazy val model = quick.fit(assembled)
  private def good: Vector = Vectors.dense(0.25, -0.5)

  test("a bad vector is refused by name, and a good one behind it is scored") {
    val expected = model.predictRaw(good)
    for (bad <- Seq(Vectors.dense(1, 2, 3), Vectors.dense(Array.fill(100000)(1.0)), Vectors.dense(1))) {
      assert(refusal(model.predict(bad)).contains("features"))
      assert(model.predictRaw(good) == expected)
    }
  }

  test("handleInvalid holds for single vectors, and can be changed") {
    val copy = model.copy(ParamMap.empty)
    val nan = Vectors.dense(Double.NaN, 0.5)
    assert(refusal(copy.predict(nan)).contains("NaN"))
    assert(copy.setHandleInvalid("keep").predictProbability(nan).toArray.forall(_ > 0))
    // Nothing can take its place.
    assert(refusal(copy.setHandleInvalid("skip").predict(nan)).contains("NaN"))
  }

  test("single vectors leave no handle open") {
    model.predict(good)
    val before = Native.openHandles()
    for (_ <- 1 to 1000) model.predict(good)
    refusal(model.predict(Vectors.dense(1)))
    // Models of other suites may be freed meanwhile.
    assert(Native.openHandles() <= before)
  }

  test("threads may share a model") {
    val expected = model.predictRaw(good)
    @volatile var wrong = 0
    val threads =
      Seq.fill(4)(new Thread(() => for (_ <- 1 to 200) if (model.predictRaw(good) != expected) wrong += 1))
    threads.foreach(_.start())
    threads.foreach(_.join())
    assert(wrong == 0)
  }

  test("outputs that are no number have class 0, as in Spark's models") {
    val nan = Array(Double.NaN, Double.NaN, Double.NaN)
    assert(Classes.predict(Classes.probabilities(nan), None) == 0.0)
    assert(Classes.predict(Array(Double.NaN, Double.NaN), Some(Array(0.5, 0.5))) == 0.0)
    assert(Classes.predict(Array(0.2, 0.5, 0.3), None) == 1.0)
    assert(Classes.predict(Array(0.4, 0.4, 0.2), None) == 0.0, "the first of equals")
    assert(Classes.predict(Array(0.4, 0.3, 0.3), Some(Array(0.5, 0.2, 0.0))) == 2.0)
  }

  test("a column of another type than at the training is refused by the schema") {
    val mixed = data.withColumn("v", array(col("a"), col("b")))
    val m = quick.setFeaturesCols("a", "word", "v").setNetwork(Tabular(Seq(8))).fit(mixed)
    def said(column: String, value: org.apache.spark.sql.Column) =
      refusal(m.transformSchema(mixed.withColumn(column, value).schema))
    assert(
      said(
        "a",
        col("word")) == "the feature column a has type string; the model was trained on a number there")
    assert(
      said("word", col("a")) ==
        "the feature column word has type double; the model was trained on a string there")
    assert(
      said("v", col("a")) ==
        "the feature column v has type double; the model was trained on a vector of 2 values there")
    m.transformSchema(mixed.withColumn("a", col("noise")).schema)
    val renamed = m.copy(ParamMap.empty).setFeaturesCols(Array("word", "word2", "v"))
    assert(
      refusal(renamed.transform(mixed.withColumn("word2", col("word")))) ==
        "the feature column word has type string; the model was trained on a number there (column a)")
    val few = m.copy(ParamMap.empty).setFeaturesCols(Array("a", "word"))
    assert(
      refusal(few.transformSchema(mixed.schema)).startsWith("the model was trained on 3 feature columns"))
  }

  test("a vector column that is known to be of another length is refused by the schema") {
    val three =
      new VectorAssembler().setInputCols(Array("a", "b", "noise")).setOutputCol("features").transform(data)
    assert(
      refusal(model.transformSchema(three.schema)) ==
        "the feature column features holds vectors of 3 values; the model was trained on a vector of 2 values there")
  }

  test("a name that two columns have is refused") {
    val twice = data.select(col("a"), col("b"), (-col("a")).as("a"))
    val m = quick.setFeaturesCols("a", "b").fit(data)
    assert(refusal(m.transform(twice)) == "2 columns have the name a; rename or drop all but one")
  }

  private def saved(name: String, change: (Path, String => Unit) => Unit): String = {
    val path = temporary.resolve(name)
    model.save(path.toString)
    def edited(file: String): Unit =
      FileUtils.deleteQuietly(path.resolve(s"network/.$file.crc").toFile)
    change(path.resolve("network"), edited)
    path.toString
  }

  test("a model of a newer format, or one that is damaged, is refused when it is loaded") {
    val newer = saved(
      "newer",
      { (folder, edited) =>
        val file = folder.resolve("model.json")
        Files.writeString(file, Files.readString(file).replaceFirst("\"format\": *1", "\"format\": 99"))
        edited("model.json")
      }
    )
    val cut = saved(
      "cut",
      { (folder, edited) =>
        val file = folder.resolve("preprocessing.json")
        Files.writeString(file, Files.readString(file).dropRight(9))
        edited("preprocessing.json")
      }
    )
    for ((path, part) <- Seq(newer -> "99", cut -> "preprocessing.json")) {
      val e = intercept[CorruptException](NeuralClassificationModel.load(path))
      assert(e.getMessage.startsWith(s"the model in $path: "), e.getMessage)
      assert(e.getMessage.contains(part), e.getMessage)
    }
  }

  test("a path that exists is refused before anything is written") {
    val path = Files.createDirectory(temporary.resolve("model")).toString
    // Without files, writing would fail.
    val e = intercept[java.io.IOException](new ModelWriter(model, null).save(path))
    assert(e.getMessage.contains("already exists"))
  }
}

/** Tasks of two cores. */
class TaskCoresSuite extends SparkSuite {
  override def settings: Map[String, String] = Map("spark.task.cpus" -> "2")

  test("a task scores on the cores it has, with the results of one") {
    val data = signs(3000, 1)
    val m = classifier().setEpochs(1).fit(data)
    val columns = Array("a", "b").zipWithIndex.map { case (name, i) =>
      InputColumn(name, org.apache.spark.sql.types.DoubleType, i)
    }
    val rows = data.select("a", "b").collect()
    val one = new BatchScorer(m.files.native, columns, RawColumns, "error", rows.length, threads = 1)
    rows.foreach(r => one.add(org.apache.spark.sql.catalyst.InternalRow(r.getDouble(0), r.getDouble(1))))
    one.run()
    val expected = rows.indices.map(i => Classes.raw(one.result(i).getArray(0).toDoubleArray())(1))
    one.close()
    val raw = m.transform(data).select("rawPrediction").collect()
    assert(raw.map(_.getAs[Vector](0)(1)).toSeq == expected)
    // The settings reach the library.
    val message = refusal(m.files.native.scorer("error", 0))
    assert(message.contains("threads is 0"), message)
  }
}
