"""Where the jar is that Spark needs, and whether Spark has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from firesteel._version import __version__

__all__ = ["jar_path"]


def jar_path() -> str:
    """The path of the Firesteel jar, for ``spark.jars`` or ``spark-submit --jars``.

    It is what the environment variable ``FIRESTEEL_JAR`` names, else the jar of this package's version inside
    this package (``make wheel`` puts it there), else the one that ``make build`` left in the source tree this
    package is imported from.

    :raises FileNotFoundError: when there is none; the message lists where it was looked for, and the jars of
        other versions that are there.
    """
    named = os.environ.get("FIRESTEEL_JAR")
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"FIRESTEEL_JAR is {named!r}, which is no file")
        return named
    package = Path(__file__).resolve().parent
    folders = [package / "jars", package.parent.parent / "scala" / "target"]
    for folder in folders:
        for jar in folder.glob(f"firesteel-spark_*-{__version__}.jar"):
            return str(jar)
    looked = ", ".join(str(folder) for folder in folders)
    others = sorted(jar.name for folder in folders for jar in folder.glob("firesteel-spark_*.jar"))
    there = f", only {', '.join(others)}" if others else ""
    raise FileNotFoundError(
        f"no Firesteel {__version__} jar in {looked}{there}; run `make build`, or name one in FIRESTEEL_JAR"
    )


def check_jar(jvm: Any) -> None:
    """Refuses a JVM without the jar, or with the jar of another version.

    :raises RuntimeError: naming what is missing or both versions.
    """
    library = jvm.firesteel.ml.NativeLibrary
    # What Py4J takes for a package is a class that is not there.
    if type(library).__name__ == "JavaPackage":
        raise RuntimeError(
            "this Spark session has no Firesteel jar: give spark-submit --jars with the path of the jar, or "
            'the session builder .config("spark.jars", firesteel.jar_path()); an open session cannot take it'
        )
    version = library.jarVersion()
    if version != __version__:
        raise RuntimeError(
            f"the Python package firesteel is version {__version__}, but the jar in this Spark session is "
            f"version {version}; use a package and a jar of one version"
        )
