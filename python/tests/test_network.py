import json

from firesteel.network import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Lenet5,
    Linear,
    MaxPool2d,
    Mlp,
    Relu,
    Sequential,
    Tabular,
)


def test_presets_write_the_json_of_the_engine():
    assert json.loads(Mlp(512, 256).to_json()) == {
        "mlp": {"hidden": [512, 256], "activation": "relu", "dropout": 0.0}
    }
    assert json.loads(Lenet5().to_json()) == "lenet5"
    tabular = json.loads(Tabular(64, embedding_dims=8, dropout=0.1).to_json())
    assert tabular == {"tabular": {"hidden": [64], "embedding_dims": 8, "dropout": 0.1}}


def test_layers_stand_in_their_order():
    network = Sequential(
        Conv2d(8, 3, padding=1),
        BatchNorm(),
        Relu(),
        MaxPool2d(2),
        AvgPool2d((2, 1), stride=1),
        Flatten(),
        Dropout(0.5),
        Linear(10, bias=False),
    )
    layers = json.loads(network.to_json())["sequential"]["layers"]
    assert layers[0] == {
        "conv2d": {
            "outputs": 8,
            "kernel": [3, 3],
            "stride": [1, 1],
            "padding": [1, 1],
            "groups": 1,
            "bias": True,
        }
    }
    assert layers[3] == {"max_pool2d": {"kernel": [2, 2], "padding": [0, 0]}}
    assert layers[4] == {"avg_pool2d": {"kernel": [2, 1], "padding": [0, 0], "stride": [1, 1]}}
    assert layers[5] == "flatten"
    assert layers[7] == {"linear": {"outputs": 10, "bias": False}}
