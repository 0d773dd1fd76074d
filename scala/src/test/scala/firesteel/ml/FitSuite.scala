package firesteel.ml

import scala.collection.mutable.ArrayBuffer

import org.apache.spark.sql.functions._

/** What a fit does on the driver, besides training. */
class FitSuite extends SparkSuite {
  private lazy val data = signs(2000, 2).cache()

  test("a listener that is slower than workers bear silence holds nobody up, and hears everything") {
    val heard = ArrayBuffer.empty[Int]
    val c = classifier().setEpochs(5).setTimeoutSeconds(2).setMaxRetries(0)
    c.addListener { e => if (e.epoch == 1) Thread.sleep(5000); heard += e.epoch }
    assert(c.fit(data).history.length == 5)
    assert(heard == (1 to 5))
  }

  test("a listener that runs a Spark job waits for its slots, and training ends") {
    val counts = ArrayBuffer.empty[Long]
    val c = classifier().setEpochs(3).setNumWorkers(2).addListener(_ => counts += spark.range(10).count())
    assert(c.fit(data).history.length == 3)
    assert(counts == Seq(10, 10, 10))
  }

  test("the caller's job description stays") {
    val sc = spark.sparkContext
    def description = sc.getLocalProperty("spark.job.description")
    sc.setJobDescription("the caller's")
    classifier().setEpochs(1).fit(data)
    assert(description == "the caller's")
    intercept[IllegalArgumentException](classifier().setEpochs(1).fit(data.filter("id < 0")))
    assert(description == "the caller's")
    sc.setJobDescription(null)
    classifier().setEpochs(1).fit(data)
    assert(description == null)
  }

  test("however the rows are partitioned, any number of workers takes the same steps") {
    val e = classifier().setEpochs(3).setValidationFraction(0.25)
    val columns = Seq("a", "b", "label").map(col)
    val one = e.setNumWorkers(1).fit(signs(3000, 1).select(columns: _*)).history
    for (partitions <- Seq(1, 3, 5)) {
      val two = e.setNumWorkers(2).fit(signs(3000, partitions).select(columns: _*)).history
      for ((a, b) <- one.zip(two)) {
        assert(math.abs(a.loss - b.loss) < 1e-4 * a.loss, s"$partitions partitions")
        assert(math.abs(a.validationLoss.get - b.validationLoss.get) < 1e-4 * a.validationLoss.get)
        // Of the same held-out rows; of others it would differ by hundredths.
        assert(math.abs(a.validationMetric.get - b.validationMetric.get) < 1e-3)
      }
    }
  }

  test("workers learn by whatever strategy they are told to train together") {
    val e = classifier().setEpochs(4).setOptimizer("sgd").setLearningRate(0.3).setNumWorkers(2)
    val exact = e.fit(data).history.last.loss
    for (strategy <- Seq("two_phase(min_max_u8, min_max_u8)", "local(every=4)", "dpsgd")) {
      val loss = e.setStrategy(strategy).fit(data).history.last.loss
      assert(math.abs(loss - exact) < 0.1 * exact, s"$strategy: $loss, exact $exact")
    }
  }

  test("columns are asked for in the file's order, so that its batches are taken as they are") {
    val folder = temporary.resolve("parquet").toString
    data.write.parquet(folder)
    val file = spark.read.parquet(folder)
    val c = classifier().setFeaturesCols("noise", "b", "a")
    val names = c.trainingColumns(file.schema).selected.map(_.name)
    assert(names.toSeq == Seq("a", "b", "noise", "label"))
    val selected = file.select(names.toIndexedSeq.map(col): _*)
    val partitions = selected.rdd.getNumPartitions
    assert(Source(selected, partitions).isInstanceOf[Source.Batches])
    val e = c.setEpochs(2).setNumWorkers(partitions)
    assert(e.fit(file).history.map(_.loss) == e.fit(file.filter("a > -2")).history.map(_.loss))
  }

  test("a cached frame's batches are taken, also where its plan was made as it ran") {
    val frames = Seq(signs(2000, 2), signs(2000, 4).repartition(2)).map(_.select("a", "b", "label"))
    for (frame <- frames) {
      val cached = frame.cache()
      assert(cached.count() == 2000)
      assert(Source(cached.select("b", "label"), 2).isInstanceOf[Source.Batches])
      val e = classifier().setEpochs(2).setNumWorkers(2)
      val batches = e.fit(cached).history.map(_.loss)
      // The same rows by way of rows.
      val rows = e.fit(cached.filter("a > -2")).history.map(_.loss)
      assert(batches == rows)
      cached.unpersist()
    }
  }
}

/** A driver behind a NAT: nothing on this machine listens on the address that others call it by. */
class NatSuite extends SparkSuite {
  override def settings: Map[String, String] =
    Map("spark.driver.host" -> "192.0.2.1", "spark.driver.bindAddress" -> "0.0.0.0")

  test("workers in the driver's process meet") {
    for (workers <- Seq(1, 2)) {
      val model = classifier().setNumWorkers(workers).setEpochs(1).setMaxRetries(0).fit(signs(200, workers))
      assert(model.history.length == 1)
    }
  }
}

/** Spark lets tasks return little. */
class ResultSizeSuite extends SparkSuite {
  override def settings: Map[String, String] = Map("spark.driver.maxResultSize" -> "100k")

  test("a network that cannot be returned is refused before it is trained") {
    var epochs = 0
    val c = classifier().setEpochs(3).addListener(_ => epochs += 1)
    assert(
      refusal(c.setNetwork(Mlp(200, 200)).fit(signs(200, 2))) ==
        "the network has 41202 weights, 0.2 MB, but Spark lets tasks return only 0.1 MB " +
        "(spark.driver.maxResultSize): raise it when the application starts")
    assert(epochs == 0)
    assert(c.setNetwork(Mlp(20)).fit(signs(200, 2)).history.length == 3)
  }

  test("no limit is none, but a Java array has one") {
    TrainingTask.checkSize(weights = 500000000L, maxResultBytes = 0)
    assert(
      refusal(TrainingTask.checkSize(weights = 600000000L, maxResultBytes = 0)) ==
        "the network has 600000000 weights, 2400.0 MB, more than the 2147.5 MB that a Java array holds")
  }
}
