package firesteel.ml

import org.apache.spark.SparkConf
import org.scalatest.funsuite.AnyFunSuite

/** How a fit waits for executors, on clusters that are only told of. */
class SlotsSuite extends AnyFunSuite {
  private val standalone = "spark://host:7077"

  /** A cluster whose slots come and go: (from how many milliseconds on, slots). */
  private class Timetable(override val master: String, entries: (Long, Int)*)(settings: (String, String)*)
      extends Cluster {
    private val started = System.nanoTime()
    private def now = (System.nanoTime() - started) / 1000000
    override val conf: SparkConf = new SparkConf(false)
      .set("spark.scheduler.maxRegisteredResourcesWaitingTime", "1s")
      .setAll(settings)
    override def slots: Int = entries.takeWhile(_._1 <= now).last._2
    override def ageMs: Long = now
    def ms[T](run: => T): Long = {
      val before = System.nanoTime()
      run
      (System.nanoTime() - before) / 1000000
    }
  }

  private def gpus(executor: String, task: String): Map[String, String] =
    Map("spark.executor.resource.gpu.amount" -> executor, "spark.task.resource.gpu.amount" -> task)

  private val conf = Seq(
    (standalone, Map.empty[String, String], None),
    (standalone, Map("spark.executor.instances" -> "4"), None),
    (standalone, Map("spark.cores.max" -> "8", "spark.task.cpus" -> "2"), Some(4 -> false)),
    ("local-cluster[2,3,1024]", Map.empty[String, String], Some(6 -> true)),
    ("local-cluster[2,3,1024]", Map("spark.task.cpus" -> "2"), Some(2 -> true)),
    ("yarn", Map.empty[String, String], Some(2 -> true)),
    ("yarn", Map("spark.executor.instances" -> "3", "spark.executor.cores" -> "4"), Some(12 -> true)),
    ("yarn", Map("spark.executor.instances" -> "3", "spark.task.cpus" -> "2"), Some(3 -> true)),
    ("k8s://https://host", Map("spark.executor.instances" -> "5"), Some(5 -> true)),
    ("local-cluster[2,8,1024]", gpus("2", "1"), Some(4 -> true)),
    ("local-cluster[2,8,1024]", gpus("4", "2"), Some(4 -> true)),
    ("local-cluster[2,8,1024]", gpus("1", "0.3"), Some(6 -> true)),
    ("local-cluster[2,2,1024]", gpus("4", "1"), Some(4 -> true))
  )
  for ((master, settings, expected) <- conf)
    test(s"what $master promises with ${settings.mkString(", ")}") {
      val promise = Slots.promised(new Timetable(master, 0L -> 0)(settings.toSeq: _*))
      assert(promise.map(p => p.slots -> p.isLimit) == expected)
    }

  test("the first fit waits for executors that are starting") {
    val late = Seq(0L -> 0, 300L -> 1, 600L -> 2)
    assert(Slots.workers(new Timetable(standalone, late: _*)(), 2, 64) == 2)
    assert(Slots.workers(new Timetable(standalone, late: _*)(), 0, 64) == 2)
    assert(Slots.workers(new Timetable(standalone, late: _*)("spark.cores.max" -> "2"), 0, 64) == 2)
    assert(Slots.workers(new Timetable("yarn", late: _*)(), 0, 64) == 2)
  }

  test("too many workers are refused, at once where waiting is hopeless") {
    for ((master, atOnce) <- Seq("local[2]" -> true, "local" -> true, "yarn" -> true, standalone -> false)) {
      val cluster = new Timetable(master, 0L -> 2)("spark.task.cpus" -> "3")
      var message = ""
      val waited = cluster.ms {
        message = intercept[IllegalArgumentException](Slots.workers(cluster, 3, 64)).getMessage
      }
      assert(message == "numWorkers is 3, but Spark can run only 2 tasks at once (cores of all executors divided by " +
        s"spark.task.cpus=3, master $master): all workers must run at the same time, so lower numWorkers or " +
        "give the application more cores")
      assert((waited < 500) == atOnce, s"$master: $waited ms")
    }
  }

  test("too few GPUs are named") {
    val cluster = new Timetable("local-cluster[2,8,1024]", 0L -> 2)(gpus("1", "1").toSeq: _*)
    val message = intercept[IllegalArgumentException](Slots.workers(cluster, 3, 64)).getMessage
    assert(
      message.contains("spark.task.cpus=1, their GPUs by spark.task.resource.gpu.amount=1, master local"),
      message)
  }

  test("a cluster on which no executor comes is told of after a while") {
    val e = intercept[TimeoutException](Slots.workers(new Timetable(standalone, 0L -> 0)(), 0, 64))
    assert(e.getMessage == "no executor has registered with Spark")
  }

  test("a worker for every 32 rows of a batch at most") {
    assert(Slots.workers(new Timetable("local[8]", 0L -> 8)(), 0, 96) == 3)
    assert(Slots.workers(new Timetable("local[8]", 0L -> 8)(), 0, 8) == 1)
    assert(Slots.workers(new Timetable("local[8]", 0L -> 8)(), 8, 8) == 8)
  }

  test("a fit that lost a worker waits for the executor that replaces it") {
    val cluster = new Timetable(standalone, 0L -> 1, 400L -> 2)()
    Slots.again(cluster, 2, new PeerLostException("worker 1 was lost"))
    assert(cluster.slots == 2)
  }

  test("when no executor replaces a lost one, the error says what was lost") {
    val lost = new PeerLostException("worker 1 was lost")
    val e = intercept[PeerLostException](Slots.again(new Timetable(standalone, 0L -> 1)(), 2, lost))
    assert(
      e.getMessage == "worker 1 was lost; training cannot start again: it had 2 workers, and after 1 s there " +
        "are slots for 1")
    assert(e.getCause == lost)
  }
}
