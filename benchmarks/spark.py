"""What Spark adds, and Spark's own network beside ours.

Trains the MLP 784-512-256-10 (batch 256) on the same rows three ways, alternately, in one run:

* ``native``: the ``firesteel`` command, no JVM;
* ``spark``: ``NeuralClassifier`` in the tasks of a job on ``local[N]``;
* ``mllib``: Spark's ``MultilayerPerceptronClassifier`` with the same layers (sigmoid inside, full batches).

``native`` and ``spark`` report the steady samples/s of their epochs, the first left out. MLlib reports nothing, so its
rate is the rows of the extra passes of a longer fit over the extra time: loading and conversion cancel out. Its
solver is ``gd``, which makes exactly one pass an iteration.

Run by ``make bench``; writes ``results/spark.md`` and ``results/spark.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import write_results
from pyspark.ml.classification import MultilayerPerceptronClassifier
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession

from firesteel import jar_path
from firesteel.ml import NeuralClassifier
from firesteel.network import Mlp

HIDDEN = (512, 256)
FEATURES, CLASSES, BATCH = 784, 10, 256
MLLIB_PASSES = (2, 8)


def main() -> None:
    """Runs the comparison and writes its table."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="firesteel-bench-") as folder:
        data = Path(folder) / "rows.parquet"
        write_rows(data, options.rows)
        spark = session(options.workers)
        try:
            rates = measure(spark, data, options)
        finally:
            spark.stop()
    report(rates, options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--firesteel", required=True, help="path of the firesteel command")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rows", type=int, default=25_600)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def write_rows(path: Path, rows: int) -> None:
    """Random images with a learnable label, as a list column, so that no reader is favoured."""
    rng = np.random.default_rng(7)
    pixels = rng.random((rows, FEATURES), dtype=np.float32)
    label = (pixels @ rng.standard_normal((FEATURES, CLASSES))).argmax(axis=1).astype(np.float64)
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), FEATURES).cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({"pixels": column, "label": label}), path, row_group_size=rows // 4)


def session(workers: int) -> SparkSession:
    """A local session with one slot a worker."""
    builder = SparkSession.builder.master(f"local[{workers}]").appName("firesteel-bench")
    builder = builder.config("spark.jars", jar_path()).config("spark.driver.memory", "6g")
    builder = builder.config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
    builder = builder.config("spark.sql.shuffle.partitions", workers)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def measure(spark: SparkSession, data: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Samples/s of each side, a value a round."""
    frame = spark.read.parquet(str(data)).repartition(options.workers).cache()
    vectors = frame.select("label", array_to_vector("pixels").alias("features")).cache()
    frame.count()
    vectors.count()
    rates: dict[str, list[float]] = {"native": [], "spark": [], "mllib": []}
    for round_number in range(options.rounds + 1):
        found = {
            "native": native_rate(data, options),
            "spark": spark_rate(frame, options),
            "mllib": mllib_rate(vectors, options.rows),
        }
        print(f"round {round_number}: " + ", ".join(f"{k} {v:,.0f}" for k, v in found.items()), flush=True)
        if round_number > 0:  # the first round warms the JVM and the page cache
            for side, rate in found.items():
                rates[side].append(rate)
    return rates


def native_rate(data: Path, options: argparse.Namespace) -> float:
    """The engine without Spark, as many workers as the job has."""
    config = {
        "task": "classification",
        "data": {"features": [{"column": "pixels"}], "label": "label"},
        "network": json.loads(Mlp(*HIDDEN).to_json()),
        "params": {
            "epochs": options.epochs,
            "batch_size": BATCH,
            "optimizer": "sgd",
            "learning_rate": 0.01,
        },
    }
    folder = Path(tempfile.mkdtemp(prefix="firesteel-native-"))
    try:
        (folder / "config.json").write_text(json.dumps(config))
        command = [options.firesteel, "train", "--config", folder / "config.json", "--data", data]
        command += ["--out", folder / "model", "--workers", str(options.workers), "--threads", "1"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        history = json.loads((folder / "model" / "history.json").read_text())
    finally:
        shutil.rmtree(folder)
    return steady(history)


def spark_rate(frame: DataFrame, options: argparse.Namespace) -> float:
    """The same training in the tasks of a Spark job."""
    classifier = NeuralClassifier(
        featuresCol="pixels",
        network=Mlp(*HIDDEN),
        epochs=options.epochs,
        batchSize=BATCH,
        optimizer="sgd",
        learningRate=0.01,
        numWorkers=options.workers,
    )
    return steady(classifier.fit(frame).history)


def steady(history: list[dict]) -> float:
    """The median samples/s of all epochs but the first."""
    return statistics.median(epoch["samples_per_second"] for epoch in history[1:])


def mllib_rate(vectors: DataFrame, rows: int) -> float:
    """Rows of the extra passes of a longer fit over the extra time."""
    seconds = []
    for passes in MLLIB_PASSES:
        classifier = MultilayerPerceptronClassifier(
            layers=[FEATURES, *HIDDEN, CLASSES], solver="gd", stepSize=0.01, maxIter=passes, tol=0.0, seed=1
        )
        start = time.perf_counter()
        classifier.fit(vectors)
        seconds.append(time.perf_counter() - start)
    return rows * (MLLIB_PASSES[1] - MLLIB_PASSES[0]) / (seconds[1] - seconds[0])


def report(rates: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Prints the table and writes it as Markdown and JSON."""
    median = {side: statistics.median(values) for side, values in rates.items()}
    pairs = {
        "spark / native": [s / n for s, n in zip(rates["spark"], rates["native"], strict=True)],
        "spark / mllib": [s / m for s, m in zip(rates["spark"], rates["mllib"], strict=True)],
    }
    lines = [
        f"MLP 784-512-256-10, batch {BATCH}, {options.rows:,} rows, {options.workers} workers of one thread, "
        f"median of {options.rounds} alternating rounds.",
        "",
        "| side | samples/s |",
        "| --- | ---: |",
        *(f"| {side} | {rate:,.0f} |" for side, rate in median.items()),
        "",
        "| ratio | median | range |",
        "| --- | ---: | ---: |",
        *(f"| {k} | {statistics.median(v):.2f} | {min(v):.2f}–{max(v):.2f} |" for k, v in pairs.items()),
        "",
    ]
    details = {"rates": rates, "ratios": pairs, "rows": options.rows, "machine": platform.platform()}
    write_results(options.results, "spark", lines, details)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
