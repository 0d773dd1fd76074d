"""SQL beside the engine by itself and beside ONNX Runtime.

Trains a network on flights-3m with ``CREATE MODEL`` and predicts with it, alternately with its peers, in one run:

* ``create`` and ``trainer``: the epochs of ``CREATE MODEL``, and those of the training loop on the same rows in memory;
* ``predict`` and ``onnxruntime``: from the same Parquet file to the number of rows that are predicted to be late, by
  ``ML.PREDICT`` and by ONNX Runtime, fed by pyarrow, with the network that ``EXPORT MODEL`` wrote;
* ``engine``: the network alone, on tensors that are in memory.

Everything has two threads. Run by ``make bench-sql``; writes ``results/sql.md`` and ``results/sql.json``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import write_results

COLUMNS = ("month", "hour", "distance", "origin", "destination")
NUMBERS = COLUMNS[:3]
THREADS = 2
# Rows that onnxruntime gets at once.
BATCH = 65_536
RATIOS = {
    "predict / onnxruntime": ("predict", "onnxruntime"),
    "predict / engine": ("predict", "engine"),
    "create / trainer": ("create", "trainer"),
}


def main() -> None:
    """Runs the comparison and writes its table."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="firesteel-bench-") as folder:
        rows = Path(folder) / "rows.parquet"
        count = prepare(options.data, rows)
        rates = measure(rows, Path(folder), options)
    report(rates, count, options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", required=True, help="path of the example `speed` of firesteel-sql")
    parser.add_argument("--data", type=Path, required=True, help="flights-3m.parquet")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def prepare(data: Path, rows: Path) -> int:
    """The columns that a network reads, of types that an ONNX file has."""
    table = pq.read_table(data)
    table = table.filter(pc.is_valid(table["delay"]))
    date = table["date"]
    table = pa.table(
        {
            "month": pc.month(date).cast(pa.float64()),
            "hour": pc.hour(date).cast(pa.float64()),
            "distance": table["distance"].cast(pa.float64()),
            "origin": table["origin"].cast(pa.string()),
            "destination": table["destination"].cast(pa.string()),
            "late": pc.greater(table["delay"], 15),
        }
    )
    pq.write_table(table, rows, row_group_size=100_000)
    return table.num_rows


def measure(rows: Path, folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Rows a second of each side, a value a round."""
    command = [options.speed, str(rows), str(folder / "models")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as firesteel:
        firesteel.stdout.readline()  # the first training has warmed the page cache
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(folder / "model-onnx" / "model.onnx", settings)
        sides = ("predict", "onnxruntime", "engine", "create", "trainer")
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for round_number in range(options.rounds):
            for side in sides:
                if side == "onnxruntime":
                    rate = onnxruntime_rate(session, rows)
                else:
                    print(side, file=firesteel.stdin, flush=True)
                    rate = float(firesteel.stdout.readline())
                rates[side].append(rate)
            print(f"round {round_number}: " + ", ".join(f"{k} {v[-1]:,.0f}" for k, v in rates.items()), flush=True)
        firesteel.stdin.close()
    return rates


def onnxruntime_rate(session: onnxruntime.InferenceSession, rows: Path) -> float:
    """From the file to the number of rows that are predicted to be late."""
    start = time.perf_counter()
    count = late = 0
    for batch in pq.ParquetFile(rows).iter_batches(batch_size=BATCH, columns=list(COLUMNS)):
        feeds = {name: batch[name].to_numpy().astype(np.float32).reshape(-1, 1) for name in NUMBERS}
        for name in COLUMNS[3:]:
            feeds[name] = batch[name].to_numpy(zero_copy_only=False).reshape(-1, 1)
        late += int(session.run(["prediction"], feeds)[0].sum())
        count += batch.num_rows
    return count / (time.perf_counter() - start)


def report(rates: dict[str, list[float]], count: int, options: argparse.Namespace) -> None:
    """Prints the table and writes it as Markdown and JSON."""
    pairs = {k: [x / y for x, y in zip(rates[a], rates[b], strict=True)] for k, (a, b) in RATIOS.items()}
    lines = [
        f"flights-3m, {count:,} rows, three numbers and two strings, hidden layers of 128 and 64, {THREADS} threads, "
        f"median of {options.rounds} alternating rounds; onnxruntime {onnxruntime.__version__}.",
        "",
        "| side | rows/s |",
        "| --- | ---: |",
        *(f"| {side} | {statistics.median(values):,.0f} |" for side, values in rates.items()),
        "",
        "| ratio | median | range |",
        "| --- | ---: | ---: |",
        *(f"| {k} | {statistics.median(v):.2f} | {min(v):.2f}–{max(v):.2f} |" for k, v in pairs.items()),
        "",
    ]
    details = {"rates": rates, "ratios": pairs, "rows": count, "machine": platform.platform()}
    write_results(options.results, "sql", lines, details)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
