package firesteel.ml

import org.apache.spark.{SparkConf, SparkContext}
import org.apache.spark.firesteel.SparkBridge

/** What is asked of a cluster before a fit. */
private[ml] trait Cluster {
  def conf: SparkConf
  def master: String

  /** Tasks that can run at once on the executors there are now. */
  def slots: Int

  /** How long the application runs. */
  def ageMs: Long
}

private[ml] object Cluster {
  def apply(sc: SparkContext): Cluster = new Cluster {
    override def conf: SparkConf = sc.getConf
    override def master: String = sc.master
    override def slots: Int = SparkBridge.slots(sc)
    override def ageMs: Long = System.currentTimeMillis() - sc.startTime
  }
}

/** How many tasks can train together. */
private[ml] object Slots {

  /** A worker with fewer rows of a batch would spend its time on talking. */
  private val rowsOfBatch = 32

  /** The number of workers for a fit. */
  def workers(cluster: Cluster, asked: Int, batchSize: Int): Int = {
    if (SparkBridge.isDynamicAllocation(cluster.conf))
      throw new IllegalArgumentException(
        "training needs all its workers at once, which Spark does not promise with dynamic allocation: " +
          "set spark.dynamicAllocation.enabled=false and a fixed number of executors"
      )
    if (asked > 0) await(cluster, asked) else math.max(1, math.min(all(cluster), batchSize / rowsOfBatch))
  }

  /** `asked`, once there are so many slots; explains when there are too few. */
  private def await(cluster: Cluster, asked: Int): Int = {
    val hopeless = promised(cluster).exists(p => p.isLimit && p.slots < asked)
    val slots = waitFor(cluster, asked, if (hopeless) 0 else patienceMs(cluster))
    if (slots < asked)
      throw new IllegalArgumentException(
        s"numWorkers is $asked, but Spark can run only $slots tasks at once (cores of all executors divided by " +
          s"spark.task.cpus=${cpus(cluster.conf)}${gpus(cluster.conf)}, master ${cluster.master}): all workers must run at " +
          "the same time, so lower numWorkers or give the application more cores"
      )
    asked
  }

  /** All slots there are, once the executors that Spark asked for at its start have had their time to come. */
  private def all(cluster: Cluster): Int = {
    val left = patienceMs(cluster) - cluster.ageMs
    val slots = promised(cluster) match {
      case Some(promise) => waitFor(cluster, promise.slots, left)
      case None => settled(cluster, waitFor(cluster, 1, left), left)
    }
    if (slots > 0) slots
    else {
      // An executor that was lost may be on its way back.
      val late = waitFor(cluster, 1, patienceMs(cluster))
      if (late == 0) throw new TimeoutException("no executor has registered with Spark")
      late
    }
  }

  /** Waits for the slots of a fit that lost a worker: Spark replaces executors, which takes a while. */
  def again(cluster: Cluster, workers: Int, lost: Throwable): Unit = {
    val slots = waitFor(cluster, workers, patienceMs(cluster))
    if (slots < workers)
      throw new PeerLostException(
        s"${lost.getMessage}; training cannot start again: it had $workers workers, and after " +
          s"${patienceMs(cluster) / 1000} s there are slots for $slots",
        lost
      )
  }

  /** Slots that the configuration speaks of. `isLimit`: there will not be more. */
  private[ml] final case class Promise(slots: Int, isLimit: Boolean)

  private val LocalCluster = """local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*]""".r

  /** Nothing where executors take what they find, as on a standalone cluster. */
  private[ml] def promised(cluster: Cluster): Option[Promise] = {
    val conf = cluster.conf
    // Spark gives an executor no fewer cores than a task wants.
    def tasks(cores: Int) = math.max(1, cores / cpus(conf))
    def slots(executors: Int, cores: Int) = executors * math.min(tasks(cores), gpuTasks(conf))
    val managed = cluster.master.startsWith("yarn") || cluster.master.startsWith("k8s")
    cluster.master match {
      case LocalCluster(executors, cores) =>
        Some(Promise(slots(executors.toInt, cores.toInt), isLimit = true))
      case _ if managed =>
        Some(
          Promise(
            slots(conf.getInt("spark.executor.instances", 2), conf.getInt("spark.executor.cores", 1)),
            isLimit = true))
      case _ if conf.contains("spark.cores.max") =>
        Some(Promise(tasks(conf.getInt("spark.cores.max", 1)), isLimit = false))
      case _ => None
    }
  }

  private def cpus(conf: SparkConf): Int = conf.getInt("spark.task.cpus", 1)

  /** Tasks that the GPUs of an executor are enough for; a task may want a part of one. */
  private def gpuTasks(conf: SparkConf): Int = {
    val (gpus, wanted) = (conf.getInt(gpuAmount("executor"), 1), conf.getDouble(gpuAmount("task"), 0))
    if (wanted == 0) Int.MaxValue
    else if (wanted <= 1) gpus * (1 / wanted).toInt
    else gpus / wanted.toInt
  }

  private def gpus(conf: SparkConf): String =
    conf.getOption(gpuAmount("task")).fold("")(n => s", their GPUs by ${gpuAmount("task")}=$n")

  private def gpuAmount(of: String) = s"spark.$of.resource.gpu.amount"

  /** As long as Spark itself waits for executors. */
  private def patienceMs(cluster: Cluster): Long =
    if (cluster.master == "local" || cluster.master.startsWith("local[")) 0L
    else cluster.conf.getTimeAsMs("spark.scheduler.maxRegisteredResourcesWaitingTime", "30s")

  private def waitFor(cluster: Cluster, wanted: Int, ms: Long): Int = {
    val deadline = System.nanoTime() + ms * 1000000
    while (cluster.slots < wanted && System.nanoTime() < deadline) Thread.sleep(50)
    cluster.slots
  }

  /** Executors come one after the other: waits until none has come for a while. */
  private def settled(cluster: Cluster, found: Int, ms: Long): Int = {
    val deadline = System.nanoTime() + ms * 1000000
    var (slots, since) = (found, System.nanoTime())
    while (System.nanoTime() < math.min(deadline, since + quietMs * 1000000)) {
      Thread.sleep(50)
      if (cluster.slots > slots) {
        slots = cluster.slots
        since = System.nanoTime()
      }
    }
    cluster.slots
  }

  private val quietMs = 2000L
}
