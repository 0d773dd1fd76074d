package org.apache.spark.ml.classification

/** The training loss of each epoch, in the form in which Spark's own models give theirs: Spark Connect shows its
  * clients nothing else of a training. It is in this package because Spark's trait is private to it.
  */
final class NeuralTrainingSummary(override val objectiveHistory: Array[Double]) extends TrainingSummary
