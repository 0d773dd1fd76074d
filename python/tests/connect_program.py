"""What a client of Spark Connect does; `test_connect.py` runs it in a process of its own."""

import sys

from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from firesteel import jar_path
from firesteel.ml import NeuralClassifier
from firesteel.network import Tabular


def main(path: str) -> None:
    spark = SparkSession.builder.remote("local[2]").config("spark.jars", jar_path()).getOrCreate()
    assert type(spark).__module__.startswith("pyspark.sql.connect"), type(spark)
    words = F.when(F.col("id") % 3 != 0, F.concat(F.lit("w"), F.col("id") % 3))
    rows = spark.range(0, 1200, 1, 2).select("id", (F.col("id") % 37).alias("number"), words.alias("word"))
    rows = rows.withColumn("label", ((F.col("number") > 18) != (F.col("word") == "w1")).cast("double"))
    rows = rows.fillna(0.0, ["label"])

    classifier = NeuralClassifier(featuresCols=["number", "word"], network=Tabular(16), learningRate=0.02)
    assert classifier.getMaxRetries() == 2 and classifier.getNumWorkers() == 0
    assert (classifier.getEpochs(), classifier.getOptimizer()) == (10, "adam")
    fitted = Pipeline(stages=[classifier.setEpochs(20).setBatchSize(64)]).fit(rows)
    fitted.write().overwrite().save(path)
    loaded = PipelineModel.load(path)
    for model in (fitted, loaded):
        right = model.transform(rows).where("prediction = label").count()
        assert right > 1100, right
    losses = fitted.stages[0].summary.objectiveHistory
    assert len(losses) == 20 and losses[-1] < losses[0], losses
    try:
        _ = fitted.stages[0].history
    except NotImplementedError as e:
        assert "save the model" in str(e)
    else:
        raise AssertionError("history must be refused")
    print("all as it should be")


if __name__ == "__main__":
    main(sys.argv[1])
