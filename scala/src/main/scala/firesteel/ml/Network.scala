package firesteel.ml

import scala.language.implicitConversions

import com.fasterxml.jackson.core.JsonProcessingException
import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.TextNode

/** A network, to be given to an estimator's `setNetwork`. The inputs come from the data and the number of outputs
  * from the task, so neither is in it; the last linear layer is added.
  * {{{
  * classifier.setNetwork(Mlp(512, 256))
  * classifier.setNetwork(Sequential(Conv2d(16, kernel = 3), Relu, MaxPool2d(2), Flatten, Linear(64), Relu))
  * }}}
  */
sealed trait Network {
  private[ml] def node: JsonNode

  /** As the `network` param holds it. */
  def toJson: String = node.toString
}

private[ml] object Network {

  /** Refuses a text that is not even JSON; whether it is a network is the library's to say. */
  def checked(json: String): String =
    try { Wire.json.readTree(json); json }
    catch {
      case _: JsonProcessingException | _: IllegalArgumentException =>
        val found = Option(json).fold("null")(text => s"\"$text\", which is not JSON")
        throw new IllegalArgumentException(
          s"network is $found; it takes a Network, for example Lenet5 or Mlp(512, 256), or its JSON, " +
            "for example {\"mlp\": {\"hidden\": [512, 256]}}")
    }
}

/** One operation of a [[Sequential]] network. */
sealed trait Layer {
  private[ml] def node: JsonNode
}

private object Json {
  def named(name: String)(fill: com.fasterxml.jackson.databind.node.ObjectNode => Unit): JsonNode = {
    val outer = Wire.json.createObjectNode()
    fill(outer.putObject(name))
    outer
  }

  def list(values: Seq[Int]): JsonNode = {
    val array = Wire.json.createArrayNode()
    values.foreach(v => array.add(v))
    array
  }

  def size(value: Size): JsonNode = list(Seq(value.height, value.width))
}

/** Hidden linear layers with an activation (relu, tanh, sigmoid or gelu) and dropout behind each. */
final case class Mlp(hidden: Seq[Int], activation: String = "relu", dropout: Double = 0.0) extends Network {
  private[ml] def node: JsonNode = Json.named("mlp") { n =>
    n.set[JsonNode]("hidden", Json.list(hidden))
    n.put("activation", activation).put("dropout", dropout)
  }
}

object Mlp {
  def apply(first: Int, more: Int*): Mlp = Mlp(first +: more)
}

/** LeNet-5 for images of 28×28 or 32×32; `setInputShape(1, 28, 28)` says how a vector is one. */
case object Lenet5 extends Network {
  private[ml] def node: JsonNode = TextNode.valueOf("lenet5")
}

/** An embedding for each string column, joined with the numbers, then hidden layers.
  *
  * @param embeddingDims
  *   the width of every embedding; 0 chooses by the number of distinct values
  */
final case class Tabular(hidden: Seq[Int] = Seq(128, 64), embeddingDims: Int = 0, dropout: Double = 0.0)
    extends Network {
  private[ml] def node: JsonNode = Json.named("tabular") { n =>
    n.set[JsonNode]("hidden", Json.list(hidden))
    n.put("embedding_dims", embeddingDims).put("dropout", dropout)
  }
}

/** Layers one behind the other. */
final case class Sequential(layers: Layer*) extends Network {
  private[ml] def node: JsonNode = Json.named("sequential") { n =>
    val list = n.putArray("layers")
    layers.foreach(l => list.add(l.node))
  }
}

/** A linear layer of this many outputs. */
final case class Linear(outputs: Int, bias: Boolean = true) extends Layer {
  private[ml] def node: JsonNode = Json.named("linear")(_.put("outputs", outputs).put("bias", bias))
}

/** Height and width of a kernel, a stride or a padding. One number stands for both, and a pair for itself:
  * `Conv2d(16, kernel = 3, padding = (1, 0))`.
  */
final case class Size(height: Int, width: Int)

object Size {
  implicit def square(side: Int): Size = Size(side, side)
  implicit def pair(sides: (Int, Int)): Size = Size(sides._1, sides._2)
}

/** A cross-correlation over (channels, height, width). */
final case class Conv2d(
    outputs: Int,
    kernel: Size,
    stride: Size = 1,
    padding: Size = 0,
    groups: Int = 1,
    bias: Boolean = true
) extends Layer {
  private[ml] def node: JsonNode = Json.named("conv2d") { n =>
    n.put("outputs", outputs).put("groups", groups).put("bias", bias)
    n.set[JsonNode]("kernel", Json.size(kernel))
    n.set[JsonNode]("stride", Json.size(stride))
    n.set[JsonNode]("padding", Json.size(padding))
  }
}

/** The largest value of each window; the stride is the kernel where it is 0. */
final case class MaxPool2d(kernel: Size, stride: Size = 0, padding: Size = 0) extends Layer {
  private[ml] def node: JsonNode = Pool.node("max_pool2d", kernel, stride, padding)
}

/** The mean of each window; the stride is the kernel where it is 0. */
final case class AvgPool2d(kernel: Size, stride: Size = 0, padding: Size = 0) extends Layer {
  private[ml] def node: JsonNode = Pool.node("avg_pool2d", kernel, stride, padding)
}

private object Pool {
  def node(name: String, kernel: Size, stride: Size, padding: Size): JsonNode = Json.named(name) { n =>
    n.set[JsonNode]("kernel", Json.size(kernel))
    n.set[JsonNode]("stride", Json.size(if (stride == Size(0, 0)) kernel else stride))
    n.set[JsonNode]("padding", Json.size(padding))
  }
}

/** In training, zeroes a value with probability `rate`. */
final case class Dropout(rate: Double) extends Layer {
  private[ml] def node: JsonNode = Json.named("dropout")(_.put("rate", rate))
}

/** Standardises each feature or channel over the worker's part of a batch. */
final case class BatchNorm(epsilon: Double = 1e-5, momentum: Double = 0.1) extends Layer {
  private[ml] def node: JsonNode =
    Json.named("batch_norm")(_.put("epsilon", epsilon).put("momentum", momentum))
}

/** Standardises each sample over its last axis. */
final case class LayerNorm(epsilon: Double = 1e-5) extends Layer {
  private[ml] def node: JsonNode = Json.named("layer_norm")(_.put("epsilon", epsilon))
}

/** Operations without settings. */
sealed abstract class Plain(name: String) extends Layer {
  private[ml] def node: JsonNode = TextNode.valueOf(name)
}
case object Flatten extends Plain("flatten")
case object Relu extends Plain("relu")
case object Tanh extends Plain("tanh")
case object Sigmoid extends Plain("sigmoid")
case object Gelu extends Plain("gelu")
