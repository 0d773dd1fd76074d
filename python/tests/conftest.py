import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from firesteel import jar_path


@pytest.fixture(scope="session")
def spark():
    builder = SparkSession.builder.master("local[2]").appName("firesteel-tests")
    builder = builder.config("spark.jars", jar_path()).config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.shuffle.partitions", "2").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def flights(spark):
    """Rows whose lateness depends on a number and a string; every seventh carrier is NULL."""
    carriers = F.array(*[F.lit(c) for c in ("AA", "BB", "CC")])
    rows = spark.range(1200, numPartitions=2)
    rows = rows.withColumn("distance", (F.col("id") % 37).cast("double"))
    rows = rows.withColumn("carrier", F.when(F.col("id") % 7 != 0, carriers[(F.col("id") % 3).cast("int")]))
    late = (F.col("distance") > 18) != (F.coalesce(F.col("carrier"), F.lit("?")) == "BB")
    rows = rows.withColumn("late", late.cast("double")).withColumn("minutes", F.col("distance") * 3 + 40.0)
    return rows.cache()
