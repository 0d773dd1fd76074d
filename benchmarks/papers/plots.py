"""How pictures look: bars in groups, panels side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

COLOURS = ("#9aa5b1", "#e0a030", "#2f6f9f", "#4f9d69", "#b04a5a", "#7a5ea8", "#5b5b5b", "#c97fb0")


def panels(count: int, height: float = 3.4) -> tuple:
    """A figure with so many panels, and these."""
    figure, axes = plt.subplots(1, count, figsize=(5.0 * count, height), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, list(axes[0])


def bars(axis: Axes, groups: list[str], series: dict[str, list[list[float]]]) -> None:
    """The medians of some values for each group and series, with their range."""
    width = 0.8 / len(series)
    for nth, (name, of_groups) in enumerate(series.items()):
        heights = [statistics.median(values) for values in of_groups]
        below = [height - min(values) for height, values in zip(heights, of_groups, strict=True)]
        above = [max(values) - height for height, values in zip(heights, of_groups, strict=True)]
        places = [group + (nth - (len(series) - 1) / 2) * width for group in range(len(groups))]
        colour = COLOURS[nth % len(COLOURS)]
        axis.bar(places, heights, width * 0.92, label=name, color=colour)
        axis.errorbar(places, heights, yerr=[below, above], fmt="none", ecolor="#333333", elinewidth=0.8)
    axis.set_xticks(range(len(groups)), groups)


def plain_ticks(axis: Axis, at: Iterable[float]) -> None:
    """Of a logarithmic axis: some numbers as they are, and nothing between them."""
    axis.set_major_locator(FixedLocator(list(at)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def save(figure: plt.Figure, path: Path) -> None:
    """As a picture that is small."""
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})
    plt.close(figure)
