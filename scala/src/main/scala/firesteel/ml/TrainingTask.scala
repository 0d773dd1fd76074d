package firesteel.ml

import java.net.{Inet6Address, InetAddress}
import java.util.{Locale, UUID}

import org.apache.spark.TaskContext
import org.apache.spark.firesteel.SparkBridge
import org.apache.spark.util.SerializableConfiguration

/** What the driver gives every worker of one attempt.
  *
  * @param driverLocalHost
  *   where workers in the driver's process reach it
  * @param silenceMs
  *   how long driver and workers bear that the other says nothing
  * @param maxResultBytes
  *   how much Spark lets tasks return; 0 is no limit
  */
private[ml] final case class Job(
    id: String,
    driverHost: String,
    driverLocalHost: String,
    driverPort: Int,
    secret: Array[Byte],
    world: Int,
    columns: Array[InputColumn],
    config: String,
    silenceMs: Int,
    checkpoint: Option[Checkpoint],
    maxResultBytes: Long,
    hadoop: SerializableConfiguration
)

/** The process a worker is in: workers of one process meet in memory. */
private[ml] object ThisProcess {
  val id: String = UUID.randomUUID().toString
}

/** One worker: rows to native memory, then training until it ends. Its rank is its partition's number. */
private[ml] final class TrainingTask(job: Job) {
  private val context = TaskContext.get()
  private val rank = context.partitionId()

  /** The model's files on rank 0, nothing elsewhere. */
  def run(feed: Feed): Array[(String, Array[Byte])] = {
    NativeLibrary.load()
    val host = SparkBridge.executorHost
    val listener = new Handle("listener", Native.listenerOpen(bindAddress(host)))
    try {
      val me = Peer(rank, ThisProcess.id, host, Native.listenerPort(listener.value), SparkBridge.executorId)
      val driverHost = if (SparkBridge.isDriver) job.driverLocalHost else job.driverHost
      val driver = new RendezvousClient(driverHost, job.driverPort, job.secret, me, job.silenceMs)
      try {
        val files = train(feed, listener, driver)
        driver.done()
        files
      } catch {
        // An interrupt too.
        case e: Throwable => driver.failed(e); throw e
      } finally driver.close()
    } finally listener.close()
  }

  /** What to listen on. The host is what others call this machine; behind a NAT nothing listens on that address. */
  private def bindAddress(host: String): String =
    if (job.world == 1) InetAddress.getLoopbackAddress.getHostAddress
    else if (SparkBridge.isDriver) SparkBridge.driverBindAddress
    else if (InetAddress.getByName(host).isInstanceOf[Inet6Address]) "[::]"
    else "0.0.0.0"

  /** Ends the task when Spark wants it to end or when the attempt has failed elsewhere. */
  private def check(driver: RendezvousClient): Unit = {
    SparkBridge.checkKilled(context)
    driver.check()
  }

  private def train(
      feed: Feed,
      listener: Handle,
      driver: RendezvousClient
  ): Array[(String, Array[Byte])] = {
    val shard = new Handle("shard", Native.shardNew(job.config, rank, gpus))
    try {
      fill(shard, feed, driver)
      val peers = driver.meet(() => check(driver))
      // The others hear of it from rank 0.
      val resume = job.checkpoint.filter(_ => rank == 0).flatMap(_.read(job.hadoop.value)).orNull
      val training =
        new Handle(
          "training",
          Native.trainStart(shard.value, listener.value, job.config, world(peers), resume)
        )
      try follow(training, driver)
      finally training.close()
    } finally shard.close()
  }

  /** The addresses of the GPUs that Spark gave this task, if it gives any. */
  private def gpus: Array[String] =
    context.resources().get("gpu").map(_.addresses).getOrElse(Array.empty)

  /** Rows to native memory, a batch at a time. */
  private def fill(shard: Handle, feed: Feed, driver: RendezvousClient): Unit = {
    val batch = new ColumnBatch(job.columns, TrainingTask.batchRows)
    try {
      val writer = new RowWriter(batch)
      while (feed.hasNext) {
        feed.fill(writer)
        Native.shardPush(shard.value, batch.handle, writer.rows)
        writer.reset()
        check(driver)
      }
    } finally batch.close()
  }

  private def world(peers: IndexedSeq[Peer]): String = {
    val world = Wire.json.createObjectNode()
    world.put("rank", rank).put("job", job.id).put("threads", math.max(1, context.cpus()))
    world.put("secret", job.secret.map(b => f"$b%02x").mkString)
    val list = world.putArray("peers")
    peers.foreach(p => list.addObject().put("process", p.process).put("address", s"${p.host}:${p.port}"))
    world.toString
  }

  /** Polls until training ends; passes events on and notices when it should stop. */
  private def follow(training: Handle, driver: RendezvousClient): Array[(String, Array[Byte])] = {
    var running = true
    try
      while (running) {
        check(driver)
        val events = Native.trainPoll(training.value, TrainingTask.pollMs)
        if (events == null) running = false
        else events.foreach(hear(_, training, driver))
      }
    catch { case e: Throwable => Native.trainCancel(training.value); throw e }
    if (rank == 0) Native.trainFiles(training.value).map(n => n -> Native.trainFile(training.value, n))
    else Array.empty
  }

  private def hear(line: String, training: Handle, driver: RendezvousClient): Unit = if (rank == 0) {
    val event = Wire.json.readTree(line)
    event.path("event").asText() match {
      case "checkpoint" =>
        // Several may have been made since the last poll; the first to ask gets the latest.
        Option(Native.trainCheckpoint(training.value)).foreach { bytes =>
          job.checkpoint.foreach(_.write(bytes, job.hadoop.value))
        }
      case "started" => TrainingTask.checkSize(event.path("weights").asLong(), job.maxResultBytes)
      case _ =>
    }
    driver.event(event)
  }
}

private[ml] object TrainingTask {
  private val batchRows = 4096

  /** How long a poll waits, and so the longest that an interrupt goes unnoticed. */
  private val pollMs = 50

  /** Refuses a network whose weights cannot be returned, before it is trained. */
  private[ml] def checkSize(weights: Long, maxResultBytes: Long): Unit = {
    val bytes = 4 * weights
    def megabytes(b: Long) = "%.1f MB".formatLocal(Locale.ROOT, b / 1e6)
    Demand(
      maxResultBytes == 0 || bytes < maxResultBytes,
      s"the network has $weights weights, ${megabytes(bytes)}, but Spark lets tasks return only " +
        s"${megabytes(maxResultBytes)} (spark.driver.maxResultSize): raise it when the application starts"
    )
    Demand(
      bytes < Int.MaxValue,
      s"the network has $weights weights, ${megabytes(bytes)}, more than the ${megabytes(Int.MaxValue)} that a " +
        "Java array holds"
    )
  }
}
