"""Networks, built layer by layer or taken from a preset.

A network knows neither its inputs nor the number of classes: both come from the data when an estimator
is fitted. :class:`Sequential` gets its head, a linear layer to the number of outputs, then too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = [
    "Network",
    "Mlp",
    "Lenet5",
    "Tabular",
    "Sequential",
    "Linear",
    "Conv2d",
    "MaxPool2d",
    "AvgPool2d",
    "Flatten",
    "Relu",
    "Tanh",
    "Sigmoid",
    "Gelu",
    "Dropout",
    "BatchNorm",
    "LayerNorm",
]


class Network:
    """What the engine is asked to build, as the JSON that every face of Firesteel writes."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def to_json(self) -> str:
        """The JSON that the estimator's ``network`` param holds."""
        return json.dumps(self._value)

    def __repr__(self) -> str:
        return f"Network({self.to_json()})"


class Layer:
    """One operation of a :class:`Sequential`."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"Layer({json.dumps(self._value)})"


def Mlp(*hidden: int, activation: str = "relu", dropout: float = 0.0) -> Network:
    """Hidden linear layers of these widths, an activation (relu, tanh, sigmoid, gelu) behind each."""
    return Network({"mlp": {"hidden": list(hidden), "activation": activation, "dropout": dropout}})


def Lenet5() -> Network:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling, for images of 28×28 or 32×32."""
    return Network("lenet5")


def Tabular(*hidden: int, embedding_dims: int = 0, dropout: float = 0.0) -> Network:
    """An embedding for each string column, joined with all numbers, then hidden layers of these widths.

    Without widths there are two layers, of 128 and 64. ``embedding_dims`` 0 chooses an embedding's width by
    cardinality.
    """
    options = {"hidden": list(hidden or (128, 64)), "embedding_dims": embedding_dims, "dropout": dropout}
    return Network({"tabular": options})


def Sequential(*layers: Layer) -> Network:
    """Layers one behind the other; the head is added when the estimator is fitted."""
    return Network({"sequential": {"layers": [layer._value for layer in layers]}})


def Linear(outputs: int, bias: bool = True) -> Layer:
    """x·Wᵀ + b."""
    return Layer({"linear": {"outputs": outputs, "bias": bias}})


def Conv2d(
    outputs: int,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    bias: bool = True,
) -> Layer:
    """Cross-correlation over (channels, height, width), as in PyTorch."""
    options = {"stride": _pair(stride), "padding": _pair(padding), "groups": groups, "bias": bias}
    return Layer({"conv2d": {"outputs": outputs, "kernel": _pair(kernel), **options}})


def MaxPool2d(
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
) -> Layer:
    """The largest value of each window; ``stride`` is the kernel when absent."""
    return Layer({"max_pool2d": _pool(kernel, stride, padding)})


def AvgPool2d(
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
) -> Layer:
    """The mean of each window; ``stride`` is the kernel when absent."""
    return Layer({"avg_pool2d": _pool(kernel, stride, padding)})


def Flatten() -> Layer:
    """Any shape to one axis."""
    return Layer("flatten")


def Relu() -> Layer:
    """max(x, 0)."""
    return Layer("relu")


def Tanh() -> Layer:
    """The hyperbolic tangent."""
    return Layer("tanh")


def Sigmoid() -> Layer:
    """The logistic function."""
    return Layer("sigmoid")


def Gelu() -> Layer:
    """x·Φ(x)."""
    return Layer("gelu")


def Dropout(rate: float) -> Layer:
    """Zeroes a value with this probability while training."""
    return Layer({"dropout": {"rate": rate}})


def BatchNorm(epsilon: float = 1e-5, momentum: float = 0.1) -> Layer:
    """Standardises each feature or channel over the batch (Ioffe & Szegedy 2015)."""
    return Layer({"batch_norm": {"epsilon": epsilon, "momentum": momentum}})


def LayerNorm(epsilon: float = 1e-5) -> Layer:
    """Standardises each sample over its last axis (Ba et al. 2016)."""
    return Layer({"layer_norm": {"epsilon": epsilon}})


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _pool(
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
) -> dict[str, Any]:
    options: dict[str, Any] = {"kernel": _pair(kernel), "padding": _pair(padding)}
    if stride is not None:
        options["stride"] = _pair(stride)
    return options
