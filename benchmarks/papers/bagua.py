"""BAGUA's algorithms (Gan et al. 2021) beside a plain all-reduce, over slow links: how many times faster they are.

Trains the dense network of ``benchmarks/network`` between its namespaces and takes its options, so it needs root.

Run by ``make bench-papers``; writes ``results/bagua.md``, ``.json`` and ``.png``.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import plots

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "network"))
import report  # noqa: E402
import run  # noqa: E402
from settings import DENSE, NETWORKS, Setting  # noqa: E402

BASELINE = "all_reduce"
# Their names there, by our strategies for them.
ALGORITHMS = {
    BASELINE: "all-reduce",
    "two_phase(min_max_u8, min_max_u8)": "ByteGrad",
    "qadam(warmup=40)": "QAdam",
    "one_bit_adam(warmup=40)": "1-bit Adam",
    "dpsgd": "decentralised, ring",
    "dpsgd(shift_one, mix_update)": "decentralised, one peer",
    "dcd": "low-precision decentralised",
    "async_average(every=8)": "asynchronous",
}
# What benchmarks/network does not have; rates are the best of `bagua.py --search`, seed 1.
OTHERS = (Setting("dpsgd(shift_one, mix_update)", 0.001), Setting("dcd", 0.002))
SETTINGS = {setting.strategy: setting for setting in (*DENSE.settings, *OTHERS)}
# What the paper says of training from end to end.
AT_MOST = 2.0


def main() -> None:
    """Trains, and writes tables and picture."""
    settings = tuple(SETTINGS[strategy] for strategy in ALGORITHMS)
    models = (dataclasses.replace(DENSE, settings=settings, baselines=(BASELINE,)),)
    options = run.arguments(models)
    runs = run.main(options, models, "bagua")
    if any(r["strategy"] == BASELINE for r in runs):
        draw_plot(runs, options.results / "bagua.png")


def draw_plot(runs: list[dict], path: Path) -> None:
    """Panels of times to the target and of times of a step, over the all-reduce; a group of bars a network."""
    networks = [one.name for one in NETWORKS if any(r["network"] == one.name for r in runs)]
    figure, axes = plots.panels(2)
    for axis, key, title in zip(axes, ("seconds", "step_seconds"), ("to the target", "a step"), strict=True):
        series = {
            name: [[times_faster(runs, network, strategy, key)] for network in networks]
            for strategy, name in ALGORITHMS.items()
            if any(r["strategy"] == strategy for r in runs)
        }
        plots.bars(axis, networks, series)
        axis.axhline(AT_MOST, color="#333333", linewidth=0.8, linestyle="--")
        axis.set_title(f"times faster than the all-reduce, {title}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    plots.save(figure, path)


def times_faster(runs: list[dict], network: str, strategy: str, key: str) -> float:
    """Than the all-reduce over a network; 0 for what does not get to the target."""

    def median(strategy: str) -> float | None:
        return report.medians([r for r in runs if (r["network"], r["strategy"]) == (network, strategy)])[key]

    mine, other = median(strategy), median(BASELINE)
    return other / mine if mine and other else 0.0


if __name__ == "__main__":
    main()
