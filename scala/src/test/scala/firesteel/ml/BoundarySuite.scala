package firesteel.ml

import org.scalatest.funsuite.AnyFunSuite

/** What crosses the JNI boundary: errors, panics, handles. */
class BoundarySuite extends AnyFunSuite {
  NativeLibrary.load()

  test("the library has the version of the jar") {
    assert(Native.version() == NativeLibrary.jarVersion)
  }

  test("a jar and a library of different versions are refused, both named") {
    val e = intercept[FiresteelException](NativeLibrary.check("0.2.0", "0.1.0"))
    assert(e.getMessage.contains("jar is version 0.2.0"))
    assert(e.getMessage.contains("library is version 0.1.0"))
  }

  test("a machine without a library is named") {
    val e = intercept[FiresteelException](NativeLibrary.resource("Mac OS X", "aarch64"))
    assert(e.getMessage.contains("not for Mac OS X on aarch64"))
  }

  test("a library that cannot be loaded is named, with what to do") {
    val file = java.nio.file.Files.createTempFile("firesteel-test-", ".so")
    java.nio.file.Files.writeString(file, "no library")
    val e = intercept[FiresteelException](NativeLibrary.load(file))
    java.nio.file.Files.delete(file)
    for (part <- Seq(file.toString, s"java.io.tmpdir, ${file.getParent}", "-Djava.io.tmpdir", "GLIBC"))
      assert(e.getMessage.contains(part), e.getMessage)
    assert(e.getCause.isInstanceOf[UnsatisfiedLinkError])
  }

  test("a panic becomes an exception that says what and where, and the JVM lives on") {
    for (how <- Seq("panic", "panic_str", "index", "thread")) {
      val e = intercept[InternalException](Native.fail(how))
      assert(e.getMessage.startsWith("panic at jvm-bindings/src/error.rs:"), how)
      assert(e.getMessage.contains(if (how == "index") "the len is 0" else "asked to panic"), how)
    }
    assert(Native.version().nonEmpty)
  }

  test("every kind of error has its exception, with the whole chain of causes") {
    val classes = Map(
      "argument" -> classOf[IllegalArgumentException],
      "data" -> classOf[IllegalArgumentException],
      "corrupt" -> classOf[CorruptException],
      "peer_lost" -> classOf[PeerLostException],
      "timeout" -> classOf[TimeoutException],
      "unauthenticated" -> classOf[UnauthenticatedException],
      "cancelled" -> classOf[CancelledException],
      "diverged" -> classOf[DivergedException],
      "io" -> classOf[NativeIOException],
      "other" -> classOf[InternalException]
    )
    for ((how, expected) <- classes) {
      val e = intercept[RuntimeException](Native.fail(how))
      assert(e.getClass == expected)
      assert(e.getMessage == s"self test: asked to fail: $how: the cause")
      // The driver makes the same exception of a worker's report.
      assert(FiresteelException.named(e.getClass.getName, "x", null).getClass == expected)
    }
    val retryable = classes.keys.filter(how =>
      FiresteelException.isRetryable(intercept[RuntimeException](Native.fail(how))))
    assert(retryable.toSet == Set("peer_lost", "timeout", "io"))
  }

  test("a null text is an exception") {
    assert(intercept[IllegalArgumentException](Native.checkNetwork(null)).getMessage == "a text is null")
  }

  private def settle(): Unit = {
    System.gc()
    Thread.sleep(200)
  }

  private def batch() = new ColumnBatch(Array(InputColumn("x", org.apache.spark.sql.types.DoubleType, 0)), 4)

  test("use after close is an exception, a double close nothing") {
    val b = batch()
    val stale = b.handle
    b.refresh()
    b.close()
    b.close()
    assert(intercept[IllegalStateException](b.refresh()).getMessage == "this column batch is closed")
    val e = intercept[IllegalArgumentException](Native.batchAddresses(stale))
    assert(e.getMessage == s"handle $stale is not open: it was closed, or it never existed")
    Native.close(stale)
    Native.close(-1)
  }

  test("a handle of something else is refused") {
    val b = batch()
    val e = intercept[IllegalArgumentException](Native.listenerPort(b.handle))
    assert(e.getMessage.startsWith(s"handle ${b.handle} is not a "))
    b.close()
  }

  test("10,000 opens leave no live handle") {
    // Models of other suites may be freed meanwhile.
    settle()
    val before = Native.openHandles()
    for (_ <- 1 to 10000) {
      val b = batch()
      b.refresh()
      b.close()
    }
    assert(Native.openHandles() <= before)
  }

  test("a handle may be closed while another thread uses it") {
    val b = batch()
    val users = (1 to 4).map { _ =>
      val t = new Thread(() =>
        try while (true) Native.batchAddresses(b.handle)
        catch { case _: IllegalStateException | _: IllegalArgumentException => })
      t.start()
      t
    }
    Thread.sleep(50)
    b.close()
    users.foreach(_.join(5000))
    assert(users.forall(!_.isAlive))
  }

  test("a second class loader loads its own copy") {
    val urls = Seq("target/classes/").map(p => new java.io.File(p).toURI.toURL).toArray
    val own = new java.net.URLClassLoader(urls, getClass.getClassLoader) {
      override def loadClass(name: String, resolve: Boolean): Class[_] =
        if (name.startsWith("firesteel.")) Option(findLoadedClass(name)).getOrElse(findClass(name))
        else super.loadClass(name, resolve)
    }
    val loader = own.loadClass("firesteel.ml.NativeLibrary$")
    assert(loader != NativeLibrary.getClass)
    loader.getMethod("load").invoke(loader.getField("MODULE$").get(null))
  }
}
