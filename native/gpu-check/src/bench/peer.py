"""PyTorch's side of `gpu-check bench`: a command a line, in JSON, and an answer a line.

A batch comes from page-locked memory in every step, as ours does from the host's. The optimizer is the fused one. Variants:
`eager`, `compile` (loss and model behind torch.compile), `graphs` (the whole step as a CUDA graph).
"""

import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as missing:
    print(json.dumps({"error": str(missing)}), flush=True)
    sys.exit()

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "flatten": nn.Flatten}


def layer(op, parameters):
    """The module of an operation, None for those of several operands."""
    name, options = (op, {}) if isinstance(op, str) else next(iter(op.items()))
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    weights = [parameter.shape for parameter in parameters]
    if name == "linear":
        return nn.Linear(weights[0][1], weights[0][0], bias=options["bias"])
    if name == "embedding":
        return nn.Embedding(*weights[0])
    if name == "conv2d":
        sizes = (options["kernel"], options["stride"], options["padding"])
        channels = weights[0][1] * options["groups"]
        return nn.Conv2d(channels, weights[0][0], *sizes, groups=options["groups"], bias=options["bias"])
    if name == "max_pool2d":
        return nn.MaxPool2d(options["kernel"], options.get("stride"), options["padding"])
    if name == "dropout":
        return nn.Dropout(options["rate"])
    if name in ("concat", "add"):
        return None
    raise ValueError(f"no module for {name}")


class Network(nn.Module):
    def __init__(self, nodes, tensor):
        super().__init__()
        self.layers, self.plan = nn.ModuleList(), []
        for node in nodes:
            parameters = [tensor(p["at"], p["shape"], torch.float32) for p in node["parameters"]]
            module = layer(node["op"], parameters)
            for to, start in zip(module.parameters() if module else [], parameters, strict=True):
                to.data.copy_(start)
            self.layers.append(module or nn.Identity())
            self.plan.append((node["op"], node["sources"]))

    def forward(self, inputs):
        values = []
        for module, (op, sources) in zip(self.layers, self.plan, strict=True):
            operands = [inputs[index] if is_input else values[index] for is_input, index in sources]
            if op == "concat":
                values.append(torch.cat(operands, 1))
            elif op == "add":
                values.append(sum(operands[1:], operands[0]))
            else:
                values.append(module(operands[0]))
        return values[-1]


class Work:
    def __init__(self, variant, folder, precision, device):
        self.variant, self.device, self.step = variant, device, 0
        work = json.loads((Path(folder) / "json").read_text())
        words = bytearray((Path(folder) / "words").read_bytes())

        def tensor(at, shape, kind):
            count = 1
            for extent in shape:
                count *= extent
            return torch.frombuffer(words, dtype=kind, count=count, offset=at).reshape(shape)

        shapes(precision)
        self.cast = nullcontext
        if precision == "bf16":
            cached = variant != "graphs"
            self.cast = lambda: torch.autocast(device.type, torch.bfloat16, cache_enabled=cached)
        rows = work["rows"] * work["batches"]
        columns = []
        for column in work["inputs"]:
            if column["shape"] is None:
                columns.append(tensor(column["at"], [rows], torch.int32).long())
            else:
                columns.append(tensor(column["at"], [rows, *column["shape"]], torch.float32))
        if work["classes"] is None:
            columns.append(columns[0])
        else:
            columns.append(tensor(work["classes"], [rows], torch.int32).long())
        pin = (lambda part: part.pin_memory()) if device.type == "cuda" else (lambda part: part.clone())
        split = [[pin(part) for part in column.split(work["rows"])] for column in columns]
        self.batches = list(zip(*split, strict=True))
        self.model = Network(work["nodes"], tensor).to(device)
        self.measure = F.mse_loss if work["classes"] is None else F.cross_entropy
        self.loss = torch.compile(self.mean_loss) if variant == "compile" else self.mean_loss
        fused = device.type == "cuda"
        parameters = self.model.parameters()
        self.optimizer = torch.optim.SGD(parameters, work["rate"], work["momentum"], fused=fused)
        with torch.no_grad(), self.cast():
            self.first = self.loss(*self.sent(self.batches[0])).item()
        self.graph = self.record() if variant == "graphs" else None
        self.train(6)

    def mean_loss(self, *batch):
        return self.measure(self.model(batch[:-1]), batch[-1])

    def sent(self, batch):
        return [part.to(self.device, non_blocking=True) for part in batch]

    def one(self, batch):
        self.optimizer.zero_grad(set_to_none=True)
        with self.cast():
            loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()

    def record(self):
        if self.device.type != "cuda":
            raise ValueError("CUDA graphs need CUDA")
        self.static = self.sent(self.batches[0])
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.one(self.static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self.one(self.static)
        return graph

    def train(self, steps):
        synchronize(self.device)
        begin = time.perf_counter()
        for _ in range(steps):
            batch = self.batches[self.step % len(self.batches)]
            self.step += 1
            if self.graph is None:
                self.one(self.sent(batch))
            else:
                for to, part in zip(self.static, batch, strict=True):
                    to.copy_(part, non_blocking=True)
                self.graph.replay()
        synchronize(self.device)
        return time.perf_counter() - begin


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def shapes(precision):
    """Sets how f32 is multiplied."""
    if precision == "f16":
        raise ValueError("f16 is not compared")
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True


def product(side, precision, device):
    shapes(precision)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    times = []
    for _ in range(6):
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(10):
            torch.matmul(a, b)
        synchronize(device)
        times.append((time.perf_counter() - begin) / 10)
    return statistics.median(times[1:])


def main():
    device, works = None, {}
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "hello" in command:
                if command["hello"] == "cuda" and not torch.cuda.is_available():
                    raise RuntimeError(f"torch {torch.__version__} sees no CUDA")
                device = torch.device(command["hello"], command["number"])
                if device.type == "cuda":
                    torch.cuda.set_device(device)
                answer = {"torch": torch.__version__}
            elif "product" in command:
                answer = {"seconds": product(command["product"], command["precision"], device)}
            elif "prepare" in command:
                works.pop(command["prepare"], None)
                work = Work(command["prepare"], command["folder"], command["precision"], device)
                works[command["prepare"]] = work
                answer = {"loss": work.first}
            elif "train" in command:
                answer = {"seconds": works[command["train"]].train(command["steps"])}
            else:
                return
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
