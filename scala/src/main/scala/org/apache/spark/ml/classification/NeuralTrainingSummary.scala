package org.apache.spark.ml.classification

/** The training loss of each epoch, in the form in which Spark's own models give theirs: Spark Connect shows its
  * clients nothing else of a training. It is in this package because Spark's trait is private to it.
  */
final class NeuralTrainingSummary(override val objectiveHistory: Array[Double]) extends TrainingSummary {

  /** Epochs. Spark's own histories begin with the loss before the first iteration, ours with the one after it. */
  override def totalIterations: Int = objectiveHistory.length
}
