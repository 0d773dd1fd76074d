package org.apache.spark.ml.firesteel

import org.apache.spark.ml.classification.NeuralTrainingSummary
import org.apache.spark.ml.util.HasTrainingSummary

/** A model whose summary can be told at any time, also after it was loaded. */
trait HasNeuralSummary extends HasTrainingSummary[NeuralTrainingSummary] {

  /** The training loss of each epoch; none when the model was neither trained nor loaded. */
  protected def losses: Option[Array[Double]]

  override def hasSummary: Boolean = losses.isDefined
  override def summary: NeuralTrainingSummary = new NeuralTrainingSummary(
    losses.getOrElse(throw new IllegalStateException("this model was neither trained nor loaded")))
}
