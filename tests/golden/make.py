"""Writes the golden files: what PyTorch computes for our specs.

    python -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python make.py

A file is one case: a spec, a loss, data, initial weights, and what follows from them. PyTorch computes in float64 and
the results are stored as float32 (losses as float64), so a comparison measures our rounding alone.

Metadata: `torch` (version), `spec` and `loss` (JSON as Firesteel reads it), `runs` (JSON, a list of name, optimizer,
learning_rate, steps). Tensors; a step takes the batch `step % batches`:

    input.NAME         (batches, rows, shape…) f32, or (batches, rows) u32
    target             (batches, rows) u32 or (batches, rows, outputs) f32
    weights            (batches, rows) f32, absent when every row counts the same
    start.PARAMETER    initial weights
    output             (rows, outputs): the logits of batch 0 in training
    loss               the weighted mean loss of batch 0
    gradient.PARAMETER its gradient
    running.BUFFER     running statistics after that step
    inference          (rows, outputs): the logits of batch 0 after it, in inference; with dropout, all there is
    losses.RUN         (steps): the weighted mean losses while training
    end.RUN.PARAMETER  the weights after them, in the cases of optimizers
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from reference import Network, Optimizers, kind_of, mean_loss

HERE = Path(__file__).parent


class Case:
    """One golden file in the making."""

    def __init__(self, path, spec, loss, rows=19, batches=1, weighted=False, runs=(), ends=False):
        self.path, self.spec, self.loss = path, spec, loss
        self.rows, self.batches, self.runs, self.ends = rows, batches, runs, ends
        # The data of a case depend on its name alone, so adding a case changes no other file.
        self.random = np.random.default_rng(zlib.crc32(path.encode()))
        self.tensors = {}
        self.network = Network(spec)
        self.draw_inputs()
        for name, parameter in self.network.named().items():
            self.tensors[f"start.{name}"] = self.initial(name, parameter)
        self.reset()
        self.draw_targets(weighted)

    def draw_inputs(self):
        for part in self.spec["inputs"]:
            kind, o = kind_of(part["kind"])
            if kind == "dense":
                size = (self.batches, self.rows, *o["shape"])
                # Steps of 1/64 are exact in f32, and no two windows of a pool tie for long.
                values = np.round(self.random.normal(size=size) * 64) / 64
                self.tensors[f"input.{part['name']}"] = values.astype(np.float32)
            else:
                # Squaring makes some rows frequent and leaves others out.
                draw = self.random.random((self.batches, self.rows)) ** 2 * o["cardinality"]
                self.tensors[f"input.{part['name']}"] = draw.astype(np.uint32)

    def initial(self, name, parameter):
        shape = tuple(parameter.shape)
        fan_in = max(1, int(np.prod(shape[1:])))
        values = self.random.normal(size=shape) * (0.8 / np.sqrt(fan_in) if len(shape) > 1 else 0.3)
        if len(shape) == 1 and name.endswith(".weight"):
            values += 1.0
        return values.astype(np.float32)

    def draw_targets(self, weighted):
        outputs = self.network(self.inputs(0)).shape[1]
        shape = (self.batches, self.rows)
        match kind_of(self.loss)[0]:
            case "softmax_cross_entropy":
                target = self.random.integers(0, outputs, shape).astype(np.uint32)
            case "binary_cross_entropy":
                target = self.random.integers(0, 2, (*shape, outputs)).astype(np.float32)
            case _:
                target = self.random.normal(size=(*shape, outputs)).astype(np.float32)
        self.tensors["target"] = target
        if weighted:
            # A row of weight 0 is as good as none.
            weights = self.random.integers(0, 5, shape) / 2
            self.tensors["weights"] = weights.astype(np.float32)

    def reset(self):
        self.network.train()
        with torch.no_grad():
            for name, parameter in self.network.named().items():
                parameter.copy_(torch.from_numpy(self.tensors[f"start.{name}"]).double())
                parameter.grad = None
            for module in self.network.modules():
                if hasattr(module, "reset_running_stats"):
                    module.reset_running_stats()

    def inputs(self, batch):
        names = [part["name"] for part in self.spec["inputs"]]
        return {name: self.tensor(f"input.{name}", batch) for name in names}

    def tensor(self, name, batch):
        values = self.tensors.get(name)
        if values is None:
            return None
        kind = np.int64 if values.dtype == np.uint32 else np.float64
        return torch.from_numpy(values[batch].astype(kind))

    def backward(self, batch):
        output = self.network(self.inputs(batch))
        loss = mean_loss(self.loss, output, self.tensor("target", batch), self.tensor("weights", batch))
        loss.backward()
        return output.detach(), loss.item()

    def one_step(self):
        self.reset()
        output, loss = self.backward(0)
        if not any(isinstance(module, torch.nn.Dropout) for module in self.network.modules()):
            self.keep_step(output, loss)
        self.network.eval()
        with torch.no_grad():
            self.keep("inference", self.network(self.inputs(0)))

    def keep_step(self, output, loss):
        self.keep("output", output)
        self.tensors["loss"] = np.array(loss)
        for name, parameter in self.network.named().items():
            gradient = parameter.grad
            self.keep(f"gradient.{name}", gradient.to_dense() if gradient.is_sparse else gradient)
        for name, buffer in self.network.running().items():
            self.keep(f"running.{name}", buffer)

    def train(self, run):
        self.reset()
        optimizers = Optimizers(self.network, run["optimizer"], run["learning_rate"])
        losses = []
        for step in range(run["steps"]):
            losses.append(self.backward(step % self.batches)[1])
            optimizers.step()
        self.tensors[f"losses.{run['name']}"] = np.array(losses)
        if self.ends:
            for name, parameter in self.network.named().items():
                self.keep(f"end.{run['name']}.{name}", parameter)

    def keep(self, name, tensor):
        self.tensors[name] = np.ascontiguousarray(tensor.detach().numpy().astype(np.float32))

    def write(self):
        self.one_step()
        for run in self.runs:
            self.train(run)
        path = HERE / f"{self.path}.safetensors"
        path.parent.mkdir(exist_ok=True)
        metadata = {"spec": self.spec, "loss": self.loss, "runs": list(self.runs)}
        metadata = {name: json.dumps(value) for name, value in metadata.items()}
        return write_file(path, self.tensors, {"torch": torch.__version__.split("+")[0], **metadata})


def write_file(path, tensors, metadata):
    """A safetensors file, and its size. The library's own writer gives the metadata in a new order every time."""
    kinds = {"float32": "F32", "float64": "F64", "uint32": "U32"}
    header, end = {"__metadata__": metadata}, 0
    for name, values in sorted(tensors.items()):
        start, end = end, end + values.nbytes
        header[name] = {"dtype": kinds[values.dtype.name], "shape": values.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(values.tobytes() for _, values in sorted(tensors.items()))
    return path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def dense(*shape, name="x"):
    return {"name": name, "kind": {"dense": {"shape": list(shape)}}}


def index(name, cardinality):
    return {"name": name, "kind": {"index": {"cardinality": cardinality}}}


def layer(name, op, *inputs):
    return {"name": name, "inputs": list(inputs), "op": op} if inputs else {"name": name, "op": op}


def linear(outputs, **o):
    return {"linear": {"outputs": outputs, **o}}


def conv(outputs, kernel, **o):
    return {"conv2d": {"outputs": outputs, "kernel": kernel, **o}}


def pool(which, kernel, **o):
    return {f"{which}_pool2d": {"kernel": kernel, **o}}


def spec(inputs, *layers):
    return {"version": 1, "inputs": inputs, "layers": list(layers)}


def chain(inputs, *ops):
    return spec(inputs, *(layer(f"l{i}", op) for i, op in enumerate(ops)))


def vector_ops():
    """Each between two linear layers, whose weights' gradients show the gradient of its input."""
    x = [dense(5)]
    for op in ["relu", "tanh", "sigmoid", "gelu"]:
        yield op, chain(x, linear(7), op, linear(3))
    yield "linear", chain(x, linear(7, bias=False), linear(17), linear(3))
    # An epsilon large enough to show; the images keep the default ones.
    yield "layer_norm", chain(x, linear(7), {"layer_norm": {"epsilon": 0.1}}, linear(3))
    yield "batch_norm", chain(x, linear(7), {"batch_norm": {"momentum": 0.3, "epsilon": 0.2}}, linear(3))
    yield "dropout", chain(x, linear(7), {"dropout": {"rate": 0.5}}, linear(3))
    residual = [layer("a", linear(5)), layer("b", "tanh"), layer("c", "add", "x", "a", "b", "b")]
    yield "add", spec(x, *residual, layer("head", linear(3)))
    parts = [layer("a", linear(4), "x"), layer("b", {"embedding": {"dims": 3}}, "i")]
    parts += [layer("c", "concat", "a", "b", "x"), layer("head", linear(3))]
    yield "concat", spec([dense(5), index("i", 11)], *parts)
    tables = [
        layer("i_row", {"embedding": {"dims": 4}}, "i"),
        layer("j_row", {"embedding": {"dims": 4}}, "j"),
    ]
    tables += [layer("k", "add", "i_row", "j_row"), layer("head", linear(3))]
    yield "embedding", spec([index("i", 40), index("j", 3)], *tables)


def image_ops():
    """Each behind a convolution, whose weights' gradients show the gradient of its input."""
    x, head = [dense(2, 7, 9)], ("flatten", linear(3))
    first = conv(4, [3, 3], padding=[1, 1])
    yield "conv2d", chain(x, first, conv(5, [3, 2]), *head)
    yield "conv2d_strided", chain(x, first, conv(3, [5, 3], stride=[2, 3], padding=[2, 1]), *head)
    yield "conv2d_grouped", chain(x, first, conv(6, [3, 3], groups=2, bias=False), *head)
    yield "conv2d_depthwise", chain(x, first, conv(8, [3, 3], groups=4, padding=[1, 1]), *head)
    yield "conv2d_pointwise", chain(x, first, conv(19, [1, 1], stride=[2, 1]), *head)
    yield "max_pool2d", chain(x, first, pool("max", [2, 2]), *head)
    overlapping = {"stride": [2, 1], "padding": [1, 1]}
    yield "max_pool2d_overlapping", chain(x, first, pool("max", [3, 2], **overlapping), *head)
    yield "avg_pool2d", chain(x, first, pool("avg", [2, 3]), *head)
    yield "avg_pool2d_overlapping", chain(x, first, pool("avg", [3, 2], **overlapping), *head)
    for op in ["relu", "tanh", "sigmoid", "gelu"]:
        yield f"{op}_before_max_pool2d", chain(x, first, op, pool("max", [2, 2]), *head)
    both = [layer("a", first), layer("b", "relu"), layer("p", pool("max", [2, 2])), layer("f", "flatten")]
    both += [layer("g", "flatten", "b"), layer("c", "concat", "f", "g"), layer("head", linear(3))]
    yield "relu_read_twice", spec(x, *both)
    yield "batch_norm_image", chain(x, first, {"batch_norm": {}}, "relu", pool("avg", [2, 2]), *head)
    yield "layer_norm_image", chain(x, first, {"layer_norm": {}}, "gelu", *head)
    joined = [layer("a", first), layer("b", conv(3, [1, 1]), "x"), layer("c", "concat", "a", "b")]
    joined += [layer("d", conv(2, [3, 3])), layer("f", "flatten"), layer("head", linear(3))]
    yield "concat_image", spec(x, *joined)


def sgd(name, learning_rate=0.1, momentum=0.0, nesterov=False, weight_decay=0.0):
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    return {"name": name, "optimizer": {"sgd": options}, "learning_rate": learning_rate, "steps": 10}


def adam(name, kind="adam", learning_rate=0.01, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0):
    options = {"beta1": betas[0], "beta2": betas[1], "epsilon": epsilon, "weight_decay": weight_decay}
    return {"name": name, "optimizer": {kind: options}, "learning_rate": learning_rate, "steps": 10}


SOFTMAX = "softmax_cross_entropy"
LOSSES = [SOFTMAX, "binary_cross_entropy", "mean_squared_error", {"huber": {"delta": 0.6}}]


def lenet5():
    names = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flat"]
    names += ["linear1", "relu3", "linear2", "relu4", "head"]
    ops = [conv(6, [5, 5], padding=[2, 2]), "relu", pool("max", [2, 2]), conv(16, [5, 5]), "relu"]
    ops += [pool("max", [2, 2]), "flatten", linear(120), "relu", linear(84), "relu", linear(10)]
    return spec([dense(1, 28, 28)], *map(layer, names, ops))


def hidden(*widths, activation="relu"):
    for i, width in enumerate(widths, 1):
        yield layer(f"hidden{i}", linear(width))
        yield layer(f"activation{i}", activation)


def tabular():
    inputs = [index("carrier", 18), index("tail", 300), dense(6, name="numbers")]
    layers = [layer(f"{n}_embedding", {"embedding": {"dims": 8}}, n) for n in ("carrier", "tail")]
    layers.append(layer("features_joined", "concat", "carrier_embedding", "tail_embedding", "numbers"))
    return spec(inputs, *layers, *hidden(32, 16), layer("head", linear(2)))


def wide_and_deep():
    deep = tabular()
    wide = [layer(f"{n}_wide", {"embedding": {"dims": 2}}, n) for n in ("carrier", "tail")]
    wide.append(layer("numbers_wide", linear(2, bias=False), "numbers"))
    total = layer("sum", "add", "head", *(part["name"] for part in wide))
    return spec(deep["inputs"], *deep["layers"], *wide, total)


def cases():
    for i, (name, network) in enumerate([*vector_ops(), *image_ops()]):
        yield Case(f"ops/{name}", network, SOFTMAX, weighted=i % 2 == 0)
    small = chain([dense(5)], linear(6), "tanh", linear(3))
    for loss in LOSSES:
        name = kind_of(loss)[0]
        yield Case(f"losses/{name}", small, loss, rows=37)
        yield Case(f"losses/{name}_weighted", small, loss, rows=37, weighted=True)
    single = chain([dense(5)], linear(6), "tanh", linear(1))
    yield Case("losses/binary_cross_entropy_single", single, LOSSES[1], rows=1)
    runs = [sgd("sgd"), sgd("momentum", momentum=0.9), sgd("nesterov", momentum=0.9, nesterov=True)]
    runs += [
        sgd("sgd_decay", momentum=0.5, weight_decay=0.1),
        adam("adam"),
        adam("adam_decay", weight_decay=0.1),
    ]
    runs += [adam("adamw", "adam_w", weight_decay=0.1), adam("betas", betas=(0.8, 0.95), epsilon=1e-3)]
    yield Case("optimizers/dense", small, SOFTMAX, batches=3, runs=runs, ends=True)
    tables = dict(vector_ops())["embedding"]
    # SparseAdam adds epsilon before it corrects the second moment's bias, Adam and we after: ε√(1−β₂ᵗ) to their ε.
    # An epsilon that does not show leaves everything else to compare.
    sparse = [sgd("sgd"), adam("adam", epsilon=1e-12)]
    yield Case("optimizers/tables", tables, SOFTMAX, batches=3, runs=sparse, ends=True)
    both = [sgd("sgd", 0.05, momentum=0.9), adam("adam", learning_rate=0.001)]
    yield Case("networks/lenet5", lenet5(), SOFTMAX, rows=8, batches=4, runs=both)
    mlp = spec([dense(20)], *hidden(32, 16), layer("head", linear(5)))
    yield Case("networks/mlp", mlp, SOFTMAX, rows=33, batches=4, weighted=True, runs=both)
    runs = [sgd("sgd", 0.05), adam("adam", epsilon=1e-12)]
    yield Case("networks/tabular", tabular(), SOFTMAX, rows=64, batches=4, runs=runs)
    yield Case("networks/wide_and_deep", wide_and_deep(), SOFTMAX, rows=64, batches=4, runs=runs)
    narrow = spec([dense(9)], *hidden(6, 3, 6, activation="tanh"), layer("head", linear(9)))
    yield Case("networks/autoencoder", narrow, "mean_squared_error", rows=33, batches=4, runs=both)


def main():
    total = 0
    for case in cases():
        size = case.write()
        total += size
        print(f"{case.path:<40} {size:>8} bytes")
    print(f"{total / 1e6:.2f} MB in all, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
