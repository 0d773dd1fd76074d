package firesteel.ml

import org.apache.spark.ml.attribute.{Attribute, BinaryAttribute, NominalAttribute}
import org.apache.spark.ml.param._
import org.apache.spark.ml.param.shared.{HasFeaturesCol, HasLabelCol, HasPredictionCol, HasWeightCol}
import org.apache.spark.sql.types._

/** Which columns are read: params of estimators and models. */
trait NeuralColumns extends HasFeaturesCol with HasLabelCol with HasPredictionCol with HasWeightCol {

  /** Feature columns of any supported type, as they are; used instead of `featuresCol` when not empty. */
  final val featuresCols: StringArrayParam = new StringArrayParam(
    this,
    "featuresCols",
    "feature columns (numbers, booleans, strings, arrays of numbers, ML Vectors); instead of featuresCol"
  )
  final def getFeaturesCols: Array[String] = $(featuresCols)

  /** The shape of the vectors in `featuresCol`, for example 1, 28, 28; empty means one axis. */
  final val inputShape: IntArrayParam = new IntArrayParam(
    this,
    "inputShape",
    "shape of a vector in featuresCol, for example channels, height, width",
    (shape: Array[Int]) => shape.forall(_ > 0)
  )
  final def getInputShape: Array[Int] = $(inputShape)

  setDefault(featuresCols -> Array.empty[String], inputShape -> Array.empty[Int])

  /** The columns that features come from. */
  private[ml] def featureNames: Seq[String] = {
    if ($(featuresCols).isEmpty) Seq($(featuresCol))
    else if (isSet(featuresCol))
      throw new IllegalArgumentException("set featuresCol or featuresCols, not both")
    else $(featuresCols).toSeq
  }

  /** The feature columns of a schema, checked. */
  private[ml] def featureColumns(schema: StructType): Seq[InputColumn] = {
    val names = featureNames
    val twice = names.diff(names.distinct)
    Demand(twice.isEmpty, s"featuresCols names column ${twice.head} twice")
    val columns = names.map { name =>
      val field = NeuralColumns.field(schema, name, "feature")
      InputColumn(name, field.dataType, schema.fieldIndex(field.name))
    }
    if ($(inputShape).nonEmpty)
      Demand(
        columns.length == 1 && columns.head.kind == ColumnKind.Vector,
        s"inputShape needs one vector column, the features are ${names.mkString(", ")}"
      )
    columns
  }
}

/** `require` without its prefix: these messages are for users. */
private[ml] object Demand {
  def apply(holds: Boolean, message: => String): Unit =
    if (!holds) throw new IllegalArgumentException(message)
}

private[ml] object NeuralColumns {

  /** The field of a name, or an error that says which there are. */
  def field(schema: StructType, name: String, role: String): StructField =
    schema.fields
      .find(_.name == name)
      .getOrElse(
        throw new IllegalArgumentException(
          s"the $role column $name does not exist; there are ${schema.fieldNames.mkString(", ")}"
        )
      )

  /** A column that holds a number or a boolean. */
  def number(schema: StructType, name: String, role: String, hint: String): InputColumn = {
    val f = field(schema, name, role)
    val isNumber = ColumnKind.of(f.dataType).exists(k => k == ColumnKind.Double || k == ColumnKind.Float)
    Demand(isNumber, s"the $role column $name has type ${f.dataType.simpleString}, not a number$hint")
    InputColumn(name, f.dataType, schema.fieldIndex(f.name))
  }

  /** The number of classes that a label's ML attribute speaks of, for example the one that a StringIndexer gives it. */
  def classes(label: StructField): Option[Int] =
    if (!label.dataType.isInstanceOf[NumericType]) None
    else
      Attribute.fromStructField(label) match {
        case _: BinaryAttribute => Some(2)
        // Of one class nothing can be learned: the rows will tell whether it is so.
        case nominal: NominalAttribute => nominal.getNumValues.filter(_ >= 2)
        case _ => None
      }

  /** The schema with a column behind; a name that is taken is refused. */
  def append(schema: StructType, name: String, dataType: DataType): StructType =
    if (name.isEmpty) schema
    else {
      Demand(!schema.fieldNames.contains(name), s"the output column $name already exists")
      schema.add(StructField(name, dataType, nullable = false))
    }
}

/** Params of the estimators alone. */
trait NeuralTrainingParams extends NeuralColumns with NeuralParamSetters {

  /** The network as JSON; [[setNetwork]] also takes a [[Network]]. */
  final val network: Param[String] = new Param[String](this, "network", "the network, as JSON")
  final def getNetwork: String = $(network)
  def setNetwork(value: Network): this.type = set(network, value.toJson)
  def setNetwork(json: String): this.type = set(network, Network.checked(json))

  /** How many tasks train together. 0 takes as many as can run at once, but not so many that a worker would get
    * fewer than 32 rows of a batch.
    */
  final val numWorkers: IntParam =
    new IntParam(this, "numWorkers", "tasks that train together; 0 chooses", Allowed.count("numWorkers"))
  final def getNumWorkers: Int = $(numWorkers)
  def setNumWorkers(value: Int): this.type = set(numWorkers, value)

  /** A boolean column that is true for rows that are held out for validation. */
  final val validationIndicatorCol: Param[String] =
    new Param[String](this, "validationIndicatorCol", "column that is true for rows held out for validation")
  final def getValidationIndicatorCol: String = $(validationIndicatorCol)
  def setValidationIndicatorCol(value: String): this.type = set(validationIndicatorCol, value)

  /** A Hadoop path where the latest checkpoint is kept while training, each configuration's in a folder of its own. A
    * fit that finds one of its configuration goes on from it; a fit that ends well removes it.
    */
  final val checkpointDir: Param[String] =
    new Param[String](this, "checkpointDir", "Hadoop path of the latest checkpoint; empty keeps none")
  final def getCheckpointDir: String = $(checkpointDir)
  def setCheckpointDir(value: String): this.type = set(checkpointDir, value)

  /** How often training is started again after a worker was lost, from the last checkpoint. */
  final val maxRetries: IntParam =
    new IntParam(this, "maxRetries", "restarts after a lost worker", Allowed.count("maxRetries"))
  final def getMaxRetries: Int = $(maxRetries)
  def setMaxRetries(value: Int): this.type = set(maxRetries, value)

  /** Whether the driver prints a line an epoch. */
  final val showProgress: BooleanParam = new BooleanParam(this, "showProgress", "print a line an epoch")
  final def getShowProgress: Boolean = $(showProgress)
  def setShowProgress(value: Boolean): this.type = set(showProgress, value)

  setDefault(
    network -> Tabular().toJson,
    numWorkers -> 0,
    validationIndicatorCol -> "",
    checkpointDir -> "",
    maxRetries -> 2,
    showProgress -> true,
    weightCol -> ""
  )

  def setFeaturesCols(value: Array[String]): this.type = set(featuresCols, value)
  def setFeaturesCols(first: String, more: String*): this.type = set(featuresCols, (first +: more).toArray)
  def setInputShape(value: Array[Int]): this.type = set(inputShape, value)
  def setInputShape(first: Int, more: Int*): this.type = set(inputShape, (first +: more).toArray)
  def setWeightCol(value: String): this.type = set(weightCol, value)

  @transient private[ml] var listeners: Vector[TrainingListener] = Vector.empty

  /** Hears of every epoch, on the driver, while training runs. It must not run Spark jobs: the workers hold the slots.
    * Not saved.
    */
  def addListener(listener: TrainingListener): this.type = {
    listeners = Option(listeners).getOrElse(Vector.empty) :+ listener
    this
  }

  /** Everything that training reads from the rows, checked against a schema. */
  private[ml] def trainingColumns(schema: StructType): TrainingColumns = {
    val label =
      NeuralColumns.number(schema, $(labelCol), "label", "; a StringIndexer makes class numbers of strings")
    def optional(name: String, role: String) =
      Option(name).filter(_.nonEmpty).map(NeuralColumns.number(schema, _, role, ""))
    TrainingColumns(
      featureColumns(schema),
      label,
      optional($(weightCol), "weight"),
      optional($(validationIndicatorCol), "validation indicator"),
      NeuralColumns.classes(schema(label.name))
    )
  }
}

/** The columns of a fit; `classes` is how many values the label's ML attribute speaks of, if it does. */
private[ml] final case class TrainingColumns(
    features: Seq[InputColumn],
    label: InputColumn,
    weight: Option[InputColumn],
    validation: Option[InputColumn],
    classes: Option[Int]
) {

  /** All of them, a column that plays two roles once, with the places they have in a selection of them. They stand as
    * in the dataset: what reads files gives them in that order, and another would cost a projection.
    */
  def selected: Array[InputColumn] = {
    val all = (features :+ label) ++ weight ++ validation
    all.distinctBy(_.name).sortBy(_.ordinal).zipWithIndex.map { case (c, i) => c.copy(ordinal = i) }.toArray
  }
}

/** Validators whose refusal says what was expected; Spark's own says only what was found. */
private[ml] object Allowed {
  def apply[T](name: String, expected: String, valid: T => Boolean): T => Boolean = value =>
    valid(value) || (throw new IllegalArgumentException(s"$name is $value, expected $expected"))

  def count(name: String): Int => Boolean = apply[Int](name, "a whole number from 0 on", _ >= 0)
}
