package firesteel.ml

import com.fasterxml.jackson.databind.ObjectMapper
import org.apache.spark.ml.linalg.SQLDataTypes.VectorType
import org.apache.spark.sql.types._

/** What a column becomes in native memory. */
private[ml] sealed abstract class ColumnKind(val name: String, val width: Int) extends Serializable

private[ml] object ColumnKind {

  /** f64: types that f32 would round. */
  case object Double extends ColumnKind("double", 8)
  case object Float extends ColumnKind("float", 4)
  case object Text extends ColumnKind("text", 1)

  /** f32 vectors. */
  case object Vector extends ColumnKind("vector", 4)

  def of(dataType: DataType): Option[ColumnKind] = dataType match {
    case DoubleType | LongType | IntegerType | _: DecimalType => Some(Double)
    case FloatType | ShortType | ByteType | BooleanType => Some(Float)
    case _: StringType => Some(Text)
    case VectorType => Some(Vector)
    case ArrayType(element, _) if of(element).exists(k => k == Double || k == Float) => Some(Vector)
    case _ => None
  }
}

/** A column that training or scoring reads, and where it stands in the rows. */
private[ml] final case class InputColumn(name: String, dataType: DataType, ordinal: Int) {
  val kind: ColumnKind = ColumnKind
    .of(dataType)
    .getOrElse(throw new IllegalArgumentException(InputColumn.refusal(name, dataType)))
}

private[ml] object InputColumn {
  def refusal(name: String, dataType: DataType): String =
    s"column $name has type ${dataType.simpleString}; a feature is a number, boolean, string, " +
      "array of numbers or ML Vector"
}

/** Native memory for rows of some columns. It belongs to one thread. There is none, and all addresses are 0, until
  * `refresh` asks for it, after `take` gave it away, and after `close`.
  */
private[ml] final class ColumnBatch(val columns: Array[InputColumn], val capacity: Int)
    extends AutoCloseable {
  private val native = new Handle("column batch", Native.batchNew(ColumnBatch.json(columns), capacity))
  val validity = new Array[Long](columns.length)
  val offsets = new Array[Long](columns.length)
  val values = new Array[Long](columns.length)

  /** Bytes of values there is room for. */
  val room = new Array[Long](columns.length)

  def handle: Long = native.value

  /** Whether there is memory to write to. */
  def isWritable: Boolean = writable
  private var writable = false

  /** A call that takes the memory, whether it succeeds or fails. */
  def take[A](call: Long => A): A =
    try call(handle)
    finally forget()

  private def forget(): Unit = {
    writable = false
    Seq(validity, offsets, values, room).foreach(java.util.Arrays.fill(_, 0L))
  }

  def refresh(): Unit = {
    val addresses = Native.batchAddresses(handle)
    for (c <- columns.indices) {
      validity(c) = addresses(4 * c)
      offsets(c) = addresses(4 * c + 1)
      values(c) = addresses(4 * c + 2)
      room(c) = addresses(4 * c + 3)
    }
    writable = true
  }

  /** Room for at least so many bytes of values in a column; what was written stays, the address may change. */
  def grow(column: Int, bytes: Long): Unit = {
    val wanted = math.max(bytes, math.min(2 * room(column), Int.MaxValue.toLong))
    values(column) = Native.batchReserve(handle, column, wanted)
    room(column) = wanted
  }

  override def close(): Unit = {
    forget()
    native.close()
  }
}

private[ml] object ColumnBatch {
  private def json(columns: Array[InputColumn]): String = {
    val list = new ObjectMapper().createArrayNode()
    columns.foreach(c => list.addObject().put("name", c.name).put("kind", c.kind.name))
    list.toString
  }
}
