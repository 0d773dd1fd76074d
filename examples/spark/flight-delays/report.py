"""Turns results.json into report.html, one file that needs nothing else.

python report.py FOLDER
"""

import io
import json
import platform
import sys
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {
    "NeuralClassifier": "#c2410c",
    "MultilayerPerceptronClassifier": "#2563eb",
    "LogisticRegression": "#64748b",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1e293b }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #e2e8f0 }
.lead { color: #475569; margin-top: .3rem }
table { border-collapse: collapse } td, th { padding: .35rem .9rem; text-align: left; vertical-align: top }
tr { border-bottom: 1px solid #e2e8f0 } .number { text-align: right; font-variant-numeric: tabular-nums }
tr.ours { font-weight: 600; background: #fff7ed } svg { width: 100%; height: auto }
.small { font-size: .85rem; overflow-wrap: anywhere } code { color: #475569 }
"""


def main() -> None:
    """Reads and writes the files of a folder."""
    folder = Path(sys.argv[1])
    results = json.loads((folder / "results.json").read_text())
    (folder / "report.html").write_text(page(results), encoding="utf-8")
    print(f"report: {folder / 'report.html'}")


def page(results: dict) -> str:
    """The whole document."""
    rows = results["rows"]
    versions = results["versions"] | {
        "Python": platform.python_version(),
        "matplotlib": matplotlib.__version__,
    }
    same = "every one equal" if results["differing"] == 0 else f"{results['differing']:,} differ"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Flight delays</title><style>{STYLE}</style></head><body>
<h1>Which flights arrive late?</h1>
<p class="lead">All flights from New York in 2013: learnt from the {rows["train"]:,} of January to October, tested
on the {rows["test"]:,} of November and December. Late means more than 15 minutes; every feature was known two
hours before departure.</p>
<h2>Comparison</h2>{comparison(results["fits"])}
<p>The fitted pipeline was saved, loaded in a new Spark session and scored the test months again:
{rows["test"]:,} probabilities, {same}.</p>
<h2>ROC on the test months</h2>{roc(results["fits"])}
<h2>Training of the network</h2>{curves(results["history"])}
<h2>Configuration</h2>{table(results["configuration"])}
<h2>Versions</h2>{table(versions)}
</body></html>
"""


def comparison(fits: list[dict]) -> str:
    """The three models, the best first."""
    lines = ['<table><tr><th>model</th><th class="number">test AUC</th><th class="number">training</th></tr>']
    for fit in sorted(fits, key=lambda fit: -fit["auc"]):
        kind = ' class="ours"' if fit["name"] == "NeuralClassifier" else ""
        lines.append(
            f'<tr{kind}><td>{fit["name"]}</td><td class="number">{fit["auc"]:.4f}</td>'
            f'<td class="number">{fit["seconds"]:.1f} s</td></tr>'
        )
    return "".join(lines) + "</table>"


def table(values: dict) -> str:
    """Names and values."""
    cells = (
        f'<tr><td>{escape(name)}</td><td class="small"><code>{escape(str(value))}</code></td></tr>'
        for name, value in sorted(values.items())
        if value not in ("", None)
    )
    return "<table>" + "".join(cells) + "</table>"


def roc(fits: list[dict]) -> str:
    """The ROC curve of each model."""
    figure = Figure(figsize=(9, 5.2))
    axes = axes_of(figure, 111, "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="#cbd5e1", linewidth=1, linestyle="--")
    for fit in sorted(fits, key=lambda fit: -fit["auc"]):
        label = f"{fit['name']}  {fit['auc']:.4f}"
        axes.plot(*zip(*fit["roc"], strict=True), color=COLORS[fit["name"]], linewidth=1.8, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    return svg(figure)


def curves(history: list[dict]) -> str:
    """Loss and validation AUC by epoch."""
    figure = Figure(figsize=(9, 3.6))
    epochs = [epoch["epoch"] for epoch in history]
    losses = axes_of(figure, 121, "epoch", "loss")
    losses.plot(epochs, [epoch["loss"] for epoch in history], marker="o", color="#c2410c", label="training")
    held_out = [epoch.get("validationLoss") for epoch in history]
    losses.plot(epochs, held_out, marker="o", color="#0f766e", label="validation")
    losses.legend(frameon=False)
    aucs = axes_of(figure, 122, "epoch", "validation AUC")
    aucs.plot(epochs, [epoch.get("validationMetric") for epoch in history], marker="o", color="#0f766e")
    for axes in (losses, aucs):
        axes.set_xticks(epochs)
    return svg(figure)


def axes_of(figure: Figure, place: int, x: str, y: str) -> Axes:
    """Plain axes with names."""
    axes = figure.add_subplot(place)
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#f1f5f9")
    return axes


def svg(figure: Figure) -> str:
    """The figure as an element of the page."""
    figure.tight_layout()
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]


if __name__ == "__main__":
    main()
