"""Where the jar is looked for, and what is said when it is not there."""

from types import SimpleNamespace

import pytest

import firesteel
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
    with pytest.raises(FileNotFoundError, match="no Firesteel .* jar in .*; run `make build`"):
        jar_path()
    built = tmp_path / f"scala/target/firesteel-spark_2.13-{firesteel.__version__}.jar"
    for jar in (built, built.with_name(f"firesteel-spark_2.13-{firesteel.__version__}-tests.jar")):
        jar.parent.mkdir(parents=True, exist_ok=True)
        jar.touch()
    assert jar_path() == str(built)
    shipped = tmp_path / f"python/firesteel/jars/firesteel-spark_2.13-{firesteel.__version__}.jar"
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    assert jar_path() == str(shipped)


def test_the_jar_of_this_version_is_taken_and_others_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("FIRESTEEL_JAR", raising=False)
    monkeypatch.setattr(jars, "__file__", str(tmp_path / "python/firesteel/jars.py"))
    monkeypatch.setattr(jars, "__version__", "0.10.0")
    folder = tmp_path / "scala/target"
    folder.mkdir(parents=True)
    (folder / "firesteel-spark_2.13-0.9.0.jar").touch()
    with pytest.raises(FileNotFoundError, match=r"no Firesteel 0.10.0 jar in .*, only .*-0.9.0.jar; run"):
        jar_path()
    (folder / "firesteel-spark_2.13-0.10.0.jar").touch()
    assert jar_path() == str(folder / "firesteel-spark_2.13-0.10.0.jar")


def test_a_session_without_the_jar_or_with_another_is_refused(spark):
    jars.check_jar(spark._jvm)
    library = SimpleNamespace(jarVersion=lambda: "0.0.1")
    other = SimpleNamespace(firesteel=SimpleNamespace(ml=SimpleNamespace(NativeLibrary=library)))
    with pytest.raises(
        RuntimeError, match=f"package firesteel is version {firesteel.__version__}, .* version 0.0.1"
    ):
        jars.check_jar(other)
    with pytest.raises(RuntimeError, match="no Firesteel jar: give spark-submit --jars"):
        jars.check_jar(SimpleNamespace(firesteel=SimpleNamespace(ml=spark._jvm.nowhere)))
