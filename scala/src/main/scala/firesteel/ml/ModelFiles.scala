package firesteel.ml

import java.lang.ref.Cleaner
import java.nio.charset.StandardCharsets.UTF_8

import scala.jdk.CollectionConverters._

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.SparkContext
import org.apache.spark.broadcast.Broadcast

/** A trained network as files by name: what is saved, sent to executors and opened by the native library. */
private[ml] final class ModelFiles(val files: Seq[(String, Array[Byte])]) extends Serializable {

  /** The model in this JVM's native memory; opened once a JVM, freed when nothing refers to it. */
  @transient lazy val native: NativeModel = new NativeModel(files)

  @transient private var sent: Broadcast[ModelFiles] = _

  /** This, for tasks of `sc`. */
  def broadcast(sc: SparkContext): Broadcast[ModelFiles] = synchronized {
    if (sent == null || sentTo != sc) {
      sent = sc.broadcast(this)
      sentTo = sc
    }
    sent
  }
  @transient private var sentTo: SparkContext = _

  def text(name: String): String = files
    .collectFirst { case (`name`, bytes) => new String(bytes, UTF_8) }
    .getOrElse(
      throw new CorruptException(s"the model has no file $name; it has ${files.map(_._1).mkString(", ")}")
    )

  def bytes: Long = files.map(_._2.length.toLong).sum
}

/** An opened model. */
private[ml] final class NativeModel(files: Seq[(String, Array[Byte])]) {
  private val handle =
    new Handle("model", Native.modelOpen(files.map(_._1).toArray, files.map(_._2).toArray))
  NativeModel.cleaner.register(this, new NativeModel.Close(handle))

  /** What the library says of it. */
  val info: ModelInfo = ModelInfo.read(Wire.json.readTree(Native.modelInfo(handle.value)))

  /** A scorer of this model; one thread's. */
  def scorer(handleInvalid: String): Handle =
    new Handle("scorer", Native.scorerNew(handle.value, handleInvalid))
}

private object NativeModel {
  private val cleaner = Cleaner.create()

  /** Refers to the handle, never to the model. */
  private final class Close(handle: Handle) extends Runnable {
    override def run(): Unit = handle.close()
  }
}

/** A model's task and sizes. */
private[ml] final case class ModelInfo(task: String, outputs: Int, features: Seq[String], width: Int)

private[ml] object ModelInfo {
  def read(node: JsonNode): ModelInfo = ModelInfo(
    node.get("task").asText(),
    node.get("outputs").asInt(),
    node.get("features").elements().asScala.map(_.asText()).toSeq,
    node.get("width").asInt()
  )
}
