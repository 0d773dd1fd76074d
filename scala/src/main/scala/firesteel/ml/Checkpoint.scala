package firesteel.ml

import java.io.{FileNotFoundException, IOException}
import java.util.{Locale, UUID}
import java.util.concurrent.ConcurrentHashMap

import scala.util.control.NonFatal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{ChecksumFileSystem, FileStatus, FileSystem, Path}

/** The checkpoints of one fit, in a folder of any Hadoop file system where only fits of its configuration keep theirs.
  * A new one is written beside and renamed to the next number before the old one goes, so there is always a
  * whole one.
  *
  * Names hold who wrote them, so that fits of one configuration that run at the same time, and what is left of
  * an attempt that was given up, do not touch each other's.
  *
  * @param fit
  *   no other fit's
  * @param attempt
  *   counts from 1
  * @param found
  *   what earlier fits of this configuration left, by file name
  */
private[ml] final case class Checkpoint(folder: String, fit: String, attempt: Int, found: Set[String]) {
  import Checkpoint._

  def write(bytes: Array[Byte], conf: Configuration): Unit =
    on(conf, "write a checkpoint to") { fs =>
      val before = mine(fs)
      val number = before.map(_.number).maxOption.getOrElse(0L) + 1
      val target = new Path(folder, Saved(number, fit, attempt).name)
      val beside = new Path(folder, s"$temporary$fit-${UUID.randomUUID()}")
      try {
        val out = fs.create(beside, true)
        try out.write(bytes)
        finally out.close()
        if (!fs.rename(beside, target)) throw new IOException(s"cannot rename $beside to $target")
      } catch { case NonFatal(e) => deleteQuietly(fs, beside); throw e }
      before.filter(s => s.fit == fit && s.number < number).foreach(s => delete(fs, s))
    }

  /** The latest there is, of this fit or of one that broke off. */
  def read(conf: Configuration): Option[Array[Byte]] =
    on(conf, "read a checkpoint from") { fs =>
      mine(fs).sortBy(-_.number).iterator.flatMap(content(fs, _)).nextOption()
    }

  /** Removes those of this fit and those that it could have gone on from: it has ended well. */
  def remove(conf: Configuration): Unit =
    attempted(conf, "remove a checkpoint from")(fs => mine(fs).foreach(delete(fs, _)))

  /** After the fit's end, however it ended: the checkpoint it leaves stays for the next. */
  def close(conf: Configuration): Unit = {
    attempted(conf, "clean up in") { fs =>
      val path = new Path(folder)
      list(fs, path).map(_.getPath).filter(_.getName.startsWith(temporary + fit)).foreach(fs.delete(_, false))
      if (list(fs, path).isEmpty) fs.delete(path, false)
    }
    running.remove(fit)
  }

  /** What fails here must not cost the user the model. */
  private def attempted(conf: Configuration, what: String)(use: FileSystem => Unit): Unit =
    try on(conf, what)(use)
    catch { case e: NativeIOException => Console.err.println(e.getMessage) }

  private def mine(fs: FileSystem): Seq[Saved] =
    saved(fs, new Path(folder)).filter(s => s.fit == fit || found(s.name))

  /** None when someone has removed it meanwhile. */
  private def content(fs: FileSystem, saved: Saved): Option[Array[Byte]] =
    try {
      val in = fs.open(new Path(folder, saved.name))
      try Some(in.readAllBytes())
      finally in.close()
    } catch { case _: FileNotFoundException => None }

  private def delete(fs: FileSystem, saved: Saved): Unit = {
    fs.delete(new Path(folder, saved.name), false)
    ()
  }

  private def on[T](conf: Configuration, what: String)(use: FileSystem => T): T =
    try use(fileSystem(new Path(folder), conf))
    catch { case e: IOException => throw new NativeIOException(s"cannot $what $folder: ${e.getMessage}", e) }
}

private[ml] object Checkpoint {
  private val prefix = "firesteel-checkpoint-"
  private val suffix = ".safetensors"
  private val temporary = ".firesteel-"

  /** What is written beside and older than this was left by a process that died. */
  private val staleMs = 3600000L

  /** Fits that run in this process. */
  private val running = ConcurrentHashMap.newKeySet[String]()

  /** A checkpoint's name, taken apart. */
  private final case class Saved(number: Long, fit: String, attempt: Int) {
    def name: String = s"$prefix%08d-%s-%d$suffix".formatLocal(Locale.ROOT, number, fit, attempt)
  }

  private object Saved {
    private val Name = s"${prefix}(\\d+)-([0-9a-f]+)-(\\d+)\\$suffix".r

    def of(name: String): Option[Saved] = name match {
      case Name(number, fit, attempt) => Some(Saved(number.toLong, fit, attempt.toInt))
      case _ => None
    }
  }

  /** The checkpoints of a fit that begins, in the folder `key` of `directory`. Says on the driver, before anything runs,
    * when none can be written there.
    */
  def open(directory: String, key: String, conf: Configuration): Checkpoint = {
    val fit = UUID.randomUUID().toString.replace("-", "").take(12)
    try {
      val folder = new Path(directory, key)
      val fs = fileSystem(folder, conf)
      fs.mkdirs(folder)
      probe(fs, new Path(folder, s"$temporary$fit-probe"))
      removeStale(fs, folder)
      running.add(fit)
      // What a fit in another thread keeps is not for this one.
      val found = saved(fs, folder).filterNot(s => running.contains(s.fit)).map(_.name).toSet
      Checkpoint(folder.toString, fit, 1, found)
    } catch {
      case e @ (_: IOException | _: IllegalArgumentException) =>
        throw new IllegalArgumentException(
          s"checkpointDir is $directory, where no checkpoint can be written: ${e.getMessage}",
          e)
    }
  }

  /** Without the checksum files of a local disk: they are hidden when the folder is listed, and a task that is killed while
    * it writes leaves its own behind, which would keep the folder for ever.
    */
  private def fileSystem(folder: Path, conf: Configuration): FileSystem =
    folder.getFileSystem(conf) match {
      case checked: ChecksumFileSystem => checked.getRawFileSystem
      case other => other
    }

  private def probe(fs: FileSystem, path: Path): Unit = {
    val out = fs.create(path, true)
    try out.write(0)
    finally out.close()
    fs.delete(path, false)
    ()
  }

  private def removeStale(fs: FileSystem, folder: Path): Unit =
    list(fs, folder)
      .filter(f => f.getPath.getName.startsWith(temporary))
      .filter(_.getModificationTime < System.currentTimeMillis() - staleMs)
      .foreach(f => deleteQuietly(fs, f.getPath))

  private def saved(fs: FileSystem, folder: Path): Seq[Saved] =
    list(fs, folder).flatMap(f => Saved.of(f.getPath.getName))

  private def list(fs: FileSystem, folder: Path): Seq[FileStatus] =
    try fs.listStatus(folder).toSeq
    catch { case _: FileNotFoundException => Seq.empty }

  private def deleteQuietly(fs: FileSystem, path: Path): Unit =
    try { fs.delete(path, false); () }
    catch { case _: IOException => }
}
