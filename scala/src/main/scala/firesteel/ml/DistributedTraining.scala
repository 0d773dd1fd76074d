package firesteel.ml

import java.util.UUID

import scala.util.control.NonFatal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.spark.{SparkContext, SparkException}
import org.apache.spark.firesteel.SparkBridge
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{Dataset, DataFrame}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.firesteel.SqlBridge
import org.apache.spark.sql.functions.col
import org.apache.spark.sql.vectorized.ColumnarBatch
import org.apache.spark.util.SerializableConfiguration

/** One fit, from the dataset to the model's files: a barrier stage whose tasks meet at a rendezvous and train
  * until the end, started again from the last checkpoint when a worker is lost.
  */
private[ml] final class DistributedTraining(
    name: String,
    columns: TrainingColumns,
    config: ObjectNode,
    settings: TrainingSettings
) {

  def run(dataset: Dataset[_]): Seq[(String, Array[Byte])] = {
    val sc = dataset.sparkSession.sparkContext
    val announcer = new Announcer(settings.listeners)
    // Whatever the end: who hears of this fit has heard all of it when `fit` returns.
    try described(sc, s"Firesteel: $name")(train(sc, dataset, announcer))
    finally announcer.close()
  }

  /** Jobs that `run` starts carry this description; the caller's comes back. */
  private def described[T](sc: SparkContext, description: String)(run: => T): T = {
    val before = sc.getLocalProperty(SparkBridge.jobDescription)
    sc.setJobDescription(description)
    try run
    finally sc.setJobDescription(before)
  }

  private def train(
      sc: SparkContext,
      dataset: Dataset[_],
      announcer: Announcer
  ): Seq[(String, Array[Byte])] = {
    val checkpoint = Option(settings.checkpointDir)
      .filter(_.nonEmpty)
      .map(Checkpoint.open(_, Native.checkpointKey(config.toString), sc.hadoopConfiguration))
    try {
      val workers = Slots.workers(Cluster(sc), settings.numWorkers, settings.batchSize)
      Native.checkWorkers(config.toString, workers)
      val selected = columns.selected
      val data = dataset.select(selected.map(c => col(s"`${c.name.replace("`", "``")}`")).toIndexedSeq: _*)
      val source = Source(data, workers)
      val files = attempts(sc, source, selected, workers, checkpoint, announcer)
      checkpoint.foreach(_.remove(sc.hadoopConfiguration))
      files
    } finally checkpoint.foreach(_.close(sc.hadoopConfiguration))
  }

  private def attempts(
      sc: SparkContext,
      source: Source,
      selected: Array[InputColumn],
      workers: Int,
      checkpoint: Option[Checkpoint],
      announcer: Announcer
  ): Seq[(String, Array[Byte])] = {
    var attempt = 1
    while (true) {
      try return once(sc, source, selected, workers, checkpoint.map(_.copy(attempt = attempt)), announcer)
      catch {
        case e: RuntimeException if FiresteelException.isRetryable(e) && attempt <= settings.maxRetries =>
          attempt += 1
          announcer.retry(attempt, e)
          Slots.again(Cluster(sc), workers, e)
      }
    }
    throw new InternalException("unreachable: the loop above returns or throws")
  }

  private def once(
      sc: SparkContext,
      source: Source,
      selected: Array[InputColumn],
      workers: Int,
      checkpoint: Option[Checkpoint],
      announcer: Announcer
  ): Seq[(String, Array[Byte])] = {
    val secret = Wire.secret()
    val host = sc.getConf.get("spark.driver.host")
    val bind = sc.getConf.get("spark.driver.bindAddress", host)
    val rendezvous = new Rendezvous(bind, workers, secret, settings.silenceMs, hear(_, announcer))
    try {
      val job = Job(
        UUID.randomUUID().toString,
        host,
        rendezvous.localHost,
        rendezvous.port,
        secret,
        workers,
        selected,
        config.toString,
        settings.silenceMs,
        checkpoint,
        SparkBridge.maxResultBytes(sc),
        new SerializableConfiguration(sc.hadoopConfiguration)
      )
      val results =
        try described(sc, s"Firesteel: $name on $workers workers")(submit(source, job))
        catch { case NonFatal(e) => throw cause(e, rendezvous) }
      // What a worker said last may still be on its way.
      rendezvous.awaitAll()
      results.find(_.nonEmpty).getOrElse(throw new InternalException("no worker returned a model")).toSeq
    } finally rendezvous.close()
  }

  private def submit(source: Source, job: Job): Array[Array[(String, Array[Byte])]] = source match {
    case Source.Rows(rdd) => gather(rdd)(rows => new TrainingTask(job).run(Feed.rows(rows)))
    case Source.Batches(rdd) => gather(rdd)(batches => new TrainingTask(job).run(Feed.batches(batches)))
  }

  private def gather[T](rdd: RDD[T])(
      work: Iterator[T] => Array[(String, Array[Byte])]
  ): Array[Array[(String, Array[Byte])]] =
    rdd.barrier().mapPartitions(partition => Iterator.single(work(partition))).collect()

  private def hear(event: JsonNode, announcer: Announcer): Unit =
    if (event.path("event").asText() == "epoch") announcer.epoch(EpochRecord.read(event))

  /** What to tell the user: the failure that came first, not the ones that followed from it. */
  private def cause(spark: Throwable, rendezvous: Rendezvous): Throwable =
    if (isCancelled(spark)) spark
    else
      rendezvous.firstCause() match {
        case Some(f) if f.exception == classOf[CancelledException].getName => spark
        // Wrong data and arguments name their rank where it matters, a lost worker's message is about it.
        case Some(f) if f.exception == argument || f.message.startsWith(f.peer.toString) =>
          FiresteelException.named(f.exception, f.message, spark)
        case Some(f) if f.exception.startsWith("firesteel.ml.") =>
          FiresteelException.named(f.exception, s"${f.peer}: ${f.message}", spark)
        case _ if isStageLoss(spark) => new PeerLostException(spark.getMessage, spark)
        case _ => spark
      }

  /** Someone wanted the job to end: that workers are lost by it is no reason to start again. */
  private def isCancelled(e: Throwable): Boolean = e match {
    case s: SparkException =>
      s.getCondition == "SPARK_JOB_CANCELLED" || Option(s.getMessage).exists(
        _.contains("SparkContext was shut down"))
    case _ => false
  }

  private def argument = classOf[IllegalArgumentException].getName

  /** Spark gives a barrier stage up when a fetch fails or an executor dies before it spoke to us. */
  private def isStageLoss(e: Throwable): Boolean = e match {
    case s: SparkException =>
      Option(s.getMessage).exists(m =>
        m.contains("Could not recover from a failed barrier ResultStage") &&
          (m.contains("ExecutorLostFailure") || m.contains("FetchFailed")))
    case _ => false
  }
}

/** The rows of a fit, a partition a worker. */
private[ml] sealed trait Source

private[ml] object Source {
  final case class Rows(rdd: RDD[InternalRow]) extends Source
  final case class Batches(rdd: RDD[ColumnarBatch]) extends Source

  /** A shuffle only when the partitions are not already one a worker; column batches where the plan has them. */
  def apply(data: DataFrame, workers: Int): Source = {
    val rows = SqlBridge.rows(data)
    if (rows.getNumPartitions == workers && SparkBridge.isOneToOne(rows))
      SqlBridge.batches(data).map(Batches(_)).getOrElse(Rows(rows))
    else
      Rows(
        SqlBridge
          .deal(data, rows, workers)
          .getOrElse(throw new IllegalArgumentException("there are no rows to train on")))
  }
}

/** What is asked of a fit, besides what the native library reads. */
private[ml] final case class TrainingSettings(
    numWorkers: Int,
    batchSize: Int,
    silenceMs: Int,
    checkpointDir: String,
    maxRetries: Int,
    listeners: Seq[TrainingListener]
)
