package firesteel.ml

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

  def pair(value: Int): JsonNode = list(Seq(value, value))
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

/** A convolution with a square kernel. */
final case class Conv2d(
    outputs: Int,
    kernel: Int,
    stride: Int = 1,
    padding: Int = 0,
    groups: Int = 1,
    bias: Boolean = true
) extends Layer {
  private[ml] def node: JsonNode = Json.named("conv2d") { n =>
    n.put("outputs", outputs).put("groups", groups).put("bias", bias)
    n.set[JsonNode]("kernel", Json.pair(kernel))
    n.set[JsonNode]("stride", Json.pair(stride))
    n.set[JsonNode]("padding", Json.pair(padding))
  }
}

/** The largest value of each square window; windows do not overlap unless `stride` says so. */
final case class MaxPool2d(kernel: Int, stride: Int = 0, padding: Int = 0) extends Layer {
  private[ml] def node: JsonNode = Pool.node("max_pool2d", kernel, stride, padding)
}

/** The mean of each square window. */
final case class AvgPool2d(kernel: Int, stride: Int = 0, padding: Int = 0) extends Layer {
  private[ml] def node: JsonNode = Pool.node("avg_pool2d", kernel, stride, padding)
}

private object Pool {
  def node(name: String, kernel: Int, stride: Int, padding: Int): JsonNode = Json.named(name) { n =>
    n.set[JsonNode]("kernel", Json.pair(kernel))
    n.set[JsonNode]("stride", Json.pair(if (stride > 0) stride else kernel))
    n.set[JsonNode]("padding", Json.pair(padding))
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
