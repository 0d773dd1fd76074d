package firesteel.ml

import java.lang.ref.Cleaner
import java.nio.charset.StandardCharsets.UTF_8

import scala.jdk.CollectionConverters._

import com.fasterxml.jackson.core.JsonProcessingException
import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.SparkContext
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.ml.attribute.AttributeGroup
import org.apache.spark.ml.linalg.SQLDataTypes.VectorType
import org.apache.spark.sql.types.StructField

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

  /** The columns that the network reads, in their order. */
  @transient lazy val features: Seq[TrainedFeature] =
    try
      Wire.json
        .readTree(text(ModelFiles.preprocessing))
        .required("columns")
        .elements()
        .asScala
        .map(TrainedFeature.read)
        .toSeq
    catch {
      case e @ (_: JsonProcessingException | _: IllegalArgumentException) =>
        throw new CorruptException(
          s"the model's file ${ModelFiles.preprocessing} is damaged: ${e.getMessage}",
          e)
    }

  def text(name: String): String = files
    .collectFirst { case (`name`, bytes) => new String(bytes, UTF_8) }
    .getOrElse(
      throw new CorruptException(s"the model has no file $name; it has ${files.map(_._1).mkString(", ")}")
    )
}

private object ModelFiles {
  private val preprocessing = "preprocessing.json"
}

/** A column as the model was trained on it: number, category or vector; only a vector has a shape. */
private[ml] final case class TrainedFeature(name: String, kind: String, shape: Seq[Int]) {

  /** Refuses a column that cannot be what this was. */
  def check(input: InputColumn, field: StructField): Unit = {
    val found = input.kind match {
      case ColumnKind.Double | ColumnKind.Float => "number"
      case ColumnKind.Text => "category"
      case ColumnKind.Vector => "vector"
    }
    def trained = if (input.name == name) "" else s" (column $name)"
    Demand(
      found == kind,
      s"the feature column ${input.name} has type ${input.dataType.simpleString}; " +
        s"the model was trained on $expected there$trained"
    )
    // Spark's own assemblers and encoders write down how long their vectors are.
    val size = if (field.dataType == VectorType) AttributeGroup.fromStructField(field).size else -1
    Demand(
      size == -1 || size == shape.product,
      s"the feature column ${input.name} holds vectors of $size values; " +
        s"the model was trained on $expected there$trained"
    )
  }

  private def expected = kind match {
    case "number" => "a number"
    case "category" => "a string"
    case _ => s"a vector of ${shape.product} values"
  }
}

private object TrainedFeature {
  def read(node: JsonNode): TrainedFeature = {
    val (kind, encoding) = node.properties().asScala.map(p => p.getKey -> p.getValue).head
    val shape = encoding.path("shape").elements().asScala.map(_.asInt()).toSeq
    TrainedFeature(encoding.required("column").asText(), kind, shape)
  }
}

/** An opened model. */
private[ml] final class NativeModel(files: Seq[(String, Array[Byte])]) {
  private val handle =
    new Handle("model", Native.modelOpen(files.map(_._1).toArray, files.map(_._2).toArray))
  NativeModel.cleaner.register(this, new NativeModel.Close(handle))

  /** What the library says of it. */
  val info: ModelInfo = ModelInfo.read(Wire.json.readTree(Native.modelInfo(handle.value)))

  /** A scorer of this model, which one thread calls and which computes on `threads` threads. */
  def scorer(handleInvalid: String, threads: Int): Handle = {
    val settings = Wire.json.createObjectNode().put("handle_invalid", handleInvalid).put("threads", threads)
    new Handle("scorer", Native.scorerNew(handle.value, settings.toString))
  }
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
