"""The tables: a line a training while they run, Markdown and JSON at the end."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from links import CONGESTION_CONTROL
from settings import NETWORKS, Model


def line(run: dict) -> str:
    """One training, in a line."""
    begin = f"{run['network']}: {run['model']}, {run['strategy']}: "
    if run["step_seconds"] is None:
        return f"{begin}{run['ended']}: {run['error']}"
    return begin + ", ".join(
        (
            f"{1e3 * run['step_seconds']:.1f} ms a step",
            f"{run['step_bytes'] / 1e3:,.1f} kB a step",
            f"{run['steps_to_target']:.0f} steps" if run["steps_to_target"] else f"no target: {run['ended']}",
            f"{run['epochs'][-1]['seconds']:.1f} s",
        )
    )


def write(details: dict, models: tuple[Model, ...], path: Path) -> None:
    """Prints the tables and writes them, and all that was measured: with the path's name, by kind."""
    lines = [f"Four workers; TCP with {CONGESTION_CONTROL}; {details['seconds']:.0f} s in all.", ""]
    for model in models:
        for network in NETWORKS:
            lines += table(model, network.name, details["runs"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text("\n".join(lines))
    path.with_suffix(".json").write_text(json.dumps(details, indent=2) + "\n")
    print("\n".join(lines))


def table(model: Model, network: str, runs: list[dict]) -> list[str]:
    """All strategies of a model over a network."""
    rows = {}
    for setting in model.settings:
        mine = [r for r in runs if (r["model"], r["network"], r["strategy"]) == (model.name, network, setting.strategy)]
        if mine:
            rows[setting.strategy] = medians(mine)
    if not rows:
        return []
    over = " | ".join(f"over `{name}`" for name in model.baselines)
    lines = [
        f"{model.name}, {network}, to a loss of {model.target}",
        "",
        f"| strategy | ms a step | steps | seconds | {over} | MB sent | of `{model.baselines[0]}`'s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for strategy, row in rows.items():
        times = [ratio(rows.get(name, {}).get("seconds"), row["seconds"], ".2f") for name in model.baselines]
        share = ratio(row["bytes"], rows.get(model.baselines[0], {}).get("bytes"), ".3f")
        cells = [
            f"`{strategy}`",
            shown(row["step_seconds"], 1e3, ".1f"),
            shown(row["steps"], 1, ".0f"),
            shown(row["seconds"], 1, ".1f"),
            *times,
            shown(row["bytes"], 1e-6, ",.1f"),
            share,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def medians(runs: list[dict]) -> dict:
    """Of the rounds; what did not get to the target in one has no time."""
    there = all(run["steps_to_target"] for run in runs)
    steps = statistics.median(run["steps_to_target"] for run in runs) if there else None
    stepped = all(run["step_seconds"] for run in runs)
    step = statistics.median(run["step_seconds"] for run in runs) if stepped else None
    sent = statistics.median(run["step_bytes"] for run in runs) if stepped else None
    return {
        "step_seconds": step,
        "steps": steps,
        "seconds": statistics.median(run["steps_to_target"] * run["step_seconds"] for run in runs) if there else None,
        "bytes": steps * sent if steps else None,
    }


def shown(value: float | None, scale: float, form: str) -> str:
    """A number, or that there is none."""
    return "—" if value is None else format(value * scale, form)


def ratio(above: float | None, below: float | None, form: str) -> str:
    """Of two numbers, where there are two."""
    return "—" if above is None or not below else format(above / below, form)
