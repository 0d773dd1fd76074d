"""Our specs, losses and optimizers, said in PyTorch."""

import torch
import torch.nn.functional as F
from torch import nn


def kind_of(op):
    """The name and options of an op: specs write an op without options as a bare string."""
    return (op, {}) if isinstance(op, str) else next(iter(op.items()))


def module_for(op, source, cardinality):
    """The PyTorch module of an op that reads a value of `source`'s shape, or None where a function will do."""
    name, o = kind_of(op)
    bias = o.get("bias", True)
    match name:
        case "linear":
            return nn.Linear(source.shape[1], o["outputs"], bias)
        case "embedding":
            return nn.Embedding(cardinality, o["dims"], sparse=True)
        case "conv2d":
            stride, padding = o.get("stride", [1, 1]), o.get("padding", [0, 0])
            groups = o.get("groups", 1)
            return nn.Conv2d(source.shape[1], o["outputs"], o["kernel"], stride, padding, groups=groups, bias=bias)
        case "max_pool2d":
            return nn.MaxPool2d(o["kernel"], o.get("stride"), o.get("padding", 0))
        case "avg_pool2d":
            return nn.AvgPool2d(o["kernel"], o.get("stride"), o.get("padding", 0))
        case "dropout":
            return nn.Dropout(o["rate"])
        case "batch_norm":
            norm = nn.BatchNorm1d if source.dim() == 2 else nn.BatchNorm2d
            return norm(source.shape[1], o.get("epsilon", 1e-5), o.get("momentum", 0.1))
        case "layer_norm":
            return nn.LayerNorm(source.shape[-1], o.get("epsilon", 1e-5))
        case "flatten":
            return nn.Flatten()
        case "relu":
            return nn.ReLU()
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "gelu":
            return nn.GELU()
        case "concat" | "add":
            return None
    raise ValueError(f"no such op: {name}")


class Network(nn.Module):
    """A spec as a module, in float64, so that a comparison measures our rounding and not PyTorch's."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleDict()
        self.cardinalities = {}
        samples = {}
        for part in spec["inputs"]:
            name, o = kind_of(part["kind"])
            if name == "dense":
                samples[part["name"]] = torch.zeros(2, *o["shape"], dtype=torch.float64)
            else:
                self.cardinalities[part["name"]] = o["cardinality"]
                samples[part["name"]] = torch.zeros(2, dtype=torch.long)
        # The shapes of a pass over zeros say how large each module must be.
        self.walk(samples, create=True)

    def walk(self, values, create=False):
        values = dict(values)
        last = None if len(values) > 1 else next(iter(values))
        for layer in self.spec["layers"]:
            name, names = layer["name"], layer.get("inputs") or [last]
            sources = [values[n] for n in names]
            if create:
                module = module_for(layer["op"], sources[0], self.cardinalities.get(names[0]))
                if module is not None:
                    self.layers[name] = module.double()
            match kind_of(layer["op"])[0]:
                case "concat":
                    values[name] = torch.cat(sources, 1)
                case "add":
                    values[name] = sum(sources[1:], sources[0])
                case _:
                    values[name] = self.layers[name](sources[0])
            last = name
        return values[last]

    def forward(self, inputs):
        return self.walk(inputs)

    def named(self):
        """Parameters by the names that our graph gives them."""
        return {n.removeprefix("layers."): p for n, p in self.named_parameters()}

    def running(self):
        """Running statistics by the names that our graph gives them."""
        named = {n.removeprefix("layers."): b for n, b in self.named_buffers()}
        return {n: b for n, b in named.items() if "running" in n}


def row_losses(loss, logits, target):
    """The loss of each row."""
    name, o = kind_of(loss)
    match name:
        case "softmax_cross_entropy":
            return F.cross_entropy(logits, target, reduction="none")
        case "binary_cross_entropy":
            if target.dim() == 1:
                target = target.double()[:, None]
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        case "mean_squared_error":
            return F.mse_loss(logits, target, reduction="none").mean(1)
        case "huber":
            return F.huber_loss(logits, target, reduction="none", delta=o["delta"]).mean(1)
    raise ValueError(f"no such loss: {name}")


def mean_loss(loss, logits, target, weights):
    """Σ wᵢ·lossᵢ / Σ wᵢ."""
    rows = row_losses(loss, logits, target)
    return rows.mean() if weights is None else (weights * rows).sum() / weights.sum()


class Optimizers:
    """The optimizers of one network: tables have sparse gradients, which Adam leaves to SparseAdam."""

    def __init__(self, network, optimizer, learning_rate):
        name, o = kind_of(optimizer)
        tables = [m.weight for m in network.modules() if isinstance(m, nn.Embedding)]
        dense = [p for p in network.parameters() if all(p is not t for t in tables)]
        if name == "sgd":
            options = {k: o[k] for k in ("momentum", "nesterov", "weight_decay")}
            self.all = [torch.optim.SGD(tables + dense, learning_rate, **options)]
            return
        options = {"betas": (o["beta1"], o["beta2"]), "eps": o["epsilon"]}
        make = {"adam": torch.optim.Adam, "adam_w": torch.optim.AdamW}[name]
        self.all = [make(dense, learning_rate, weight_decay=o["weight_decay"], **options)]
        if tables:
            self.all.append(torch.optim.SparseAdam(tables, learning_rate, **options))

    def step(self):
        for optimizer in self.all:
            optimizer.step()
            optimizer.zero_grad()
