package firesteel.ml

import scala.jdk.CollectionConverters._

import org.apache.spark.ml.firesteel.HasNeuralSummary
import org.apache.spark.ml.linalg.{SQLDataTypes, Vector}
import org.apache.spark.ml.util.MLWritable
import org.apache.spark.sql.{DataFrame, Dataset}
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

  /** The feature columns of a schema, checked against those of the training: by place, as `featuresCols` may name the
    * same features differently today.
    */
  private[ml] def scoringColumns(schema: StructType): Seq[InputColumn] = {
    val inputs = featureColumns(schema)
    if (files != null) {
      val trained = files.features
      Demand(
        inputs.length == trained.length,
        s"the model was trained on ${trained.length} feature columns (${trained.map(_.name).mkString(", ")}), " +
          s"not ${inputs.length} (${inputs.map(_.name).mkString(", ")})"
      )
      inputs.zip(trained).foreach { case (input, feature) => feature.check(input, schema(input.name)) }
    }
    inputs
  }

  /** Appends `results`, which `columns` makes of the network's outputs, when the plan runs. */
  private[ml] def score(dataset: Dataset[_], results: Seq[StructField], columns: ResultColumns): DataFrame = {
    val inputs = scoringColumns(dataset.schema)
    val named = inputs.zip(files.features).map { case (c, feature) => c.copy(name = feature.name) }
    val model = files.broadcast(dataset.sparkSession.sparkContext)
    SqlBridge.score(
      dataset,
      inputs.map(_.name),
      results,
      new ModelScoring(model, named.toArray, columns, $(handleInvalid)))
  }

  /** The network's outputs for one vector; slow next to `transform`. It cannot be skipped: an unusable feature is an
    * error, unless `handleInvalid` is keep.
    */
  private[ml] def outputs(features: Vector): Array[Double] = {
    val names = info.features
    Demand(
      names.length == 1,
      s"a single vector cannot be scored: the model reads ${names.length} columns; use transform")
    val column = InputColumn(names.head, SQLDataTypes.VectorType, 0)
    val invalid = if ($(handleInvalid) == "keep") "keep" else "error"
    val scorer = new BatchScorer(files.native, Array(column), RawColumns, invalid, 1)
    try {
      val udt = SQLDataTypes.VectorType.asInstanceOf[UserDefinedType[Vector]]
      scorer.add(new GenericInternalRow(Array[Any](udt.serialize(features))))
      scorer.run()
      scorer.result(0).getArray(0).toDoubleArray()
    } finally scorer.close()
  }
}
