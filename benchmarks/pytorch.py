"""PyTorch's side of engine.py: `pytorch.py <file.safetensors> <threads> <variant>`.

Each line on the standard input is a number of steps to train, or `reset` for the initial weights; each answer is a
line of JSON with the seconds taken and the loss of every step. The engine's example `rounds` answers alike.

Variants, each as a user in a hurry would write it: `foreach` and `fused` name the path of the optimizer, `compile`
is `fused` behind `torch.compile`, `channels_last` is `fused` with images in the layout that oneDNN prefers.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn


def lenet5():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


class Work:
    """What is trained, with what."""

    def __init__(self, path, variant):
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            self.start = [file.get_tensor(name) for name in json.loads(self.metadata["parameters"])]
            x, target = file.get_tensor("x"), file.get_tensor("target").long()
        rows = int(self.metadata["rows"])
        self.model = {"lenet5": lenet5, "mlp": mlp}[self.metadata["network"]]()
        if variant == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        self.batches = list(zip(x.split(rows), target.split(rows), strict=True))
        self.variant = variant
        self.loss = torch.compile(self.mean_loss) if variant == "compile" else self.mean_loss
        self.reset()

    def mean_loss(self, x, target):
        return F.cross_entropy(self.model(x), target)

    def reset(self):
        with torch.no_grad():
            for parameter, start in zip(self.model.parameters(), self.start, strict=True):
                parameter.copy_(start)
        path = {"foreach": True} if self.variant == "foreach" else {"fused": True}
        momentum = json.loads(self.metadata["optimizer"])["sgd"]["momentum"]
        rate = float(self.metadata["learning_rate"])
        self.optimizer = torch.optim.SGD(self.model.parameters(), rate, momentum, **path)
        self.steps = 0

    def train(self, steps):
        losses = []
        start = time.perf_counter()
        for _ in range(steps):
            x, target = self.batches[self.steps % len(self.batches)]
            self.steps += 1
            self.optimizer.zero_grad()
            loss = self.loss(x, target)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "losses": torch.stack(losses).tolist()}


def main():
    path, threads, variant = sys.argv[1:]
    torch.set_num_threads(int(threads))
    work = Work(path, variant)
    for line in sys.stdin:
        if line.strip() == "reset":
            work.reset()
        else:
            print(json.dumps(work.train(int(line))), flush=True)


if __name__ == "__main__":
    main()
