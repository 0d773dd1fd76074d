package org.apache.spark.ml.firesteel

import org.apache.spark.ml.param.Params
import org.apache.spark.ml.util.{
  DefaultParamsReader,
  DefaultParamsWriter,
  FileSystemOverwrite,
  ReadWriteUtils
}
import org.apache.spark.sql.SparkSession

/** What only code inside Spark ML's own package may ask of Spark ML. */
object MlBridge {

  def saveMetadata(instance: Params, path: String, session: SparkSession): Unit =
    DefaultParamsWriter.saveMetadata(instance, path, session)

  /** The uid that was saved, and what sets the saved params on an instance. */
  def loadMetadata(path: String, session: SparkSession, className: String): (String, Params => Unit) = {
    val metadata = DefaultParamsReader.loadMetadata(path, session, className)
    (metadata.uid, instance => metadata.getAndSetParams(instance))
  }

  /** Refuses a path that exists, or clears it when the user asked to overwrite. */
  def prepare(path: String, overwrite: Boolean, session: SparkSession): Unit =
    new FileSystemOverwrite().handleOverwrite(path, overwrite, session)

  /** Whether Connect is saving to the server's own disk, past Hadoop. */
  def isLocal: Boolean = ReadWriteUtils.localSavingModeState.get()
}
