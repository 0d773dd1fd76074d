package org.apache.spark.sql.firesteel

import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{classic, DataFrame, Dataset}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Alias, AttributeReference}
import org.apache.spark.sql.catalyst.plans.logical.Project
import org.apache.spark.sql.execution.{
  ColumnarToRowExec,
  InputAdapter,
  SparkPlan,
  SQLExecutionRDD,
  WholeStageCodegenExec
}
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, ResultQueryStageExec}
import org.apache.spark.sql.types.StructField
import org.apache.spark.sql.vectorized.ColumnarBatch

/** What only code inside Spark SQL's own package may ask of Spark SQL. */
object SqlBridge {

  /** The rows of a plan, in Spark's own format; a row is valid until the next is read. */
  def rows(data: DataFrame): RDD[InternalRow] =
    data.asInstanceOf[classic.Dataset[_]].queryExecution.toRdd

  /** The plan's column batches, where its last step makes them or only turns them into rows; a batch is valid until
    * the next is read.
    */
  def batches(data: DataFrame): Option[RDD[ColumnarBatch]] = {
    val session = data.asInstanceOf[classic.Dataset[_]].sparkSession
    columnar(data.asInstanceOf[classic.Dataset[_]].queryExecution.executedPlan).map { plan =>
      // Spark itself passes batches where types say rows.
      val batches = plan.executeColumnar().asInstanceOf[RDD[InternalRow]]
      // What reads files in tasks wants the session's settings, as `toRdd` gives them.
      new SQLExecutionRDD(batches, session.sessionState.conf).asInstanceOf[RDD[ColumnarBatch]]
    }
  }

  private def columnar(plan: SparkPlan): Option[SparkPlan] = plan match {
    case adaptive: AdaptiveSparkPlanExec => columnar(adaptive.finalPhysicalPlan)
    case result: ResultQueryStageExec => columnar(result.plan)
    case WholeStageCodegenExec(ColumnarToRowExec(InputAdapter(child))) => Some(child)
    case ColumnarToRowExec(child) => Some(child)
    // A cached frame gives either.
    case other if other.supportsColumnar => Some(other)
    case _ => None
  }

  /** The same rows dealt out over `workers` partitions: one partition behind the other, they stand in their old
    * order. What computes them runs once, now. None when there is no row.
    */
  def deal(data: DataFrame, rows: RDD[InternalRow], workers: Int): Option[RDD[InternalRow]] =
    Deal(rows, data.schema, workers)

  /** `data` with `results` behind its columns, computed from its columns `inputs` when the plan runs. */
  def score(data: Dataset[_], inputs: Seq[String], results: Seq[StructField], scoring: Scoring): DataFrame = {
    val classic_ = data.asInstanceOf[classic.Dataset[_]]
    val session = classic_.sparkSession
    ScoreStrategy.register(session)
    val child = classic_.queryExecution.analyzed
    // By the letter, as the schema was checked.
    val attributes = inputs.map { name =>
      child.output.filter(_.name == name) match {
        case Seq(one) => one
        case Seq() => throw new IllegalArgumentException(s"there is no column $name")
        case many =>
          throw new IllegalArgumentException(
            s"${many.length} columns have the name $name; rename or drop all but one")
      }
    }
    val made = results.map(f => AttributeReference(f.name, f.dataType, f.nullable, f.metadata)())
    // New names on top, so that a frame can be joined with itself.
    val fresh = made.map(a => Alias(a, a.name)(explicitMetadata = Some(a.metadata)))
    val plan = Project(child.output ++ fresh, Score(child, attributes, made, scoring))
    classic.Dataset.ofRows(session, plan)
  }
}
