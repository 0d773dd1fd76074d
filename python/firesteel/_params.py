# Generated from native/train/src/params.rs by `make generate`; do not edit.
"""The hyper-parameters of the estimators."""

from __future__ import annotations

from typing import Any

from pyspark.ml.param import Param, Params, TypeConverters


class _NeuralParams(Params):
    """The params of estimators and models, with their getters."""

    epochs: Param[int] = Param(
        Params._dummy(),
        "epochs",
        "passes over the training rows",
        typeConverter=TypeConverters.toInt,
    )

    batchSize: Param[int] = Param(
        Params._dummy(),
        "batchSize",
        "rows of one step, over all workers",
        typeConverter=TypeConverters.toInt,
    )

    learningRate: Param[float] = Param(
        Params._dummy(),
        "learningRate",
        "size of a step",
        typeConverter=TypeConverters.toFloat,
    )

    optimizer: Param[str] = Param(
        Params._dummy(),
        "optimizer",
        "how weights follow gradients",
        typeConverter=TypeConverters.toString,
    )

    momentum: Param[float] = Param(
        Params._dummy(),
        "momentum",
        "how much of its last step sgd repeats",
        typeConverter=TypeConverters.toFloat,
    )

    nesterov: Param[bool] = Param(
        Params._dummy(),
        "nesterov",
        "whether sgd looks ahead along its momentum",
        typeConverter=TypeConverters.toBoolean,
    )

    weightDecay: Param[float] = Param(
        Params._dummy(),
        "weightDecay",
        "how strongly weights are pulled to zero",
        typeConverter=TypeConverters.toFloat,
    )

    beta1: Param[float] = Param(
        Params._dummy(),
        "beta1",
        "decay of the mean gradient of adam and adamw",
        typeConverter=TypeConverters.toFloat,
    )

    beta2: Param[float] = Param(
        Params._dummy(),
        "beta2",
        "decay of the mean squared gradient of adam and adamw",
        typeConverter=TypeConverters.toFloat,
    )

    epsilon: Param[float] = Param(
        Params._dummy(),
        "epsilon",
        "keeps adam and adamw from dividing by zero",
        typeConverter=TypeConverters.toFloat,
    )

    schedule: Param[str] = Param(
        Params._dummy(),
        "schedule",
        "how the learning rate changes after its warm-up",
        typeConverter=TypeConverters.toString,
    )

    warmupSteps: Param[int] = Param(
        Params._dummy(),
        "warmupSteps",
        "steps in which the learning rate rises from 0",
        typeConverter=TypeConverters.toInt,
    )

    loss: Param[str] = Param(
        Params._dummy(),
        "loss",
        "what is minimised; auto chooses by the task",
        typeConverter=TypeConverters.toString,
    )

    huberDelta: Param[float] = Param(
        Params._dummy(),
        "huberDelta",
        "where the huber loss turns linear, in standard deviations of the label",
        typeConverter=TypeConverters.toFloat,
    )

    seed: Param[int] = Param(
        Params._dummy(),
        "seed",
        "draws initial weights, order of rows, held-out rows and dropout",
        typeConverter=TypeConverters.toInt,
    )

    standardization: Param[str] = Param(
        Params._dummy(),
        "standardization",
        "which values share a mean and a deviation; auto takes an image as a whole, else each feature",
        typeConverter=TypeConverters.toString,
    )

    handleInvalid: Param[str] = Param(
        Params._dummy(),
        "handleInvalid",
        "what becomes of a row with a NULL, NaN or infinite number: error, skip the row, keep it with the mean",
        typeConverter=TypeConverters.toString,
    )

    minCategoryCount: Param[int] = Param(
        Params._dummy(),
        "minCategoryCount",
        "rows a string must occur in to get a category of its own",
        typeConverter=TypeConverters.toInt,
    )

    maxCategories: Param[int] = Param(
        Params._dummy(),
        "maxCategories",
        "most categories of a string column; rarer ones share one",
        typeConverter=TypeConverters.toInt,
    )

    validationFraction: Param[float] = Param(
        Params._dummy(),
        "validationFraction",
        "part of the rows held out for validation, chosen by the seed",
        typeConverter=TypeConverters.toFloat,
    )

    patience: Param[int] = Param(
        Params._dummy(),
        "patience",
        "epochs in which neither the validation metric nor the loss gets better, before training stops with the weights of the best metric; 0 never stops",
        typeConverter=TypeConverters.toInt,
    )

    minImprovement: Param[float] = Param(
        Params._dummy(),
        "minImprovement",
        "relative improvement of the validation metric or loss that an epoch needs to count as better",
        typeConverter=TypeConverters.toFloat,
    )

    mode: Param[str] = Param(
        Params._dummy(),
        "mode",
        "how a plan uses its threads",
        typeConverter=TypeConverters.toString,
    )

    threads: Param[int] = Param(
        Params._dummy(),
        "threads",
        "threads of a worker; 0 takes the cores its task has",
        typeConverter=TypeConverters.toInt,
    )

    device: Param[str] = Param(
        Params._dummy(),
        "device",
        "what computes: auto takes a GPU where one can be had, else the CPU; cuda demands one, cuda:0 the machine's first",
        typeConverter=TypeConverters.toString,
    )

    precision: Param[str] = Param(
        Params._dummy(),
        "precision",
        "the numbers that a step computes with; all but f32 need a GPU",
        typeConverter=TypeConverters.toString,
    )

    gradientCopy: Param[str] = Param(
        Params._dummy(),
        "gradientCopy",
        "the numbers in which gradients leave a GPU for other workers; bf16 and f16 are half the bytes",
        typeConverter=TypeConverters.toString,
    )

    strategy: Param[str] = Param(
        Params._dummy(),
        "strategy",
        "how workers train together: what they send, when and to whom; a lone worker has nobody to send to",
        typeConverter=TypeConverters.toString,
    )

    bucketBytes: Param[int] = Param(
        Params._dummy(),
        "bucketBytes",
        "bytes of gradient that travel together",
        typeConverter=TypeConverters.toInt,
    )

    timeoutSeconds: Param[float] = Param(
        Params._dummy(),
        "timeoutSeconds",
        "a worker that says nothing for so long is lost",
        typeConverter=TypeConverters.toFloat,
    )

    checkpointInterval: Param[int] = Param(
        Params._dummy(),
        "checkpointInterval",
        "epochs between checkpoints, where they are kept; 0 makes none",
        typeConverter=TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            epochs=10,
            batchSize=256,
            learningRate=0.001,
            optimizer="adam",
            momentum=0.0,
            nesterov=False,
            weightDecay=0.0,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            schedule="constant",
            warmupSteps=0,
            loss="auto",
            huberDelta=1.0,
            seed=42,
            standardization="auto",
            handleInvalid="error",
            minCategoryCount=1,
            maxCategories=100000,
            validationFraction=0.0,
            patience=0,
            minImprovement=0.0,
            mode="auto",
            threads=0,
            device="auto",
            precision="f32",
            gradientCopy="f32",
            strategy="sharded",
            bucketBytes=1048576,
            timeoutSeconds=300.0,
            checkpointInterval=1,
        )

    def getEpochs(self) -> int:
        """Gets the value of epochs."""
        return self.getOrDefault(self.epochs)

    def getBatchSize(self) -> int:
        """Gets the value of batchSize."""
        return self.getOrDefault(self.batchSize)

    def getLearningRate(self) -> float:
        """Gets the value of learningRate."""
        return self.getOrDefault(self.learningRate)

    def getOptimizer(self) -> str:
        """Gets the value of optimizer."""
        return self.getOrDefault(self.optimizer)

    def getMomentum(self) -> float:
        """Gets the value of momentum."""
        return self.getOrDefault(self.momentum)

    def getNesterov(self) -> bool:
        """Gets the value of nesterov."""
        return self.getOrDefault(self.nesterov)

    def getWeightDecay(self) -> float:
        """Gets the value of weightDecay."""
        return self.getOrDefault(self.weightDecay)

    def getBeta1(self) -> float:
        """Gets the value of beta1."""
        return self.getOrDefault(self.beta1)

    def getBeta2(self) -> float:
        """Gets the value of beta2."""
        return self.getOrDefault(self.beta2)

    def getEpsilon(self) -> float:
        """Gets the value of epsilon."""
        return self.getOrDefault(self.epsilon)

    def getSchedule(self) -> str:
        """Gets the value of schedule."""
        return self.getOrDefault(self.schedule)

    def getWarmupSteps(self) -> int:
        """Gets the value of warmupSteps."""
        return self.getOrDefault(self.warmupSteps)

    def getLoss(self) -> str:
        """Gets the value of loss."""
        return self.getOrDefault(self.loss)

    def getHuberDelta(self) -> float:
        """Gets the value of huberDelta."""
        return self.getOrDefault(self.huberDelta)

    def getSeed(self) -> int:
        """Gets the value of seed."""
        return self.getOrDefault(self.seed)

    def getStandardization(self) -> str:
        """Gets the value of standardization."""
        return self.getOrDefault(self.standardization)

    def getHandleInvalid(self) -> str:
        """Gets the value of handleInvalid."""
        return self.getOrDefault(self.handleInvalid)

    def getMinCategoryCount(self) -> int:
        """Gets the value of minCategoryCount."""
        return self.getOrDefault(self.minCategoryCount)

    def getMaxCategories(self) -> int:
        """Gets the value of maxCategories."""
        return self.getOrDefault(self.maxCategories)

    def getValidationFraction(self) -> float:
        """Gets the value of validationFraction."""
        return self.getOrDefault(self.validationFraction)

    def getPatience(self) -> int:
        """Gets the value of patience."""
        return self.getOrDefault(self.patience)

    def getMinImprovement(self) -> float:
        """Gets the value of minImprovement."""
        return self.getOrDefault(self.minImprovement)

    def getMode(self) -> str:
        """Gets the value of mode."""
        return self.getOrDefault(self.mode)

    def getThreads(self) -> int:
        """Gets the value of threads."""
        return self.getOrDefault(self.threads)

    def getDevice(self) -> str:
        """Gets the value of device."""
        return self.getOrDefault(self.device)

    def getPrecision(self) -> str:
        """Gets the value of precision."""
        return self.getOrDefault(self.precision)

    def getGradientCopy(self) -> str:
        """Gets the value of gradientCopy."""
        return self.getOrDefault(self.gradientCopy)

    def getStrategy(self) -> str:
        """Gets the value of strategy."""
        return self.getOrDefault(self.strategy)

    def getBucketBytes(self) -> int:
        """Gets the value of bucketBytes."""
        return self.getOrDefault(self.bucketBytes)

    def getTimeoutSeconds(self) -> float:
        """Gets the value of timeoutSeconds."""
        return self.getOrDefault(self.timeoutSeconds)

    def getCheckpointInterval(self) -> int:
        """Gets the value of checkpointInterval."""
        return self.getOrDefault(self.checkpointInterval)


class _NeuralParamSetters(_NeuralParams):
    """Their setters, for estimators."""

    def setEpochs(self, value: int) -> Any:
        """Sets epochs: a whole number from 1 on."""
        return self._set(epochs=value)

    def setBatchSize(self, value: int) -> Any:
        """Sets batchSize: a whole number from 1 on."""
        return self._set(batchSize=value)

    def setLearningRate(self, value: float) -> Any:
        """Sets learningRate: a number above 0 and at most 1e30."""
        return self._set(learningRate=value)

    def setOptimizer(self, value: str) -> Any:
        """Sets optimizer: one of adam, adamw, sgd."""
        return self._set(optimizer=value)

    def setMomentum(self, value: float) -> Any:
        """Sets momentum: a number at least 0 and below 1."""
        return self._set(momentum=value)

    def setNesterov(self, value: bool) -> Any:
        """Sets nesterov: true or false."""
        return self._set(nesterov=value)

    def setWeightDecay(self, value: float) -> Any:
        """Sets weightDecay: a number at least 0 and at most 1e30."""
        return self._set(weightDecay=value)

    def setBeta1(self, value: float) -> Any:
        """Sets beta1: a number at least 0 and below 1."""
        return self._set(beta1=value)

    def setBeta2(self, value: float) -> Any:
        """Sets beta2: a number at least 0 and below 1."""
        return self._set(beta2=value)

    def setEpsilon(self, value: float) -> Any:
        """Sets epsilon: a number above 0 and at most 1e30."""
        return self._set(epsilon=value)

    def setSchedule(self, value: str) -> Any:
        """Sets schedule: one of constant, cosine, linear."""
        return self._set(schedule=value)

    def setWarmupSteps(self, value: int) -> Any:
        """Sets warmupSteps: a whole number from 0 on."""
        return self._set(warmupSteps=value)

    def setLoss(self, value: str) -> Any:
        """Sets loss: one of auto, softmax_cross_entropy, binary_cross_entropy, mean_squared_error, huber."""
        return self._set(loss=value)

    def setHuberDelta(self, value: float) -> Any:
        """Sets huberDelta: a number above 0 and at most 1e30."""
        return self._set(huberDelta=value)

    def setSeed(self, value: int) -> Any:
        """Sets seed: a whole number."""
        return self._set(seed=value)

    def setStandardization(self, value: str) -> Any:
        """Sets standardization: one of auto, per_feature, per_column, none."""
        return self._set(standardization=value)

    def setHandleInvalid(self, value: str) -> Any:
        """Sets handleInvalid: one of error, skip, keep."""
        return self._set(handleInvalid=value)

    def setMinCategoryCount(self, value: int) -> Any:
        """Sets minCategoryCount: a whole number from 1 on."""
        return self._set(minCategoryCount=value)

    def setMaxCategories(self, value: int) -> Any:
        """Sets maxCategories: a whole number from 1 on."""
        return self._set(maxCategories=value)

    def setValidationFraction(self, value: float) -> Any:
        """Sets validationFraction: a number at least 0 and below 1."""
        return self._set(validationFraction=value)

    def setPatience(self, value: int) -> Any:
        """Sets patience: a whole number from 0 on."""
        return self._set(patience=value)

    def setMinImprovement(self, value: float) -> Any:
        """Sets minImprovement: a number at least 0 and below 1."""
        return self._set(minImprovement=value)

    def setMode(self, value: str) -> Any:
        """Sets mode: one of auto, tiled, wide."""
        return self._set(mode=value)

    def setThreads(self, value: int) -> Any:
        """Sets threads: a whole number from 0 on."""
        return self._set(threads=value)

    def setDevice(self, value: str) -> Any:
        """Sets device: auto, cpu, cuda or cuda:N, N a GPU's number."""
        return self._set(device=value)

    def setPrecision(self, value: str) -> Any:
        """Sets precision: one of f32, tf32, bf16, f16."""
        return self._set(precision=value)

    def setGradientCopy(self, value: str) -> Any:
        """Sets gradientCopy: one of f32, bf16, f16."""
        return self._set(gradientCopy=value)

    def setStrategy(self, value: str) -> Any:
        """Sets strategy: a strategy as `firesteel strategies` lists them."""
        return self._set(strategy=value)

    def setBucketBytes(self, value: int) -> Any:
        """Sets bucketBytes: a whole number from 64 on."""
        return self._set(bucketBytes=value)

    def setTimeoutSeconds(self, value: float) -> Any:
        """Sets timeoutSeconds: a number above 0 and at most 1e9."""
        return self._set(timeoutSeconds=value)

    def setCheckpointInterval(self, value: int) -> Any:
        """Sets checkpointInterval: a whole number from 0 on."""
        return self._set(checkpointInterval=value)
