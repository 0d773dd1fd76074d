package firesteel.ml

import java.nio.file.{Files, Paths}
import java.util.UUID

import org.apache.hadoop.fs.{FileSystem, Path}
import org.apache.spark.ml.firesteel.MlBridge
import org.apache.spark.ml.param.Params
import org.apache.spark.ml.util.{MLReader, MLWriter}

/** Saves a model: Spark's metadata, and the network's files as they are in a folder `network`, which every other
  * face of Firesteel can open. All of it is written beside and renamed.
  */
private[ml] final class ModelWriter(model: Params, files: ModelFiles) extends MLWriter {

  override def save(path: String): Unit = {
    // Before anything is written; again below, as it takes a while to write.
    if (!shouldOverwrite) MlBridge.prepare(path, overwrite = false, sparkSession)
    val target = new Path(path)
    val fs = target.getFileSystem(sc.hadoopConfiguration)
    val beside = new Path(target.getParent, s".${target.getName}-${UUID.randomUUID()}")
    try {
      saveImpl(beside.toString)
      MlBridge.prepare(path, shouldOverwrite, sparkSession)
      if (!fs.rename(beside, target)) throw new NativeIOException(s"cannot rename $beside to $target")
    } finally fs.delete(beside, true)
  }

  override protected def saveImpl(path: String): Unit = {
    MlBridge.saveMetadata(model, path, sparkSession)
    if (MlBridge.isLocal) {
      val folder = Files.createDirectories(Paths.get(path, Persistence.folder))
      files.files.foreach { case (name, bytes) => Files.write(folder.resolve(name), bytes) }
    } else {
      val folder = new Path(path, Persistence.folder)
      val fs = folder.getFileSystem(sc.hadoopConfiguration)
      fs.mkdirs(folder)
      files.files.foreach { case (name, bytes) =>
        val out = fs.create(new Path(folder, name), true)
        try out.write(bytes)
        finally out.close()
      }
    }
  }
}

/** Loads a model; `make` gets the uid and the files. */
private[ml] final class ModelReader[M <: Params](className: String, make: (String, ModelFiles) => M)
    extends MLReader[M] {

  override def load(path: String): M = {
    val (uid, setParams) = MlBridge.loadMetadata(path, sparkSession, className)
    val files = new ModelFiles(if (MlBridge.isLocal) Persistence.local(path) else fromHadoop(path))
    if (files.files.isEmpty) throw new CorruptException(s"there is no network in $path")
    try files.features -> files.native
    catch {
      case e: CorruptException => throw new CorruptException(s"the model in $path: ${e.getMessage}", e)
    }
    val model = make(uid, files)
    setParams(model)
    model
  }

  private def fromHadoop(path: String): Seq[(String, Array[Byte])] = {
    val folder = new Path(path, Persistence.folder)
    val fs: FileSystem = folder.getFileSystem(sc.hadoopConfiguration)
    if (!fs.exists(folder)) Seq.empty
    else
      fs.listStatus(folder).toSeq.filter(s => s.isFile && !s.getPath.getName.startsWith(".")).map { status =>
        val in = fs.open(status.getPath)
        try status.getPath.getName -> in.readAllBytes()
        finally in.close()
      }
  }
}

private[ml] object Persistence {

  /** The folder of the network's files in a saved model. */
  val folder = "network"

  def local(path: String): Seq[(String, Array[Byte])] = {
    val list = Paths.get(path, folder).toFile.listFiles()
    if (list == null) Seq.empty
    else list.toSeq.filter(_.isFile).map(f => f.getName -> Files.readAllBytes(f.toPath))
  }
}
