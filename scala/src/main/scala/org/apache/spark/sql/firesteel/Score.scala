package org.apache.spark.sql.firesteel

import scala.collection.mutable.ArrayBuffer

import org.apache.spark.TaskContext
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{
  Attribute,
  AttributeSet,
  JoinedRow,
  SortOrder,
  UnsafeProjection
}
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, UnaryNode}
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{SparkPlan, SparkStrategy, UnaryExecNode}

/** How rows are scored, as the driver hands it to tasks. */
trait Scoring extends Serializable {

  /** A scorer for one task; `ordinals` say where the inputs stand in a row. */
  def open(ordinals: Array[Int]): Scorer
}

/** Scores rows in batches; one thread's. */
trait Scorer extends AutoCloseable {

  /** Adds a row to the batch; it is read before this returns. */
  def add(row: InternalRow): Unit

  /** Whether the batch is to be run before more is added. */
  def isFull: Boolean

  /** Scores the rows added since the last run. */
  def run(): Unit

  /** The result columns of a row of the last run, or null when the row is to be dropped. The next call may
    * overwrite it.
    */
  def result(row: Int): InternalRow
}

/** Appends `results` to every row of `child`. */
case class Score(child: LogicalPlan, inputs: Seq[Attribute], results: Seq[Attribute], scoring: Scoring)
    extends UnaryNode {
  override def output: Seq[Attribute] = child.output ++ results
  override def producedAttributes: AttributeSet = AttributeSet(results)
  override def maxRows: Option[Long] = child.maxRows
  override protected def withNewChildInternal(newChild: LogicalPlan): Score = copy(child = newChild)
}

/** Runs [[Score]]: a narrow map that keeps a batch of rows while it is scored. */
case class ScoreExec(child: SparkPlan, inputs: Seq[Attribute], results: Seq[Attribute], scoring: Scoring)
    extends UnaryExecNode {
  override def output: Seq[Attribute] = child.output ++ results
  override def producedAttributes: AttributeSet = AttributeSet(results)
  override def outputPartitioning: Partitioning = child.outputPartitioning
  override def outputOrdering: Seq[SortOrder] = child.outputOrdering
  override protected def withNewChildInternal(newChild: SparkPlan): ScoreExec = copy(child = newChild)

  override protected def doExecute(): RDD[InternalRow] = {
    val ordinals = inputs.map(i => child.output.indexWhere(_.exprId == i.exprId)).toArray
    val (columns, task) = (output, scoring)
    child.execute().mapPartitionsInternal { rows =>
      val scorer = task.open(ordinals)
      TaskContext.get().addTaskCompletionListener[Unit](_ => scorer.close())
      new ScoredRows(rows, scorer, UnsafeProjection.create(columns, columns))
    }
  }
}

/** The rows of a partition with their results. */
private final class ScoredRows(rows: Iterator[InternalRow], scorer: Scorer, project: UnsafeProjection)
    extends Iterator[InternalRow] {
  private val batch = ArrayBuffer.empty[InternalRow]
  private val joined = new JoinedRow
  private var next_ = 0
  private var result: InternalRow = _

  /** Moves to the next row that has a result. */
  override def hasNext: Boolean = {
    while (result == null && (next_ < batch.length || rows.hasNext)) {
      if (next_ == batch.length) fill()
      result = scorer.result(next_)
      if (result == null) next_ += 1
    }
    result != null
  }

  override def next(): InternalRow = {
    if (!hasNext) throw new NoSuchElementException
    val row = project(joined(batch(next_), result))
    next_ += 1
    result = null
    row
  }

  private def fill(): Unit = {
    batch.clear()
    next_ = 0
    while (rows.hasNext && !scorer.isFull) {
      // The child reuses its row.
      val row = rows.next().copy()
      batch += row
      scorer.add(row)
    }
    scorer.run()
  }
}

/** Plans [[Score]]. */
object ScoreStrategy extends SparkStrategy {
  override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
    case Score(child, inputs, results, scoring) =>
      ScoreExec(planLater(child), inputs, results, scoring) :: Nil
    case _ => Nil
  }
}
