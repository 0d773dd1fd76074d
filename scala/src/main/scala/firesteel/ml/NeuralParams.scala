// Generated from native/train/src/params.rs by `firesteel generate`; do not edit.
package firesteel.ml

import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.spark.ml.param._

/** The hyper-parameters of the estimators. */
trait NeuralParams extends Params {
  /** Passes over the training rows. */
  final val epochs: IntParam = new IntParam(this, "epochs", "Passes over the training rows.", ParamValidators.gtEq(1))
  final def getEpochs: Int = $(epochs)

  /** Rows of one step, over all workers. */
  final val batchSize: IntParam = new IntParam(this, "batchSize", "Rows of one step, over all workers.", ParamValidators.gtEq(1))
  final def getBatchSize: Int = $(batchSize)

  /** Size of a step. */
  final val learningRate: DoubleParam = new DoubleParam(this, "learningRate", "Size of a step.", ParamValidators.gt(0.0))
  final def getLearningRate: Double = $(learningRate)

  /** How weights follow gradients. */
  final val optimizer: Param[String] = new Param[String](this, "optimizer", "How weights follow gradients.", ParamValidators.inArray(Array("adam", "adamw", "sgd")))
  final def getOptimizer: String = $(optimizer)

  /** Of sgd: the part of the last step that is kept. */
  final val momentum: DoubleParam = new DoubleParam(this, "momentum", "Of sgd: the part of the last step that is kept.", ParamValidators.inRange(0.0, 1.0, lowerInclusive = true, upperInclusive = false))
  final def getMomentum: Double = $(momentum)

  /** Of sgd: look ahead; needs a momentum. */
  final val nesterov: BooleanParam = new BooleanParam(this, "nesterov", "Of sgd: look ahead; needs a momentum.")
  final def getNesterov: Boolean = $(nesterov)

  /** Of adam and adamw: decay of the first moment. */
  final val beta1: DoubleParam = new DoubleParam(this, "beta1", "Of adam and adamw: decay of the first moment.", ParamValidators.inRange(0.0, 1.0, lowerInclusive = true, upperInclusive = false))
  final def getBeta1: Double = $(beta1)

  /** Of adam and adamw: decay of the second moment. */
  final val beta2: DoubleParam = new DoubleParam(this, "beta2", "Of adam and adamw: decay of the second moment.", ParamValidators.inRange(0.0, 1.0, lowerInclusive = true, upperInclusive = false))
  final def getBeta2: Double = $(beta2)

  /** Of adam and adamw: added to the root of the second moment. */
  final val epsilon: DoubleParam = new DoubleParam(this, "epsilon", "Of adam and adamw: added to the root of the second moment.", ParamValidators.gt(0.0))
  final def getEpsilon: Double = $(epsilon)

  /** Pulls weights towards zero. */
  final val weightDecay: DoubleParam = new DoubleParam(this, "weightDecay", "Pulls weights towards zero.", ParamValidators.gtEq(0.0))
  final def getWeightDecay: Double = $(weightDecay)

  /** How the learning rate falls to zero over the training. */
  final val schedule: Param[String] = new Param[String](this, "schedule", "How the learning rate falls to zero over the training.", ParamValidators.inArray(Array("constant", "cosine", "linear")))
  final def getSchedule: String = $(schedule)

  /** Steps over which the learning rate rises from zero. */
  final val warmupSteps: IntParam = new IntParam(this, "warmupSteps", "Steps over which the learning rate rises from zero.", ParamValidators.gtEq(0))
  final def getWarmupSteps: Int = $(warmupSteps)

  /** What is minimised; auto takes softmax cross-entropy for classes and the mean squared error for values. */
  final val loss: Param[String] = new Param[String](this, "loss", "What is minimised; auto takes softmax cross-entropy for classes and the mean squared error for values.", ParamValidators.inArray(Array("auto", "softmax_cross_entropy", "binary_cross_entropy", "mean_squared_error", "huber")))
  final def getLoss: String = $(loss)

  /** Of huber: where it turns linear, in standard deviations of the label. */
  final val huberDelta: DoubleParam = new DoubleParam(this, "huberDelta", "Of huber: where it turns linear, in standard deviations of the label.", ParamValidators.gt(0.0))
  final def getHuberDelta: Double = $(huberDelta)

  /** Numbers to mean 0 and deviation 1: each feature by itself, each vector column as a whole, or not at all. */
  final val standardization: Param[String] = new Param[String](this, "standardization", "Numbers to mean 0 and deviation 1: each feature by itself, each vector column as a whole, or not at all.", ParamValidators.inArray(Array("per_feature", "per_column", "none")))
  final def getStandardization: String = $(standardization)

  /** Rows with a NULL, NaN or infinite feature: refuse, leave out, or take the mean instead. */
  final val handleInvalid: Param[String] = new Param[String](this, "handleInvalid", "Rows with a NULL, NaN or infinite feature: refuse, leave out, or take the mean instead.", ParamValidators.inArray(Array("error", "skip", "keep")))
  final def getHandleInvalid: String = $(handleInvalid)

  /** Most frequent values of a string column that get an embedding of their own. */
  final val maxCategories: IntParam = new IntParam(this, "maxCategories", "Most frequent values of a string column that get an embedding of their own.", ParamValidators.gtEq(1))
  final def getMaxCategories: Int = $(maxCategories)

  /** Rarer values of a string column share the embedding of unknown ones. */
  final val minCategoryCount: IntParam = new IntParam(this, "minCategoryCount", "Rarer values of a string column share the embedding of unknown ones.", ParamValidators.gtEq(1))
  final def getMinCategoryCount: Int = $(minCategoryCount)

  /** Part of the rows that is held out for validation. */
  final val validationFraction: DoubleParam = new DoubleParam(this, "validationFraction", "Part of the rows that is held out for validation.", ParamValidators.inRange(0.0, 1.0, lowerInclusive = true, upperInclusive = false))
  final def getValidationFraction: Double = $(validationFraction)

  /** Epochs without a better validation metric before training stops, keeping the best weights; 0 never stops. */
  final val patience: IntParam = new IntParam(this, "patience", "Epochs without a better validation metric before training stops, keeping the best weights; 0 never stops.", ParamValidators.gtEq(0))
  final def getPatience: Int = $(patience)

  /** Epochs between checkpoints, when there is a place for them. */
  final val checkpointInterval: IntParam = new IntParam(this, "checkpointInterval", "Epochs between checkpoints, when there is a place for them.", ParamValidators.gtEq(1))
  final def getCheckpointInterval: Int = $(checkpointInterval)

  /** Draws weights, the order of rows, validation rows and dropout. */
  final val seed: LongParam = new LongParam(this, "seed", "Draws weights, the order of rows, validation rows and dropout.")
  final def getSeed: Long = $(seed)

  /** Threads of a worker; 0 takes the cores that its task has. */
  final val threads: IntParam = new IntParam(this, "threads", "Threads of a worker; 0 takes the cores that its task has.", ParamValidators.gtEq(0))
  final def getThreads: Int = $(threads)

  /** Few samples through all layers in cache, each layer on the whole batch, or what suits the network. */
  final val mode: Param[String] = new Param[String](this, "mode", "Few samples through all layers in cache, each layer on the whole batch, or what suits the network.", ParamValidators.inArray(Array("auto", "tiled", "wide")))
  final def getMode: String = $(mode)

  /** Gradients travel in messages of about this size. */
  final val bucketBytes: IntParam = new IntParam(this, "bucketBytes", "Gradients travel in messages of about this size.", ParamValidators.gtEq(64))
  final def getBucketBytes: Int = $(bucketBytes)

  /** A worker that is not heard of for this long is lost. */
  final val timeoutSeconds: DoubleParam = new DoubleParam(this, "timeoutSeconds", "A worker that is not heard of for this long is lost.", ParamValidators.gt(0.0))
  final def getTimeoutSeconds: Double = $(timeoutSeconds)

  setDefault(
    epochs -> 10,
    batchSize -> 256,
    learningRate -> 1e-3,
    optimizer -> "adam",
    momentum -> 0.0,
    nesterov -> false,
    beta1 -> 0.9,
    beta2 -> 0.999,
    epsilon -> 1e-8,
    weightDecay -> 0.0,
    schedule -> "constant",
    warmupSteps -> 0,
    loss -> "auto",
    huberDelta -> 1.0,
    standardization -> "per_feature",
    handleInvalid -> "error",
    maxCategories -> 100000,
    minCategoryCount -> 1,
    validationFraction -> 0.0,
    patience -> 0,
    checkpointInterval -> 1,
    seed -> 42L,
    threads -> 0,
    mode -> "auto",
    bucketBytes -> 1048576,
    timeoutSeconds -> 60.0)

  /** As the native library reads them. */
  private[ml] def hyperParameters: ObjectNode = {
    val json = Wire.json.createObjectNode()
    json.put("epochs", $(epochs))
    json.put("batch_size", $(batchSize))
    json.put("learning_rate", $(learningRate))
    json.put("optimizer", $(optimizer))
    json.put("momentum", $(momentum))
    json.put("nesterov", $(nesterov))
    json.put("beta1", $(beta1))
    json.put("beta2", $(beta2))
    json.put("epsilon", $(epsilon))
    json.put("weight_decay", $(weightDecay))
    json.put("schedule", $(schedule))
    json.put("warmup_steps", $(warmupSteps))
    json.put("loss", $(loss))
    json.put("huber_delta", $(huberDelta))
    json.put("standardization", $(standardization))
    json.put("handle_invalid", $(handleInvalid))
    json.put("max_categories", $(maxCategories))
    json.put("min_category_count", $(minCategoryCount))
    json.put("validation_fraction", $(validationFraction))
    json.put("patience", $(patience))
    json.put("checkpoint_interval", $(checkpointInterval))
    json.put("seed", $(seed))
    json.put("threads", $(threads))
    json.put("mode", $(mode))
    json.put("bucket_bytes", $(bucketBytes))
    json.put("timeout_seconds", $(timeoutSeconds))
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
  def setNesterov(value: Boolean): this.type = set(nesterov, value)
  def setBeta1(value: Double): this.type = set(beta1, value)
  def setBeta2(value: Double): this.type = set(beta2, value)
  def setEpsilon(value: Double): this.type = set(epsilon, value)
  def setWeightDecay(value: Double): this.type = set(weightDecay, value)
  def setSchedule(value: String): this.type = set(schedule, value)
  def setWarmupSteps(value: Int): this.type = set(warmupSteps, value)
  def setLoss(value: String): this.type = set(loss, value)
  def setHuberDelta(value: Double): this.type = set(huberDelta, value)
  def setStandardization(value: String): this.type = set(standardization, value)
  def setHandleInvalid(value: String): this.type = set(handleInvalid, value)
  def setMaxCategories(value: Int): this.type = set(maxCategories, value)
  def setMinCategoryCount(value: Int): this.type = set(minCategoryCount, value)
  def setValidationFraction(value: Double): this.type = set(validationFraction, value)
  def setPatience(value: Int): this.type = set(patience, value)
  def setCheckpointInterval(value: Int): this.type = set(checkpointInterval, value)
  def setSeed(value: Long): this.type = set(seed, value)
  def setThreads(value: Int): this.type = set(threads, value)
  def setMode(value: String): this.type = set(mode, value)
  def setBucketBytes(value: Int): this.type = set(bucketBytes, value)
  def setTimeoutSeconds(value: Double): this.type = set(timeoutSeconds, value)
}
