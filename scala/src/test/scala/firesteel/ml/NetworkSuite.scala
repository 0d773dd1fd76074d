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

  test("what is no network is refused with the place") {
    val e = intercept[IllegalArgumentException](Native.checkNetwork("""{"mlp": {"hiden": [3]}}"""))
    assert(e.getMessage.contains("unknown field `hiden`"))
  }
}
