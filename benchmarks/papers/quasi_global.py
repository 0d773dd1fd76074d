"""Quasi-global momentum (Lin et al. 2021) beside local momentum where workers have different data.

Workers train LeNet-5 on some images of MNIST, decentralised, over a ring of 16 and over Davis' graph of 32. Of each
class the workers have shares that a Dirichlet distribution draws: the smaller its alpha, the more they differ. What
is dealt once stays. Rates are chosen by held-out training images and two seeds that are not reported, for each cell of
the table by itself; what is reported is the accuracy on the test images, of each worker's own weights in the mean, and
of the mean of the weights.

Run by ``make bench-papers``; writes ``results/quasi_global.md``, ``.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import struct
import time
from pathlib import Path

import numpy as np
import plots
from program import Program

HERE = Path(__file__).parent
# How many training images are dealt, and those that rates are chosen by.
DEALT = (3_200,)
HELD = range(55_000, 57_000)
# Workers beyond that are dealt to in groups: more could not all have a share of ten classes.
MOST_IN_A_GROUP = 10
TOPOLOGIES = {"ring": 16, "davis": 32}
ALPHAS = (10.0, 1.0, 0.1)
BATCH = 32
STEPS = 200
SEARCHED = (10, 11)
SEEDS = (1, 2, 3)
# The standard error of an accuracy of 95.5 % over all that are searched by, 4,000 images.
TIE = 0.0033
NETWORK = "lenet5"

# Name, strategy, momentum of the workers' own optimizers, rates that are tried.
METHODS = (
    ("no momentum", "dpsgd(topology={})", 0.0, (0.1, 0.2, 0.4, 0.8)),
    ("local momentum", "dpsgd(topology={})", 0.9, (0.025, 0.05, 0.1, 0.2)),
    ("quasi-global", "quasi_global(topology={})", 0.0, (0.025, 0.05, 0.1, 0.2)),
)


def main() -> None:
    """Searches rates, trains, and writes the tables."""
    options = arguments()
    labels = read_labels(options.data)
    started = time.monotonic()
    runs: list[dict] = []
    with Program(options.worker, str(options.data)) as program:
        for where in itertools.product(options.images, options.topologies, options.alphas):
            for method in METHODS:
                runs.append(cell(program, options, labels, where, method))
                print(line(runs[-1]), flush=True)
    details = {"steps": options.steps, "seconds": time.monotonic() - started, "runs": runs}
    write(details, options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="path of the example `gossip` of firesteel-train")
    parser.add_argument("--data", type=Path, required=True, help="the folder of MNIST")
    parser.add_argument("--images", nargs="+", type=int, default=list(DEALT), help="that are dealt")
    parser.add_argument("--topologies", nargs="+", choices=list(TOPOLOGIES), default=list(TOPOLOGIES))
    parser.add_argument("--alphas", nargs="+", type=float, default=list(ALPHAS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--meet", type=int, default=0, help="steps between means of all workers; 0 for none")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    return parser.parse_args()


def read_labels(folder: Path) -> np.ndarray:
    """Of all training images."""
    data = (folder / "train-labels-idx1-ubyte").read_bytes()
    magic, count = struct.unpack(">II", data[:8])
    assert (magic, count) == (2049, 60_000), "no labels of MNIST"
    return np.frombuffer(data, np.uint8, offset=8)


def split(labels: np.ndarray, workers: int, alpha: float, seed: int) -> list[list[int]]:
    """The rows of each worker, as the paper deals them: in groups, and in those by class."""
    draw = np.random.default_rng([seed, workers, round(1_000 * alpha)])
    order = draw.permutation(len(labels))
    groups = [min(MOST_IN_A_GROUP, workers - first) for first in range(0, workers, MOST_IN_A_GROUP)]
    ends = np.cumsum(groups)[:-1] * len(labels) // workers
    shards: list[list[int]] = []
    for size, rows in zip(groups, np.split(order, ends), strict=True):
        shards += deal(labels, rows, size, alpha, draw)
    return shards


def deal(labels: np.ndarray, rows: np.ndarray, workers: int, alpha: float, draw: np.random.Generator) -> list:
    """Rows to a group, anew until nobody has less than half the average."""
    average = len(rows) / workers
    while True:
        shards: list[list[int]] = [[] for _ in range(workers)]
        for label in np.unique(labels):
            share = draw.dirichlet(np.full(workers, alpha))
            # Who has an average share already gets no more.
            share *= [len(shard) < average for shard in shards]
            mine = rows[labels[rows] == label]
            ends = (np.cumsum(share / share.sum())[:-1] * len(mine)).astype(int)
            for shard, part in zip(shards, np.split(mine, ends), strict=True):
                shard += part.tolist()
        if min(map(len, shards)) >= average / 2:
            return shards


def cell(program: Program, options: argparse.Namespace, labels: np.ndarray, where: tuple, method: tuple) -> dict:
    """One method, so many images, a topology and an alpha: the best rate, and what it reaches by that."""
    (images, topology, alpha), (name, _, _, rates) = where, method

    def train(rate: float, seed: int, held: list[int]) -> dict:
        return program.ask(question(options, labels, where, method, (rate, seed, held)))

    def own(rate: float, seed: int) -> float:
        return statistics.mean(train(rate, seed, list(HELD))["each"])

    searched = {rate: statistics.mean(own(rate, seed) for seed in SEARCHED) for rate in rates}
    best = smallest_of_best(searched)
    reached = [train(best, seed, []) for seed in options.seeds]
    return {
        "images": images,
        "topology": topology,
        "alpha": alpha,
        "method": name,
        "searched": searched,
        "rate": best,
        "own": [100 * statistics.mean(found["each"]) for found in reached],
        "least": [100 * min(found["each"]) for found in reached],
        "of_mean": [100 * found["of_mean"] for found in reached],
    }


def question(options: argparse.Namespace, labels: np.ndarray, where: tuple, method: tuple, how: tuple) -> dict:
    """What the workers are asked: to train by a rate and a seed, and to judge by held-out images or the test images."""
    (images, topology, alpha), (_, strategy, momentum, _), (rate, seed, held) = where, method, how
    return {
        "strategy": strategy.format(topology),
        "network": NETWORK,
        "shards": split(labels[:images], TOPOLOGIES[topology], alpha, seed),
        "held": held,
        "rate": rate,
        "momentum": momentum,
        "batch": BATCH,
        "steps": options.steps,
        "meet": options.meet,
        "seed": seed,
    }


def smallest_of_best(searched: dict[float, float]) -> float:
    """The smallest rate that the best is not above by more than chance: larger ones may diverge by other seeds."""
    return min(rate for rate, found in searched.items() if found >= max(searched.values()) - TIE)


def line(run: dict) -> str:
    """One cell, in a line."""
    searched = ", ".join(f"{rate}: {100 * found:.1f}" for rate, found in run["searched"].items())
    reached = f"own {spread(run['own'])}, least {spread(run['least'])}, of the mean {spread(run['of_mean'])}"
    where = f"{run['images']}, {run['topology']}, {run['alpha']}, {run['method']}"
    return f"{where}: {reached}; rate {run['rate']} of {searched}"


def spread(values: list[float]) -> str:
    """The median, and from where to where they go: a training that diverges shall not hide the others."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def write(details: dict, options: argparse.Namespace) -> None:
    """Table, details and picture."""
    runs = details["runs"]
    lines = [f"{details['steps']} steps, seeds {options.seeds}; {details['seconds']:.0f} s in all.", ""]
    lines += ["| images | topology | alpha | method | rate | own weights | the worst's | their mean | over local |"]
    lines += ["| ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for run in runs:
        [local] = [one for one in runs if same(one, run) and one["method"] == "local momentum"]
        over = statistics.median(run["own"]) - statistics.median(local["own"])
        cells = [f"{run['images']:,}", run["topology"], f"{run['alpha']:g}", run["method"], f"{run['rate']:g}"]
        cells += [spread(run[key]) for key in ("own", "least", "of_mean")]
        lines.append(f"| {' | '.join(cells)} | {'' if run is local else f'{over:+.1f}'} |")
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "quasi_global.md").write_text("\n".join(lines) + "\n")
    (options.results / "quasi_global.json").write_text(json.dumps(details, indent=2) + "\n")
    draw_plot(details["runs"], options.results / "quasi_global.png")
    print("\n".join(lines))


def same(a: dict, b: dict) -> bool:
    """Whether two cells differ by the method alone."""
    return all(a[key] == b[key] for key in ("images", "topology", "alpha"))


def draw_plot(runs: list[dict], path: Path) -> None:
    """Of the fewest images: a panel a topology, a group of bars an alpha; and what rates do where data differ most."""
    mine = [run for run in runs if run["images"] == min(run["images"] for run in runs)]
    topologies = list(dict.fromkeys(run["topology"] for run in mine))
    figure, axes = plots.panels(len(topologies) + 1)
    for axis, topology in zip(axes, topologies, strict=False):
        draw_bars(axis, [run for run in mine if run["topology"] == topology])
        axis.set_title(f"{topology}, {TOPOLOGIES[topology]} workers, {mine[0]['images']:,} images")
        axis.set_ylim(min(statistics.median(run["own"]) for run in mine) - 4, 98)
    axes[0].set_ylabel("test accuracy of own weights, %")
    axes[0].legend(loc="upper center", ncols=3, fontsize=7)
    draw_rates(axes[-1], [run for run in mine if run["topology"] == topologies[0]])
    plots.save(figure, path)


def draw_bars(axis: plots.Axes, runs: list[dict]) -> None:
    """Accuracies over alphas, by method."""
    groups = list(dict.fromkeys(f"alpha {run['alpha']:g}" for run in runs))
    names = dict.fromkeys(run["method"] for run in runs)
    plots.bars(axis, groups, {name: [run["own"] for run in runs if run["method"] == name] for name in names})


def draw_rates(axis: plots.Axes, runs: list[dict]) -> None:
    """Accuracies over rates, by method, for the smallest alpha."""
    alpha = min(run["alpha"] for run in runs)
    for nth, run in enumerate(run for run in runs if run["alpha"] == alpha):
        rates = [float(rate) for rate in run["searched"]]
        found = [100 * value for value in run["searched"].values()]
        axis.plot(rates, found, marker="o", markersize=3, color=plots.COLOURS[nth], label=run["method"])
    axis.set_xscale("log")
    plots.plain_ticks(axis.xaxis, (0.025, 0.05, 0.1, 0.2, 0.4, 0.8))
    axis.set_xlabel("learning rate")
    axis.set_title(f"{runs[0]['topology']}, alpha {alpha:g}: by rate, held-out images")


if __name__ == "__main__":
    main()
