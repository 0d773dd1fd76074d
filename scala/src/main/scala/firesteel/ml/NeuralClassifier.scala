package firesteel.ml

import org.apache.spark.ml.classification.{ProbabilisticClassificationModel, ProbabilisticClassifier}
import org.apache.spark.ml.linalg.{DenseVector, SQLDataTypes, Vector, Vectors}
import org.apache.spark.ml.param.ParamMap
import org.apache.spark.ml.util._
import org.apache.spark.sql.{DataFrame, Dataset}
import org.apache.spark.sql.types.{DataType, DoubleType, StructType}

/** Trains a neural network that tells classes apart, in the tasks of one Spark stage.
  *
  * The label is a class number: 0, 1, 2… Features are the columns of `featuresCols` as they are (numbers are
  * standardised, strings become learned embeddings, arrays and vectors become tensors), or the one vector
  * column `featuresCol`.
  */
class NeuralClassifier(override val uid: String)
    extends ProbabilisticClassifier[Vector, NeuralClassifier, NeuralClassificationModel]
    with NeuralEstimator
    with DefaultParamsWritable {

  def this() = this(Identifiable.randomUID("neuralClassifier"))

  override protected def validateAndTransformSchema(
      schema: StructType,
      fitting: Boolean,
      featuresDataType: DataType
  ): StructType = {
    if (fitting) checkTraining(schema, "classification") else featureColumns(schema)
    ClassifierSchema.append(schema, $(rawPredictionCol), $(probabilityCol), $(predictionCol))
  }

  override def fit(dataset: Dataset[_]): NeuralClassificationModel = {
    transformSchema(dataset.schema, logging = true)
    copyValues(train(dataset).setParent(this))
  }

  override protected def train(dataset: Dataset[_]): NeuralClassificationModel =
    new NeuralClassificationModel(uid, trainNetwork(dataset, "classification"))

  override def copy(extra: ParamMap): NeuralClassifier = {
    val that = defaultCopy[NeuralClassifier](extra)
    that.listeners = listeners
    that
  }
}

object NeuralClassifier extends DefaultParamsReadable[NeuralClassifier] {
  // Connect finds `load` by reflection, on this class only.
  override def load(path: String): NeuralClassifier = super.load(path)
}

/** A trained classifier. */
class NeuralClassificationModel private[ml] (override val uid: String, private[ml] val files: ModelFiles)
    extends ProbabilisticClassificationModel[Vector, NeuralClassificationModel]
    with NeuralModel {

  /** For Spark Connect's service loader only. */
  def this() = this(Identifiable.randomUID("neuralClassifier"), null)

  override def numClasses: Int = info.outputs
  override def numFeatures: Int = if (files == null) -1 else info.width

  override protected def validateAndTransformSchema(
      schema: StructType,
      fitting: Boolean,
      featuresDataType: DataType
  ): StructType = {
    scoringColumns(schema)
    ClassifierSchema.append(schema, $(rawPredictionCol), $(probabilityCol), $(predictionCol))
  }

  private def names = Seq($(rawPredictionCol), $(probabilityCol), $(predictionCol))

  override def transformSchema(schema: StructType): StructType = {
    // Spark's own adds attributes and shuffles the columns.
    val described = super.transformSchema(schema)
    StructType(schema.fields ++ names.filter(_.nonEmpty).map(described(_)))
  }

  override def transform(dataset: Dataset[_]): DataFrame = {
    val schema = transformSchema(dataset.schema, logging = true)
    val limits = if (isDefined(thresholds)) Some($(thresholds)) else None
    limits.foreach(t =>
      Demand(t.length == numClasses, s"thresholds has ${t.length} values, the model has $numClasses classes"))
    val results = names.filter(_.nonEmpty).map(schema(_))
    if (results.isEmpty) dataset.toDF()
    else
      score(dataset, results, ClassColumns(names(0).nonEmpty, names(1).nonEmpty, names(2).nonEmpty, limits))
  }

  override def predictRaw(features: Vector): Vector = Vectors.dense(Classes.raw(outputs(features)))

  override protected def raw2probabilityInPlace(raw: Vector): Vector = raw match {
    case dense: DenseVector =>
      val probabilities = Classes.probabilities(dense.values)
      Array.copy(probabilities, 0, dense.values, 0, probabilities.length)
      dense
    case other => Vectors.dense(Classes.probabilities(other.toArray))
  }

  override def copy(extra: ParamMap): NeuralClassificationModel =
    copyValues(new NeuralClassificationModel(uid, files), extra).setParent(parent)

  override def write: MLWriter = new ModelWriter(this, files)

  override def toString: String =
    if (files == null) s"NeuralClassificationModel: uid=$uid"
    else s"NeuralClassificationModel: uid=$uid, numClasses=$numClasses, numFeatures=$numFeatures"
}

object NeuralClassificationModel extends MLReadable[NeuralClassificationModel] {
  override def read: MLReader[NeuralClassificationModel] =
    new ModelReader(classOf[NeuralClassificationModel].getName, new NeuralClassificationModel(_, _))
  override def load(path: String): NeuralClassificationModel = super.load(path)
}

private[ml] object ClassifierSchema {
  def append(schema: StructType, raw: String, probability: String, prediction: String): StructType = {
    val withRaw = NeuralColumns.append(schema, raw, SQLDataTypes.VectorType)
    val withProbability = NeuralColumns.append(withRaw, probability, SQLDataTypes.VectorType)
    NeuralColumns.append(withProbability, prediction, DoubleType)
  }
}
