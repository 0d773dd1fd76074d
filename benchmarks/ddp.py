"""Two workers of one thread, beside PyTorch's DDP over gloo: `ddp.py --worker <the example pair>`.

LeNet-5 and the MLP 784-512-256-10, SGD with momentum, 256 rows a step, 128 a worker, over loopback. A round is a
training of some epochs by two processes, ours and theirs in turns; the first epoch warms up. Both have the same rows,
drawn anew each epoch, and must reach the same loss within TOLERANCE.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ports, write_results
from engine import NETWORKS, write_work

WORLD = 2
# Relative, of the last epoch's mean loss: the initial weights differ.
TOLERANCE = 0.1
VARIANTS = ("foreach", "fused")


def peer(rank, port, path, epochs, variant):
    """A worker of DDP: writes what the example `pair` does."""
    import pytorch
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    work = pytorch.Work(path, variant)
    x = torch.cat([x for x, _ in work.batches])
    target = torch.cat([target for _, target in work.batches])
    share = slice(rank * len(x) // WORLD, (rank + 1) * len(x) // WORLD)
    x, target = x[share], target[share]
    model = DistributedDataParallel(work.model)
    rows = int(work.metadata["rows"]) // WORLD
    for _ in range(epochs):
        losses = []
        start = time.perf_counter()
        for batch in torch.randperm(len(x)).split(rows):
            work.optimizer.zero_grad()
            loss = F.cross_entropy(model(x[batch]), target[batch])
            loss.backward()
            work.optimizer.step()
            losses.append(loss.detach())
        loss = torch.stack(losses).mean()
        seconds = time.perf_counter() - start
        dist.all_reduce(loss)
        print(json.dumps({"seconds": seconds, "loss": loss.item() / WORLD}), flush=True)
    dist.destroy_process_group()


def train(commands):
    """The seconds of an epoch behind the first, and the last loss."""
    workers = [subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        said = [worker.communicate(timeout=600)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    if any(worker.returncode for worker in workers):
        sys.exit(f"ddp.py: a worker failed: {[worker.args for worker in workers if worker.returncode]}")
    epochs = [[json.loads(line) for line in text.splitlines()] for text in said]
    # An epoch ends when both are done.
    seconds = [max(both["seconds"] for both in epoch) for epoch in zip(*epochs, strict=True)]
    return statistics.mean(seconds[1:]), epochs[0][-1]["loss"]


def compare(worker, network, path, options):
    def ours():
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports(WORLD))
        return train([[worker, rank, addresses, path, options.epochs] for rank in range(WORLD)])

    def theirs(variant):
        (port,) = ports(1)
        script = [sys.executable, __file__, "--peer"]
        return train([[*script, rank, port, path, options.epochs, variant] for rank in range(WORLD)])

    sides = {"firesteel": ours} | {f"ddp {name}": lambda name=name: theirs(name) for name in VARIANTS}
    found = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            seconds, loss = side()
            found[name].append((options.batches * 256 / seconds, loss))
    losses = {name: statistics.median(loss for _, loss in rounds) for name, rounds in found.items()}
    for name, loss in losses.items():
        if abs(loss / losses["firesteel"] - 1) > TOLERANCE:
            sys.exit(f"{network}: {name} ends at {loss:.4f}, Firesteel at {losses['firesteel']:.4f}")
    rates = {name: [rate for rate, _ in rounds] for name, rounds in found.items()}
    best = max(list(rates)[1:], key=lambda name: statistics.median(rates[name]))
    ratios = sorted(a / b for a, b in zip(rates["firesteel"], rates[best], strict=True))
    medians = {name: round(statistics.median(all)) for name, all in rates.items()}
    return {"network": network, "samples_per_second": medians, "best": best, "ratios": ratios, "losses": losses}


def row(found):
    rates, best, ratios = found["samples_per_second"], found["best"], found["ratios"]
    middle = f"{statistics.median(ratios):.2f} | {ratios[0]:.2f}–{ratios[-1]:.2f}"
    return f"| {found['network']} | {rates['firesteel']:,} | {rates[best]:,} | {best.split()[1]} | {middle} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="path of the example `pair` of firesteel-train")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batches", type=int, default=64, help="of 256 rows, in an epoch")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    lines = [
        "| two workers, samples/s | Firesteel | DDP over gloo | its variant | ratio | single rounds |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    print("\n".join(lines), flush=True)
    all_found = []
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks:
            path = Path(folder) / f"{network}.safetensors"
            write_work(network, path, options.batches)
            all_found.append(compare(options.worker, network, path, options))
            lines.append(row(all_found[-1]))
            print(lines[-1], flush=True)
    write_results(options.results, "ddp", lines, all_found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        rank, port, path, epochs, variant = sys.argv[2:]
        peer(int(rank), int(port), path, int(epochs), variant)
    else:
        main()
