"""Where the jar is looked for, and what is said when it is not there."""

import pytest

from firesteel import jar_path, jars


def test_the_environment_wins(monkeypatch, tmp_path):
    jar = tmp_path / "own.jar"
    jar.touch()
    monkeypatch.setenv("FIRESTEEL_JAR", str(jar))
    assert jar_path() == str(jar)


def test_a_wrong_environment_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FIRESTEEL_JAR", str(tmp_path / "absent.jar"))
    with pytest.raises(FileNotFoundError, match="FIRESTEEL_JAR is '.*absent.jar', which is no file"):
        jar_path()


def test_the_package_then_the_source_tree(monkeypatch, tmp_path):
    monkeypatch.delenv("FIRESTEEL_JAR", raising=False)
    monkeypatch.setattr(jars, "__file__", str(tmp_path / "python/firesteel/jars.py"))
    with pytest.raises(FileNotFoundError, match="no Firesteel jar in .*; run `make build`"):
        jar_path()
    built = tmp_path / "scala/target/firesteel-spark_2.13-0.1.0.jar"
    for jar in (built, built.with_name("firesteel-spark_2.13-0.1.0-tests.jar")):
        jar.parent.mkdir(parents=True, exist_ok=True)
        jar.touch()
    assert jar_path() == str(built)
    shipped = tmp_path / "python/firesteel/jars/firesteel-spark_2.13-0.1.0.jar"
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    assert jar_path() == str(shipped)
