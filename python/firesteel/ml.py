"""Neural networks as ``pyspark.ml`` stages.

The classes wrap those of the Scala package of the same name, as ``pyspark.ml`` wraps Spark's own: a model
saved here loads there and the other way round, and pipelines, cross-validation and Spark Connect work.
"""

from __future__ import annotations

import difflib
import inspect
import json
from typing import Any

from pyspark import keyword_only
from pyspark.ml.classification import _JavaProbabilisticClassificationModel, _JavaProbabilisticClassifier
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasValidationIndicatorCol, HasWeightCol
from pyspark.ml.regression import _JavaRegressionModel, _JavaRegressor
from pyspark.ml.util import HasTrainingSummary, JavaMLReadable, JavaMLWritable, _jvm
from pyspark.ml.wrapper import JavaWrapper
from pyspark.sql import DataFrame
from pyspark.sql.utils import is_remote

from firesteel._params import _NeuralParams, _NeuralParamSetters
from firesteel.jars import check_jar
from firesteel.network import Network, Tabular

__all__ = [
    "NeuralClassifier",
    "NeuralClassificationModel",
    "NeuralRegressor",
    "NeuralRegressionModel",
    "NeuralTrainingSummary",
]


class _ColumnParams(_NeuralParams, HasWeightCol):
    """What to read: params of estimators and models."""

    featuresCols: Param[list[str]] = Param(
        Params._dummy(),
        "featuresCols",
        "columns to learn from: numbers, booleans, strings, arrays and vectors as they are; "
        "instead of featuresCol",
        typeConverter=TypeConverters.toListString,
    )
    inputShape: Param[list[int]] = Param(
        Params._dummy(),
        "inputShape",
        "shape of one sample of the array or vector column, for example [1, 28, 28]",
        typeConverter=TypeConverters.toListInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(featuresCols=[], inputShape=[])

    def getFeaturesCols(self) -> list[str]:
        """Gets the value of featuresCols."""
        return self.getOrDefault(self.featuresCols)

    def getInputShape(self) -> list[int]:
        """Gets the value of inputShape."""
        return self.getOrDefault(self.inputShape)


class _JobParams(_ColumnParams, _NeuralParamSetters, HasValidationIndicatorCol):
    """What to train and where to run: params of estimators alone."""

    network: Param[str] = Param(
        Params._dummy(),
        "network",
        "the network, from firesteel.network or as JSON",
        typeConverter=lambda value: value.to_json() if isinstance(value, Network) else _json(value),
    )
    numWorkers: Param[int] = Param(
        Params._dummy(),
        "numWorkers",
        "tasks that train together; 0 takes as many as can run at once, but at most one for every 32 rows "
        "of a batch",
        typeConverter=TypeConverters.toInt,
    )
    checkpointDir: Param[str] = Param(
        Params._dummy(),
        "checkpointDir",
        "where to keep checkpoints, any Hadoop path; empty keeps none",
        typeConverter=TypeConverters.toString,
    )
    maxRetries: Param[int] = Param(
        Params._dummy(),
        "maxRetries",
        "how often to start again after a worker was lost: from the last checkpoint where there is a "
        "checkpointDir, else from the first epoch",
        typeConverter=TypeConverters.toInt,
    )
    showProgress: Param[bool] = Param(
        Params._dummy(),
        "showProgress",
        "whether the driver prints a line an epoch",
        typeConverter=TypeConverters.toBoolean,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # The same as on the Scala side; Spark Connect has nothing to ask there.
        self._setDefault(
            network=Tabular().to_json(),
            numWorkers=0,
            weightCol="",
            validationIndicatorCol="",
            checkpointDir="",
            maxRetries=2,
            showProgress=True,
        )

    def getNetwork(self) -> str:
        """Gets the value of network, as JSON."""
        return self.getOrDefault(self.network)

    def getNumWorkers(self) -> int:
        """Gets the value of numWorkers."""
        return self.getOrDefault(self.numWorkers)

    def getCheckpointDir(self) -> str:
        """Gets the value of checkpointDir."""
        return self.getOrDefault(self.checkpointDir)

    def getMaxRetries(self) -> int:
        """Gets the value of maxRetries."""
        return self.getOrDefault(self.maxRetries)

    def getShowProgress(self) -> bool:
        """Gets the value of showProgress."""
        return self.getOrDefault(self.showProgress)


def _json(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"network is a {type(value).__name__}, expected one of firesteel.network or a JSON string"
        )
    try:
        json.loads(value)
    except json.JSONDecodeError as e:
        raise ValueError(
            f"network is {value!r}, which is not JSON; it takes one of firesteel.network, for example "
            'Lenet5() or Mlp(512, 256), or its JSON, for example \'{"mlp": {"hidden": [512, 256]}}\''
        ) from e
    return value


_TYPES: dict[Any, Any] = {
    TypeConverters.toInt: int,
    TypeConverters.toFloat: float,
    TypeConverters.toBoolean: bool,
    TypeConverters.toString: str,
    TypeConverters.toListString: list[str],
    TypeConverters.toListInt: list[int],
    TypeConverters.toListFloat: list[float],
}


class _Default:
    """A param that is not given has its own default."""

    def __repr__(self) -> str:
        return "..."


# What a reader looks for first; the others follow by name.
_FIRST = [
    "featuresCols",
    "featuresCol",
    "inputShape",
    "labelCol",
    "network",
    "epochs",
    "batchSize",
    "learningRate",
]


def _signature(params: list[Param], returns: str | None) -> inspect.Signature:
    """Keyword arguments for these params, as ``help`` and notebooks show them."""
    rank = {name: place for place, name in enumerate(_FIRST)}
    arguments = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for param in sorted(params, key=lambda p: (rank.get(p.name, len(_FIRST)), p.name)):
        kind = Network | str if param.name == "network" else _TYPES.get(param.typeConverter, Any)
        arguments.append(
            inspect.Parameter(param.name, inspect.Parameter.KEYWORD_ONLY, default=_Default(), annotation=kind)
        )
    return inspect.Signature(arguments, return_annotation=returns)


class _Stored(JavaMLWritable, JavaMLReadable):
    """What is saved and loaded."""

    @classmethod
    def read(cls) -> Any:
        """What loads it."""
        if not is_remote():
            check_jar(_jvm())
        return super().read()


class _Estimator(_JobParams, _Stored):
    """What both estimators share."""

    _java_class: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        params = [p for p in (getattr(cls, name, None) for name in dir(cls)) if isinstance(p, Param)]
        cls.__init__.__signature__ = _signature(params, None)
        cls.setParams.__signature__ = _signature(params, cls.__name__)

    def _start(self, given: dict[str, Any]) -> None:
        if not is_remote():
            check_jar(_jvm())
        self._java_obj = self._new_java_obj(self._java_class, self.uid)
        self._take_defaults()
        self._set_checked(given)

    def _take_defaults(self) -> None:
        """Takes the Scala side's defaults over ours."""
        if self._java_obj is None or not hasattr(self._java_obj, "hasDefault"):
            return
        self._transfer_params_from_java()

    def _set_checked(self, given: dict[str, Any]) -> Any:
        for name in given:
            if not self.hasParam(name):
                near = difflib.get_close_matches(name, [p.name for p in self.params], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}{hint}")
        return self._set(**given)

    def setFeaturesCol(self, value: str) -> Any:
        """Sets the value of :py:attr:`featuresCol`."""
        return self._set(featuresCol=value)

    def setFeaturesCols(self, value: list[str]) -> Any:
        """Sets the value of :py:attr:`featuresCols`."""
        return self._set(featuresCols=value)

    def setInputShape(self, value: list[int]) -> Any:
        """Sets the value of :py:attr:`inputShape`."""
        return self._set(inputShape=value)

    def setNetwork(self, value: Network | str) -> Any:
        """Sets the value of :py:attr:`network`."""
        return self._set(network=value)

    def setNumWorkers(self, value: int) -> Any:
        """Sets the value of :py:attr:`numWorkers`."""
        return self._set(numWorkers=value)

    def setWeightCol(self, value: str) -> Any:
        """Sets the value of :py:attr:`weightCol`."""
        return self._set(weightCol=value)

    def setValidationIndicatorCol(self, value: str) -> Any:
        """Sets the value of :py:attr:`validationIndicatorCol`."""
        return self._set(validationIndicatorCol=value)

    def setCheckpointDir(self, value: str) -> Any:
        """Sets the value of :py:attr:`checkpointDir`."""
        return self._set(checkpointDir=value)

    def setMaxRetries(self, value: int) -> Any:
        """Sets the value of :py:attr:`maxRetries`."""
        return self._set(maxRetries=value)

    def setShowProgress(self, value: bool) -> Any:
        """Sets the value of :py:attr:`showProgress`."""
        return self._set(showProgress=value)


class NeuralTrainingSummary(JavaWrapper):
    """What is told of a training, through Spark Connect too."""

    @property
    def objectiveHistory(self) -> list[float]:
        """The training loss of each epoch."""
        return list(self._call_java("objectiveHistory"))

    @property
    def totalIterations(self) -> int:
        """Epochs behind the first, as Spark counts iterations."""
        return self._call_java("totalIterations")


class _Fitted(_ColumnParams, HasTrainingSummary[NeuralTrainingSummary], _Stored):
    """What both models share."""

    @property
    def _summaryCls(self) -> type:
        return NeuralTrainingSummary

    def _summary_dataset(self, train_dataset: DataFrame) -> DataFrame:
        return train_dataset

    def setFeaturesCols(self, value: list[str]) -> Any:
        """Sets the value of :py:attr:`featuresCols`: the same features under other names."""
        return self._set(featuresCols=value)

    def setHandleInvalid(self, value: str) -> Any:
        """Sets what becomes of a row with an unusable feature: error, skip or keep."""
        return self._set(handleInvalid=value)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict an epoch: epoch, step, loss, validation loss and metric, samples a second."""
        return self._read("historyJson")

    @property
    def spec(self) -> dict[str, Any]:
        """The network's spec, with the inputs and the head that fitting gave it."""
        return self._read("specJson")

    def _read(self, method: str) -> Any:
        if is_remote():
            raise NotImplementedError(
                "Spark Connect shows its clients only what Spark's own models have: the losses of a model "
                "that was just fitted are in summary.objectiveHistory; for all of its history and its spec, "
                "save the model and load it in a session without Connect"
            )
        return json.loads(self._call_java(method))


class NeuralClassifier(_JavaProbabilisticClassifier, _Estimator):
    """Trains a neural network to classify, in the tasks of a Spark job.

    ``featuresCols`` takes columns as they are: numbers are standardised, strings get learned embeddings,
    arrays and vectors become tensors. The label is a number 0, 1, …, k−1.

    >>> from firesteel.network import Tabular
    >>> classifier = NeuralClassifier(
    ...     featuresCols=["distance", "carrier"], labelCol="late", network=Tabular(128, 64), epochs=5)
    >>> model = classifier.fit(train)
    """

    _java_class = "firesteel.ml.NeuralClassifier"

    @keyword_only
    def __init__(self, **params: Any) -> None:
        """All params by name; help() lists them."""
        super().__init__()
        self._start(self._input_kwargs)

    @keyword_only
    def setParams(self, **params: Any) -> NeuralClassifier:
        """Sets several params at once."""
        return self._set_checked(self._input_kwargs)

    def _create_model(self, java_model: Any) -> NeuralClassificationModel:
        return NeuralClassificationModel(java_model)


class NeuralClassificationModel(_JavaProbabilisticClassificationModel, _Fitted):
    """A network fitted by :class:`NeuralClassifier`."""


class NeuralRegressor(_JavaRegressor, _Estimator):
    """Trains a neural network to predict a number, in the tasks of a Spark job.

    Columns are taken as by :class:`NeuralClassifier`. The label is standardised while training; predictions
    are in the label's own unit.
    """

    _java_class = "firesteel.ml.NeuralRegressor"

    @keyword_only
    def __init__(self, **params: Any) -> None:
        """All params by name; help() lists them."""
        super().__init__()
        self._start(self._input_kwargs)

    @keyword_only
    def setParams(self, **params: Any) -> NeuralRegressor:
        """Sets several params at once."""
        return self._set_checked(self._input_kwargs)

    def _create_model(self, java_model: Any) -> NeuralRegressionModel:
        return NeuralRegressionModel(java_model)


class NeuralRegressionModel(_JavaRegressionModel, _Fitted):
    """A network fitted by :class:`NeuralRegressor`."""
