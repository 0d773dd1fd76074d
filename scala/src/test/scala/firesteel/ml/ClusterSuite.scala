package firesteel.ml

import java.io.File

import scala.collection.mutable.ArrayBuffer

import org.apache.commons.io.FileUtils
import org.apache.spark.SparkEnv
import org.apache.spark.sql.DataFrame
import org.apache.spark.sql.functions._
import org.scalatest.concurrent.TimeLimits
import org.scalatest.time.SpanSugar._

/** Real executor JVMs, on this machine. Needs a Spark distribution in SPARK_HOME. */
class ClusterSuite extends SparkSuite with TimeLimits {
  private val home = sys.env.get("SPARK_HOME").filter(h => new File(h, "jars").isDirectory)
  private implicit val signaler: org.scalatest.concurrent.Signaler =
    org.scalatest.concurrent.ThreadSignaler

  override def master: String = "local-cluster[2,1,2048]"
  override def settings: Map[String, String] = Map(
    "spark.executor.memory" -> "1g",
    "spark.executor.extraClassPath" -> System.getProperty("java.class.path"),
    "spark.executor.extraJavaOptions" -> "-Xcheck:jni",
    "spark.locality.wait" -> "0s"
  )

  private lazy val data = signs(4000, 2)

  private def clusterTest(name: String)(run: => Unit): Unit = test(name) {
    assume(home.isDefined, "SPARK_HOME names no Spark distribution")
    failAfter(180.seconds)(run)
  }

  override def afterAll(): Unit = if (home.isDefined) {
    val application = spark.sparkContext.applicationId
    super.afterAll()
    // What local-cluster leaves behind.
    FileUtils.deleteQuietly(new File(home.get, s"work/$application"))
  }

  /** The process of every executor, by executor. */
  private def processes(): Map[String, Long] = spark.sparkContext
    .parallelize(1 to 2, 2)
    .barrier()
    .mapPartitions(_ => Iterator.single(SparkEnv.get.executorId -> ProcessHandle.current().pid()))
    .collect()
    .toMap

  /** A fit that runs until it is stopped, and kills an executor in its second epoch. */
  private def killed(retries: Int, data: DataFrame): (NeuralClassifier, ArrayBuffer[(Int, Throwable)]) = {
    val pids = processes()
    val heard = ArrayBuffer.empty[(Int, Throwable)]
    var victim = Option(pids.values.max)
    val c = classifier().setNumWorkers(2).setMaxRetries(retries).setEpochs(60)
    c.addListener(new TrainingListener {
      override def onEpoch(record: EpochRecord): Unit = if (record.epoch >= 2) {
        victim.foreach(pid => ProcessHandle.of(pid).ifPresent(p => { p.destroyForcibly(); () }))
        victim = None
      }
      override def onRetry(attempt: Int, cause: Throwable): Unit = heard += attempt -> cause
    })
    (c, heard)
  }

  clusterTest("two executors train together and give what one gives") {
    assert(processes().size == 2)
    // The same steps: the shuffle to one worker keeps the order of the rows.
    val one = classifier().setNumWorkers(1).fit(data)
    val two = classifier().setNumWorkers(2).fit(data)
    assert(accuracy(two.transform(data)) > 0.95)
    val differences = one.history.zip(two.history).map { case (a, b) => math.abs(a.loss - b.loss) / a.loss }
    assert(differences.max < 1e-3, s"relative differences of the losses: $differences")
    assert(differences.head < 1e-5)
  }

  clusterTest("a model is saved, loaded and applied on executors") {
    val model = classifier().setEpochs(2).fit(data)
    model.save(temporary.resolve("model").toString)
    val loaded = NeuralClassificationModel.load(temporary.resolve("model").toString)
    val columns = Seq("id", "probability").map(col)
    val expected = model.transform(data).select(columns: _*).collect().toSet
    assert(loaded.transform(data.repartition(5)).select(columns: _*).collect().toSet == expected)
  }

  clusterTest("a killed executor fails the fit with a message that names it") {
    val (c, _) = killed(retries = 0, data)
    val e = intercept[PeerLostException](failAfter(60.seconds)(c.fit(data)))
    assert(e.getMessage.matches("worker [01] \\(executor \\d+ on [^)]+\\) was lost: .*"), e.getMessage)
  }

  clusterTest("a killed executor is replaced and training goes on from the checkpoint") {
    val folder = temporary.resolve("checkpoints")
    val (c, heard) = killed(retries = 1, data)
    val epochs = ArrayBuffer.empty[Int]
    c.setCheckpointDir(folder.toString).addListener(e => epochs.synchronized(epochs += e.epoch))
    val model = failAfter(120.seconds)(c.fit(data))
    assert(heard.map(_._1) == Seq(2))
    assert(heard.head._2.getMessage.contains("was lost"))
    assert(accuracy(model.transform(data)) > 0.95)
    assert(model.history.map(_.epoch) == (1 to 60))
    assert(epochs.count(_ == 1) == 1, s"the first epoch was not trained again: $epochs")
    assert(folder.toFile.list().isEmpty)
  }

  clusterTest("the executors' JVMs had nothing to say about how JNI was used") {
    val application = new File(home.get, s"work/${spark.sparkContext.applicationId}")
    val said = application.listFiles().toSeq.flatMap { executor =>
      Seq("stdout", "stderr")
        .map(new File(executor, _))
        .filter(_.exists)
        .map(FileUtils.readFileToString(_, "UTF-8"))
    }
    assert(said.nonEmpty)
    for (text <- said) assert(!text.contains("in native method"), text)
  }
}
