"""Models and tables in a bucket, by the `firesteel` command."""

import csv
import io
import logging
import os
import socket
import subprocess
import time

import boto3
import pytest
from moto.server import ThreadedMotoServer

CREATE = """CREATE {replace} MODEL late
  OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [8], max_iterations = 3,
           workers = 1, seed = {seed})
  AS SELECT * FROM 's3://flights/rows.csv'"""


@pytest.fixture(scope="module")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def environment(endpoint):
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return others | settings


@pytest.fixture(scope="module")
def bucket(endpoint):
    s3 = boto3.client("s3", "us-east-1", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret")
    s3.create_bucket(Bucket="flights")
    rows = [f"{i % 37},{'AB'[i % 2]},{str(i % 37 > 18).lower()}" for i in range(600)]
    s3.put_object(Bucket="flights", Key="rows.csv", Body="\n".join(["distance,carrier,late", *rows]) + "\n")
    return s3


def run(environment, *arguments):
    command = [os.environ["FIRESTEEL_CLI"], *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def sql(environment, statement, models="s3://flights/team/models"):
    done = run(environment, "sql", "--format", "csv", "--quiet", "--models", models, "-c", statement)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_each_command_is_a_session_of_its_own_on_the_bucket(environment, bucket):
    predicted = "SELECT avg(nn_prob('late', true, distance, carrier)) AS p FROM 's3://flights/rows.csv'"
    sql(environment, CREATE.format(replace="", seed=3))
    first = sql(environment, predicted)
    sql(environment, CREATE.format(replace="OR REPLACE", seed=9))
    second = sql(environment, predicted)
    assert first != second
    sql(environment, "ALTER MODEL late SET OPTIONS (active_version = 1)")
    assert sql(environment, predicted) == first

    listed = run(environment, "models", "--models", "s3://flights/team/models", "--format", "csv")
    assert listed.returncode == 0, listed.stderr
    assert [row["model_name"] for row in csv.DictReader(io.StringIO(listed.stdout))] == ["late"]
    keys = [entry["Key"] for entry in bucket.list_objects_v2(Bucket="flights")["Contents"]]
    assert all(key == "rows.csv" or key.startswith("team/models/") for key in keys), keys
    assert not os.path.exists("s3:")


def test_of_two_that_create_one_is_told(environment, bucket):
    """The slower one finds, when it commits, that the quicker one was there meanwhile."""
    models = "s3://flights/races"
    longer = "max_iterations = 400, early_stop = FALSE, checkpoint_every = 1"
    slow = CREATE.format(replace="", seed=1).replace("max_iterations = 3", longer)
    command = [os.environ["FIRESTEEL_CLI"], "sql", "--quiet", "--models", models, "-c", slow]
    training = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not bucket.list_objects_v2(Bucket="flights", Prefix="races/public/late/checkpoint/")["KeyCount"]:
            assert training.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        sql(environment, CREATE.format(replace="", seed=2), models)
        _, told = training.communicate(timeout=120)
    finally:
        training.kill()
    assert training.returncode != 0
    assert "model 'late' already exists" in told, told
    (versions,) = sql(environment, "SELECT count(*) AS n FROM ml.model_versions", models)
    assert versions == {"n": "1"}


def test_a_bucket_that_is_not_there_is_an_error(environment, bucket):
    done = run(environment, "sql", "--models", "s3://nobody/models", "-c", "SHOW MODELS")
    assert done.returncode != 0
    assert "NoSuchBucket" in done.stderr and "panicked" not in done.stderr, done.stderr


def test_an_endpoint_that_does_not_answer_is_an_error_in_time(environment):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        nowhere = environment | {"AWS_ENDPOINT": f"http://127.0.0.1:{port}"}
        done = run(nowhere, "models", "--models", "s3://flights/models")
    assert done.returncode != 0 and f"127.0.0.1:{port}" in done.stderr, done.stderr
    assert time.monotonic() - started < 60
