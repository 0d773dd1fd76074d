package firesteel.ml

import java.io.File
import java.nio.file.{Files, Path}

import org.apache.commons.io.FileUtils
import org.apache.hadoop.conf.Configuration
import org.scalatest.BeforeAndAfterAll
import org.scalatest.funsuite.AnyFunSuite

/** Checkpoints in a folder. */
class CheckpointSuite extends AnyFunSuite with BeforeAndAfterAll {
  private val conf = new Configuration()
  private val temporary = Files.createTempDirectory("firesteel-checkpoints-")
  private var folders = 0

  override def afterAll(): Unit = FileUtils.deleteDirectory(temporary.toFile)

  private def fresh(): Path = {
    folders += 1
    temporary.resolve(folders.toString)
  }
  private def open(directory: Path, key: String = "key") = Checkpoint.open(directory.toString, key, conf)
  private def names(directory: Path, key: String = "key"): Seq[String] =
    Option(directory.resolve(key).toFile.list()).toSeq.flatten.sorted
  private def read(c: Checkpoint): Option[Seq[Byte]] = c.read(conf).map(_.toSeq)

  test("the latest is kept and read, and nothing is left when a fit ended well") {
    val directory = fresh()
    val c = open(directory)
    assert(read(c).isEmpty)
    for (i <- 1 to 12) c.write(Array(i.toByte), conf)
    assert(names(directory).length == 1 && names(directory).head.startsWith("firesteel-checkpoint-00000012-"))
    assert(read(c).contains(Seq(12)))
    c.remove(conf)
    c.close(conf)
    assert(directory.toFile.list().isEmpty)
  }

  test("a fit goes on from what one that broke off has left, and removes it") {
    val directory = fresh()
    val first = open(directory)
    first.write(Array(1), conf)
    first.close(conf)
    val second = open(directory)
    assert(read(second).contains(Seq(1)))
    second.copy(attempt = 2).write(Array(2), conf)
    assert(read(second).contains(Seq(2)))
    second.remove(conf)
    second.close(conf)
    assert(directory.toFile.list().isEmpty)
  }

  test("another configuration's is not seen") {
    val directory = fresh()
    open(directory, "one").write(Array(1), conf)
    assert(read(open(directory, "two")).isEmpty)
  }

  test("fits of one configuration that run at the same time do not touch each other's") {
    val directory = fresh()
    val (a, b) = (open(directory), open(directory))
    a.write(Array(1), conf)
    val c = open(directory)
    assert(read(b).isEmpty && read(c).isEmpty)
    b.write(Array(2), conf)
    assert(read(a).contains(Seq(1)) && read(b).contains(Seq(2)))
    a.remove(conf)
    a.close(conf)
    assert(read(b).contains(Seq(2)))
  }

  test("an attempt that was given up does not remove what the next one keeps") {
    val c = open(fresh())
    c.write(Array(1), conf)
    c.copy(attempt = 2).write(Array(2), conf)
    c.write(Array(3), conf)
    c.copy(attempt = 2).write(Array(4), conf)
    assert(read(c).contains(Seq(4)))
  }

  test("what a process that died left half written is removed, what is being written is not") {
    val directory = fresh()
    val folder = Files.createDirectories(directory.resolve("key"))
    val (old, young) = (folder.resolve(".firesteel-old"), folder.resolve(".firesteel-young"))
    Seq(old, young).foreach(Files.writeString(_, "half"))
    assert(old.toFile.setLastModified(System.currentTimeMillis() - 2 * 3600 * 1000))
    open(directory).close(conf)
    assert(names(directory) == Seq(".firesteel-young"))
  }

  test("a fit removes what it wrote half") {
    val directory = fresh()
    val c = open(directory)
    Files.writeString(directory.resolve("key").resolve(s".firesteel-${c.fit}-x"), "half")
    c.close(conf)
    assert(directory.toFile.list().isEmpty)
  }

  test("a folder that is a file, or in one, is refused by name before anything runs") {
    val file = Files.writeString(temporary.resolve("file"), "x")
    for (directory <- Seq(file, file.resolve("below"))) {
      val e = intercept[IllegalArgumentException](open(directory))
      assert(e.getMessage.startsWith(s"checkpointDir is $directory, where no checkpoint can be written: "))
      assert(e.getCause.isInstanceOf[java.io.IOException])
    }
    val e = intercept[IllegalArgumentException](Checkpoint.open("nosuch://host/x", "key", conf))
    assert(e.getMessage.startsWith("checkpointDir is nosuch://host/x, where no checkpoint can be written: "))
  }

  test("a file system that refuses later is named") {
    val directory = fresh()
    val c = open(directory)
    val folder = directory.resolve("key").toFile
    FileUtils.deleteDirectory(folder)
    FileUtils.write(folder, "now a file", "UTF-8")
    val e = intercept[NativeIOException](c.write(Array(1), conf))
    assert(e.getMessage.startsWith(s"cannot write a checkpoint to $folder: "), e.getMessage)
    assert(!new File(directory.toFile, "firesteel").exists && FiresteelException.isRetryable(e))
  }
}
