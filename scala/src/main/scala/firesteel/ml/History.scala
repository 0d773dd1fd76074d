package firesteel.ml

import com.fasterxml.jackson.databind.JsonNode

/** One epoch of training.
  *
  * @param step
  *   updates of the weights so far
  * @param loss
  *   the weighted mean over the training rows, while they were trained on
  * @param validationLoss
  *   over the held-out rows, when there are any
  * @param metric
  *   the name of the validation metric: auc, accuracy or rmse
  */
final case class EpochRecord(
    epoch: Int,
    step: Long,
    loss: Double,
    validationLoss: Option[Double],
    metric: Option[String],
    validationMetric: Option[Double],
    samplesPerSecond: Double,
    seconds: Double
) {

  /** The line that the driver prints. */
  override def toString: String = {
    val validation = validationLoss.map(l => f"  validation loss $l%.5f").getOrElse("") +
      metric
        .zip(validationMetric)
        .map { case (name, value) => f"  validation $name $value%.5f" }
        .getOrElse("")
    f"epoch $epoch%3d  step $step%7d  loss $loss%.5f$validation  $samplesPerSecond%,.0f samples/s"
  }
}

private[ml] object EpochRecord {
  def read(node: JsonNode): EpochRecord = {
    def number(name: String) = Option(node.get(name)).filter(_.isNumber).map(_.asDouble())
    EpochRecord(
      node.get("epoch").asInt(),
      node.get("step").asLong(),
      number("loss").getOrElse(Double.NaN),
      number("validation_loss"),
      Option(node.get("metric")).filter(_.isTextual).map(_.asText()),
      number("validation_metric"),
      number("samples_per_second").getOrElse(0.0),
      number("seconds").getOrElse(0.0)
    )
  }
}

/** Hears of training on the driver, on a thread of its own. */
trait TrainingListener {

  /** An epoch ended. */
  def onEpoch(record: EpochRecord): Unit

  /** A worker was lost and training starts again; `attempt` counts from 2. */
  def onRetry(attempt: Int, cause: Throwable): Unit = {}
}

/** Prints a line an epoch. */
private[ml] object ConsoleListener extends TrainingListener {
  override def onEpoch(record: EpochRecord): Unit = Console.println(record)
  override def onRetry(attempt: Int, cause: Throwable): Unit =
    Console.println(s"training starts again (attempt $attempt): ${cause.getMessage}")
}
