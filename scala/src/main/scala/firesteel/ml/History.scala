package firesteel.ml

import java.util.Locale
import java.util.concurrent.{ExecutorService, Executors, TimeUnit}

import scala.util.control.NonFatal

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
    // The same on every machine, so that programs can read it.
    def line(format: String, values: Any*) = format.formatLocal(Locale.ROOT, values: _*)
    val validation = validationLoss.map(line("  validation loss %.5f", _)).getOrElse("") +
      metric
        .zip(validationMetric)
        .map { case (name, value) => line("  validation %s %.5f", name, value) }
        .getOrElse("")
    line("epoch %3d  step %7d  loss %.5f%s  %,.0f samples/s", epoch, step, loss, validation, samplesPerSecond)
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

/** Hears of training on the driver, on a thread of its own, one event after the other; training does not wait for
  * it, but `fit` returns only when everything was heard. It must not run Spark jobs: the workers hold the slots until
  * training ends, so a job would wait until then.
  */
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

/** Tells listeners what happens, in order, on one thread a fit. What a listener throws ends nothing. */
private[ml] final class Announcer(listeners: Seq[TrainingListener]) extends AutoCloseable {
  private val queue: ExecutorService = Executors.newSingleThreadExecutor { run =>
    val thread = new Thread(run, "firesteel-listeners")
    thread.setDaemon(true)
    thread
  }

  def epoch(record: EpochRecord): Unit = tell(_.onEpoch(record))

  def retry(attempt: Int, cause: Throwable): Unit = tell(_.onRetry(attempt, cause))

  private def tell(what: TrainingListener => Unit): Unit = if (listeners.nonEmpty && !queue.isShutdown)
    queue.execute { () =>
      listeners.foreach { listener =>
        try what(listener)
        catch { case NonFatal(e) => Console.err.println(s"a training listener failed: $e") }
      }
    }

  /** Waits until everything was heard. */
  override def close(): Unit = {
    queue.shutdown()
    try while (!queue.awaitTermination(1, TimeUnit.MINUTES)) {}
    catch {
      case _: InterruptedException =>
        queue.shutdownNow()
        Thread.currentThread().interrupt()
    }
  }
}
