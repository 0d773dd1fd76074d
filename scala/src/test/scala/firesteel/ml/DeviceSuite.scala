package firesteel.ml

import java.io.File
import java.nio.file.Files
import java.nio.file.attribute.PosixFilePermissions

import org.apache.commons.io.FileUtils

/** What a task does with the GPU that Spark gave it. Needs a Spark distribution in SPARK_HOME, and no GPU: a script
  * says that there are some.
  */
trait DeviceSuite extends SparkSuite {
  private val home = sys.env.get("SPARK_HOME").filter(h => new File(h, "jars").isDirectory)

  /** The addresses of the GPUs. */
  def addresses: Seq[String]

  override def master: String = "local-cluster[1,2,1024]"
  override def settings: Map[String, String] = {
    val list = addresses.map(a => s"\"$a\"").mkString(", ")
    val executable = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"))
    val script = Files.createFile(temporary.resolve("gpus.sh"), executable)
    Files.writeString(script, s"#!/bin/sh\necho '{\"name\": \"gpu\", \"addresses\": [$list]}'\n")
    Map(
      "spark.executor.extraClassPath" -> System.getProperty("java.class.path"),
      "spark.worker.resource.gpu.amount" -> addresses.length.toString,
      "spark.worker.resource.gpu.discoveryScript" -> script.toString,
      "spark.executor.resource.gpu.amount" -> addresses.length.toString,
      "spark.task.resource.gpu.amount" -> "1"
    )
  }

  protected lazy val data = signs(200, 2)

  protected def clusterTest(name: String)(run: => Unit): Unit = test(name) {
    assume(home.isDefined, "SPARK_HOME names no Spark distribution")
    run
  }

  override def afterAll(): Unit = if (home.isDefined) {
    val application = spark.sparkContext.applicationId
    super.afterAll()
    // What local-cluster leaves behind.
    FileUtils.deleteQuietly(new File(home.get, s"work/$application"))
  }
}

class NumberedGpuSuite extends DeviceSuite {
  override def addresses: Seq[String] = Seq("4321", "4322")

  clusterTest("cuda is the GPU that Spark gave the task") {
    val message = refusal(classifier().setNumWorkers(1).setDevice("cuda").fit(data))
    assert(message.matches("device is cuda: there is no (GPU|device cuda:432[12]).*"), message)
  }

  clusterTest("auto trains on the CPU when it cannot be had") {
    assert(classifier().setEpochs(1).setNumWorkers(2).fit(data).history.length == 1)
  }
}

class NamedGpuSuite extends DeviceSuite {
  override def addresses: Seq[String] = Seq("GPU-1f", "GPU-2e")

  clusterTest("a GPU without a number is refused, unless nobody asks for it") {
    for (device <- Seq("auto", "cuda")) {
      val message = refusal(classifier().setNumWorkers(2).setDevice(device).fit(data))
      val start = s"device is $device, and the GPU that the task was given has the address 'GPU-"
      assert(message.startsWith(start), message)
    }
    assert(classifier().setEpochs(1).setNumWorkers(2).setDevice("cpu").fit(data).history.length == 1)
  }
}
