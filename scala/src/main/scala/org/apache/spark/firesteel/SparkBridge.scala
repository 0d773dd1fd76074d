package org.apache.spark.firesteel

import org.apache.spark.{NarrowDependency, SparkConf, SparkContext, SparkEnv, TaskContext}
import org.apache.spark.internal.config.{DRIVER_BIND_ADDRESS, MAX_RESULT_SIZE}
import org.apache.spark.rdd.RDD
import org.apache.spark.util.Utils

/** What only code inside Spark's own package may ask of Spark. Nothing else is here. */
object SparkBridge {

  /** How many tasks of the default resource profile can run at once on the executors there are. */
  def slots(sc: SparkContext): Int =
    sc.maxNumConcurrentTasks(sc.resourceProfileManager.defaultResourceProfile)

  def isDynamicAllocation(conf: SparkConf): Boolean = Utils.isDynamicAllocationEnabled(conf)

  /** The local property under which a thread's description of its jobs is kept. */
  val jobDescription: String = SparkContext.SPARK_JOB_DESCRIPTION

  /** How much the tasks of a job may return together; 0 is no limit. */
  def maxResultBytes(sc: SparkContext): Long = sc.conf.get(MAX_RESULT_SIZE)

  /** The name under which other executors reach this one. */
  def executorHost: String = SparkEnv.get.blockManager.blockManagerId.host

  def executorId: String = SparkEnv.get.executorId

  /** Whether this process is the driver's, where tasks run in local mode. */
  def isDriver: Boolean = executorId == SparkContext.DRIVER_IDENTIFIER

  /** The address that the driver's process listens on: its host may be another network's name for it. */
  def driverBindAddress: String =
    SparkEnv.get.conf.get(DRIVER_BIND_ADDRESS)

  /** Throws when Spark wants the task to end. */
  def checkKilled(context: TaskContext): Unit = context.killTaskIfInterrupted()

  /** Whether every RDD of the stage that computes `rdd` has as many partitions as `rdd`: what a barrier stage
    * demands. A union, coalesce or limit in the stage breaks it.
    */
  def isOneToOne(rdd: RDD[_]): Boolean = {
    val partitions = rdd.getNumPartitions
    def check(r: RDD[_]): Boolean = r.getNumPartitions == partitions &&
      r.dependencies.forall {
        case narrow: NarrowDependency[_] => check(narrow.rdd)
        case _ => true
      }
    check(rdd)
  }
}
