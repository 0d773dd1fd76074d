package flightdelays

import java.nio.file.{Files, Paths}

import firesteel.ml.EpochRecord
import org.apache.spark.ml.functions.vector_to_array
import org.apache.spark.mllib.evaluation.BinaryClassificationMetrics
import org.apache.spark.sql.DataFrame
import org.apache.spark.sql.functions.col
import org.json4s.DefaultFormats
import org.json4s.jackson.Serialization

/** A trained model, measured on the test months; `roc` holds false and true positive rates. */
final case class Fit(name: String, auc: Double, seconds: Double, roc: Seq[Seq[Double]])

/** Everything that the report shows. */
final case class Results(
    fits: Seq[Fit],
    history: Seq[EpochRecord],
    configuration: Map[String, String],
    versions: Map[String, String],
    rows: Map[String, Long],
    differing: Long = 0
) {
  def table: String = {
    val lines = fits.map(f => f"${f.name}%-32s${f.auc}%8.4f${f.seconds}%10.1f s")
    (f"${"model"}%-32s${"test AUC"}%8s${"training"}%12s" +: lines).mkString("\n")
  }

  def write(path: String): Unit =
    Files.writeString(Paths.get(path), Serialization.writePretty(this)(DefaultFormats))
}

object Results {

  /** About 200 points of the curve. */
  def roc(scored: DataFrame): Seq[Seq[Double]] = {
    val pairs = scored
      .select(vector_to_array(col("probability"))(1), col("late"))
      .rdd
      .map(row => (row.getDouble(0), row.getDouble(1)))
    new BinaryClassificationMetrics(pairs, 200).roc().map { case (x, y) => Seq(x, y) }.collect().toSeq
  }
}
