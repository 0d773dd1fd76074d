// Generated from native/train/src/params.rs by `make generate`; do not edit.
package firesteel.ml

import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.spark.ml.param._

/** The hyper-parameters of the estimators. */
trait NeuralParams extends Params {

  /** Passes over the training rows.
    * @group param
    */
  final val epochs: IntParam = new IntParam(
    this,
    "epochs",
    "passes over the training rows",
    Allowed[Int]("epochs", "a whole number from 1 on", ParamValidators.gtEq(1)))

  /** @group getParam */
  final def getEpochs: Int = $(epochs)

  /** Rows of one step, over all workers.
    * @group param
    */
  final val batchSize: IntParam = new IntParam(
    this,
    "batchSize",
    "rows of one step, over all workers",
    Allowed[Int]("batchSize", "a whole number from 1 on", ParamValidators.gtEq(1)))

  /** @group getParam */
  final def getBatchSize: Int = $(batchSize)

  /** Size of a step.
    * @group param
    */
  final val learningRate: DoubleParam = new DoubleParam(
    this,
    "learningRate",
    "size of a step",
    Allowed[Double]("learningRate", "a number above 0 and at most 1e30", ParamValidators.inRange(0, 1e30, false, true)))

  /** @group getParam */
  final def getLearningRate: Double = $(learningRate)

  /** How weights follow gradients.
    * @group param
    */
  final val optimizer: Param[String] = new Param[String](
    this,
    "optimizer",
    "how weights follow gradients",
    Allowed[String]("optimizer", "one of adam, adamw, sgd", ParamValidators.inArray(Array("adam", "adamw", "sgd"))))

  /** @group getParam */
  final def getOptimizer: String = $(optimizer)

  /** How much of its last step sgd repeats.
    * @group param
    */
  final val momentum: DoubleParam = new DoubleParam(
    this,
    "momentum",
    "how much of its last step sgd repeats",
    Allowed[Double]("momentum", "a number at least 0 and below 1", ParamValidators.inRange(0, 1, true, false)))

  /** @group getParam */
  final def getMomentum: Double = $(momentum)

  /** Whether sgd looks ahead along its momentum.
    * @group param
    */
  final val nesterov: BooleanParam = new BooleanParam(
    this,
    "nesterov",
    "whether sgd looks ahead along its momentum")

  /** @group getParam */
  final def getNesterov: Boolean = $(nesterov)

  /** How strongly weights are pulled to zero.
    * @group param
    */
  final val weightDecay: DoubleParam = new DoubleParam(
    this,
    "weightDecay",
    "how strongly weights are pulled to zero",
    Allowed[Double]("weightDecay", "a number at least 0 and at most 1e30", ParamValidators.inRange(0, 1e30, true, true)))

  /** @group getParam */
  final def getWeightDecay: Double = $(weightDecay)

  /** Decay of the mean gradient of adam and adamw.
    * @group param
    */
  final val beta1: DoubleParam = new DoubleParam(
    this,
    "beta1",
    "decay of the mean gradient of adam and adamw",
    Allowed[Double]("beta1", "a number at least 0 and below 1", ParamValidators.inRange(0, 1, true, false)))

  /** @group getParam */
  final def getBeta1: Double = $(beta1)

  /** Decay of the mean squared gradient of adam and adamw.
    * @group param
    */
  final val beta2: DoubleParam = new DoubleParam(
    this,
    "beta2",
    "decay of the mean squared gradient of adam and adamw",
    Allowed[Double]("beta2", "a number at least 0 and below 1", ParamValidators.inRange(0, 1, true, false)))

  /** @group getParam */
  final def getBeta2: Double = $(beta2)

  /** Keeps adam and adamw from dividing by zero.
    * @group param
    */
  final val epsilon: DoubleParam = new DoubleParam(
    this,
    "epsilon",
    "keeps adam and adamw from dividing by zero",
    Allowed[Double]("epsilon", "a number above 0 and at most 1e30", ParamValidators.inRange(0, 1e30, false, true)))

  /** @group getParam */
  final def getEpsilon: Double = $(epsilon)

  /** How the learning rate changes after its warm-up.
    * @group param
    */
  final val schedule: Param[String] = new Param[String](
    this,
    "schedule",
    "how the learning rate changes after its warm-up",
    Allowed[String]("schedule", "one of constant, cosine, linear", ParamValidators.inArray(Array("constant", "cosine", "linear"))))

  /** @group getParam */
  final def getSchedule: String = $(schedule)

  /** Steps in which the learning rate rises from 0.
    * @group param
    */
  final val warmupSteps: IntParam = new IntParam(
    this,
    "warmupSteps",
    "steps in which the learning rate rises from 0",
    Allowed[Int]("warmupSteps", "a whole number from 0 on", ParamValidators.gtEq(0)))

  /** @group getParam */
  final def getWarmupSteps: Int = $(warmupSteps)

  /** What is minimised; auto chooses by the task.
    * @group param
    */
  final val loss: Param[String] = new Param[String](
    this,
    "loss",
    "what is minimised; auto chooses by the task",
    Allowed[String]("loss", "one of auto, softmax_cross_entropy, binary_cross_entropy, mean_squared_error, huber", ParamValidators.inArray(Array("auto", "softmax_cross_entropy", "binary_cross_entropy", "mean_squared_error", "huber"))))

  /** @group getParam */
  final def getLoss: String = $(loss)

  /** Where the huber loss turns linear, in standard deviations of the label.
    * @group param
    */
  final val huberDelta: DoubleParam = new DoubleParam(
    this,
    "huberDelta",
    "where the huber loss turns linear, in standard deviations of the label",
    Allowed[Double]("huberDelta", "a number above 0 and at most 1e30", ParamValidators.inRange(0, 1e30, false, true)))

  /** @group getParam */
  final def getHuberDelta: Double = $(huberDelta)

  /** Draws initial weights, order of rows, held-out rows and dropout.
    * @group param
    */
  final val seed: LongParam = new LongParam(
    this,
    "seed",
    "draws initial weights, order of rows, held-out rows and dropout")

  /** @group getParam */
  final def getSeed: Long = $(seed)

  /** Which values share a mean and a deviation; auto takes an image as a whole, else each feature.
    * @group param
    */
  final val standardization: Param[String] = new Param[String](
    this,
    "standardization",
    "which values share a mean and a deviation; auto takes an image as a whole, else each feature",
    Allowed[String]("standardization", "one of auto, per_feature, per_column, none", ParamValidators.inArray(Array("auto", "per_feature", "per_column", "none"))))

  /** @group getParam */
  final def getStandardization: String = $(standardization)

  /** What becomes of a row with a NULL, NaN or infinite number: error, skip the row, keep it with the mean.
    * @group param
    */
  final val handleInvalid: Param[String] = new Param[String](
    this,
    "handleInvalid",
    "what becomes of a row with a NULL, NaN or infinite number: error, skip the row, keep it with the mean",
    Allowed[String]("handleInvalid", "one of error, skip, keep", ParamValidators.inArray(Array("error", "skip", "keep"))))

  /** @group getParam */
  final def getHandleInvalid: String = $(handleInvalid)

  /** Rows a string must occur in to get a category of its own.
    * @group param
    */
  final val minCategoryCount: IntParam = new IntParam(
    this,
    "minCategoryCount",
    "rows a string must occur in to get a category of its own",
    Allowed[Int]("minCategoryCount", "a whole number from 1 on", ParamValidators.gtEq(1)))

  /** @group getParam */
  final def getMinCategoryCount: Int = $(minCategoryCount)

  /** Most categories of a string column; rarer ones share one.
    * @group param
    */
  final val maxCategories: IntParam = new IntParam(
    this,
    "maxCategories",
    "most categories of a string column; rarer ones share one",
    Allowed[Int]("maxCategories", "a whole number from 1 on", ParamValidators.gtEq(1)))

  /** @group getParam */
  final def getMaxCategories: Int = $(maxCategories)

  /** Part of the rows held out for validation, chosen by the seed.
    * @group param
    */
  final val validationFraction: DoubleParam = new DoubleParam(
    this,
    "validationFraction",
    "part of the rows held out for validation, chosen by the seed",
    Allowed[Double]("validationFraction", "a number at least 0 and below 1", ParamValidators.inRange(0, 1, true, false)))

  /** @group getParam */
  final def getValidationFraction: Double = $(validationFraction)

  /** Epochs in which neither the validation metric nor the loss gets better, before training stops with the weights of the best metric; 0 never stops.
    * @group param
    */
  final val patience: IntParam = new IntParam(
    this,
    "patience",
    "epochs in which neither the validation metric nor the loss gets better, before training stops with the weights of the best metric; 0 never stops",
    Allowed[Int]("patience", "a whole number from 0 on", ParamValidators.gtEq(0)))

  /** @group getParam */
  final def getPatience: Int = $(patience)

  /** Relative improvement of the validation metric or loss that an epoch needs to count as better.
    * @group param
    */
  final val minImprovement: DoubleParam = new DoubleParam(
    this,
    "minImprovement",
    "relative improvement of the validation metric or loss that an epoch needs to count as better",
    Allowed[Double]("minImprovement", "a number at least 0 and below 1", ParamValidators.inRange(0, 1, true, false)))

  /** @group getParam */
  final def getMinImprovement: Double = $(minImprovement)

  /** How a plan uses its threads.
    * @group param
    */
  final val mode: Param[String] = new Param[String](
    this,
    "mode",
    "how a plan uses its threads",
    Allowed[String]("mode", "one of auto, tiled, wide", ParamValidators.inArray(Array("auto", "tiled", "wide"))))

  /** @group getParam */
  final def getMode: String = $(mode)

  /** Threads of a worker; 0 takes the cores its task has.
    * @group param
    */
  final val threads: IntParam = new IntParam(
    this,
    "threads",
    "threads of a worker; 0 takes the cores its task has",
    Allowed[Int]("threads", "a whole number from 0 on", ParamValidators.gtEq(0)))

  /** @group getParam */
  final def getThreads: Int = $(threads)

  /** What computes: auto takes a GPU where one can be had, else the CPU; cuda demands one, cuda:0 the machine's first.
    * @group param
    */
  final val device: Param[String] = new Param[String](
    this,
    "device",
    "what computes: auto takes a GPU where one can be had, else the CPU; cuda demands one, cuda:0 the machine's first",
    Allowed[String]("device", "auto, cpu, cuda or cuda:N, N a GPU's number", _.matches("auto|cpu|cuda(:[0-9]+)?")))

  /** @group getParam */
  final def getDevice: String = $(device)

  /** The numbers that a step computes with; all but f32 need a GPU.
    * @group param
    */
  final val precision: Param[String] = new Param[String](
    this,
    "precision",
    "the numbers that a step computes with; all but f32 need a GPU",
    Allowed[String]("precision", "one of f32, tf32, bf16, f16", ParamValidators.inArray(Array("f32", "tf32", "bf16", "f16"))))

  /** @group getParam */
  final def getPrecision: String = $(precision)

  /** The numbers in which gradients leave a GPU for other workers; bf16 and f16 are half the bytes.
    * @group param
    */
  final val gradientCopy: Param[String] = new Param[String](
    this,
    "gradientCopy",
    "the numbers in which gradients leave a GPU for other workers; bf16 and f16 are half the bytes",
    Allowed[String]("gradientCopy", "one of f32, bf16, f16", ParamValidators.inArray(Array("f32", "bf16", "f16"))))

  /** @group getParam */
  final def getGradientCopy: String = $(gradientCopy)

  /** How workers train together: what they send, when and to whom; a lone worker has nobody to send to.
    * @group param
    */
  final val strategy: Param[String] = new Param[String](
    this,
    "strategy",
    "how workers train together: what they send, when and to whom; a lone worker has nobody to send to")

  /** @group getParam */
  final def getStrategy: String = $(strategy)

  /** Bytes of gradient that travel together.
    * @group param
    */
  final val bucketBytes: IntParam = new IntParam(
    this,
    "bucketBytes",
    "bytes of gradient that travel together",
    Allowed[Int]("bucketBytes", "a whole number from 64 on", ParamValidators.gtEq(64)))

  /** @group getParam */
  final def getBucketBytes: Int = $(bucketBytes)

  /** A worker that says nothing for so long is lost.
    * @group param
    */
  final val timeoutSeconds: DoubleParam = new DoubleParam(
    this,
    "timeoutSeconds",
    "a worker that says nothing for so long is lost",
    Allowed[Double]("timeoutSeconds", "a number above 0 and at most 1e9", ParamValidators.inRange(0, 1e9, false, true)))

  /** @group getParam */
  final def getTimeoutSeconds: Double = $(timeoutSeconds)

  /** Epochs between checkpoints, where they are kept; 0 makes none.
    * @group param
    */
  final val checkpointInterval: IntParam = new IntParam(
    this,
    "checkpointInterval",
    "epochs between checkpoints, where they are kept; 0 makes none",
    Allowed[Int]("checkpointInterval", "a whole number from 0 on", ParamValidators.gtEq(0)))

  /** @group getParam */
  final def getCheckpointInterval: Int = $(checkpointInterval)

  setDefault(
    epochs -> 10,
    batchSize -> 256,
    learningRate -> 0.001,
    optimizer -> "adam",
    momentum -> 0.0,
    nesterov -> false,
    weightDecay -> 0.0,
    beta1 -> 0.9,
    beta2 -> 0.999,
    epsilon -> 1e-8,
    schedule -> "constant",
    warmupSteps -> 0,
    loss -> "auto",
    huberDelta -> 1.0,
    seed -> 42L,
    standardization -> "auto",
    handleInvalid -> "error",
    minCategoryCount -> 1,
    maxCategories -> 100000,
    validationFraction -> 0.0,
    patience -> 0,
    minImprovement -> 0.0,
    mode -> "auto",
    threads -> 0,
    device -> "auto",
    precision -> "f32",
    gradientCopy -> "f32",
    strategy -> "sharded",
    bucketBytes -> 1048576,
    timeoutSeconds -> 300.0,
    checkpointInterval -> 1)

  /** As the native library reads them. */
  private[ml] def hyperParameters: ObjectNode = {
    val json = Wire.json.createObjectNode()
    json.put("epochs", $(epochs))
    json.put("batch_size", $(batchSize))
    json.put("learning_rate", $(learningRate))
    json.put("optimizer", $(optimizer))
    json.put("momentum", $(momentum))
    json.put("nesterov", $(nesterov))
    json.put("weight_decay", $(weightDecay))
    json.put("beta1", $(beta1))
    json.put("beta2", $(beta2))
    json.put("epsilon", $(epsilon))
    json.put("schedule", $(schedule))
    json.put("warmup_steps", $(warmupSteps))
    json.put("loss", $(loss))
    json.put("huber_delta", $(huberDelta))
    json.put("seed", $(seed))
    json.put("standardization", $(standardization))
    json.put("handle_invalid", $(handleInvalid))
    json.put("min_category_count", $(minCategoryCount))
    json.put("max_categories", $(maxCategories))
    json.put("validation_fraction", $(validationFraction))
    json.put("patience", $(patience))
    json.put("min_improvement", $(minImprovement))
    json.put("mode", $(mode))
    json.put("threads", $(threads))
    json.put("device", $(device))
    json.put("precision", $(precision))
    json.put("gradient_copy", $(gradientCopy))
    json.put("strategy", $(strategy))
    json.put("bucket_bytes", $(bucketBytes))
    json.put("timeout_seconds", $(timeoutSeconds))
    json.put("checkpoint_interval", $(checkpointInterval))
    json
  }
}

/** Their setters, for estimators. */
trait NeuralParamSetters extends NeuralParams {

  /** @group setParam */
  def setEpochs(value: Int): this.type = set(epochs, value)

  /** @group setParam */
  def setBatchSize(value: Int): this.type = set(batchSize, value)

  /** @group setParam */
  def setLearningRate(value: Double): this.type = set(learningRate, value)

  /** @group setParam */
  def setOptimizer(value: String): this.type = set(optimizer, value)

  /** @group setParam */
  def setMomentum(value: Double): this.type = set(momentum, value)

  /** @group setParam */
  def setNesterov(value: Boolean): this.type = set(nesterov, value)

  /** @group setParam */
  def setWeightDecay(value: Double): this.type = set(weightDecay, value)

  /** @group setParam */
  def setBeta1(value: Double): this.type = set(beta1, value)

  /** @group setParam */
  def setBeta2(value: Double): this.type = set(beta2, value)

  /** @group setParam */
  def setEpsilon(value: Double): this.type = set(epsilon, value)

  /** @group setParam */
  def setSchedule(value: String): this.type = set(schedule, value)

  /** @group setParam */
  def setWarmupSteps(value: Int): this.type = set(warmupSteps, value)

  /** @group setParam */
  def setLoss(value: String): this.type = set(loss, value)

  /** @group setParam */
  def setHuberDelta(value: Double): this.type = set(huberDelta, value)

  /** @group setParam */
  def setSeed(value: Long): this.type = set(seed, value)

  /** @group setParam */
  def setStandardization(value: String): this.type = set(standardization, value)

  /** @group setParam */
  def setHandleInvalid(value: String): this.type = set(handleInvalid, value)

  /** @group setParam */
  def setMinCategoryCount(value: Int): this.type = set(minCategoryCount, value)

  /** @group setParam */
  def setMaxCategories(value: Int): this.type = set(maxCategories, value)

  /** @group setParam */
  def setValidationFraction(value: Double): this.type = set(validationFraction, value)

  /** @group setParam */
  def setPatience(value: Int): this.type = set(patience, value)

  /** @group setParam */
  def setMinImprovement(value: Double): this.type = set(minImprovement, value)

  /** @group setParam */
  def setMode(value: String): this.type = set(mode, value)

  /** @group setParam */
  def setThreads(value: Int): this.type = set(threads, value)

  /** @group setParam */
  def setDevice(value: String): this.type = set(device, value)

  /** @group setParam */
  def setPrecision(value: String): this.type = set(precision, value)

  /** @group setParam */
  def setGradientCopy(value: String): this.type = set(gradientCopy, value)

  /** @group setParam */
  def setStrategy(value: String): this.type = set(strategy, value)

  /** @group setParam */
  def setBucketBytes(value: Int): this.type = set(bucketBytes, value)

  /** @group setParam */
  def setTimeoutSeconds(value: Double): this.type = set(timeoutSeconds, value)

  /** @group setParam */
  def setCheckpointInterval(value: Int): this.type = set(checkpointInterval, value)
}
