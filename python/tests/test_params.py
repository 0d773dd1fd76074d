"""Python and Scala say the same: the names of params, and the layers of networks."""

import pytest
from pyspark.errors import IllegalArgumentException
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F

from firesteel import network as n
from firesteel.ml import NeuralClassifier, NeuralRegressor


@pytest.mark.parametrize("estimator", [NeuralClassifier, NeuralRegressor])
def test_an_estimator_has_the_params_of_its_scala_side(spark, estimator):
    stage = estimator()
    assert {param.name for param in stage.params} == {param.name() for param in stage._java_obj.params()}


def test_a_model_has_the_params_of_its_scala_side(flights):
    model = NeuralClassifier(featuresCols=["distance"], labelCol="late", epochs=1, showProgress=False).fit(
        flights
    )
    assert {param.name for param in model.params} == {param.name() for param in model._java_obj.params()}


def test_every_param_has_a_setter_in_the_style_of_spark(spark):
    stage = NeuralClassifier()
    missing = [p.name for p in stage.params if not hasattr(stage, "set" + p.name[0].upper() + p.name[1:])]
    assert missing == []
    assert stage.setEpochs(3).setNetwork(n.Mlp(8)).setParams(seed=7) is stage
    assert (stage.getEpochs(), stage.getSeed(), stage.getNetwork()) == (3, 7, n.Mlp(8).to_json())


def test_the_device_is_asked_for_in_words(flights):
    stage = NeuralClassifier(featuresCols=["distance"], labelCol="late", device="cuda:4321", epochs=1)
    assert (stage.getDevice(), stage.getPrecision()) == ("cuda:4321", "f32")
    with pytest.raises(IllegalArgumentException, match="device is cuda:4321: there is no "):
        stage.fit(flights)
    stage.setDevice("cpu").setPrecision("bf16")
    with pytest.raises(IllegalArgumentException, match="precision is bf16, .* and device is cpu"):
        stage.fit(flights)
    with pytest.raises(IllegalArgumentException, match="device is gpu, expected auto, cpu, cuda or cuda:N"):
        stage.setDevice("gpu").fit(flights)


def test_a_strategy_is_named_with_its_arguments(flights):
    stage = NeuralClassifier(featuresCols=["distance"], labelCol="late", epochs=1, showProgress=False)
    assert stage.getStrategy() == "sharded"
    model = stage.setStrategy("local(every=4)").setNumWorkers(2).fit(flights)
    assert len(model.history) == 1
    with pytest.raises(IllegalArgumentException, match="strategy: every of local is 0, expected a whole"):
        stage.setStrategy("local(every=0)").fit(flights)


def test_every_layer_is_one_that_the_engine_knows(flights):
    pixels = F.transform(F.sequence(F.lit(1), F.lit(64)), lambda i: (i * F.col("distance") % 7).cast("float"))
    rows = flights.limit(64).select(pixels.alias("pixels"), "late")
    network = n.Sequential(
        n.Conv2d(4, 3, padding=1),
        n.BatchNorm(),
        n.Relu(),
        n.MaxPool2d(2),
        n.Conv2d(4, 1, groups=2),
        n.Tanh(),
        n.AvgPool2d(2),
        n.Flatten(),
        n.Linear(8, bias=False),
        n.LayerNorm(),
        n.Gelu(),
        n.Dropout(0.1),
        n.Linear(4),
        n.Sigmoid(),
    )
    classifier = NeuralClassifier(
        featuresCol="pixels", inputShape=[1, 8, 8], labelCol="late", network=network
    )
    model = classifier.setEpochs(1).setShowProgress(False).fit(rows)
    assert model.transform(rows).where("prediction IN (0, 1)").count() == 64


def test_a_bad_vector_is_refused_and_a_good_one_behind_it_scored(flights):
    rows = VectorAssembler(inputCols=["distance", "minutes"], outputCol="features").transform(flights)
    model = NeuralClassifier(labelCol="late", network=n.Mlp(8), epochs=1, showProgress=False).fit(rows)
    good = Vectors.dense(1.0, 2.0)
    expected = model.predictRaw(good)
    for bad in ([1.0, 2.0, 3.0], [1.0], [1.0] * 100_000):
        with pytest.raises(IllegalArgumentException, match="features"):
            model.predict(Vectors.dense(bad))
        assert model.predictRaw(good) == expected


def test_a_single_vector_is_scored_as_a_row_is(flights):
    rows = VectorAssembler(inputCols=["distance", "minutes"], outputCol="features").transform(flights)
    model = NeuralClassifier(labelCol="late", network=n.Mlp(8), epochs=1, showProgress=False).fit(rows)
    row = model.transform(rows).first()
    assert model.predict(row.features) == row.prediction
    assert model.predictRaw(row.features) == row.rawPrediction
    assert model.predictProbability(row.features) == row.probability
