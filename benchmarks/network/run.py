"""Trainings over shaped links: what each strategy takes to a target loss, and what it sends.

Four workers, each a process in a network namespace of its own, train the same network on the same rows until the loss
of held-out rows is the target's, over each network, once for each strategy and round. A training ends after the epoch
in which it got there; the number of steps to the target, and with it seconds and bytes, is interpolated between the
ends of epochs.

Needs root. Run by ``make bench-network``; writes ``results/network.md`` and ``results/network.json``. ``--search``
tries learning rates without shaping instead, and prints the steps that each needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import report
from links import Links, Network, missing, within
from settings import GRID, MODELS, NETWORKS, Model, Setting

WORLD = 4
PORT = 7_700
# What an epoch may take longer than the limit that a worker looks at after it.
GRACE = 120.0
QUICK = {"dense": ("sharded", "two_phase(sign, sign, feedback=true)"), "sparse": ("union", "densify")}


def main(options: argparse.Namespace, models: tuple[Model, ...], name: str) -> list[dict]:
    """Runs what is chosen of some models and writes its tables; all trainings."""
    reason = missing()
    if reason is not None:
        print(f"skipped: {reason}")
        return []
    # So that links are removed as after an error, also where the shell has an interrupt ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if options.search:
        search(options, models)
        return []
    started = time.monotonic()
    runs: list[dict] = []
    try:
        compare(options, models, runs)
    finally:
        details = {
            "machine": platform.platform(),
            "targets": {model.name: model.target for model in models},
            "seconds": time.monotonic() - started,
            "runs": runs,
        }
        # Also of what is broken off.
        report.write(details, models, options.results / name)
    return runs


def compare(options: argparse.Namespace, models: tuple[Model, ...], runs: list[dict]) -> None:
    """All trainings; what each gave is appended as soon as it is there."""
    for network in chosen(NETWORKS, options.networks):
        with Links(WORLD, network) as links:
            for number in range(options.rounds):
                for model in chosen(models, options.models):
                    for setting in strategies(model, options):
                        params = setting.params()
                        run = {"network": network.name, "model": model.name, "strategy": setting.strategy}
                        run |= {"round": number, "params": params, **train(links, options, model, params)}
                        runs.append(run)
                        print(report.line(run), flush=True)


def arguments(models: tuple[Model, ...]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="path of the example `network` of firesteel-train")
    parser.add_argument("--networks", nargs="+", choices=[n.name for n in NETWORKS], help="all when absent")
    parser.add_argument("--models", nargs="+", choices=[m.name for m in models], help="all when absent")
    parser.add_argument("--strategies", nargs="+", metavar="STRATEGY", help="as in settings.py; all when absent")
    parser.add_argument("--rounds", type=int, default=1, help="alternating runs of which the median counts")
    parser.add_argument("--limit", type=float, default=50.0, help="seconds after which a training is given up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two strategies a model")
    parser.add_argument("--search", action="store_true", help="try learning rates, without shaping")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "results")
    return parser.parse_args()


def chosen(all_of_them: tuple, names: list[str] | None) -> list:
    """Those of these names."""
    return [one for one in all_of_them if names is None or one.name in names]


def strategies(model: Model, options: argparse.Namespace) -> list[Setting]:
    """What is compared on a model."""
    names = options.strategies or (QUICK[model.name] if options.quick else None)
    return [setting for setting in model.settings if names is None or setting.strategy in names]


def search(options: argparse.Namespace, models: tuple[Model, ...]) -> None:
    """Prints the steps to the target for each optimizer and rate of the grid."""
    with Links(WORLD, Network("unshaped")) as links:
        for model in chosen(models, options.models):
            for setting in strategies(model, options):
                grid = {"own": GRID["adam"]} if setting.optimizer == "own" else GRID
                for optimizer, rates in grid.items():
                    for rate in rates:
                        tried = Setting(setting.strategy, rate, optimizer)
                        run = train(links, options, model, tried.params())
                        steps = f"{run['steps_to_target']:.0f}" if run["steps_to_target"] else run["ended"]
                        print(f"{model.name} | {setting.strategy} | {optimizer} {rate} | {steps}", flush=True)


def train(links: Links, options: argparse.Namespace, model: Model, params: dict) -> dict:
    """One training; what rank 0 says of it, and what the kernel counted meanwhile."""
    params = {"epochs": model.epochs, "seed": options.seed, **params}
    with workers(links, options, model, params) as processes:
        events, wire = listen(links, processes[0], options.limit + GRACE)
    epochs = [event for event in events if event["event"] == "epoch"]
    ended = events[-1] if events and events[-1]["event"] == "ended" else {"by": "error", "error": "rank 0 broke off"}
    result = {"ended": ended["by"], "error": ended.get("error"), "epochs": epochs, "steps_to_target": None}
    if not epochs:
        return {**result, "step_seconds": None, "step_bytes": None, "fabric_bytes": None}
    last = epochs[-1]
    return {
        **result,
        "steps_to_target": steps_to(model.target, epochs),
        "step_seconds": last["seconds"] / last["steps"],
        "step_bytes": wire / last["steps"],
        # Of rank 0 alone.
        "fabric_bytes": last["sent"] / last["steps"],
    }


def steps_to(target: float, epochs: list[dict]) -> float | None:
    """Where the line between the losses of two epochs meets the target; of the first epoch, its end."""
    before = None
    for epoch in epochs:
        loss = epoch["validation_loss"]
        if loss is not None and loss <= target:
            if before is None:
                return float(epoch["steps"])
            share = (before["validation_loss"] - target) / (before["validation_loss"] - loss)
            return before["steps"] + share * (epoch["steps"] - before["steps"])
        before = epoch
    return None


@contextlib.contextmanager
def workers(links: Links, options: argparse.Namespace, model: Model, params: dict) -> Iterator[list[subprocess.Popen]]:
    """Processes by rank, of which none is left."""
    addresses = ",".join(f"{host}:{PORT}" for host in links.hosts)
    processes: list[subprocess.Popen] = []
    try:
        for rank, namespace in enumerate(links.namespaces):
            arguments = [str(rank), addresses, model.name, json.dumps(params), str(model.target)]
            # `ip netns exec` becomes the worker: its process is the one that is killed.
            command = [*within(namespace), options.worker, *arguments, str(options.limit)]
            output = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
            quiet = None if rank == 0 else subprocess.DEVNULL
            processes.append(subprocess.Popen(command, stdout=output, stderr=quiet, text=True))
        yield processes
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def listen(links: Links, process: subprocess.Popen, seconds: float) -> tuple[list[dict], int]:
    """What rank 0 says until it is done, and what all have sent since the first step began."""
    watch = threading.Timer(seconds, process.kill)
    watch.start()
    events, before, after = [], 0, 0
    try:
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "started":
                before = after = links.sent()
            elif events[-1]["event"] == "epoch":
                after = links.sent()
    finally:
        watch.cancel()
    return events, after - before


if __name__ == "__main__":
    main(arguments(MODELS), MODELS, "network")
