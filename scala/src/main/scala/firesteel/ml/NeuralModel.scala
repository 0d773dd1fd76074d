package firesteel.ml

import scala.jdk.CollectionConverters._

import org.apache.spark.ml.firesteel.HasNeuralSummary
import org.apache.spark.ml.linalg.{SQLDataTypes, Vector}
import org.apache.spark.ml.util.MLWritable
import org.apache.spark.sql.{DataFrame, Dataset}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow
import org.apache.spark.sql.firesteel.SqlBridge
import org.apache.spark.sql.types._

/** What both models share: the trained network and how rows go through it. */
private[ml] trait NeuralModel extends NeuralColumns with NeuralParams with HasNeuralSummary with MLWritable {
  private[ml] def files: ModelFiles

  private[ml] def info: ModelInfo = {
    if (files == null)
      throw new IllegalStateException(s"the model $uid holds no network: it was not trained or loaded")
    files.native.info
  }

  /** The epochs of the training that made this model. */
  lazy val history: Seq[EpochRecord] =
    Wire.json.readTree(historyJson).elements().asScala.map(EpochRecord.read).toSeq

  override protected def losses: Option[Array[Double]] =
    Option(files).map(_ => history.map(_.loss).toArray)

  /** The same as JSON, for other languages. */
  def historyJson: String = files.text("history.json")

  /** The network as JSON, with the inputs and the head that the data gave it. */
  def specJson: String = files.text("spec.json")

  /** What becomes of a row with an unusable feature when it is scored: error, skip or keep. */
  def setHandleInvalid(value: String): this.type = set(handleInvalid, value)

  def setFeaturesCols(value: Array[String]): this.type = set(featuresCols, value)

  /** Appends `results`, which `columns` makes of the network's outputs, when the plan runs. */
  private[ml] def score(dataset: Dataset[_], results: Seq[StructField], columns: ResultColumns): DataFrame = {
    val inputs = featureColumns(dataset.schema)
    val trained = info.features
    Demand(
      inputs.length == trained.length,
      s"the model was trained on ${trained.length} feature columns (${trained.mkString(", ")}), " +
        s"not ${inputs.length} (${inputs.map(_.name).mkString(", ")})"
    )
    // By place, as `featuresCols` may name the same features differently today.
    val named = inputs.zip(trained).map { case (c, name) => c.copy(name = name) }
    val model = files.broadcast(dataset.sparkSession.sparkContext)
    SqlBridge.score(
      dataset,
      inputs.map(_.name),
      results,
      new ModelScoring(model, named.toArray, columns, $(handleInvalid)))
  }

  @transient private var single: BatchScorer = _

  /** The network's outputs for one vector; slow next to `transform`. */
  private[ml] def outputs(features: Vector): Array[Double] = synchronized {
    Demand(
      info.features.length == 1,
      s"a single vector cannot be scored: the model reads ${info.features.length} columns; use transform"
    )
    val column = InputColumn(info.features.head, SQLDataTypes.VectorType, 0)
    if (single == null) single = new BatchScorer(files.native, Array(column), RawColumns, "keep", 1)
    val udt = SQLDataTypes.VectorType.asInstanceOf[UserDefinedType[Vector]]
    single.add(new GenericInternalRow(Array[Any](udt.serialize(features))))
    single.run()
    val row: InternalRow = single.result(0)
    if (row == null) Array.fill(info.outputs)(Double.NaN) else row.getArray(0).toDoubleArray()
  }
}
