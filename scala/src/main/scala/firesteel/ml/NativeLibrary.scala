package firesteel.ml

import java.nio.file.{Files, Path, StandardCopyOption}
import java.util.Properties

/** The native library: it travels in the jar and is loaded once a class loader. */
private[ml] object NativeLibrary {
  private val versionFile = "/firesteel/version.properties"

  /** The version of the jar. */
  lazy val jarVersion: String = {
    val properties = new Properties
    val in = getClass.getResourceAsStream(versionFile)
    if (in == null) throw new FiresteelException(s"the Firesteel jar has no $versionFile; it is damaged")
    try properties.load(in)
    finally in.close()
    properties.getProperty("version")
  }

  /** Where the library of this machine lies in the jar. */
  def resource(os: String, arch: String): String = {
    val machine = (os.toLowerCase, arch.toLowerCase) match {
      case ("linux", "amd64" | "x86_64") => "linux-x86_64"
      case _ =>
        throw new FiresteelException(
          s"this Firesteel jar holds a native library for Linux on x86-64, not for $os on $arch"
        )
    }
    s"/firesteel/native/$machine/libfiresteel_jvm.so"
  }

  private lazy val once: Unit = {
    val path = resource(System.getProperty("os.name"), System.getProperty("os.arch"))
    val in = getClass.getResourceAsStream(path)
    if (in == null)
      throw new FiresteelException(
        s"the Firesteel jar $jarVersion has no $path; it was built without its library"
      )
    // A name of its own: two class loaders of one JVM cannot load one file.
    val file = Files.createTempFile("firesteel-", ".so")
    try {
      try Files.copy(in, file, StandardCopyOption.REPLACE_EXISTING)
      finally in.close()
      load(file)
    } finally Files.deleteIfExists(file)
    check(jarVersion, Native.version())
  }

  private[ml] def load(file: Path): Unit =
    try System.load(file.toString)
    catch {
      case e: UnsatisfiedLinkError =>
        throw new FiresteelException(
          s"the native library cannot be loaded from $file: ${e.getMessage}. It is unpacked into java.io.tmpdir, " +
            s"${file.getParent}: where that is mounted noexec, name another folder with -Djava.io.tmpdir in " +
            "spark.driver.extraJavaOptions and spark.executor.extraJavaOptions. Where a version of GLIBC is not " +
            "found, the machine's C library is older than the one the jar was built on: build the jar on this system",
          e,
          retryable = false
        )
    }

  /** Loads the library the first time it is called. */
  def load(): Unit = once

  /** A jar and a library of different versions do not work together. */
  def check(jar: String, library: String): Unit =
    if (jar != library)
      throw new FiresteelException(
        s"the Firesteel jar is version $jar but its native library is version $library: " +
          "the jar was built with another build's library; use one made by one build"
      )
}

/** A handle of a native object; what uses it after `close` gets an exception, not a crash. */
private[ml] final class Handle(what: String, open: => Long) extends AutoCloseable {
  NativeLibrary.load()
  private val key = new java.util.concurrent.atomic.AtomicLong(open)

  def value: Long = {
    val now = key.get
    if (now == 0) throw new IllegalStateException(s"this $what is closed")
    now
  }

  /** Marks itself closed first, then frees; a second time does nothing. */
  override def close(): Unit = {
    val last = key.getAndSet(0)
    if (last != 0) Native.close(last)
  }
}
