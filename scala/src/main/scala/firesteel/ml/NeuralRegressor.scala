package firesteel.ml

import org.apache.spark.ml.linalg.Vector
import org.apache.spark.ml.param.ParamMap
import org.apache.spark.ml.regression.{RegressionModel, Regressor}
import org.apache.spark.ml.util._
import org.apache.spark.sql.{DataFrame, Dataset}
import org.apache.spark.sql.types.{DataType, DoubleType, StructType}

/** Trains a neural network that predicts a number, in the tasks of one Spark stage. Features are as in
  * [[NeuralClassifier]]; the label is standardised inside.
  */
class NeuralRegressor(override val uid: String)
    extends Regressor[Vector, NeuralRegressor, NeuralRegressionModel]
    with NeuralEstimator
    with DefaultParamsWritable {

  def this() = this(Identifiable.randomUID("neuralRegressor"))

  override protected def validateAndTransformSchema(
      schema: StructType,
      fitting: Boolean,
      featuresDataType: DataType
  ): StructType = {
    if (fitting) checkTraining(schema, "regression") else featureColumns(schema)
    NeuralColumns.append(schema, $(predictionCol), DoubleType)
  }

  override def fit(dataset: Dataset[_]): NeuralRegressionModel = {
    transformSchema(dataset.schema, logging = true)
    copyValues(train(dataset).setParent(this))
  }

  override protected def train(dataset: Dataset[_]): NeuralRegressionModel =
    new NeuralRegressionModel(uid, trainNetwork(dataset, "regression"))

  override def copy(extra: ParamMap): NeuralRegressor = {
    val that = defaultCopy[NeuralRegressor](extra)
    that.listeners = listeners
    that
  }
}

object NeuralRegressor extends DefaultParamsReadable[NeuralRegressor] {
  // Connect finds `load` by reflection, on this class only.
  override def load(path: String): NeuralRegressor = super.load(path)
}

/** A trained regressor. */
class NeuralRegressionModel private[ml] (override val uid: String, private[ml] val files: ModelFiles)
    extends RegressionModel[Vector, NeuralRegressionModel]
    with NeuralModel {

  /** For Spark Connect's service loader only. */
  def this() = this(Identifiable.randomUID("neuralRegressor"), null)

  override def numFeatures: Int = if (files == null) -1 else info.width

  override protected def validateAndTransformSchema(
      schema: StructType,
      fitting: Boolean,
      featuresDataType: DataType
  ): StructType = {
    scoringColumns(schema)
    NeuralColumns.append(schema, $(predictionCol), DoubleType)
  }

  override def transform(dataset: Dataset[_]): DataFrame = {
    val schema = transformSchema(dataset.schema, logging = true)
    if ($(predictionCol).isEmpty) dataset.toDF()
    else score(dataset, Seq(schema($(predictionCol))), ValueColumns)
  }

  override def predict(features: Vector): Double = outputs(features)(0)

  override def copy(extra: ParamMap): NeuralRegressionModel =
    copyValues(new NeuralRegressionModel(uid, files), extra).setParent(parent)

  override def write: MLWriter = new ModelWriter(this, files)

  override def toString: String =
    if (files == null) s"NeuralRegressionModel: uid=$uid"
    else s"NeuralRegressionModel: uid=$uid, numFeatures=$numFeatures"
}

object NeuralRegressionModel extends MLReadable[NeuralRegressionModel] {
  override def read: MLReader[NeuralRegressionModel] =
    new ModelReader(classOf[NeuralRegressionModel].getName, new NeuralRegressionModel(_, _))
  override def load(path: String): NeuralRegressionModel = super.load(path)
}
