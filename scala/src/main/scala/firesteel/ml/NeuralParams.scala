package firesteel.ml

import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.spark.ml.param._

/** The hyper-parameters of the estimators. */
trait NeuralParams extends Params {
  final val epochs: IntParam =
    new IntParam(this, "epochs", "passes over the training rows", ParamValidators.gtEq(1))
  final def getEpochs: Int = $(epochs)

  final val batchSize: IntParam =
    new IntParam(this, "batchSize", "rows of one step, over all workers", ParamValidators.gtEq(1))
  final def getBatchSize: Int = $(batchSize)

  final val learningRate: DoubleParam =
    new DoubleParam(this, "learningRate", "size of a step", ParamValidators.gt(0))
  final def getLearningRate: Double = $(learningRate)

  final val optimizer: Param[String] = new Param[String](
    this,
    "optimizer",
    "how weights follow gradients",
    ParamValidators.inArray(Array("adam", "adamw", "sgd"))
  )
  final def getOptimizer: String = $(optimizer)

  final val momentum: DoubleParam = new DoubleParam(this, "momentum", "of sgd", ParamValidators.inRange(0, 1))
  final def getMomentum: Double = $(momentum)

  final val weightDecay: DoubleParam =
    new DoubleParam(this, "weightDecay", "pulls weights to zero", ParamValidators.gtEq(0))
  final def getWeightDecay: Double = $(weightDecay)

  final val seed: LongParam = new LongParam(this, "seed", "draws weights, order and dropout")
  final def getSeed: Long = $(seed)

  final val handleInvalid: Param[String] = new Param[String](
    this,
    "handleInvalid",
    "what becomes of a row with a NULL, NaN or infinite number",
    ParamValidators.inArray(Array("error", "skip", "keep"))
  )
  final def getHandleInvalid: String = $(handleInvalid)

  final val validationFraction: DoubleParam = new DoubleParam(
    this,
    "validationFraction",
    "part of the rows held out",
    ParamValidators.inRange(0, 1, true, false)
  )
  final def getValidationFraction: Double = $(validationFraction)

  final val timeoutSeconds: DoubleParam = new DoubleParam(
    this,
    "timeoutSeconds",
    "a worker that says nothing for so long is lost",
    ParamValidators.gt(0)
  )
  final def getTimeoutSeconds: Double = $(timeoutSeconds)

  final val threads: IntParam = new IntParam(
    this,
    "threads",
    "threads of a worker; 0 takes the cores its task has",
    ParamValidators.gtEq(0)
  )
  final def getThreads: Int = $(threads)

  setDefault(
    epochs -> 10,
    batchSize -> 256,
    learningRate -> 1e-3,
    optimizer -> "adam",
    momentum -> 0.0,
    weightDecay -> 0.0,
    seed -> 42L,
    handleInvalid -> "error",
    validationFraction -> 0.0,
    timeoutSeconds -> 60.0,
    threads -> 0
  )

  /** As the native library reads them. */
  private[ml] def hyperParameters: ObjectNode = {
    val json = Wire.json.createObjectNode()
    json.put("epochs", $(epochs))
    json.put("batch_size", $(batchSize))
    json.put("learning_rate", $(learningRate))
    json.put("optimizer", $(optimizer))
    json.put("momentum", $(momentum))
    json.put("weight_decay", $(weightDecay))
    json.put("seed", $(seed))
    json.put("handle_invalid", $(handleInvalid))
    json.put("validation_fraction", $(validationFraction))
    json.put("timeout_seconds", $(timeoutSeconds))
    json.put("threads", $(threads))
    json
  }
}

/** Their setters, for estimators. */
trait NeuralParamSetters extends NeuralParams {
  def setEpochs(value: Int): this.type = set(epochs, value)
  def setBatchSize(value: Int): this.type = set(batchSize, value)
  def setLearningRate(value: Double): this.type = set(learningRate, value)
  def setOptimizer(value: String): this.type = set(optimizer, value)
  def setMomentum(value: Double): this.type = set(momentum, value)
  def setWeightDecay(value: Double): this.type = set(weightDecay, value)
  def setSeed(value: Long): this.type = set(seed, value)
  def setHandleInvalid(value: String): this.type = set(handleInvalid, value)
  def setValidationFraction(value: Double): this.type = set(validationFraction, value)
  def setTimeoutSeconds(value: Double): this.type = set(timeoutSeconds, value)
  def setThreads(value: Int): this.type = set(threads, value)
}
