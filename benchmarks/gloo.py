"""All-reduce of f32 vectors over loopback beside gloo, PyTorch's backend for CPUs: `gloo.py --worker <the example>`.

Both sides are as many processes as there are workers, which stay for all rounds; rounds alternate, and a ratio is the
median of those of single rounds. `local` is our workers as threads of one process, beside the same gloo, and beside
copies of memory by as many threads of as many bytes as an all-reduce by slices moves, each its own. `pump` is what
bounds sockets: as many processes that write as many bytes to each other, a thread each way, and read them.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import ports, write_results

LENGTHS = [100_000, 1_000_000, 10_000_000, 25_000_000]
WORLDS = [2, 4]
# Of one round.
SECONDS = 0.5
RATIOS = ("sockets_over_gloo", "sockets_of_pump", "host_over_gloo", "local_over_gloo", "local_of_copy")


def peer(rank, world, port, length):
    """A worker of gloo: answers as the example `all_reduce` does."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    values = torch.zeros(length)
    ends = torch.tensor([0, length - 1])
    for line in sys.stdin:
        dist.barrier()
        start = time.perf_counter()
        for _ in range(int(line)):
            # The rest stays 0: writing a long vector anew would take a part of the time.
            values[ends] = 1.0
            dist.all_reduce(values)
            assert (values[ends] == world).all()
        print(time.perf_counter() - start, flush=True)
    dist.destroy_process_group()


class Group:
    """Processes that do the same on a line."""

    def __init__(self, commands):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.workers = [subprocess.Popen(command, **pipes) for command in commands]

    def seconds(self, line):
        """The longest that any takes."""
        for worker in self.workers:
            worker.stdin.write(f"{line}\n")
            worker.stdin.flush()
        answers = [worker.stdout.readline() for worker in self.workers]
        if not all(answers):
            sys.exit(f"gloo.py: a worker ended: {self.workers[answers.index('')].args}")
        return max(map(float, answers))

    def end(self):
        for worker in self.workers:
            worker.stdin.close()
        for worker in self.workers:
            worker.wait(timeout=60)


def compare(worker, world, length, rounds):
    """Milliseconds of one all-reduce by each way, and ratios."""
    each = range(world)
    port, *of_ours = ports(1 + 3 * world)

    def ours(way):
        addresses = ",".join(f"127.0.0.1:{of_ours.pop()}" for _ in each)
        return Group([[worker, way, str(rank), addresses, str(length)] for rank in each])

    groups = {
        "gloo": Group(
            [[sys.executable, __file__, "--peer", str(rank), str(world), str(port), str(length)] for rank in each]
        ),
        **{way: ours(way) for way in ("sockets", "pump", "host")},
        "local": Group([[worker, "local", str(world), str(length)]]),
    }
    once = {way: statistics.median(group.seconds(1) for _ in range(5)) for way, group in groups.items()}
    times = {way: max(1, round(SECONDS / seconds)) for way, seconds in once.items()}
    found = {way: [] for way in [*groups, "copy"]}
    for _ in range(rounds):
        for way, group in groups.items():
            found[way].append(group.seconds(times[way]) / times[way])
        found["copy"].append(groups["local"].seconds(f"copy {times['local']}") / times["local"])
    for group in groups.values():
        group.end()

    def ratio(slower, faster):
        return statistics.median(a / b for a, b in zip(found[slower], found[faster], strict=True))

    return {
        "world": world,
        "length": length,
        "milliseconds": {way: 1000 * statistics.median(all) for way, all in found.items()},
        "sockets_over_gloo": ratio("gloo", "sockets"),
        "sockets_of_pump": ratio("pump", "sockets"),
        "host_over_gloo": ratio("gloo", "host"),
        "local_over_gloo": ratio("gloo", "local"),
        "local_of_copy": ratio("copy", "local"),
    }


def row(found):
    ms = found["milliseconds"]
    cells = [
        f"{found['world']}, {found['length']:,}",
        *(f"{ms[way]:.2f}" for way in ("gloo", "sockets", "pump", "host", "local", "copy")),
        *(f"{found[name]:.2f}" for name in RATIOS),
    ]
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="path of the example `all_reduce` of firesteel-comm")
    parser.add_argument("--worlds", type=int, nargs="+", default=WORLDS)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    head = [
        "workers, values",
        "gloo, ms",
        "sockets, ms",
        "pump, ms",
        "host, ms",
        "local, ms",
        "copies, ms",
        "sockets over gloo",
        "sockets of pump",
        "host over gloo",
        "local over gloo",
        "local of copies",
    ]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    print("\n".join(lines), flush=True)
    all_found = []
    for world in options.worlds:
        for length in options.lengths:
            all_found.append(compare(options.worker, world, length, options.rounds))
            lines.append(row(all_found[-1]))
            print(lines[-1], flush=True)
    write_results(options.results, "gloo", lines, all_found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(*map(int, sys.argv[2:]))
    else:
        main()
