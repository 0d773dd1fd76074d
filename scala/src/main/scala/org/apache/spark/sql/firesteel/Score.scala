package org.apache.spark.sql.firesteel

import scala.collection.mutable.ArrayBuffer

import org.apache.spark.TaskContext
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{classic, SparkSessionExtensions, SparkSessionExtensionsProvider}
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
    * overwrite it. It can be asked for after `close`, even while that runs.
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
      val scored = new ScoredRows(rows, task.open(ordinals), UnsafeProjection.create(columns, columns))
      TaskContext.get().addTaskCompletionListener[Unit](_ => scored.close())
      scored
    }
  }
}

/** The rows of a partition with their results. A task may end while a thread that it started still reads them, as
  * `RDD.pipe` does: `close` waits for the batch that is scored, and the next one is refused.
  */
private[firesteel] final class ScoredRows(
    rows: Iterator[InternalRow],
    scorer: Scorer,
    project: UnsafeProjection)
    extends Iterator[InternalRow]
    with AutoCloseable {
  private var isClosed = false
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

  override def close(): Unit = synchronized {
    if (!isClosed) {
      isClosed = true
      scorer.close()
    }
  }

  private def fill(): Unit = {
    batch.clear()
    next_ = 0
    while (rows.hasNext && !scorer.isFull) {
      // The child reuses its row.
      val row = rows.next().copy()
      batch += row
      whileOpen(scorer.add(row))
    }
    whileOpen(scorer.run())
  }

  /** Not held while the child is asked for rows, which may take long. */
  private def whileOpen(work: => Unit): Unit = synchronized {
    if (isClosed) throw new IllegalStateException("the task that scores these rows has ended")
    work
  }
}

/** Plans [[Score]]. */
object ScoreStrategy extends SparkStrategy {

  /** Makes a session plan it that was made without [[ScoreExtensions]]. */
  def register(session: classic.SparkSession): Unit = synchronized {
    val own = session.experimental
    if (!session.sessionState.planner.strategies.contains(this))
      own.extraStrategies = own.extraStrategies :+ this
  }

  override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
    case Score(child, inputs, results, scoring) =>
      ScoreExec(planLater(child), inputs, results, scoring) :: Nil
    case _ => Nil
  }
}

/** Gives [[ScoreStrategy]] to every session of an application that has the jar from its start: a frame may be read in
  * another session than the one it was made in, through a global temporary view.
  */
final class ScoreExtensions extends SparkSessionExtensionsProvider {
  override def apply(extensions: SparkSessionExtensions): Unit =
    extensions.injectPlannerStrategy(_ => ScoreStrategy)
}
