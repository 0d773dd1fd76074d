package firesteel.ml

import org.apache.spark.ml.linalg.SQLDataTypes.VectorType
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeArrayData
import org.apache.spark.sql.catalyst.util.ArrayData
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarArray, ColumnarBatch}
import org.apache.spark.unsafe.Platform
import org.apache.spark.unsafe.types.UTF8String

/** Writes rows into a batch's native memory, value by value, without a JNI call: row by row, or column by column
  * where Spark has column batches.
  *
  * @param limit
  *   bytes of values in a text or vector column from which the batch counts as full: wide rows come in smaller
  *   batches, as offsets count no more than 2 GiB
  */
private[ml] final class RowWriter(batch: ColumnBatch, limit: Long = RowWriter.limit) {
  import RowWriter._

  private val columns = batch.columns
  private val count = columns.length
  private val ordinals = columns.map(_.ordinal)
  private val codes = columns.map(c => code(c.dataType))
  private val widths = columns.map(_.kind.width)
  private val decimals = columns.map(_.dataType match {
    case d: DecimalType => d
    case _ => null
  })
  private val elements = columns.map(_.dataType match {
    case ArrayType(element, _) => element
    case _ => null
  })

  /** The text and vector columns, whose rows have any length, and the others. */
  private val (long, fixed) = columns.indices.toArray.partition(codes(_) >= TEXT)

  /** Elements written so far in each text or vector column. */
  private val ends = new Array[Int](count)
  private var written = 0

  /** Whether a column has passed the limit. */
  private var passed = false

  batch.refresh()

  /** Rows written since the last `reset`. */
  def rows: Int = written

  /** Rows that can still be written, if they are not long. */
  def space: Int = if (passed || !batch.isWritable) 0 else batch.capacity - written

  def isFull: Boolean = space == 0

  /** After the rows were taken: new memory, from the first row. */
  def reset(): Unit = {
    batch.refresh()
    java.util.Arrays.fill(ends, 0)
    written = 0
    passed = false
  }

  /** Adds a row; there must be room. */
  def write(row: InternalRow): Unit = {
    if (isFull) throw new IllegalStateException(s"there is no room for a row behind $written others")
    val at = written
    var c = 0
    while (c < count) {
      val ordinal = ordinals(c)
      if (row.isNullAt(ordinal)) putNull(c, at)
      else
        (codes(c): @scala.annotation.switch) match {
          case DOUBLE => putDouble(c, at, row.getDouble(ordinal))
          case LONG => putDouble(c, at, row.getLong(ordinal).toDouble)
          case INT => putDouble(c, at, row.getInt(ordinal).toDouble)
          case FLOAT => putFloat(c, at, row.getFloat(ordinal))
          case SHORT => putFloat(c, at, row.getShort(ordinal).toFloat)
          case BYTE => putFloat(c, at, row.getByte(ordinal).toFloat)
          case BOOLEAN => putFloat(c, at, if (row.getBoolean(ordinal)) 1f else 0f)
          case DECIMAL =>
            val d = decimals(c)
            putDouble(c, at, row.getDecimal(ordinal, d.precision, d.scale).toDouble)
          case TEXT => putText(c, at, row.getUTF8String(ordinal))
          case VECTOR => putVector(c, at, row.getStruct(ordinal, 4))
          case ARRAY => putArray(c, at, row.getArray(ordinal), elements(c))
        }
      c += 1
    }
    written = at + 1
  }

  /** Adds rows `from` until `until` of a batch, as many as there is room for; gives the first that is left. */
  def write(batch: ColumnarBatch, from: Int, until: Int): Int = {
    val end = writeLong(batch, from, math.min(until, from + space))
    fixed.foreach(c => writeColumn(c, batch.column(ordinals(c)), from, end))
    written += end - from
    end
  }

  /** The text and vector columns, row by row as only what is written says how long it was; gives where it ended. */
  private def writeLong(batch: ColumnarBatch, from: Int, until: Int): Int =
    if (long.isEmpty) until
    else {
      val vectors = long.map(c => batch.column(ordinals(c)))
      var i = from
      while (i < until && !passed) {
        val at = written + i - from
        var k = 0
        while (k < long.length) {
          val c = long(k)
          val column = vectors(k)
          if (column.isNullAt(i)) putNull(c, at)
          else
            (codes(c): @scala.annotation.switch) match {
              case TEXT => putText(c, at, column.getUTF8String(i))
              case VECTOR => putVector(c, at, column.getStruct(i))
              case ARRAY => putArray(c, at, column.getArray(i), elements(c))
            }
          k += 1
        }
        i += 1
      }
      i
    }

  private def writeColumn(c: Int, column: ColumnVector, from: Int, until: Int): Unit = {
    def each(put: (Int, Int) => Unit): Unit = {
      val shift = written - from
      var i = from
      while (i < until) {
        if (column.isNullAt(i)) putNull(c, i + shift) else put(i + shift, i)
        i += 1
      }
    }
    def address = batch.values(c) + widths(c).toLong * written
    val n = until - from
    (codes(c): @scala.annotation.switch) match {
      case DOUBLE if !column.hasNull =>
        Platform.copyMemory(column.getDoubles(from, n), Platform.DOUBLE_ARRAY_OFFSET, null, address, 8L * n)
      case FLOAT if !column.hasNull =>
        Platform.copyMemory(column.getFloats(from, n), Platform.FLOAT_ARRAY_OFFSET, null, address, 4L * n)
      case DOUBLE => each((at, i) => putDouble(c, at, column.getDouble(i)))
      case LONG => each((at, i) => putDouble(c, at, column.getLong(i).toDouble))
      case INT => each((at, i) => putDouble(c, at, column.getInt(i).toDouble))
      case FLOAT => each((at, i) => putFloat(c, at, column.getFloat(i)))
      case SHORT => each((at, i) => putFloat(c, at, column.getShort(i).toFloat))
      case BYTE => each((at, i) => putFloat(c, at, column.getByte(i).toFloat))
      case BOOLEAN => each((at, i) => putFloat(c, at, if (column.getBoolean(i)) 1f else 0f))
      case DECIMAL =>
        val d = decimals(c)
        each((at, i) => putDouble(c, at, column.getDecimal(i, d.precision, d.scale).toDouble))
    }
  }

  private def putDouble(c: Int, at: Int, value: Double): Unit =
    Platform.putDouble(null, batch.values(c) + 8L * at, value)

  private def putFloat(c: Int, at: Int, value: Float): Unit =
    Platform.putFloat(null, batch.values(c) + 4L * at, value)

  private def putNull(c: Int, at: Int): Unit = {
    val address = batch.validity(c) + (at >> 3)
    Platform.putByte(null, address, (Platform.getByte(null, address) & ~(1 << (at & 7))).toByte)
    if (batch.offsets(c) != 0) endAt(c, at, ends(c))
  }

  private def endAt(c: Int, at: Int, end: Int): Unit = {
    Platform.putInt(null, batch.offsets(c) + 4L * (at + 1), end)
    ends(c) = end
  }

  /** The address of the next `n` elements of a text or vector column. */
  private def elementSpace(c: Int, at: Int, n: Int): Long = {
    val width = widths(c)
    val from = width.toLong * ends(c)
    val until = from + width.toLong * n
    if (until > batch.room(c)) batch.grow(c, until)
    if (until >= limit) passed = true
    endAt(c, at, ends(c) + n)
    batch.values(c) + from
  }

  private def putText(c: Int, at: Int, text: UTF8String): Unit =
    text.writeToMemory(null, elementSpace(c, at, text.numBytes))

  /** A `VectorUDT`: struct of type (0 sparse, 1 dense), size, indices, values. */
  private def putVector(c: Int, at: Int, vector: InternalRow): Unit = {
    val values = vector.getArray(3)
    if (vector.getByte(0) == 1) putArray(c, at, values, DoubleType)
    else {
      val size = vector.getInt(1)
      val indices = vector.getArray(2)
      val address = elementSpace(c, at, size)
      Platform.setMemory(address, 0, 4L * size)
      val n = indices.numElements()
      var i = 0
      while (i < n) {
        Platform.putFloat(null, address + 4L * indices.getInt(i), values.getDouble(i).toFloat)
        i += 1
      }
    }
  }

  private def putArray(c: Int, at: Int, array: ArrayData, element: DataType): Unit = {
    val n = array.numElements()
    val address = elementSpace(c, at, n)
    array match {
      case unsafe: UnsafeArrayData if element == FloatType && !anyNull(unsafe) =>
        Platform.copyMemory(unsafe.getBaseObject, elementsOf(unsafe), null, address, 4L * n)
      case unsafe: UnsafeArrayData if element == DoubleType && !anyNull(unsafe) =>
        val base = unsafe.getBaseObject
        val from = elementsOf(unsafe)
        var i = 0
        while (i < n) {
          Platform.putFloat(null, address + 4L * i, Platform.getDouble(base, from + 8L * i).toFloat)
          i += 1
        }
      case columnar: ColumnarArray if element == FloatType =>
        var i = 0
        while (i < n) {
          val value = if (columnar.isNullAt(i)) Float.NaN else columnar.getFloat(i)
          Platform.putFloat(null, address + 4L * i, value)
          i += 1
        }
      case _ =>
        var i = 0
        while (i < n) {
          // A NULL element is as unusable as a NaN and is treated as one.
          val value = if (array.isNullAt(i)) Float.NaN else number(array, i, element)
          Platform.putFloat(null, address + 4L * i, value)
          i += 1
        }
    }
  }
}

private[ml] object RowWriter {

  /** 55 images of 3×224×224, or 4096 vectors of 2,000. */
  private val limit = 32L << 20

  private final val DOUBLE = 0
  private final val LONG = 1
  private final val INT = 2
  private final val FLOAT = 3
  private final val SHORT = 4
  private final val BYTE = 5
  private final val BOOLEAN = 6
  private final val DECIMAL = 7
  private final val TEXT = 8
  private final val VECTOR = 9
  private final val ARRAY = 10

  private def code(dataType: DataType): Int = dataType match {
    case DoubleType => DOUBLE
    case LongType => LONG
    case IntegerType => INT
    case FloatType => FLOAT
    case ShortType => SHORT
    case ByteType => BYTE
    case BooleanType => BOOLEAN
    case _: DecimalType => DECIMAL
    case _: StringType => TEXT
    case VectorType => VECTOR
    case _: ArrayType => ARRAY
    case other => throw new IllegalArgumentException(s"no column of type ${other.simpleString}")
  }

  /** An `UnsafeArrayData` starts with its length and a bit an element that says NULL. */
  private def anyNull(array: UnsafeArrayData): Boolean = {
    val base = array.getBaseObject
    val until = elementsOf(array)
    var at = array.getBaseOffset + 8
    while (at < until) {
      if (Platform.getLong(base, at) != 0) return true
      at += 8
    }
    false
  }

  private def elementsOf(array: UnsafeArrayData): Long =
    array.getBaseOffset + UnsafeArrayData.calculateHeaderPortionInBytes(array.numElements())

  private def number(array: ArrayData, i: Int, element: DataType): Float = element match {
    case DoubleType => array.getDouble(i).toFloat
    case FloatType => array.getFloat(i)
    case LongType => array.getLong(i).toFloat
    case IntegerType => array.getInt(i).toFloat
    case ShortType => array.getShort(i).toFloat
    case ByteType => array.getByte(i).toFloat
    case BooleanType => if (array.getBoolean(i)) 1f else 0f
    case d: DecimalType => array.getDecimal(i, d.precision, d.scale).toFloat
    case other => throw new IllegalArgumentException(s"no array of ${other.simpleString}")
  }
}
