package firesteel.ml

import org.apache.spark.ml.linalg.{SQLDataTypes, Vector, Vectors}
import org.apache.spark.sql.Row
import org.apache.spark.sql.catalyst.CatalystTypeConverters
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection
import org.apache.spark.sql.execution.Columns
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.ColumnarBatch
import org.apache.spark.unsafe.Platform
import org.scalatest.funsuite.AnyFunSuite

/** Rows as they arrive in native memory. */
class RowWriterSuite extends AnyFunSuite {

  private val schema = new StructType()
    .add("double", DoubleType)
    .add("long", LongType)
    .add("int", IntegerType)
    .add("float", FloatType)
    .add("short", ShortType)
    .add("byte", ByteType)
    .add("boolean", BooleanType)
    .add("decimal", DecimalType(20, 2))
    .add("text", StringType)
    .add("vector", SQLDataTypes.VectorType)
    .add("floats", ArrayType(FloatType))
    .add("doubles", ArrayType(DoubleType))
    .add("longs", ArrayType(LongType))

  private val columns =
    schema.fields.zipWithIndex.map { case (f, i) => InputColumn(f.name, f.dataType, i) }

  private val rows = Seq[Row](
    Row(
      1.5,
      1L << 40,
      3,
      4.5f,
      5.toShort,
      6.toByte,
      true,
      BigDecimal("7.25").bigDecimal,
      "acht",
      dense,
      Seq(1f, 2f),
      Seq(3.0),
      Seq(4L, 5L)
    ),
    Row(null, null, null, null, null, null, null, null, null, null, null, null, null),
    Row(
      -1.5,
      -1L,
      -3,
      -4.5f,
      -5.toShort,
      -6.toByte,
      false,
      BigDecimal("-7").bigDecimal,
      "zwölf €",
      sparse,
      Seq[java.lang.Float](9f, null),
      Seq.empty[Double],
      Seq[java.lang.Long](null)
    )
  )

  private def dense: Vector = Vectors.dense(1, 2, 3)
  private def sparse: Vector = Vectors.sparse(4, Array(1, 3), Array(0.5, -0.5))

  private def internal: Seq[InternalRow] = {
    val convert = CatalystTypeConverters.createToCatalystConverter(schema)
    rows.map(r => convert(r).asInstanceOf[InternalRow])
  }

  private def unsafe: Seq[InternalRow] = {
    val project = UnsafeProjection.create(schema)
    internal.map(project(_).copy())
  }

  private def column(name: String) = schema.fieldIndex(name)
  private def isValid(b: ColumnBatch, c: Int, row: Int) =
    (Platform.getByte(null, b.validity(c) + row / 8) & (1 << (row % 8))) != 0
  private def range(b: ColumnBatch, c: Int, row: Int) = {
    def offset(i: Int) = Platform.getInt(null, b.offsets(c) + 4L * i)
    offset(row) until offset(row + 1)
  }
  private def vector(b: ColumnBatch, name: String, row: Int) = {
    val c = column(name)
    range(b, c, row).map(i => Platform.getFloat(null, b.values(c) + 4L * i))
  }
  private def text(b: ColumnBatch, row: Int) = {
    val c = column("text")
    new String(range(b, c, row).map(i => Platform.getByte(null, b.values(c) + i)).toArray, "UTF-8")
  }

  private def columnar: ColumnarBatch = Columns.batch(internal, schema)

  for ((kind, write) <- Seq[(String, RowWriter => Unit)](
      "unsafe rows" -> (w => unsafe.foreach(w.write)),
      "generic rows" -> (w => internal.foreach(w.write)),
      "column batches" -> { w => w.write(columnar, 0, 3); () },
      "column batches in parts" -> { w => w.write(columnar, 0, 1); w.write(columnar, 1, 3); () }
    ))
    test(s"$kind, every type, NULLs") {
      val batch = new ColumnBatch(columns, 8)
      val writer = new RowWriter(batch)
      write(writer)
      assert(writer.rows == 3)
      for (c <- columns.indices) assert((0 to 2).map(isValid(batch, c, _)) == Seq(true, false, true))
      def double(name: String) =
        Seq(0, 2).map(r => Platform.getDouble(null, batch.values(column(name)) + 8L * r))
      def float(name: String) =
        Seq(0, 2).map(r => Platform.getFloat(null, batch.values(column(name)) + 4L * r))
      assert(double("double") == Seq(1.5, -1.5))
      assert(double("long") == Seq((1L << 40).toDouble, -1.0))
      assert(double("int") == Seq(3.0, -3.0))
      assert(double("decimal") == Seq(7.25, -7.0))
      assert(float("float") == Seq(4.5f, -4.5f))
      assert(float("short") == Seq(5f, -5f))
      assert(float("byte") == Seq(6f, -6f))
      assert(float("boolean") == Seq(1f, 0f))
      assert(Seq(0, 1, 2).map(text(batch, _)) == Seq("acht", "", "zwölf €"))
      assert(vector(batch, "vector", 0) == Seq(1f, 2f, 3f))
      assert(vector(batch, "vector", 1).isEmpty)
      assert(vector(batch, "vector", 2) == Seq(0f, 0.5f, 0f, -0.5f))
      assert(vector(batch, "floats", 0) == Seq(1f, 2f))
      assert(vector(batch, "floats", 2).head == 9f && vector(batch, "floats", 2)(1).isNaN)
      assert(vector(batch, "doubles", 0) == Seq(3f) && vector(batch, "doubles", 2).isEmpty)
      assert(vector(batch, "longs", 0) == Seq(4f, 5f) && vector(batch, "longs", 2).head.isNaN)
      batch.close()
    }

  test("column batches are cut where the memory ends, empty ones are passed over") {
    val schema = new StructType().add("x", LongType)
    def batch(values: Range) = Columns.batch(values.map(v => InternalRow(v.toLong)), schema)
    val feed = Feed.batches(Iterator(batch(0 until 0), batch(0 until 5), batch(5 until 5), batch(5 until 7)))
    val memory = new ColumnBatch(Array(InputColumn("x", LongType, 0)), 3)
    val writer = new RowWriter(memory)
    val taken = Iterator
      .continually(feed.hasNext)
      .takeWhile(identity)
      .map { _ =>
        feed.fill(writer)
        val values = (0 until writer.rows).map(i => Platform.getDouble(null, memory.values(0) + 8L * i))
        writer.reset()
        values
      }
      .toSeq
    assert(taken == Seq(Seq(0.0, 1.0, 2.0), Seq(3.0, 4.0, 5.0), Seq(6.0)))
    memory.close()
  }

  test("long vectors and texts move to larger memory") {
    val schema = new StructType().add("t", StringType).add("v", ArrayType(FloatType, containsNull = false))
    val columns = schema.fields.zipWithIndex.map { case (f, i) => InputColumn(f.name, f.dataType, i) }
    val project = UnsafeProjection.create(schema)
    val convert = CatalystTypeConverters.createToCatalystConverter(schema)
    val batch = new ColumnBatch(columns, 3)
    val writer = new RowWriter(batch)
    for (i <- 0 until 3) {
      val row = Row("x" * 10000 + i, Seq.tabulate(5000)(j => (i * 5000 + j).toFloat))
      writer.write(project(convert(row).asInstanceOf[InternalRow]))
    }
    assert(writer.isFull)
    assert((0 until 15000).forall(j => Platform.getFloat(null, batch.values(1) + 4L * j) == j.toFloat))
    assert(Platform.getByte(null, batch.values(0) + 30002) == '2')
    batch.close()
  }

  private val wide = new StructType()
    .add("n", IntegerType)
    .add("v", ArrayType(FloatType, containsNull = false))
    .add("t", StringType)
  private def wideColumns = wide.fields.zipWithIndex.map { case (f, i) => InputColumn(f.name, f.dataType, i) }

  /** Rows whose vectors have 1,000 values, 4,000 bytes. */
  private def wideRows(count: Int): Seq[InternalRow] = {
    val convert = CatalystTypeConverters.createToCatalystConverter(wide)
    (0 until count).map(i => convert(Row(i, Seq.fill(1000)(i.toFloat), s"row $i")).asInstanceOf[InternalRow])
  }

  for ((kind, feed) <- Seq[(String, Seq[InternalRow] => Feed)](
      "rows" -> (r => Feed.rows(r.iterator)),
      "column batches" -> (r => Feed.batches(r.grouped(7).map(Columns.batch(_, wide))))
    ))
    test(s"$kind with long values come in batches of few rows") {
      val memory = new ColumnBatch(wideColumns, 4096)
      // The third row passes 10,000 bytes; a row longer than the limit comes alone.
      for ((limit, most) <- Seq(10000L -> 3, 100L -> 1, 4000L * 8 -> 8)) {
        val writer = new RowWriter(memory, limit)
        val rows = feed(wideRows(50))
        var seen = 0
        while (rows.hasNext) {
          rows.fill(writer)
          assert(writer.rows == most || seen + writer.rows == 50)
          for (i <- 0 until writer.rows) {
            assert(Platform.getDouble(null, memory.values(0) + 8L * i) == seen + i)
            assert(Platform.getFloat(null, memory.values(1) + 4000L * i + 3996) == seen + i)
            val text = Platform.getInt(null, memory.offsets(2) + 4L * i)
            val end = Platform.getInt(null, memory.offsets(2) + 4L * (i + 1))
            val bytes = (text until end).map(b => Platform.getByte(null, memory.values(2) + b))
            assert(new String(bytes.toArray) == s"row ${seen + i}")
          }
          seen += writer.rows
          writer.reset()
        }
        assert(seen == 50)
      }
      memory.close()
    }

  test("nothing is written where there is no room or no memory") {
    val memory = new ColumnBatch(wideColumns, 2)
    val writer = new RowWriter(memory)
    val rows = wideRows(3)
    rows.take(2).foreach(writer.write)
    assert(intercept[IllegalStateException](writer.write(rows(2))).getMessage.contains("behind 2 others"))
    assert(writer.write(Columns.batch(rows, wide), 0, 3) == 0)
    writer.reset()
    writer.write(rows.head)
    val taken = memory.handle
    assert(memory.take(identity) == taken)
    assert(memory.values.forall(_ == 0) && memory.offsets.forall(_ == 0) && memory.room.forall(_ == 0))
    intercept[IllegalStateException](writer.write(rows.head))
    writer.reset()
    writer.write(rows.head)
    intercept[ArithmeticException](memory.take(_ => throw new ArithmeticException("a call that fails")))
    assert(writer.isFull)
    memory.refresh()
    memory.close()
    assert(memory.values.forall(_ == 0))
    intercept[IllegalStateException](writer.write(rows.head))
  }

  test("types that are no features are refused by name") {
    for (t <- Seq(
        DateType,
        TimestampType,
        BinaryType,
        ArrayType(StringType),
        MapType(StringType, LongType))) {
      val e = intercept[IllegalArgumentException](InputColumn("when", t, 0))
      assert(e.getMessage.startsWith(s"column when has type ${t.simpleString}; a feature is a number"))
    }
  }
}
