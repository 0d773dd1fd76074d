package firesteel.ml

import org.apache.spark.TaskContext
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{GenericInternalRow, UnsafeArrayData}
import org.apache.spark.sql.firesteel.{Scorer, Scoring}
import org.apache.spark.unsafe.Platform

/** Scores rows in tasks: one JNI call a batch. */
private[ml] final class ModelScoring(
    model: Broadcast[ModelFiles],
    columns: Array[InputColumn],
    results: ResultColumns,
    handleInvalid: String)
    extends Scoring {
  override def open(ordinals: Array[Int]): Scorer =
    new BatchScorer(
      model.value.native,
      columns.zip(ordinals).map { case (c, o) => c.copy(ordinal = o) },
      results,
      handleInvalid,
      ModelScoring.batchRows,
      Option(TaskContext.get()).fold(1)(_.cpus())
    )
  override def toString: String = s"model of ${columns.length} columns"
}

private object ModelScoring {
  private val batchRows = 1024
}

/** A batch of rows, scored by one call. */
private[ml] final class BatchScorer(
    model: NativeModel,
    columns: Array[InputColumn],
    results: ResultColumns,
    handleInvalid: String,
    capacity: Int,
    threads: Int = 1)
    extends Scorer {
  private val outputs = model.info.outputs
  private val scorer = model.scorer(handleInvalid, math.max(1, threads))
  private val batch = new ColumnBatch(columns, capacity)
  private val writer = new RowWriter(batch)
  private val values = new Array[Double](outputs)

  // Copies: another thread may close the scorer while the last batch's results are still read.
  private var last = Array.emptyFloatArray
  private var skipped = Array.emptyByteArray

  override def add(row: InternalRow): Unit = writer.write(row)
  override def isFull: Boolean = writer.isFull

  override def run(): Unit = {
    val rows = writer.rows
    val answer =
      try batch.take(Native.scorerRun(scorer.value, _, rows))
      finally writer.reset()
    last = new Array[Float](rows * outputs)
    Platform.copyMemory(null, answer(0), last, Platform.FLOAT_ARRAY_OFFSET, 4L * last.length)
    skipped = new Array[Byte](if (answer(1) == 0) 0 else rows)
    Platform.copyMemory(null, answer(1), skipped, Platform.BYTE_ARRAY_OFFSET, skipped.length)
  }

  override def result(row: Int): InternalRow =
    if (skipped.nonEmpty && skipped(row) != 0) null
    else {
      val at = outputs * row
      var i = 0
      while (i < outputs) {
        values(i) = last(at + i).toDouble
        i += 1
      }
      results.row(values)
    }

  override def close(): Unit =
    try batch.close()
    finally scorer.close()
}

/** What a model appends to a row, made of the network's outputs. */
private[ml] sealed trait ResultColumns extends Serializable {
  def row(outputs: Array[Double]): InternalRow
}

/** The outputs themselves, as one array. */
private[ml] case object RawColumns extends ResultColumns {
  override def row(outputs: Array[Double]): InternalRow =
    new GenericInternalRow(Array[Any](UnsafeArrayData.fromPrimitiveArray(outputs)))
}

/** A regression's prediction. */
private[ml] case object ValueColumns extends ResultColumns {
  override def row(outputs: Array[Double]): InternalRow = new GenericInternalRow(Array[Any](outputs(0)))
}

/** The columns of a classification that have a name, in this order. */
private[ml] final case class ClassColumns(
    raw: Boolean,
    probability: Boolean,
    prediction: Boolean,
    thresholds: Option[Array[Double]]
) extends ResultColumns {
  private val count = Seq(raw, probability, prediction).count(identity)

  override def row(logits: Array[Double]): InternalRow = {
    val columns = new Array[Any](count)
    val raws = Classes.raw(logits)
    val probabilities = Classes.probabilities(raws)
    var i = 0
    if (raw) { columns(i) = ClassColumns.vector(raws); i += 1 }
    if (probability) { columns(i) = ClassColumns.vector(probabilities); i += 1 }
    if (prediction) columns(i) = Classes.predict(probabilities, thresholds)
    new GenericInternalRow(columns)
  }
}

private object ClassColumns {

  /** A dense vector as `VectorUDT` stores it: type, size, indices, values. */
  private def vector(values: Array[Double]): InternalRow =
    new GenericInternalRow(Array[Any](1.toByte, null, null, UnsafeArrayData.fromPrimitiveArray(values)))
}

/** From logits to raw predictions, probabilities and a class. */
private[ml] object Classes {

  /** Logits; of two classes the margin and its negative, as Spark's evaluators read only the second. */
  def raw(logits: Array[Double]): Array[Double] =
    if (logits.length == 2) {
      val margin = logits(1) - logits(0)
      Array(-margin, margin)
    } else logits.clone()

  /** Probabilities of raw predictions. */
  def probabilities(raw: Array[Double]): Array[Double] =
    if (raw.length == 2) {
      val second = 1.0 / (1.0 + math.exp(-raw(1)))
      Array(1.0 / (1.0 + math.exp(raw(1))), second)
    } else {
      val most = raw.max
      val powers = raw.map(r => math.exp(r - most))
      val sum = powers.sum
      powers.map(_ / sum)
    }

  /** The class of the largest probability, or of the largest p/t where there are thresholds. As in Spark, the first
    * of equals, and class 0 where the probabilities are NaN because a feature's size overflowed.
    */
  def predict(probabilities: Array[Double], thresholds: Option[Array[Double]]): Double = {
    val scaled = thresholds.fold(probabilities) { t =>
      probabilities.zip(t).map { case (p, t) =>
        if (t == 0.0) (if (p == 0.0) 0.0 else Double.PositiveInfinity) else p / t
      }
    }
    var best = 0
    var i = 1
    while (i < scaled.length) {
      if (scaled(i) > scaled(best)) best = i
      i += 1
    }
    best.toDouble
  }
}
