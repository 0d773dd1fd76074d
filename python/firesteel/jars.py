"""Where the jar is that the executors need."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["jar_path"]


def jar_path() -> str:
    """The path of the Firesteel jar, for ``spark.jars`` or ``spark-submit --jars``.

    It is what the environment variable ``FIRESTEEL_JAR`` names, else the jar inside this package, else the
    one that ``make build`` left in the source tree this package is imported from.

    :raises FileNotFoundError: when there is none; the message lists where it was looked for.
    """
    named = os.environ.get("FIRESTEEL_JAR")
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"FIRESTEEL_JAR is {named!r}, which is no file")
        return named
    package = Path(__file__).resolve().parent
    folders = [package / "jars", package.parent.parent / "scala" / "target"]
    for folder in folders:
        jars = [jar for jar in sorted(folder.glob("firesteel-spark_*.jar")) if _is_main(jar.name)]
        if jars:
            return str(jars[-1])
    looked = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"no Firesteel jar in {looked}; run `make build`, or name one in FIRESTEEL_JAR")


def _is_main(name: str) -> bool:
    return not name.endswith(("-sources.jar", "-tests.jar", "-javadoc.jar"))
