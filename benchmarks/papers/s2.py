"""S2 Reducer (Ge et al. 2021) beside the ways that it was compared with: bytes and seconds of embedding tables.

Workers train four tables on strings that are drawn, over a link of 100 Mbit/s each that is simulated, so that only
communication takes time; bytes are counted by the fabric. Each worker computes so many rows a step, whatever the number
of workers. What decides is how many rows of a table one worker touches in a step, k, and how many any worker, u:
strings as Zipf has them or all alike, more of them or fewer, give four kinds of overlap.

A sketch as long as the union's values is exact; shorter ones have a half, a quarter and a tenth of that. What these
lose is paid in accuracy, or in steps to the same. The exact sums all learn alike, so one of them is trained.

Run by ``make bench-papers``; writes ``results/s2.md``, ``.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import plots
from program import Program

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "network"))
from run import steps_to  # noqa: E402

LINK = "100mbit, 0.2ms"
COLUMNS = 4
WIDTH = 8
# Rows of the dense part, 32 inputs, 32 units and one output: all-reduced beside the tables.
DENSE = (COLUMNS * WIDTH + 1) * 32 + 33
STEPS_AN_EPOCH = 40
EPOCHS = 3
# Of 20 rows one is held out, as in native/train/examples/tables.rs; its score is sent in 9 bytes after an epoch.
TRAINED = 19 / 20
SCORES = 9 / 19
# For all: among eight workers none was better by more than 0.001 of the area under the curve at 0.004.
RATE = 0.016
# How far below the best area under the curve of the exact sum the target is.
SLACK = 0.005
SHARES = (0.5, 0.25, 0.1)
# The four that the paper compares with, and our default.
BASELINES = ("sparse_gather", "densify", "parallax", "union")
EXACT = (*BASELINES, "sharded")
# What the paper says: so many bytes fewer, so many times faster.
FEWER, FASTER = 0.81, 1.8


@dataclass(frozen=True)
class Regime:
    """Which rows are touched."""

    name: str
    # Strings of a column.
    values: int
    zipf: bool
    # Rows of a worker in a step.
    batch: int


REGIMES = (
    Regime("even, 10,000 strings, 256 rows", 10_000, False, 256),
    Regime("Zipf, 30,000 strings, 256 rows", 30_000, True, 256),
    Regime("Zipf, 30,000 strings, 1,024 rows", 30_000, True, 1_024),
    Regime("even, 1,000 strings, 1,024 rows", 1_000, False, 1_024),
)


def main() -> None:
    """Runs all, and writes the tables."""
    options = arguments()
    started = time.monotonic()
    cells = []
    with Program(options.worker) as program:
        for regime, workers in itertools.product(REGIMES, options.workers):
            cells.append(cell(program, regime, workers, workers in options.trained))
            print(line(cells[-1]), flush=True)
    write({"link": LINK, "seconds": time.monotonic() - started, "cells": cells}, options.results)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="path of the example `tables` of firesteel-train")
    parser.add_argument("--workers", nargs="+", type=int, default=[4, 8, 16], help="how many, by turns")
    parser.add_argument("--trained", nargs="+", type=int, default=[8, 16], help="of those, which learn until the end")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    return parser.parse_args()


def cell(program: Program, regime: Regime, workers: int, trained: bool) -> dict:
    """All ways to sum in a regime among so many workers; of those that lose something, what they learn."""

    def train(strategy: str, epochs: int) -> dict:
        return measured(program.ask(question(regime, workers, strategy, epochs)), regime, workers)

    ways = {name: train(name, 1) for name in EXACT}
    touched = rows_touched(ways, workers)
    sketches = {f"s2, {share:g}": sketch(share, touched) for share in SHARES}
    if trained:
        exact = learned(train("union", EPOCHS), None)
        taught = {key: exact[key] for key in ("areas", "area", "steps")}
        ways = {name: {**way, **taught} for name, way in ways.items()}
        ways |= {name: learned(train(way, EPOCHS), exact["area"]) for name, way in sketches.items()}
    else:
        ways |= {name: train(way, 1) for name, way in sketches.items()}
    return {"regime": asdict(regime), "workers": workers, "touched": touched, "trained": trained, "ways": ways}


def learned(way: dict, best: float | None) -> dict:
    """With what it reaches: the largest area under the curve, and steps to the target below the best."""
    area = max(auc for _, auc in way["areas"])
    # What is above the curve shall become small, as a loss.
    above = [{"steps": steps, "validation_loss": 1 - auc} for steps, auc in way["areas"]]
    return {**way, "area": area, "steps": steps_to(1 - (best or area) + SLACK, above)}


def question(regime: Regime, workers: int, strategy: str, epochs: int) -> dict:
    """What the workers are asked."""
    batch = regime.batch * workers
    params = {"strategy": strategy, "learningRate": RATE, "batchSize": batch, "epochs": epochs, "seed": 1}
    return {
        "workers": workers,
        "network": LINK,
        "rows": round(STEPS_AN_EPOCH * batch / TRAINED),
        "columns": COLUMNS,
        "values": regime.values,
        "zipf": regime.zipf,
        "width": WIDTH,
        "params": {**params, "threads": 1, "loss": "binary_cross_entropy"},
    }


def measured(answer: dict, regime: Regime, workers: int) -> dict:
    """Of a step: seconds, and bytes of tables that a worker sends, in the mean and at most."""
    if answer["error"]:
        raise RuntimeError(answer["error"])
    started, *epochs = answer["epochs"]
    last = epochs[-1]
    # The dense part and the scores of held-out rows are not the tables'.
    others = 8 * (workers - 1) * DENSE / workers + SCORES * regime.batch * (workers - 1) / workers
    return {
        "weights": started["weights"],
        "seconds": last["seconds"] / last["steps"],
        "bytes": last["sent"]["all"] / workers / last["steps"] - others,
        "most": last["sent"]["most"] / last["steps"] - others,
        "areas": [(epoch["steps"], epoch["auc"]) for epoch in epochs],
    }


def rows_touched(ways: dict, workers: int) -> dict:
    """Rows of all tables, and how many one and any worker touches in a step: from bytes that were sent."""
    rows = (ways["union"]["weights"] - DENSE) // WIDTH
    union = ways["union"]["bytes"] * workers / (2 * (workers - 1)) - rows / 8
    return {
        "rows": rows,
        "mine": ways["sparse_gather"]["bytes"] / ((workers - 1) * 4 * (1 + WIDTH)),
        "any": union / (4 * WIDTH),
    }


def sketch(share: float, touched: dict) -> str:
    """A sketch with a share of the union's values in cells."""
    return f"s2(ratio={share * touched['any'] / touched['rows']:.5f}, feedback=true)"


def line(cell: dict) -> str:
    """A cell, in a line."""
    touched = cell["touched"]
    rows = f"of {touched['rows']:,} rows k = {touched['mine']:,.0f}, u = {touched['any']:,.0f}"
    ways = ", ".join(f"{name} {1e3 * way['seconds']:.1f} ms" for name, way in cell["ways"].items())
    return f"{cell['regime']['name']}, {cell['workers']} workers: {rows}; {ways}"


def costs(cells: list[dict]) -> list[str]:
    """A table of what a step costs in each cell."""
    ways = list(cells[0]["ways"])
    lines = [f"| kB a worker; ms | workers | u/k | {' | '.join(f'`{way}`' for way in ways)} |"]
    lines.append("| --- | ---: | ---: |" + " ---: |" * len(ways))
    for cell in cells:
        overlap = cell["touched"]["any"] / cell["touched"]["mine"]
        found = [f"{way['bytes'] / 1e3:,.0f}; {1e3 * way['seconds']:,.1f}" for way in cell["ways"].values()]
        lines.append(f"| {cell['regime']['name']} | {cell['workers']} | {overlap:.1f} | {' | '.join(found)} |")
    return [*lines, ""]


def gains(cells: list[dict]) -> list[str]:
    """A table of what sketches save and lose, and how much sooner than the best of the others they are there."""
    sketches = [f"s2, {share:g}" for share in SHARES]
    heads = ["fewer bytes than all-gather", "AUC lost", "times sooner than the best"]
    heads = [f"{head}: {way}" for head in heads for way in sketches]
    lines = [f"| | workers | AUC of exact sums | {' | '.join(heads)} | the best |"]
    lines.append("| --- | ---: | ---: |" + " ---: |" * len(heads) + " --- |")
    for cell in cells:
        exact = cell["ways"]["union"]["area"]
        best = max(BASELINES, key=lambda way, cell=cell: speed(cell, way))
        row = [cell["regime"]["name"], str(cell["workers"]), f"{exact:.4f}"]
        row += [f"{1 - share_of_bytes(cell, way):.0%}" for way in sketches]
        row += [f"{exact - cell['ways'][way]['area']:.4f}" for way in sketches]
        sooner = [(found / speed(cell, best) if (found := speed(cell, way)) else None) for way in sketches]
        row += [*(shown(value, ".2f") for value in sooner), f"`{best}`"]
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def speed(cell: dict, name: str) -> float | None:
    """How many times sooner a way gets to the target than the all-gather; none where it does not."""
    mine, gathered = cell["ways"][name], cell["ways"]["sparse_gather"]
    if not mine.get("steps"):
        return None
    return gathered["steps"] * gathered["seconds"] / (mine["steps"] * mine["seconds"])


def shown(value: float | None, form: str) -> str:
    """A number, or that there is none."""
    return "—" if value is None else format(value, form)


def write(details: dict, folder: Path) -> None:
    """Tables, details and picture."""
    lines = [f"{details['link']}, simulated; computing takes no time; {details['seconds']:.0f} s in all.", ""]
    lines += costs(details["cells"])
    lines += gains([cell for cell in details["cells"] if cell["trained"]])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s2.md").write_text("\n".join(lines))
    (folder / "s2.json").write_text(json.dumps(details, indent=2) + "\n")
    print("\n".join(lines))
    draw_plot(details["cells"], folder / "s2.png")


def draw_plot(cells: list[dict], path: Path) -> None:
    """Bytes by the number of workers; among most of them, what is lost by bytes, and times to the target."""
    figure, [left, middle, right] = plots.panels(3)
    draw_bytes(left, cells)
    most = [cell for cell in cells if cell["trained"] and cell["workers"] == max(cell["workers"] for cell in cells)]
    draw_losses(middle, most)
    names = ["union", "sharded", *(f"s2, {share:g}" for share in SHARES)]
    speeds = {name: [[speed(cell, name) or 0.0] for cell in most] for name in names}
    plots.bars(right, [cell["regime"]["name"].replace(" strings, ", "\n") for cell in most], speeds)
    right.axhline(FASTER, color="#333333", linewidth=0.8, linestyle="--")
    right.set_yscale("log")
    plots.plain_ticks(right.yaxis, (0.5, 1, 2, 5, 10, 20))
    right.set_title(f"{most[0]['workers']} workers: times sooner at the target", fontsize=10)
    right.tick_params(axis="x", labelsize=7)
    right.legend(fontsize=7)
    plots.save(figure, path)


def draw_bytes(axis: plots.Axes, cells: list[dict]) -> None:
    """Of exact sums and of a sketch, over the all-gather's; a line a regime."""
    workers = sorted({cell["workers"] for cell in cells})
    for nth, regime in enumerate(REGIMES):
        mine = [cell for cell in cells if cell["regime"]["name"] == regime.name]
        for way, style in (("union", "-"), ("s2, 0.25", ":")):
            label = regime.name if way == "union" else None
            shares = [share_of_bytes(cell, way) for cell in mine]
            axis.plot(workers, shares, style, marker="o", markersize=3, color=plots.COLOURS[nth], label=label)
    axis.axhline(1 - FEWER, color="#333333", linewidth=0.8, linestyle="--")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    plots.plain_ticks(axis.xaxis, workers)
    plots.plain_ticks(axis.yaxis, (0.05, 0.1, 0.2, 0.5, 1, 2))
    axis.set_xlabel("workers")
    axis.set_title("bytes, all-gather 1: union (—), sketch of a quarter (···)", fontsize=10)
    axis.legend(fontsize=7)


def draw_losses(axis: plots.Axes, cells: list[dict]) -> None:
    """How much of the area under the curve sketches lose, by their bytes over the all-gather's."""
    ways = [f"s2, {share:g}" for share in SHARES]
    for nth, cell in enumerate(cells):
        lost = [cell["ways"]["union"]["area"] - cell["ways"][way]["area"] for way in ways]
        shares = [share_of_bytes(cell, way) for way in ways]
        axis.plot(shares, lost, marker="o", markersize=3, color=plots.COLOURS[nth])
    axis.axvline(1 - FEWER, color="#333333", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    plots.plain_ticks(axis.xaxis, (0.02, 0.05, 0.1, 0.2, 0.5))
    axis.set_xlabel("bytes, all-gather 1")
    axis.set_title(f"{cells[0]['workers']} workers: AUC that sketches lose", fontsize=10)


def share_of_bytes(cell: dict, way: str) -> float:
    """Of the all-gather's."""
    return cell["ways"][way]["bytes"] / cell["ways"]["sparse_gather"]["bytes"]


if __name__ == "__main__":
    main()
