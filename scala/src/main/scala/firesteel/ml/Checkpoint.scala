package firesteel.ml

import java.io.FileNotFoundException
import java.util.UUID

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{FileSystem, Path}

/** The latest checkpoint of a fit, in a folder of any Hadoop file system. A new one is written beside and renamed
  * to the next number before the old one goes, so there is always a whole one.
  */
private[ml] final case class Checkpoint(folder: String) {
  import Checkpoint._

  def write(bytes: Array[Byte], conf: Configuration): Unit = {
    val fs = fileSystem(conf)
    val old = numbered(fs)
    val next = old.lastOption.fold(1L)(_._1 + 1)
    val beside = new Path(folder, s".firesteel-${UUID.randomUUID()}")
    val out = fs.create(beside, true)
    try out.write(bytes)
    finally out.close()
    val target = new Path(folder, f"$prefix$next%08d$suffix")
    if (!fs.rename(beside, target)) throw new NativeIOException(s"cannot rename $beside to $target")
    old.foreach { case (_, path) => fs.delete(path, false) }
  }

  def read(conf: Configuration): Option[Array[Byte]] = {
    val fs = fileSystem(conf)
    numbered(fs).lastOption.map { case (_, path) =>
      val in = fs.open(path)
      try in.readAllBytes()
      finally in.close()
    }
  }

  def remove(conf: Configuration): Unit = {
    val fs = fileSystem(conf)
    numbered(fs).foreach { case (_, path) => fs.delete(path, false) }
  }

  private def fileSystem(conf: Configuration): FileSystem = new Path(folder).getFileSystem(conf)

  /** The checkpoints there are, oldest first. */
  private def numbered(fs: FileSystem): Seq[(Long, Path)] = {
    val names =
      try fs.listStatus(new Path(folder)).toSeq.map(_.getPath)
      catch { case _: FileNotFoundException => Seq.empty }
    names.flatMap(p => number(p.getName).map(_ -> p)).sortBy(_._1)
  }
}

private[ml] object Checkpoint {
  private val prefix = "firesteel-checkpoint-"
  private val suffix = ".safetensors"

  private def number(name: String): Option[Long] =
    if (name.startsWith(prefix) && name.endsWith(suffix))
      name.stripPrefix(prefix).stripSuffix(suffix).toLongOption
    else None
}
