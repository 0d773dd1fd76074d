package org.apache.spark.sql.firesteel

import scala.concurrent.duration.Duration
import scala.jdk.CollectionConverters._

import org.apache.spark.{Partition, Partitioner, ShuffleDependency, SparkContext, SparkEnv, TaskContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.shuffle.sort.SortShuffleManager
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{UnsafeProjection, UnsafeRow}
import org.apache.spark.sql.execution.UnsafeRowSerializer
import org.apache.spark.sql.types.StructType
import org.apache.spark.util.{CollectionAccumulator, MutablePair, ThreadUtils}

/** Rows dealt out over workers: each gets a range of the global order, all of them the same number (or one more).
  * So the rows of the first worker, then those of the second and so on, are all rows in the order they had.
  *
  * What computes the rows runs once. Its tasks write them to a shuffle as they come and count them; when all
  * are counted, the workers' ranges are known, and each reads its own. A block of the shuffle holds rows of one
  * task in their order, so nothing is sorted. A block that two workers share is read by both.
  */
private[firesteel] object Deal {

  /** None when there is no row. Runs a job. */
  def apply(rows: RDD[InternalRow], schema: StructType, workers: Int): Option[RDD[InternalRow]] = {
    val sc = rows.sparkContext
    // With many tasks a block each is fine enough; a task whose rows go to many workers writes more of them.
    val chunks = if (rows.getNumPartitions >= workers) Chunks(1) else Chunks(Chunks.most)
    val counted = sc.collectionAccumulator[(Int, Long)]
    val shuffle = new ShuffleDependency[Int, InternalRow, InternalRow](
      chunked(rows, schema, chunks, counted),
      new Given(chunks.number),
      new UnsafeRowSerializer(schema.length)
    )
    if (rows.getNumPartitions > 0) run(sc, shuffle)
    // A task that ran twice counted twice, and the same.
    val counts = counted.value.asScala.toMap
    val ranges = Ranges((0 until rows.getNumPartitions).map(counts.getOrElse(_, 0L)), workers)
    if (ranges.rows == 0) None else Some(new DealtRows(sc, shuffle, ranges, chunks))
  }

  private def run(sc: SparkContext, shuffle: ShuffleDependency[Int, InternalRow, InternalRow]): Unit = {
    val stage = sc.submitMapStage(shuffle)
    ThreadUtils.awaitReady(stage, Duration.Inf)
    stage.value.foreach(_.get)
  }

  private def chunked(
      rows: RDD[InternalRow],
      schema: StructType,
      chunks: Chunks,
      counted: CollectionAccumulator[(Int, Long)]
  ): RDD[MutablePair[Int, InternalRow]] = {
    // Spark's own manager writes a row before it asks for the next; others may keep it.
    val copies = !SparkEnv.get.shuffleManager.isInstanceOf[SortShuffleManager]
    rows.mapPartitionsWithIndex { (partition, in) =>
      lazy val project = UnsafeProjection.create(schema)
      val number = chunks.counter()
      val pair = new MutablePair[Int, InternalRow]
      val out = in.map { row =>
        val unsafe = row match {
          case unsafe: UnsafeRow => unsafe
          case other => project(other)
        }
        if (copies) new MutablePair[Int, InternalRow](number.next(), unsafe.copy())
        else pair.update(number.next(), unsafe)
      }
      out ++ {
        counted.add(partition -> number.rows)
        Iterator.empty
      }
    }
  }
}

/** Where the blocks of one task's rows start: the first are small, later ones an eighth of what came before, so that
  * any range of rows is covered by blocks with little around it, however many rows come.
  */
private[firesteel] final case class Chunks(number: Int) {
  val starts: Array[Long] =
    Iterator.iterate(0L)(s => s + math.max(Chunks.least, s / 8)).take(number).toArray

  /** The chunk of a row. */
  def of(row: Long): Int = starts.lastIndexWhere(_ <= row)

  def counter(): Counter = new Counter

  /** Gives the chunk of each row, one after the other. */
  final class Counter {
    private var chunk = 0
    var rows = 0L

    def next(): Int = {
      if (chunk + 1 < number && rows == starts(chunk + 1)) chunk += 1
      rows += 1
      chunk
    }
  }
}

private[firesteel] object Chunks {

  /** Up to so many blocks Spark writes side by side, without sorting. */
  val most = 200
  private val least = 64L
}

/** Which rows each worker gets. */
private[firesteel] final case class Ranges(counts: Seq[Long], workers: Int) {
  private val offsets = counts.scanLeft(0L)(_ + _)
  val rows: Long = offsets.last

  /** The pieces of a worker's range in order: a partition, and which of its rows. */
  def of(worker: Int): Seq[(Int, Long, Long)] = {
    val (from, until) = (bound(worker), bound(worker + 1))
    for {
      p <- counts.indices
      first = math.max(from, offsets(p)) - offsets(p)
      end = math.min(until, offsets(p + 1)) - offsets(p)
      if first < end
    } yield (p, first, end)
  }

  private def bound(worker: Int): Long =
    rows / workers * worker + math.min(rows % workers, worker.toLong)
}

/** The partition is the key. */
private final class Given(override val numPartitions: Int) extends Partitioner {
  override def getPartition(key: Any): Int = key.asInstanceOf[Int]
}

/** Rows of a block: `take` behind the first `skip`. */
private final case class Piece(partition: Int, chunk: Int, skip: Long, take: Long)

private final class Share(override val index: Int, val pieces: Array[Piece]) extends Partition

private final class DealtRows(
    sc: SparkContext,
    shuffle: ShuffleDependency[Int, InternalRow, InternalRow],
    @transient ranges: Ranges,
    @transient chunks: Chunks
) extends RDD[InternalRow](sc, Seq(shuffle)) {

  override protected def getPartitions: Array[Partition] =
    Array.tabulate(ranges.workers)(w => new Share(w, ranges.of(w).flatMap((pieces _).tupled).toArray))

  private def pieces(partition: Int, first: Long, end: Long): Seq[Piece] =
    (chunks.of(first) to chunks.of(end - 1)).map { chunk =>
      val start = chunks.starts(chunk)
      val until = if (chunk + 1 < chunks.number) math.min(end, chunks.starts(chunk + 1)) else end
      val from = math.max(first, start)
      Piece(partition, chunk, from - start, until - from)
    }

  override def compute(split: Partition, context: TaskContext): Iterator[InternalRow] =
    split.asInstanceOf[Share].pieces.iterator.flatMap(read(_, context))

  private def read(piece: Piece, context: TaskContext): Iterator[InternalRow] = {
    val metrics = context.taskMetrics().createTempShuffleReadMetrics()
    val rows = SparkEnv.get.shuffleManager
      .getReader[Int, InternalRow](
        shuffle.shuffleHandle,
        piece.partition,
        piece.partition + 1,
        piece.chunk,
        piece.chunk + 1,
        context,
        metrics)
      .read()
      .map(_._2)
    new Slice(rows, piece.skip, piece.take)
  }
}

/** `take` rows behind the first `skip`. The rest is read too: a block's memory is free once all of it is read, not
  * only when the task ends.
  */
private final class Slice(rows: Iterator[InternalRow], skip: Long, take: Long) extends Iterator[InternalRow] {
  private var left = take
  locally {
    var i = 0L
    while (i < skip && rows.hasNext) { rows.next(); i += 1 }
  }

  override def hasNext: Boolean = {
    if (left == 0) while (rows.hasNext) rows.next()
    rows.hasNext
  }

  override def next(): InternalRow = {
    left -= 1
    rows.next()
  }
}
