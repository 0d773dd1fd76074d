package org.apache.spark.ml.firesteel

import org.apache.spark.ml.classification.NeuralTrainingSummary
import org.apache.spark.ml.util.HasTrainingSummary
import org.apache.spark.sql.DataFrame

/** A model whose summary can be told at any time, also after it was loaded. */
trait HasNeuralSummary extends HasTrainingSummary[NeuralTrainingSummary] {

  /** The training loss of each epoch; none when the model was neither trained nor loaded. */
  protected def losses: Option[Array[Double]]

  override def hasSummary: Boolean = losses.isDefined
  override def summary: NeuralTrainingSummary = new NeuralTrainingSummary(
    losses.getOrElse(throw new IllegalStateException("this model was neither trained nor loaded")))

  // Spark Connect puts models it has not heard of for a while on disk, summaries apart. Ours is part of the model.
  private[spark] override def saveSummary(path: String): Unit = ()
  private[spark] override def loadSummary(path: String, dataset: DataFrame): Unit = ()
}
