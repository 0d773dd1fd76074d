package firesteel.ml

/** What fails in Firesteel, except wrong arguments and wrong data, which are `IllegalArgumentException`s as
  * everywhere in Spark. `retryable` says whether running the same job again may succeed.
  */
class FiresteelException(message: String, cause: Throwable, val retryable: Boolean)
    extends RuntimeException(message, cause) {
  def this(message: String) = this(message, null, false)
}

/** A stored model, checkpoint or message cannot be read: damaged, or of another version or shape. */
final class CorruptException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = false) {
  def this(message: String) = this(message, null)
}

/** Another worker died or left. */
final class PeerLostException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = true) {
  def this(message: String) = this(message, null)
}

/** A deadline passed. */
final class TimeoutException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = true) {
  def this(message: String) = this(message, null)
}

/** A peer did not prove that it knows the job's secret. */
final class UnauthenticatedException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = false) {
  def this(message: String) = this(message, null)
}

/** The caller asked to stop. */
final class CancelledException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = false) {
  def this(message: String) = this(message, null)
}

/** A loss or weight is no longer finite. */
final class DivergedException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = false) {
  def this(message: String) = this(message, null)
}

/** The operating system refused: a file, a socket, memory. */
final class NativeIOException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = true) {
  def this(message: String) = this(message, null)
}

/** A bug in Firesteel. */
final class InternalException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = false) {
  def this(message: String) = this(message, null)
}

/** Exceptions by the name under which a worker reports them to the driver. */
private[ml] object FiresteelException {

  /** The exception of a class name, as the driver throws it. */
  def named(className: String, message: String, cause: Throwable): RuntimeException =
    className.split('.').last match {
      case "IllegalArgumentException" => new IllegalArgumentException(message, cause)
      case "CorruptException" => new CorruptException(message, cause)
      case "PeerLostException" => new PeerLostException(message, cause)
      case "TimeoutException" => new TimeoutException(message, cause)
      case "UnauthenticatedException" => new UnauthenticatedException(message, cause)
      case "CancelledException" => new CancelledException(message, cause)
      case "DivergedException" => new DivergedException(message, cause)
      case "NativeIOException" => new NativeIOException(message, cause)
      case "InternalException" => new InternalException(message, cause)
      case other => new FiresteelException(s"$other: $message", cause, retryable = false)
    }

  /** Whether running the same job again may help. */
  def isRetryable(e: Throwable): Boolean = e match {
    case ours: FiresteelException => ours.retryable
    case _ => false
  }
}
