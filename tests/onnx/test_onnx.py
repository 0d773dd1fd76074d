"""An exported model gives in onnxruntime what `firesteel predict` gives, from the same rows."""

import csv
import json
import os
import subprocess

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 300
TOLERANCE = 1e-5


class Trained:
    """A model that the command trained, its ONNX file, and what both say of some rows."""

    def __init__(self, folder, task, network, table, features, **params):
        self.folder = folder
        self.deviation = table["label"].to_numpy().std()
        data = {"features": [self._feature(f) for f in features]}
        if task != "reconstruction":
            data["label"] = "label"
        params = {"epochs": 3, "batch_size": 32, "learning_rate": 0.01, **params}
        config = {"task": task, "network": network, "params": params, "data": data}
        (folder / "config.json").write_text(json.dumps(config))
        pq.write_table(table, folder / "train.parquet")
        self._run("train", "--config", "config.json", "--data", "train.parquet", "--out", "model")
        self._run("export", "--model", "model", "--out", "model.onnx")
        self.session = onnxruntime.InferenceSession(folder / "model.onnx")

    @staticmethod
    def _feature(feature):
        return {"column": feature} if isinstance(feature, str) else {"column": feature[0], "shape": feature[1]}

    def _run(self, *arguments):
        command = [os.environ["FIRESTEEL_CLI"], *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def native(self, table):
        """Names of the outputs and `(rows, outputs)`."""
        pq.write_table(table, self.folder / "rows.parquet")
        lines = self._run("predict", "--model", "model", "--data", "rows.parquet").splitlines()
        names, *rows = csv.reader(lines)
        return names, np.array(rows, dtype=np.float64)

    def feeds(self, table):
        """The columns as a caller gives them: NULL is NaN, or the text that the file names."""
        null = self.session.get_modelmeta().custom_metadata_map.get("firesteel.null")
        feeds = {}
        for value in self.session.get_inputs():
            column = table[value.name].to_pylist()
            if value.type == "tensor(string)":
                texts = [null if text is None else text for text in column]
                feeds[value.name] = np.array(texts, dtype=object).reshape(-1, 1)
            else:
                rows = [np.broadcast_to(np.nan if row is None else row, value.shape[1]) for row in column]
                feeds[value.name] = np.array(rows, dtype=np.float32)
        return feeds

    def compare(self, table):
        """The largest difference, of a regression's in the label's deviations, of a reconstruction's in its losses."""
        names, native = self.native(table)
        values = self.session.run(None, self.feeds(table))
        outputs = {o.name: v for o, v in zip(self.session.get_outputs(), values, strict=True)}
        if names == ["prediction"]:
            assert outputs["prediction"].shape == (len(table),)
            return np.abs(outputs["prediction"] - native[:, 0]).max() / self.deviation
        if names[0] == "loss":
            assert outputs["reconstruction"].shape[0] == len(table)
            return np.abs(outputs["reconstruction_loss"] - native[:, 0]).max()
        assert outputs["prediction"].dtype == np.int64
        ranked = np.sort(native[:, 1:])
        clear = ranked[:, -1] - ranked[:, -2] > 2 * TOLERANCE
        assert clear.mean() > 0.9
        assert (outputs["prediction"] == native[:, 0])[clear].all()
        assert outputs["probabilities"].shape == native[:, 1:].shape
        return np.abs(outputs["probabilities"] - native[:, 1:]).max()

    def check(self, table):
        file = (self.folder / "model.onnx").read_bytes()
        model = onnx.load_from_string(file)
        onnx.checker.check_model(model, full_check=True)
        # A tag that onnx.proto has not would come back elsewhere.
        assert model.SerializeToString() == file
        assert [i.name for i in model.graph.input] == [i.name for i in self.session.get_inputs()]
        for rows in [table, table.slice(0, 1), table.slice(3, 17)]:
            assert self.compare(rows) < TOLERANCE
        # The predictions are not all the same: the comparison could have failed.
        assert self.native(table)[1][:, -1].std() > 1e-3


def flights(rows=ROWS, seed=1):
    """Numbers far from 0, strings of which some are NULL, and labels that follow from both."""
    random = np.random.default_rng(seed)
    distance, minute = random.integers(100, 3000, rows), random.uniform(1.7e6, 1.7e6 + 900, rows)
    carrier = random.choice(["AA", "BB", "ÇÇ", "D D", None], rows, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    origin = random.choice(["", "JFK", None], rows)
    late = (distance > 1500).astype(int) + (carrier == "BB")
    columns = {
        "distance": distance,
        "carrier": pa.array(carrier, pa.string()),
        "minute": np.float32(minute),
        "origin": pa.array(origin, pa.string()),
        "late": pa.array([None if i % 9 == 0 else i % 2 == 0 for i in range(rows)]),
        "label": late,
    }
    return pa.table(columns)


def images(shape, rows=60, classes=3, seed=2):
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    pixels = random.normal(0, 40, (rows, int(np.prod(shape)))) + 30 * label[:, None]
    return pa.table({"pixels": pa.array(list(np.float32(pixels))), "label": label})


def new_strings(table):
    """The same rows, some with a string that training did not see."""
    texts = ["new" if i % 5 == 0 else text for i, text in enumerate(table["carrier"].to_pylist())]
    return table.set_column(table.column_names.index("carrier"), "carrier", pa.array(texts, pa.string()))


TABULAR = {"tabular": {"hidden": [16, 8], "dropout": 0.1}}


def test_strings_nulls_and_unknown_ones(tmp_path):
    table = flights()
    model = Trained(tmp_path, "classification", TABULAR, table, ["carrier", "distance", "minute"])
    model.check(table)
    model.check(new_strings(table))
    assert model.session.get_modelmeta().custom_metadata_map["firesteel.null"] == ""


def test_an_empty_string_is_not_null(tmp_path):
    table = flights()
    model = Trained(tmp_path, "classification", TABULAR, table, ["distance", "origin", "carrier"])
    model.check(table)
    null = model.session.get_modelmeta().custom_metadata_map["firesteel.null"]
    assert null == "NULL"
    feeds = model.feeds(table)
    empty, missing = (
        model.session.run(["probabilities"], feeds | {"origin": np.full((ROWS, 1), text, dtype=object)})[0]
        for text in ("", null)
    )
    assert np.abs(empty - missing).max() > 1e-3


def test_one_logit_gives_two_probabilities(tmp_path):
    table = flights()
    table = table.set_column(5, "label", pa.array(np.minimum(table["label"].to_numpy(), 1)))
    features, loss = ["carrier", "distance"], "binary_cross_entropy"
    Trained(tmp_path, "classification", TABULAR, table, features, loss=loss).check(new_strings(table))


def test_wide_and_deep(tmp_path):
    table = flights()
    network = {"wide_and_deep": {"hidden": [16, 8], "activation": "tanh"}}
    model = Trained(tmp_path, "classification", network, table, ["carrier", "distance", "minute"])
    model.check(table)
    model.check(new_strings(table))


def test_an_autoencoder_of_numbers_strings_and_vectors(tmp_path):
    table = flights()
    pixels = images([2, 3, 3], rows=ROWS)["pixels"]
    table = table.append_column("pixels", pixels)
    network = {"autoencoder": {"hidden": [16, 4, 16], "activation": "gelu"}}
    features = ["carrier", "distance", ("pixels", [2, 3, 3]), "minute"]
    model = Trained(tmp_path, "reconstruction", network, table, features)
    model.check(table)
    model.check(new_strings(table))


@pytest.mark.parametrize("standardization", ["auto", "none"])
def test_a_regression_of_numbers_with_nulls(tmp_path, standardization):
    table = flights()
    values = [None if i % 7 == 0 else float("nan") if i % 11 == 0 else float(i % 37) for i in range(ROWS)]
    label = pa.array([5e2 + 100.0 * (i % 37) + (v or 0) for i, v in enumerate(table["distance"].to_pylist())])
    table = table.append_column("part", pa.array(values)).set_column(5, "label", label)
    network = {"mlp": {"hidden": [24, 12], "activation": "tanh"}}
    params = {"handle_invalid": "keep", "standardization": standardization, "loss": "huber", "learning_rate": 1e-3}
    model = Trained(tmp_path, "regression", network, table, ["part", "late", "distance"], **params)
    model.check(table)
    infinite = table.set_column(6, "part", pa.array([np.inf, -np.inf, 3.0] * (ROWS // 3)))
    model.check(infinite)


def test_lenet5(tmp_path):
    table = images([1, 28, 28])
    Trained(tmp_path, "classification", "lenet5", table, [("pixels", [1, 28, 28])]).check(table)


def test_vectors_with_nulls(tmp_path):
    table = images([5])
    pixels = [None if i % 6 == 0 else v for i, v in enumerate(table["pixels"].to_pylist())]
    table = table.set_column(0, "pixels", pa.array(pixels, pa.list_(pa.float32())))
    network = {"mlp": {"hidden": [8], "activation": "sigmoid"}}
    Trained(tmp_path, "classification", network, table, ["pixels"], handle_invalid="keep").check(table)


def test_every_layer_of_a_sequence(tmp_path):
    layers = [
        {"conv2d": {"outputs": 8, "kernel": [3, 2], "stride": [1, 2], "padding": [1, 0], "groups": 2}},
        {"batch_norm": {"epsilon": 1e-3}},
        "gelu",
        {"avg_pool2d": {"kernel": [3, 3], "stride": [2, 1], "padding": [1, 1]}},
        {"conv2d": {"outputs": 6, "kernel": [1, 1], "bias": False}},
        {"layer_norm": {"epsilon": 1e-4}},
        "tanh",
        {"max_pool2d": {"kernel": [2, 3], "stride": [1, 2], "padding": [1, 1]}},
        {"dropout": {"rate": 0.2}},
        "flatten",
        {"linear": {"outputs": 20, "bias": False}},
        {"batch_norm": {}},
        "sigmoid",
        {"linear": {"outputs": 12}},
        {"layer_norm": {}},
        "gelu",
        "relu",
    ]
    table = images([4, 9, 10], rows=120)
    network = {"sequential": {"layers": layers}}
    Trained(tmp_path, "classification", network, table, [("pixels", [4, 9, 10])]).check(table)


def test_a_graph_with_branches(tmp_path):
    """Two tables over one column, sums, joins and a last layer that is no vector."""
    table = images([2, 4, 4])
    carrier = pa.array([["AA", "BB", None][i % 3] for i in range(len(table))])
    table = table.append_column("carrier", carrier)
    layer = lambda name, op, *inputs: {"name": name, "inputs": list(inputs), "op": op}  # noqa: E731
    spec = {
        "version": 1,
        "inputs": [
            {"name": "pixels", "kind": {"dense": {"shape": [2, 4, 4]}}},
            {"name": "carrier", "kind": {"index": {"cardinality": 4}}},
        ],
        "layers": [
            layer("conv", {"conv2d": {"outputs": 2, "kernel": [3, 3], "padding": [1, 1]}}, "pixels"),
            layer("sum", "add", "conv", "pixels", "conv"),
            layer("both", "concat", "sum", "pixels"),
            layer("flat", "flatten", "both"),
            layer("wide", {"embedding": {"dims": 3}}, "carrier"),
            layer("narrow", {"embedding": {"dims": 2}}, "carrier"),
            layer("all", "concat", "flat", "wide", "narrow"),
            layer("head", {"linear": {"outputs": 3}}, "all"),
        ],
    }
    features = [("pixels", [2, 4, 4]), "carrier"]
    Trained(tmp_path, "classification", {"spec": spec}, table, features).check(table)
