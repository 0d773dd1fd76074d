package firesteel.ml

import org.apache.spark.sql.functions._

/** What a fit does on the driver, besides training. */
class FitSuite extends SparkSuite {
  test("however the rows are partitioned, any number of workers takes the same steps") {
    val e = classifier().setEpochs(3).setValidationFraction(0.25)
    val columns = Seq("a", "b", "label").map(col)
    val one = e.setNumWorkers(1).fit(signs(3000, 1).select(columns: _*)).history
    for (partitions <- Seq(1, 3, 5)) {
      val two = e.setNumWorkers(2).fit(signs(3000, partitions).select(columns: _*)).history
      for ((a, b) <- one.zip(two)) {
        assert(math.abs(a.loss - b.loss) < 1e-4 * a.loss, s"$partitions partitions")
        assert(math.abs(a.validationLoss.get - b.validationLoss.get) < 1e-4 * a.validationLoss.get)
        // Of the same held-out rows; of others it would differ by hundredths.
        assert(math.abs(a.validationMetric.get - b.validationMetric.get) < 1e-3)
      }
    }
  }
}
