package firesteel.ml

import org.apache.spark.ml.linalg.SQLDataTypes.VectorType
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeArrayData
import org.apache.spark.sql.catalyst.util.ArrayData
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.Platform

/** Writes rows into a batch's native memory, value by value, without a JNI call. */
private[ml] final class RowWriter(batch: ColumnBatch) {
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

  /** Elements written so far in each text or vector column. */
  private val ends = new Array[Int](count)
  private var written = 0

  batch.refresh()

  /** Rows written since the last `reset`. */
  def rows: Int = written

  def isFull: Boolean = written == batch.capacity

  /** After the rows were taken: new memory, from the first row. */
  def reset(): Unit = {
    batch.refresh()
    java.util.Arrays.fill(ends, 0)
    written = 0
  }

  /** Adds a row; there must be room. */
  def write(row: InternalRow): Unit = {
    val at = written
    var c = 0
    while (c < count) {
      val ordinal = ordinals(c)
      if (row.isNullAt(ordinal)) putNull(c, at)
      else
        (codes(c): @scala.annotation.switch) match {
          case DOUBLE => Platform.putDouble(null, batch.values(c) + 8L * at, row.getDouble(ordinal))
          case LONG => Platform.putDouble(null, batch.values(c) + 8L * at, row.getLong(ordinal).toDouble)
          case INT => Platform.putDouble(null, batch.values(c) + 8L * at, row.getInt(ordinal).toDouble)
          case FLOAT => Platform.putFloat(null, batch.values(c) + 4L * at, row.getFloat(ordinal))
          case SHORT => Platform.putFloat(null, batch.values(c) + 4L * at, row.getShort(ordinal).toFloat)
          case BYTE => Platform.putFloat(null, batch.values(c) + 4L * at, row.getByte(ordinal).toFloat)
          case BOOLEAN =>
            Platform.putFloat(null, batch.values(c) + 4L * at, if (row.getBoolean(ordinal)) 1f else 0f)
          case DECIMAL =>
            val d = decimals(c)
            Platform.putDouble(
              null,
              batch.values(c) + 8L * at,
              row.getDecimal(ordinal, d.precision, d.scale).toDouble
            )
          case TEXT => putText(c, at, row, ordinal)
          case VECTOR => putVector(c, at, row, ordinal)
          case ARRAY => putArray(c, at, row.getArray(ordinal), elements(c))
        }
      c += 1
    }
    written = at + 1
  }

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
  private def space(c: Int, at: Int, n: Int): Long = {
    val width = widths(c)
    val from = width.toLong * ends(c)
    val until = from + width.toLong * n
    if (until > batch.room(c)) batch.grow(c, until)
    endAt(c, at, ends(c) + n)
    batch.values(c) + from
  }

  private def putText(c: Int, at: Int, row: InternalRow, ordinal: Int): Unit = {
    val text = row.getUTF8String(ordinal)
    text.writeToMemory(null, space(c, at, text.numBytes))
  }

  /** A `VectorUDT`: struct of type (0 sparse, 1 dense), size, indices, values. */
  private def putVector(c: Int, at: Int, row: InternalRow, ordinal: Int): Unit = {
    val vector = row.getStruct(ordinal, 4)
    val values = vector.getArray(3)
    if (vector.getByte(0) == 1) putArray(c, at, values, DoubleType)
    else {
      val size = vector.getInt(1)
      val indices = vector.getArray(2)
      val address = space(c, at, size)
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
    val address = space(c, at, n)
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
