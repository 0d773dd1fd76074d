"""The engine beside PyTorch: LeNet-5 and the MLP 784-512-256-10, batch 256, on 1 and 2 threads.

    python -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python engine.py

Each side is a process that trains on request, so rounds alternate in one session and a change in the machine's mood
meets both. All start from the same weights, see the same batches in the same order, and must reach the same losses:
each of the first CHECKED steps within TOLERANCE of the engine's. PyTorch runs in several variants and the best one
counts. Run by `make bench`; writes `results/engine.md` and `results/engine.json`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
ROWS, BATCHES = 256, 32
LEARNING_RATE, MOMENTUM = 0.01, 0.9
# Of the losses of the first steps, relative. Each side rounds to float32 in its own order, and training amplifies it:
# PyTorch's variants are up to 3e-3 from each other too.
CHECKED, TOLERANCE = 96, 1e-2
# The ratio that the project asks for.
WANTED = {"lenet5": 2.0, "mlp": 0.95}


def conv(outputs, padding):
    return {"conv2d": {"outputs": outputs, "kernel": [5, 5], "padding": [padding, padding]}}


def linear(outputs):
    return {"linear": {"outputs": outputs}}


POOL = {"max_pool2d": {"kernel": [2, 2]}}
HEAD = [linear(120), "relu", linear(84), "relu", linear(10)]
# Shape of a sample, operations, and the shapes of the parameters in PyTorch's order.
NETWORKS = {
    "lenet5": (
        [1, 28, 28],
        [conv(6, 2), "relu", POOL, conv(16, 0), "relu", POOL, "flatten", *HEAD],
        [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)],
    ),
    "mlp": (
        [784],
        [linear(512), "relu", linear(256), "relu", linear(10)],
        [(512, 784), (256, 512), (10, 256)],
    ),
}


def write_work(network, path, batches=BATCHES):
    """Data, initial weights and what to do with them, as both sides read it."""
    shape, ops, weights = NETWORKS[network]
    random = np.random.default_rng(7)
    # Ten blurred blots under noise, a tenth of them mislabelled so that no round ends with nothing left to learn.
    target = random.integers(0, 10, ROWS * batches)
    blots = random.normal(size=(10, 28, 28))
    blots = sum(np.roll(blots, (i, j), (1, 2)) for i in range(-2, 3) for j in range(-2, 3)) / 8
    x = 0.5 * blots[target] + random.normal(size=(len(target), 28, 28))
    target = np.where(random.random(len(target)) < 0.1, random.integers(0, 10, len(target)), target)
    layers = [{"name": f"l{i}", "op": op} for i, op in enumerate(ops)]
    trained = [layer["name"] for layer in layers if not isinstance(layer["op"], str) and layer["op"] != POOL]
    tensors, names = {"x": x.astype(np.float32).reshape(-1, *shape), "target": target.astype(np.uint32)}, []
    for name, size in zip(trained, weights, strict=True):
        bound = 1 / np.sqrt(np.prod(size[1:]))
        for part, extent in (("weight", size), ("bias", size[:1])):
            names.append(f"{name}.{part}")
            tensors[names[-1]] = random.uniform(-bound, bound, extent).astype(np.float32)
    spec = {"version": 1, "inputs": [{"name": "x", "kind": {"dense": {"shape": shape}}}], "layers": layers}
    optimizer = {"sgd": {"momentum": MOMENTUM, "nesterov": False, "weight_decay": 0.0}}
    metadata = {
        "network": network,
        "spec": json.dumps(spec),
        "optimizer": json.dumps(optimizer),
        "learning_rate": str(LEARNING_RATE),
        "rows": str(ROWS),
        "parameters": json.dumps(names),
    }
    save_file(tensors, path, metadata)


class Peer:
    """A process that trains when it is told to."""

    def __init__(self, name, command, threads):
        self.name, self.rates = name, []
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([*map(str, command)], env=environment, text=True, **pipes)

    def say(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def train(self, steps):
        self.say(steps)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name} ended with code {self.process.wait()}")
        return json.loads(answer)

    def prepare(self, seconds):
        """Warms up, finds how many steps fill a round, and returns the losses of the first steps."""
        self.say("reset")
        self.train(CHECKED)
        pace = self.train(CHECKED)["seconds"] / CHECKED
        self.steps = max(1, round(seconds / pace))
        self.say("reset")
        return self.train(CHECKED)["losses"]

    def round(self):
        self.say("reset")
        self.rates.append(self.steps * ROWS / self.train(self.steps)["seconds"])

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def apart(losses, others):
    """The largest relative distance between two curves."""
    return max(abs(a - b) / b for a, b in zip(losses, others, strict=True))


def compare(network, threads, arguments, path):
    pytorch = [sys.executable, HERE / "pytorch.py", path, threads]
    variants = ["foreach", "fused", "compile"] + ["channels_last"] * (network == "lenet5")
    peers = [Peer("firesteel", [arguments.rounds, path, threads, "auto"], threads)]
    peers += [Peer(f"pytorch {variant}", [*pytorch, variant], threads) for variant in variants]
    losses = [peer.prepare(arguments.seconds) for peer in peers]
    distances = [apart(losses[0], other) for other in losses[1:]]
    for peer, distance in zip(peers[1:], distances, strict=True):
        if distance > TOLERANCE:
            sys.exit(f"{network} on {threads}: {peer.name} is {distance:.1e} from our losses")
    for _ in range(arguments.rounds_each):
        for peer in peers:
            peer.round()
    for peer in peers:
        peer.end()
    medians = {peer.name: statistics.median(peer.rates) for peer in peers}
    best = max(list(medians)[1:], key=medians.get)
    ratios = [a / b for a, b in zip(peers[0].rates, peers[list(medians).index(best)].rates, strict=True)]
    return {
        "network": network,
        "threads": threads,
        "samples_per_second": {name: round(rate) for name, rate in medians.items()},
        "rounds": {peer.name: [round(rate) for rate in peer.rates] for peer in peers},
        "best_pytorch": best,
        "ratio": round(medians["firesteel"] / medians[best], 3),
        "ratio_of_rounds": [round(min(ratios), 3), round(max(ratios), 3)],
        "wanted": WANTED[network],
        "loss": {
            "steps": CHECKED,
            "first": losses[0][0],
            "last": losses[0][-1],
            "apart": max(distances),
            "apart_among_pytorch": max(apart(losses[1], other) for other in losses[2:]),
        },
    }


def build():
    """The engine's side, built; its path."""
    command = ["cargo", "build", "--release", "-p", "firesteel-engine", "--example", "rounds"]
    command += ["--message-format", "json"]
    run = subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in run.stdout.splitlines()]
    return next(m["executable"] for m in messages if m.get("executable"))


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def markdown(report):
    lines = [
        f"Training, samples/s (median of {report['rounds']} alternating rounds), batch {ROWS}, SGD with momentum,"
        f" float32. {report['processor']}, {report['cores']} cores, PyTorch {report['pytorch']}.",
        "",
        "| network | threads | Firesteel | PyTorch, its best variant | ratio | in single rounds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in report["results"]:
        rates, best = result["samples_per_second"], result["best_pytorch"]
        low, high = result["ratio_of_rounds"]
        lines.append(
            f"| {result['network']} | {result['threads']} | {rates['firesteel']:,} |"
            f" {rates[best]:,} ({best.removeprefix('pytorch ')}) | {result['ratio']:.2f} | {low:.2f}–{high:.2f} |"
        )
    lines += ["", "Every variant:", ""]
    for result in report["results"]:
        rates = ", ".join(f"{name} {rate:,}" for name, rate in result["samples_per_second"].items())
        loss = result["loss"]
        lines.append(
            f"- {result['network']} on {result['threads']}: {rates}. Loss {loss['first']:.4f} → {loss['last']:.4f}"
            f" in {loss['steps']} steps; PyTorch's at most {loss['apart']:.1e} from ours (allowed {TOLERANCE:.0e}),"
            f" its variants at most {loss['apart_among_pytorch']:.1e} from each other."
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", help="the built example `rounds`; built when absent")
    parser.add_argument("--rounds-each", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--strict", action="store_true", help="fail when a ratio is below what is wanted")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or build()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            path = Path(folder) / f"{network}.safetensors"
            write_work(network, path)
            for threads in arguments.threads:
                results.append(compare(network, threads, arguments, path))
                last = results[-1]
                print(f"{network} on {threads}: {last['samples_per_second']} ratio {last['ratio']}", flush=True)
    report = {"processor": processor(), "cores": os.cpu_count(), "pytorch": version("torch")}
    report |= {"rounds": arguments.rounds_each, "results": results}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "engine.json").write_text(json.dumps(report, indent=2) + "\n")
    (HERE / "results" / "engine.md").write_text(markdown(report))
    print(markdown(report))
    short = [f"{r['network']} on {r['threads']}" for r in results if r["ratio"] < r["wanted"]]
    if short:
        print(f"below the wanted ratio: {', '.join(short)}")
    sys.exit(1 if short and arguments.strict else 0)


if __name__ == "__main__":
    main()
