package firesteel.ml

import java.util.Locale
import java.util.concurrent.{CountDownLatch, TimeUnit}

import scala.collection.mutable.ArrayBuffer

import org.scalatest.funsuite.AnyFunSuite

/** What is told of epochs, and to whom. */
class HistorySuite extends AnyFunSuite {
  private val record = EpochRecord(3, 1200, 0.5, Some(0.25), Some("auc"), Some(0.75), 12345.6, 1)

  test("a line is the same whatever the machine's language") {
    val before = Locale.getDefault
    try
      for (language <- Seq(Locale.ROOT, Locale.GERMANY, Locale.forLanguageTag("ar-EG-u-nu-arab"))) {
        Locale.setDefault(language)
        assert(
          record.toString == "epoch   3  step    1200  loss 0.50000  validation loss 0.25000  " +
            "validation auc 0.75000  12,346 samples/s")
      }
    finally Locale.setDefault(before)
  }

  test("listeners hear everything in order; who tells them does not wait, who closes does") {
    val heard = ArrayBuffer.empty[String]
    val go = new CountDownLatch(1)
    val slow = new TrainingListener {
      override def onEpoch(e: EpochRecord): Unit = {
        assert(go.await(10, TimeUnit.SECONDS))
        heard += s"epoch ${e.epoch} on ${Thread.currentThread().getName}"
      }
      override def onRetry(attempt: Int, cause: Throwable): Unit = heard += s"$attempt: ${cause.getMessage}"
    }
    val broken = new TrainingListener {
      override def onEpoch(e: EpochRecord): Unit = throw new IllegalStateException("asked to fail")
      override def onRetry(attempt: Int, cause: Throwable): Unit = throw new IllegalStateException("this too")
    }
    val announcer = new Announcer(Seq(broken, slow))
    announcer.epoch(record)
    announcer.retry(2, new PeerLostException("gone"))
    announcer.epoch(record.copy(epoch = 4))
    go.countDown()
    announcer.close()
    assert(heard == Seq("epoch 3 on firesteel-listeners", "2: gone", "epoch 4 on firesteel-listeners"))
  }
}
