"""An example of ours that answers a line of JSON with a line of JSON."""

from __future__ import annotations

import json
import subprocess


class Program:
    """A process, for as long as the context lasts."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        if self.process.wait(timeout=10) != 0:
            raise RuntimeError(f"{self.process.args[0]} ended with {self.process.returncode}")

    def ask(self, question: dict) -> dict:
        """What it says to a question."""
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())
