"""LeNet-5 learns to read handwritten digits: the 60,000 images of MNIST as a column of arrays.

spark-submit --jars firesteel.jar --py-files firesteel.whl digits.py [folder with MNIST's four files]
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import DataFrame, SparkSession

from firesteel.ml import NeuralClassifier
from firesteel.network import Lenet5


def images(spark: SparkSession, folder: Path, part: str) -> DataFrame:
    """`pixels`, from 0 to 1, row by row, and the `digit` they show."""
    pixels = np.fromfile(folder / f"{part}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28 * 28)  # behind the header
    labels = np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8)[8:]
    columns = {"pixels": list(pixels.astype("float32") / 255), "digit": labels.astype("float64")}
    return spark.createDataFrame(pa.table(columns)).repartition(8)


def main() -> None:
    spark = SparkSession.builder.appName("digits").getOrCreate()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else cache / "firesteel/data/mnist"
    train = images(spark, folder, "train").cache()
    test = images(spark, folder, "t10k")
    print(f"{train.count()} images to learn from", flush=True)

    classifier = NeuralClassifier(
        featuresCol="pixels",
        inputShape=[1, 28, 28],  # channels, height, width
        labelCol="digit",
        network=Lenet5(),
        standardization="per_column",  # one mean for all pixels, as many are always black
        epochs=5,
        batchSize=128,
        learningRate=2e-3,
        schedule="cosine",
        seed=1,
    )
    start = time.perf_counter()
    model = classifier.fit(train)
    seconds = time.perf_counter() - start
    evaluator = MulticlassClassificationEvaluator(labelCol="digit", metricName="accuracy")
    accuracy = evaluator.evaluate(model.transform(test))
    print(f"test accuracy {accuracy:.2%}, trained in {seconds:.1f} s")
    spark.stop()


if __name__ == "__main__":
    main()
