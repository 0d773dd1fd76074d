package firesteel.ml

/** What fails in Firesteel, except wrong arguments and wrong data, which are
  * `IllegalArgumentException`s as everywhere in Spark. `retryable` says whether running the same job again
  * may succeed.
  */
class FiresteelException(message: String, cause: Throwable, val retryable: Boolean)
    extends RuntimeException(message, cause) {
  def this(message: String) = this(message, null, false)
}

/** A stored model, checkpoint or message cannot be read: damaged, or of another version or shape. */
final class CorruptException(message: String) extends FiresteelException(message)

/** Another worker died or left. */
final class PeerLostException(message: String, cause: Throwable)
    extends FiresteelException(message, cause, retryable = true) {
  def this(message: String) = this(message, null)
}

/** A deadline passed. */
final class TimeoutException(message: String) extends FiresteelException(message, null, retryable = true)

/** A peer did not prove that it knows the job's secret. */
final class UnauthenticatedException(message: String) extends FiresteelException(message)

/** The caller asked to stop. */
final class CancelledException(message: String) extends FiresteelException(message)

/** A loss or weight is no longer finite. */
final class DivergedException(message: String) extends FiresteelException(message)

/** The operating system refused: a file, a socket, memory. */
final class NativeIOException(message: String) extends FiresteelException(message, null, retryable = true)

/** A bug in Firesteel. */
final class InternalException(message: String) extends FiresteelException(message)

/** Exceptions by the name under which a worker reports them to the driver. */
private[ml] object FiresteelException {

  /** The exception of a class name, as the driver throws it. */
  def named(className: String, message: String, cause: Throwable): RuntimeException = {
    val made = className match {
      case "java.lang.IllegalArgumentException"    => new IllegalArgumentException(message)
      case "firesteel.ml.CorruptException"         => new CorruptException(message)
      case "firesteel.ml.PeerLostException"        => new PeerLostException(message)
      case "firesteel.ml.TimeoutException"         => new TimeoutException(message)
      case "firesteel.ml.UnauthenticatedException" => new UnauthenticatedException(message)
      case "firesteel.ml.CancelledException"       => new CancelledException(message)
      case "firesteel.ml.DivergedException"        => new DivergedException(message)
      case "firesteel.ml.NativeIOException"        => new NativeIOException(message)
      case "firesteel.ml.InternalException"        => new InternalException(message)
      case other                                   => new FiresteelException(s"$other: $message")
    }
    if (cause != null && made.getCause == null) made.initCause(cause)
    made
  }

  /** Whether running the same job again may help. */
  def isRetryable(e: Throwable): Boolean = e match {
    case ours: FiresteelException => ours.retryable
    case _                        => false
  }
}
