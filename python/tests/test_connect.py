"""The same estimators through Spark Connect, with a server that is started for it."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("connect_program.py")


def test_a_pipeline_is_fitted_saved_and_loaded_through_connect(tmp_path):
    # A process has one kind of session.
    command = [sys.executable, str(PROGRAM), str(tmp_path / "pipeline")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all as it should be\n")
