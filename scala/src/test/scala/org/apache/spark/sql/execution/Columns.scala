package org.apache.spark.sql.execution

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.execution.vectorized.{OnHeapColumnVector, WritableColumnVector}
import org.apache.spark.sql.types.{DataType, StructType, UserDefinedType}
import org.apache.spark.sql.vectorized.{ColumnarBatch, ColumnVector}

/** Spark's own conversion of rows to columns, which it keeps in this package. */
object Columns {
  def batch(rows: Seq[InternalRow], schema: StructType): ColumnarBatch = {
    val stored = StructType(schema.map(f => f.copy(dataType = stores(f.dataType))))
    val vectors = OnHeapColumnVector.allocateColumns(rows.length, stored)
    val convert = new RowToColumnConverter(stored)
    rows.foreach(convert.convert(_, vectors.asInstanceOf[Array[WritableColumnVector]]))
    new ColumnarBatch(vectors.asInstanceOf[Array[ColumnVector]], rows.length)
  }

  private def stores(dataType: DataType): DataType = dataType match {
    case user: UserDefinedType[_] => user.sqlType
    case other => other
  }
}
