import inspect
import json

import pytest
from pyspark.errors import IllegalArgumentException
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder

from firesteel.ml import (
    NeuralClassificationModel,
    NeuralClassifier,
    NeuralRegressionModel,
    NeuralRegressor,
)
from firesteel.network import Linear, Mlp, Relu, Sequential, Tabular


def classifier(**params):
    given = {"featuresCols": ["distance", "carrier"], "labelCol": "late", "network": Tabular(16)}
    given |= {"epochs": 30, "batchSize": 64, "learningRate": 0.02, "numWorkers": 2}
    return NeuralClassifier(**(given | params))


@pytest.fixture(scope="module")
def model(flights):
    return classifier().fit(flights)


def test_learns_from_columns_as_they_are(model, flights):
    scored = model.transform(flights)
    assert BinaryClassificationEvaluator(labelCol="late").evaluate(scored) > 0.98
    assert scored.where("prediction = late").count() > 1150
    assert scored.columns[-3:] == ["rawPrediction", "probability", "prediction"]
    assert (model.numClasses, model.numFeatures) == (2, 2)


def test_history_has_a_record_an_epoch(model):
    assert [record["epoch"] for record in model.history] == list(range(1, 31))
    assert model.history[-1]["loss"] < model.history[0]["loss"]
    assert model.spec["layers"][-1] == {"name": "head", "op": {"linear": {"outputs": 2, "bias": True}}}


def test_the_losses_are_in_the_summary_too(model, tmp_path):
    losses = [record["loss"] for record in model.history]
    assert model.hasSummary and model.summary.objectiveHistory == losses
    assert model.summary.totalIterations == len(losses)
    path = str(tmp_path / "model")
    model.save(path)
    assert NeuralClassificationModel.load(path).summary.objectiveHistory == losses


def test_scored_rows_are_read_in_another_session(model, flights, spark):
    model.transform(flights).createOrReplaceGlobalTempView("scored_flights")
    assert spark.newSession().table("global_temp.scored_flights").where("prediction = late").count() > 1150


def test_a_model_survives_saving(model, flights, tmp_path):
    path = str(tmp_path / "model")
    model.write().overwrite().save(path)
    loaded = NeuralClassificationModel.load(path)
    assert loaded.getFeaturesCols() == ["distance", "carrier"]
    assert loaded.transform(flights).select("probability").collect() == (
        model.transform(flights).select("probability").collect()
    )


def test_an_estimator_survives_saving_and_copying(tmp_path):
    estimator = classifier(epochs=7, optimizer="sgd", momentum=0.9)
    path = str(tmp_path / "estimator")
    estimator.save(path)
    for other in (NeuralClassifier.load(path), estimator.copy()):
        assert (other.getEpochs(), other.getOptimizer(), other.getMomentum()) == (7, "sgd", 0.9)
        assert other.getNetwork() == estimator.getNetwork()


def test_defaults_come_from_the_table(spark):
    estimator = NeuralClassifier()
    assert (estimator.getEpochs(), estimator.getBatchSize(), estimator.getOptimizer()) == (10, 256, "adam")


@pytest.mark.parametrize("estimator", [NeuralClassifier, NeuralRegressor])
def test_python_has_the_defaults_of_the_scala_side(spark, monkeypatch, estimator):
    theirs = {p.name: v for p, v in estimator()._defaultParamMap.items()}
    monkeypatch.setattr(estimator, "_take_defaults", lambda self: None)
    ours = {p.name: v for p, v in estimator()._defaultParamMap.items()}
    assert json.loads(ours.pop("network")) == json.loads(theirs.pop("network"))
    assert ours == theirs


@pytest.mark.parametrize("estimator", [NeuralClassifier, NeuralRegressor])
def test_help_lists_every_param(spark, estimator):
    names = {param.name for param in estimator().params}
    for function in (estimator, estimator.setParams):
        shown = inspect.signature(function).parameters
        assert set(shown) - {"self"} == names
        assert str(shown["epochs"]) == "epochs: int = ..."


def test_pipeline(flights, tmp_path):
    assembler = VectorAssembler(inputCols=["distance"], outputCol="features")
    network = Sequential(Linear(8), Relu())
    regressor = NeuralRegressor(
        labelCol="minutes", network=network, epochs=20, batchSize=64, learningRate=0.02
    )
    fitted = Pipeline(stages=[assembler, regressor]).fit(flights)
    path = str(tmp_path / "pipeline")
    fitted.save(path)
    loaded = PipelineModel.load(path)
    assert isinstance(loaded.stages[1], NeuralRegressionModel)
    evaluator = RegressionEvaluator(labelCol="minutes")
    assert evaluator.evaluate(loaded.transform(flights)) < 5.0


def test_cross_validator_prefers_what_learns(flights, tmp_path):
    estimator = classifier(epochs=8)
    grid = ParamGridBuilder().addGrid(estimator.learningRate, [1e-7, 0.02]).build()
    evaluator = BinaryClassificationEvaluator(labelCol="late")
    fitted = CrossValidator(
        estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=1
    ).fit(flights)
    assert fitted.avgMetrics[1] > fitted.avgMetrics[0] + 0.1
    path = str(tmp_path / "validated")
    fitted.save(path)
    assert isinstance(CrossValidatorModel.load(path).bestModel, NeuralClassificationModel)


def test_mistakes_are_named(flights):
    with pytest.raises(TypeError, match="has no parameter 'learningrate'; did you mean 'learningRate'"):
        NeuralClassifier(learningrate=0.1)
    with pytest.raises(TypeError, match="network is a int"):
        NeuralClassifier(network=3)
    with pytest.raises(
        ValueError, match=r"network is 'lenet5', which is not JSON; .* for example Lenet5\(\)"
    ):
        NeuralClassifier(network="lenet5")
    with pytest.raises(IllegalArgumentException, match="distanc"):
        classifier(featuresCols=["distanc"]).fit(flights)
    with pytest.raises(IllegalArgumentException, match="minutes"):
        classifier(labelCol="minutes", featuresCols=["distance"], network=Mlp(4)).fit(
            flights.selectExpr("distance", "minutes + 0.5 as minutes")
        )
