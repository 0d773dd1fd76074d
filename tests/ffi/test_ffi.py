"""Firesteel's functions in Python's DataFusion give what the `firesteel` command gives."""

import csv
import io
import math
import os
import subprocess
import threading

import datafusion
import firesteel_datafusion
import pytest

KINDS = ("gold", "silver", "bronze", "")


def firesteel(models, *statements):
    """The rows of the last statement, as the command prints them."""
    command = [os.environ["FIRESTEEL_CLI"], "sql", "--format", "csv", "--quiet", "--models", str(models)]
    for statement in statements:
        command += ["-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def train(models, customers, name, epochs=3):
    firesteel(
        models,
        f"""CREATE OR REPLACE MODEL {name}
              OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['churned'], hidden_units = [8],
                       max_iterations = {epochs}, workers = 1, seed = 7)
              AS SELECT age, plan, churned FROM '{customers}'""",
    )


@pytest.fixture(scope="module")
def customers(tmp_path_factory):
    """Enough rows for several batches and partitions."""
    path = tmp_path_factory.mktemp("data") / "customers.csv"
    lines = ["id,age,plan,churned"]
    for i in range(30_000):
        age, plan = 18 + i * 37 % 60, KINDS[i % 4]
        lines.append(f"{i},{age},{plan},{str(age + 25 * (plan == 'gold') > 60).lower()}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory, customers):
    folder = tmp_path_factory.mktemp("models")
    train(folder, customers, "churn")
    return folder


@pytest.fixture()
def context(models, customers):
    context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(4))
    context.register_csv("customers", str(customers))
    firesteel_datafusion.register(context, models)
    return context


def column(frame, name):
    return frame.to_pydict()[name]


def test_every_value_is_that_of_the_command(context, models, customers):
    select = """SELECT id, nn_predict_value('churn', age, plan) AS value,
                       nn_prob('churn', true, age, plan) AS prob,
                       nn_predict('churn', age, plan)['predicted_churned'] AS both
                FROM {} ORDER BY id"""
    ours = context.sql(select.format("customers")).to_pydict()
    command = firesteel(models, select.format(f"'{customers}'"))
    assert len(ours["id"]) == len(command) == 30_000
    for i, row in enumerate(command):
        assert ours["id"][i] == int(row["id"])
        assert str(ours["value"][i]).lower() == str(ours["both"][i]).lower() == row["value"] == row["both"]
        assert math.isclose(ours["prob"][i], float(row["prob"]), abs_tol=1e-6)
    assert len(set(ours["value"])) == 2


def test_functions_stand_where_expressions_stand(context):
    where = "SELECT count(*) AS n FROM customers WHERE nn_prob('churn', true, age, plan) > 0.5"
    group = """SELECT nn_predict_value('churn', age, plan) AS late, count(*) AS n FROM customers
               GROUP BY late ORDER BY late"""
    answer = context.sql(group).to_pydict()
    late = dict(zip(answer["late"], answer["n"], strict=True))
    assert column(context.sql(where), "n") == [late[True]] and sum(late.values()) == 30_000
    # Nothing to predict, and constants alone.
    assert column(context.sql(f"{where} AND id < 0"), "n") == [0]
    assert column(context.sql("SELECT nn_predict_value('churn', 70, 'gold') AS v"), "v") == [True]
    named = "SELECT nn_predict_value('churn', named_struct('plan', plan, 'age', age)) AS v FROM customers LIMIT 1"
    assert len(column(context.sql(named), "v")) == 1


def test_as_functions_of_data_frames(context, models):
    value, *_ = (datafusion.udf(f) for f in firesteel_datafusion.functions(models) if f.name == "nn_predict_value")
    late = value(datafusion.lit("churn"), datafusion.col("age"), datafusion.col("plan")).alias("v")
    frame = context.table("customers").select(datafusion.col("id"), late).sort(datafusion.col("id"))
    sql = "SELECT nn_predict_value('churn', age, plan) AS v FROM customers ORDER BY id"
    assert column(frame, "v") == column(context.sql(sql), "v")


def test_what_is_trained_after_registration_is_there(context, models, customers):
    sql = "SELECT nn_prob('later', true, age, plan) AS p FROM customers ORDER BY id LIMIT 5"
    with pytest.raises(Exception, match="model 'later' not found"):
        context.sql(sql)
    train(models, customers, "later")
    frame = context.sql(sql)
    first = column(frame, "p")
    train(models, customers, "later", epochs=1)
    second = column(context.sql(sql), "p")
    assert first != second
    assert column(context.sql(sql.replace("later", "later@1")), "p") == first
    # A frame from before is planned again when it is asked for again.
    assert column(frame, "p") == second
    grouped = (
        "SELECT v, count(*) AS n FROM (SELECT nn_predict_value('later', age, plan) AS v FROM customers) GROUP BY v"
    )
    frame = context.sql(grouped)
    train(models, customers, "later")
    assert sum(column(frame, "n")) == 30_000


def test_models_as_values(context, models, customers):
    """One for each plan, trained and used in one query."""
    fit = """nn_fit(churned, age, '{"model_type": "logistic_reg", "max_iterations": 2}')"""
    select = f"""SELECT c.id AS id, nn_apply(m.model, c.age) AS prob, nn_apply_class(m.model, c.age) AS late
                 FROM source c JOIN (SELECT plan, {fit} AS model FROM source GROUP BY plan) m ON c.plan = m.plan
                 WHERE c.id < 1000 ORDER BY c.id"""
    ours = context.sql(select.replace("source", "customers")).to_pydict()
    command = firesteel(models, select.replace("source", f"'{customers}'"))
    assert len(ours["id"]) == len(command) > 700
    for i, row in enumerate(command):
        assert (ours["id"][i], ours["late"][i]) == (int(row["id"]), row["late"])
        assert math.isclose(ours["prob"][i], float(row["prob"]), abs_tol=1e-6)
    with pytest.raises(Exception, match="did you mean 'model_type'"):
        context.sql('SELECT nn_fit(churned, age, \'{"model_typ": "linear_reg"}\') FROM customers').collect()


def test_errors_are_ours_and_statements_are_the_hosts(context):
    for sql, message in [
        ("SELECT nn_predict_value('chur', age, plan) FROM customers", "did you mean 'churn'"),
        ("SELECT nn_predict_value('churn', age) FROM customers", r"expects 2 features \(age, plan\), got 1"),
        ("SELECT nn_predict_value('churn@9', age, plan) FROM customers", "has no version 9; it has 1"),
        ("SELECT nn_predict_value(plan, age, plan) FROM customers", "the model's name must be a string constant"),
        ("SELECT nn_prob('churn', 'maybe', age, plan) FROM customers", "there is no class 'maybe'"),
        ("SELECT nn_predict_value('churn', plan, age) FROM customers", "age"),
        ("CREATE MODEL m OPTIONS (model_type = 'linear_reg') AS SELECT 1", "Expected: .*, found: MODEL"),
    ]:
        with pytest.raises(Exception, match=message) as failed:
            context.sql(sql).collect()
        assert "panic" not in str(failed.value).lower()


def test_weights_that_are_gone_are_an_error_and_not_the_end(context, models, customers):
    train(models, customers, "gone")
    sql = "SELECT nn_predict_value('gone', age, plan) FROM customers LIMIT 1"
    for weights in models.glob("**/*.safetensors"):
        if "gone" in str(weights):
            weights.unlink()
    with pytest.raises(Exception, match="(?i)safetensors|not found"):
        context.sql(sql).collect()
    assert len(column(context.sql("SELECT nn_predict_value('churn', 30, 'gold') AS v"), "v")) == 1


def test_threads_and_contexts_at_once(models, customers):
    """Each with functions of its own, so that each reads the model; all at the same time."""
    answers, errors = [], []

    def ask():
        try:
            context = datafusion.SessionContext()
            context.register_csv("customers", str(customers))
            firesteel_datafusion.register(context, models)
            sql = "SELECT sum(nn_prob('churn', true, age, plan)) AS s FROM customers"
            answers.append(round(column(context.sql(sql), "s")[0], 3))
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors and len(answers) == 8 and len(set(answers)) == 1


def test_objects_outlive_what_made_them(models):
    function = firesteel_datafusion.functions(str(models))[0]
    assert repr(function) == "<firesteel_datafusion.Function nn_predict_value>"
    capsules = [function.__datafusion_scalar_udf__() for _ in range(1000)]
    del function
    kept = datafusion.udf(capsules[-1])
    del capsules
    context = datafusion.SessionContext()
    context.register_udf(kept)
    assert column(context.sql("SELECT nn_predict_value('churn', 70, 'gold') AS v"), "v") == [True]


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        firesteel_datafusion.functions(tmp_path / "mdoels")
    assert list(tmp_path.iterdir()) == []
