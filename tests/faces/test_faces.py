"""A model of one face gives the same predictions in another: Spark's in SQL, SQL's in Spark and in onnxruntime."""

import csv
import io
import os
import subprocess

import numpy as np
import onnxruntime
import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from firesteel import jar_path
from firesteel.ml import (
    NeuralClassificationModel,
    NeuralClassifier,
    NeuralRegressionModel,
    NeuralRegressor,
)


@pytest.fixture(scope="module")
def spark():
    builder = SparkSession.builder.master("local[2]").config("spark.jars", jar_path())
    session = builder.config("spark.ui.enabled", "false").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faces")


@pytest.fixture(scope="module")
def flights(spark, folder):
    """Numbers, lists and strings, one in seven of these NULL; as a frame of Spark's and as Parquet."""
    carriers = F.array(*[F.lit(c) for c in ("AA", "BB", "CC")])
    rows = spark.range(600, numPartitions=1).withColumn("distance", (F.col("id") % 37).cast("double"))
    rows = rows.withColumn("carrier", F.when(F.col("id") % 7 != 0, carriers[(F.col("id") % 3).cast("int")]))
    position = F.array((F.col("id") % 5).cast("float"), (F.col("id") % 11).cast("float"))
    late = (F.col("distance") > 18) != (F.coalesce(F.col("carrier"), F.lit("?")) == "BB")
    rows = rows.withColumn("position", position).withColumn("late", late.cast("long"))
    rows = rows.withColumn("minutes", F.col("distance") * 3 + 40.0)
    rows.write.parquet(str(folder / "flights"))
    return spark.read.parquet(str(folder / "flights"))


FEATURES = ["distance", "carrier", "position"]


def sql(folder, *statements):
    """The rows of the last statement."""
    command = [os.environ["FIRESTEEL_CLI"], "sql", "--format", "csv", "--quiet", "--models", "models"]
    table = "CREATE EXTERNAL TABLE flights STORED AS PARQUET LOCATION 'flights/'"
    for statement in (table, *statements):
        command += ["-c", statement]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = done.stdout[done.stdout.rfind("id,value\n") :]
    return list(csv.DictReader(io.StringIO(printed)))


def of_sql(folder, name, expression, *before):
    """A number a row, in the order of `id`."""
    query = f"SELECT id, {expression} AS value FROM flights ORDER BY id"
    rows = sql(folder, *before, query.replace("MODEL", f"'{name}', {', '.join(FEATURES)}"))
    return np.array([float(row["value"]) for row in rows])


def of_spark(frame, column):
    return np.array([row[0] for row in frame.orderBy("id").select(column).collect()])


def late(frame):
    return of_spark(frame, vector_to_array("probability")[1])


def test_sql_opens_what_spark_saved(flights, folder):
    classifier = NeuralClassifier(featuresCols=FEATURES, labelCol="late", epochs=5, batchSize=32, showProgress=False)
    model = classifier.fit(flights)
    model.save(str(folder / "of_spark"))
    expression = "nn_predict(MODEL)['predicted_late_probs']"
    query = f"CASE WHEN {expression}[1]['label'] = 1 THEN {expression}[1]['prob'] ELSE {expression}[2]['prob'] END"
    found = of_sql(folder, "of_spark", query, "CREATE MODEL of_spark FROM 'of_spark'")
    np.testing.assert_allclose(found, late(model.transform(flights)), rtol=0, atol=1e-7)
    assert found.std() > 0.1

    regressor = NeuralRegressor(featuresCols=FEATURES, labelCol="minutes", epochs=5, batchSize=32, showProgress=False)
    model = regressor.fit(flights)
    model.save(str(folder / "regressor"))
    found = of_sql(folder, "regressor", "nn_predict_value(MODEL)", "CREATE MODEL regressor FROM 'regressor'")
    assert np.array_equal(found, of_spark(model.transform(flights), "prediction"))


def made_in_sql(folder, name, label, model_type):
    options = f"model_type = '{model_type}', input_label_cols = ['{label}'], max_iterations = 5, batch_size = 32"
    return f"CREATE MODEL {name} OPTIONS ({options}) AS SELECT {', '.join([*FEATURES, label])} FROM flights"


def test_spark_opens_what_sql_exported(flights, folder):
    create = made_in_sql(folder, "of_sql", "late", "dnn_classifier")
    export = "EXPORT MODEL of_sql OPTIONS (uri = 'out', format = 'spark')"
    expression = "nn_predict(MODEL)['predicted_late_probs']"
    query = f"CASE WHEN {expression}[1]['label'] = 1 THEN {expression}[1]['prob'] ELSE {expression}[2]['prob'] END"
    expected = of_sql(folder, "of_sql", query, create, export)
    model = NeuralClassificationModel.load(str(folder / "out"))
    np.testing.assert_allclose(late(model.transform(flights)), expected, rtol=0, atol=1e-7)
    assert expected.std() > 0.1
    # As a stage among others, and saved again.
    PipelineModel([model]).save(str(folder / "pipeline"))
    again = PipelineModel.load(str(folder / "pipeline"))
    np.testing.assert_allclose(late(again.transform(flights)), expected, rtol=0, atol=1e-7)

    create = made_in_sql(folder, "minutes", "minutes", "dnn_regressor")
    export = "EXPORT MODEL minutes OPTIONS (uri = 'out_minutes', format = 'spark')"
    expected = of_sql(folder, "minutes", "nn_predict_value(MODEL)", create, export)
    model = NeuralRegressionModel.load(str(folder / "out_minutes"))
    assert np.array_equal(of_spark(model.transform(flights), "prediction"), expected)


def test_spark_treats_unusable_rows_as_sql_does(folder, flights):
    for on_null, handle_invalid in (("impute", "keep"), ("skip", "skip"), ("error", "error")):
        create = made_in_sql(folder, on_null, "minutes", "dnn_regressor").replace(")", f", on_null = '{on_null}')", 1)
        sql(folder, create, f"EXPORT MODEL {on_null} OPTIONS (uri = 'out_{on_null}', format = 'spark')")
        assert NeuralRegressionModel.load(str(folder / f"out_{on_null}")).getHandleInvalid() == handle_invalid


def test_onnxruntime_runs_what_sql_exported(flights, folder):
    create = made_in_sql(folder, "graph", "late", "dnn_classifier").replace("late FROM", "late = 1 AS late FROM")
    export = "EXPORT MODEL graph OPTIONS (uri = 'onnx', format = 'onnx')"
    expected = of_sql(folder, "graph", "nn_prob('graph', true, " + ", ".join(FEATURES) + ")", create, export)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["firesteel.classes"] == '["false","true"]'
    rows = flights.orderBy("id").toPandas()
    feeds = {
        "distance": rows["distance"].to_numpy(np.float32).reshape(-1, 1),
        "carrier": rows["carrier"].fillna(metadata["firesteel.null"]).to_numpy(object).reshape(-1, 1),
        "position": np.stack(rows["position"]).astype(np.float32),
    }
    found = session.run(["probabilities"], feeds)[0][:, 1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_date_cannot_leave_sql(flights, folder):
    create = (
        "CREATE MODEL dated OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['minutes'], max_iterations = 1) "
        "AS SELECT minutes, DATE '2026-01-01' + id::INT AS day FROM flights"
    )
    for target in ("onnx", "spark"):
        export = f"EXPORT MODEL dated OPTIONS (uri = 'dated', format = '{target}')"
        with pytest.raises(AssertionError, match="column 'day' is Date32"):
            sql(folder, create.replace("CREATE", "CREATE OR REPLACE"), export)
    assert not (folder / "dated").exists()
