package firesteel.ml

import org.scalatest.funsuite.AnyFunSuite

/** Networks as Scala builds them and Rust reads them. */
class NetworkSuite extends AnyFunSuite {
  NativeLibrary.load()

  test("every network and layer is one that the library reads") {
    val layers = Sequential(
      Conv2d(8, kernel = 3, stride = 2, padding = 1, groups = 1, bias = false),
      BatchNorm(),
      Relu,
      MaxPool2d(2),
      AvgPool2d(3, stride = 1, padding = 1),
      Flatten,
      LayerNorm(),
      Linear(32, bias = false),
      Gelu,
      Tanh,
      Sigmoid,
      Dropout(0.5)
    )
    for (network <- Seq(
        Mlp(512, 256),
        Mlp(Seq(8), "gelu", 0.1),
        Lenet5,
        Tabular(),
        Tabular(Seq(16), 4, 0.2),
        layers
      ))
      Native.checkNetwork(network.toJson)
  }

  test("kernels, strides and paddings are one number or a pair") {
    def layer(l: Layer) = l.node.elements().next()
    val conv = layer(Conv2d(8, kernel = (3, 1), stride = 2, padding = (1, 0)))
    assert(Seq("kernel", "stride", "padding").map(conv.get(_).toString) == Seq("[3,1]", "[2,2]", "[1,0]"))
    val pool = layer(MaxPool2d((2, 1)))
    assert(pool.get("kernel").toString == "[2,1]" && pool.get("stride").toString == "[2,1]")
    assert(layer(AvgPool2d(2, stride = (1, 2))).get("stride").toString == "[1,2]")
    Native.checkNetwork(Sequential(Conv2d(4, (3, 1)), MaxPool2d((2, 1))).toJson)
  }

  test("what is not even JSON is refused when it is set, with an example") {
    for ((json, found) <- Seq[(String, String)](
        (null, "network is null"),
        ("lenet5", "network is \"lenet5\", which is not JSON"))) {
      val e = intercept[IllegalArgumentException](new NeuralClassifier().setNetwork(json))
      assert(e.getMessage.startsWith(found) && e.getMessage.contains("Lenet5 or Mlp(512, 256)"), e.getMessage)
    }
  }

  test("what is no network is refused with the place") {
    val e = intercept[IllegalArgumentException](Native.checkNetwork("""{"mlp": {"hiden": [3]}}"""))
    assert(e.getMessage.contains("unknown field `hiden`"))
  }
}
