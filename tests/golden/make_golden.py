#!/usr/bin/env python3
"""Writes the golden files: three training steps of small models, computed by PyTorch in float64 on one thread.

A file NAME.golden is an ASCII header followed by raw data:

    palimpsest-golden 1
    TENSOR RANK D0 D1 ...        one line for each tensor; a scalar has rank 0
    end

then the tensors' elements in header order, little-endian float64, row-major in PyTorch's logical order (NCHW images,
OIHW weights). The tensors are, in this order:

    config.*                     the architecture, the constants of normalisation and SGD: numbers or lists of numbers
    init.PARAMETER               initial parameters; every running mean starts at 0, every running variance at 1
    stepK.images|labels|loss     for K = 0, 1, 2: the batch, and its mean cross-entropy before the update
    stepK.grad.PARAMETER         gradient of that loss alone, without weight decay
    stepK.buffer.NORM.running_mean|running_var     after the step
    step2.value.PARAMETER        parameters after the last step

Scales and shifts of normalisation and the classifier's bias start at random, not at 1 and 0, so that none of them
drops out of the test.

The files of IMAGENET_MODELS are too large for that. Their parameters and images follow from names (see `drawn`) and are
not in the file, which has one forward and backward in training mode:

    labels, logits, loss
    grad.PARAMETER               two numbers: the tensor's norm, and its sum with weights that follow from its name
    buffer.NORM.running_mean|running_var     the same of the running statistics after the step
"""

from __future__ import annotations

import argparse
import math
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator

try:
    import torch
except ImportError:
    sys.exit(f"make_golden: {sys.executable} has no module torch")

import numpy
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench"))

from pytorch_layers import (  # noqa: E402 (found through the line above)
    DENSENET_NORM,
    RESIDUAL_NORM,
    NormSpec,
    SgdSpec,
    count_parameters,
    make_optimizer,
)
from pytorch_models import (  # noqa: E402
    IMAGENET_RESNETS,
    IMAGENET_REVNETS,
    RESNETS,
    REVNETS,
    DenseNet,
    ResidualSpec,
    ResNet,
    RevNet,
)

MAGIC = "palimpsest-golden 1"
BATCH_SIZE, IMAGE_CHANNELS, IMAGE_SIZE, CLASSES = 3, 3, 16, 5
STEPS = 3
TOLERANCE = 1e-12  # of --check, relative to the largest magnitude of the tensor
# float32 can follow these steps only where no rectifier's input lies so near to 0 that rounding flips it: a seed for which
# one does (20170717 for revnet_bottleneck) makes no fair test.
SEEDS = {"densenet": 20170717, "revnet": 20170717, "revnet_bottleneck": 1, "resnet": 20170717}

DENSENET_DEPTH, DENSENET_GROWTH = 16, 4
SMALL_REVNET = ResidualSpec(units=(2, 2, 2), filters=(8, 8, 16, 20))
SMALL_REVNET_BOTTLENECK = ResidualSpec(units=(2, 2, 2), filters=(8, 8, 16, 20), bottleneck=True)
SMALL_RESNET = ResidualSpec(units=(2, 2, 2), filters=(8, 8, 16, 24))

# Networks for ImageNet: few classes and small images; those without torchvision's fixed widths at a quarter of them.
IMAGENET_CLASSES, IMAGENET_BATCH, IMAGENET_SIZE = 5, 2, 64
SLIM_RESNET = replace(IMAGENET_RESNETS[50], filters=(16, 16, 32, 64, 128))
SLIM_REVNET = replace(IMAGENET_REVNETS[104], filters=(32, 32, 64, 128, 208))
IMAGENET_MODELS: dict[str, Callable[[], nn.Module]] = {
    "densenet121": lambda: torchvision.models.densenet121(num_classes=IMAGENET_CLASSES),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=IMAGENET_CLASSES),
    "resnet50_preactivation": lambda: ResNet(SLIM_RESNET, classes=IMAGENET_CLASSES),
    "revnet104": lambda: RevNet(SLIM_REVNET, classes=IMAGENET_CLASSES),
}

Tensors = dict[str, Tensor]
Config = dict[str, float | tuple[int, ...]]

# Published sizes: (CIFAR-10, CIFAR-100).
DENSENET_PARAMETERS = {40: (176_122, 188_092), 100: (769_162, 800_032)}
RESNET_PARAMETERS = {32: (464_154, 470_004), 110: (1_727_962, 1_733_812), 164: (1_703_258, 1_726_388)}
REVNET_PARAMETERS = {38: (464_890, 475_060), 110: (1_729_194, 1_740_804), 164: (1_748_778, 1_794_948)}
IMAGENET_RESNET_PARAMETERS = {50: 25_549_352, 101: 44_541_480}
IMAGENET_REVNET_PARAMETERS = {56: 27_553_128, 104: 45_428_072}


def check_parameter_counts() -> None:
    """Builds the full-size models and raises unless they are as large as published."""
    builders: list[tuple[str, dict[int, tuple[int, int]], Callable[[int, int], nn.Module]]] = [
        ("DenseNet-BC k=12", DENSENET_PARAMETERS, lambda depth, classes: DenseNet(depth, 12, classes=classes)),
        ("ResNet", RESNET_PARAMETERS, lambda depth, classes: ResNet(RESNETS[depth], classes=classes)),
        ("RevNet", REVNET_PARAMETERS, lambda depth, classes: RevNet(REVNETS[depth], classes=classes)),
    ]
    for family, table, build in builders:
        for depth, published in table.items():
            for classes, expected in zip((10, 100), published):
                require_size(f"{family} {depth}, {classes} classes", build(depth, classes), expected)


def check_imagenet_parameter_counts() -> None:
    """The same of the networks for ImageNet."""
    for depth, expected in IMAGENET_RESNET_PARAMETERS.items():
        require_size(f"ResNet {depth}", ResNet(IMAGENET_RESNETS[depth], classes=1000), expected)
    for depth, expected in IMAGENET_REVNET_PARAMETERS.items():
        require_size(f"RevNet {depth}", RevNet(IMAGENET_REVNETS[depth], classes=1000), expected)


def require_size(name: str, model: nn.Module, expected: int) -> None:
    actual = count_parameters(model)
    if actual != expected:
        raise AssertionError(f"{name}: {actual} parameters, not {expected}")


def sgd_config(norm: NormSpec, sgd: SgdSpec) -> Config:
    return {
        "classes": CLASSES,
        "norm_eps": norm.eps,
        "norm_momentum": norm.momentum,
        "biased_running_variance": norm.biased_running_variance,
        "lr": sgd.lr,
        "momentum": sgd.momentum,
        "nesterov": sgd.nesterov,
        "weight_decay": sgd.weight_decay,
        "decay_norm_and_bias": sgd.decay_norm_and_bias,
    }


def densenet() -> tuple[nn.Module, Config]:
    model = DenseNet(DENSENET_DEPTH, DENSENET_GROWTH, IMAGE_CHANNELS, CLASSES)
    return model, {"depth": DENSENET_DEPTH, "growth": DENSENET_GROWTH, **sgd_config(DENSENET_NORM, model.sgd)}


def residual_network(model_class: type[ResNet] | type[RevNet], spec: ResidualSpec) -> tuple[nn.Module, Config]:
    model = model_class(spec, IMAGE_CHANNELS, CLASSES)
    architecture = {"units": spec.units, "filters": spec.filters, "bottleneck": spec.bottleneck}
    return model, {**architecture, **sgd_config(RESIDUAL_NORM, model.sgd)}


MODELS: dict[str, Callable[[], tuple[nn.Module, Config]]] = {
    "densenet": densenet,
    "revnet": lambda: residual_network(RevNet, SMALL_REVNET),
    "revnet_bottleneck": lambda: residual_network(RevNet, SMALL_REVNET_BOTTLENECK),
    "resnet": lambda: residual_network(ResNet, SMALL_RESNET),
}


def randomise_vectors(model: nn.Module) -> None:
    """Draws scales from U(0.5, 1.5), shifts and biases from U(-0.3, 0.3)."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            low, high = (0.5, 1.5) if name.endswith("weight") else (-0.3, 0.3)
            nn.init.uniform_(parameter, low, high)


def train(name: str) -> Tensors:
    """All tensors of one golden file, in the file's order."""
    torch.manual_seed(SEEDS[name])
    model, config = MODELS[name]()
    randomise_vectors(model)
    tensors = {f"config.{key}": torch.tensor(value, dtype=torch.float64) for key, value in config.items()}
    tensors.update((f"init.{key}", value.detach().clone()) for key, value in model.named_parameters())
    optimizer = make_optimizer(model, model.sgd)
    for step in range(STEPS):
        tensors.update((f"step{step}.{key}", value) for key, value in train_step(model, optimizer))
    tensors.update((f"step{STEPS - 1}.value.{key}", value.detach()) for key, value in model.named_parameters())
    return tensors


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    images = torch.randn(BATCH_SIZE, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    labels = torch.randint(CLASSES, (BATCH_SIZE,))
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    yield "images", images
    yield "labels", labels.to(torch.float64)
    yield "loss", loss.detach()
    for name, parameter in model.named_parameters():
        yield f"grad.{name}", parameter.grad
    optimizer.step()
    for name, buffer in model.named_buffers():
        yield f"buffer.{name}", buffer.clone()


def drawn(name: str, shape: torch.Size) -> Tensor:
    """Numbers in [-1, 1) that follow from a name: SplitMix64 (Steele et al. 2014) from the name's FNV-1a hash on."""
    start = 0xCBF29CE484222325
    for byte in name.encode("ascii"):
        start = (start ^ byte) * 0x100000001B3 % 2**64
    steps = numpy.arange(1, shape.numel() + 1, dtype=numpy.uint64)
    bits = numpy.uint64(start) + steps * numpy.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    bits ^= bits >> numpy.uint64(31)
    units = (bits >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53
    return torch.from_numpy(2 * units - 1).reshape(shape)


def drawn_parameter(name: str, shape: torch.Size) -> Tensor:
    """Scales from 0.5 to 1.5, shifts and biases from -0.3 to 0.3, weights with variance 2 / fan_in."""
    values = drawn(name, shape)
    if len(shape) > 1:
        return values * math.sqrt(6 * shape[0] / shape.numel())
    return 1 + 0.5 * values if name.endswith("weight") else 0.3 * values


def digest(name: str, tensor: Tensor) -> Tensor:
    return torch.stack([tensor.norm(), (tensor * drawn("digest." + name, tensor.shape)).sum()])


TORCHVISION_NAMES = [
    (r"^features\.", ""),
    (r"^denseblock(\d+)\.denselayer", r"dense\1.layer"),
    (r"^norm5\.", "norm."),
    (r"^fc\.", "classifier."),
    (r"^conv1\.", "conv0."),
    (r"^bn1\.", "norm0."),
    (r"\bbn(\d)\.", r"norm\1."),
    (r"^layer(\d)\.(\d+)\.", lambda found: f"stage{found[1]}.unit{int(found[2]) + 1}."),
    (r"\bdownsample\.0\.", "shortcut.conv."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
]


def our_name(name: str) -> str:
    """The C++ modules' name for a tensor of a torchvision model."""
    for pattern, replacement in TORCHVISION_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def differentiate(name: str) -> Tensors:
    """All tensors of the golden file of a network for ImageNet, in the file's order."""
    model = IMAGENET_MODELS[name]()
    parameters = {our_name(key): value for key, value in model.named_parameters()}
    with torch.no_grad():
        for key, value in parameters.items():
            value.copy_(drawn_parameter(key, value.shape))
    images = drawn("images", torch.Size((IMAGENET_BATCH, IMAGE_CHANNELS, IMAGENET_SIZE, IMAGENET_SIZE)))
    labels = torch.arange(IMAGENET_BATCH) * 3 % IMAGENET_CLASSES
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    tensors = {"labels": labels.to(torch.float64), "logits": logits.detach(), "loss": loss.detach()}
    tensors.update((f"grad.{key}", digest(key, value.grad)) for key, value in parameters.items())
    buffers = {our_name(key): value for key, value in model.named_buffers() if value.dim() > 0}
    tensors.update((f"buffer.{key}", digest(key, value)) for key, value in buffers.items())
    return tensors


def compute(name: str) -> Tensors:
    return train(name) if name in MODELS else differentiate(name)


def encode(tensors: Tensors) -> bytes:
    lines = [MAGIC]
    data = []
    for name, tensor in tensors.items():
        lines.append(" ".join([name, str(tensor.dim()), *map(str, tensor.shape)]))
        data.append(struct.pack(f"<{tensor.numel()}d", *tensor.flatten().tolist()))
    return "\n".join([*lines, "end\n"]).encode("ascii") + b"".join(data)


def decode(content: bytes) -> Tensors:
    """Reads what `encode` wrote. Raises ValueError for anything else."""
    header, end, data = content.partition(b"\nend\n")
    magic, *lines = header.decode("ascii").split("\n")
    if magic != MAGIC or not end:
        raise ValueError(f"not a golden file: no '{MAGIC}' ... 'end'")
    tensors, offset = {}, 0
    for line in lines:
        name, _, *sizes = line.split()
        shape = tuple(map(int, sizes))
        count = torch.Size(shape).numel()
        values = struct.unpack_from(f"<{count}d", data, offset)
        tensors[name] = torch.tensor(values).reshape(shape)
        offset += 8 * count
    if offset != len(data):
        raise ValueError(f"{len(data)} bytes of data, the header speaks of {offset}")
    return tensors


def compare(stored: Tensors, computed: Tensors) -> list[str]:
    """What differs: names, shapes, and values by more than TOLERANCE."""
    if list(stored) != list(computed):
        return [f"tensors {sorted(stored.keys() ^ computed.keys())} are on one side only, or the order differs"]
    problems = []
    for name, expected in computed.items():
        actual = stored[name]
        if actual.shape != expected.shape:
            problems.append(f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
            continue
        error = (actual - expected).abs().max().item()
        scale = expected.abs().max().item()
        if not error <= TOLERANCE * scale:
            problems.append(f"{name}: differs by {error:.3g}, its largest value is {scale:.3g}")
    return problems


def write(path: Path) -> None:
    content = encode(compute(path.stem))
    path.write_bytes(content)
    print(f"{path.name}: {len(content)} bytes")


def check(path: Path) -> bool:
    """Whether the file holds what this script computes now; says what does not."""
    try:
        problems = compare(decode(path.read_bytes()), compute(path.stem))
    except (OSError, ValueError, struct.error) as error:
        problems = [str(error)]
    for problem in problems:
        print(f"{path.name}: {problem}", file=sys.stderr)
    if not problems:
        print(f"{path.name}: as computed")
    return not problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the files with a new computation, write none")
    names = [*MODELS, *IMAGENET_MODELS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"the files, all by default: {', '.join(names)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no such file: {', '.join(sorted(unknown))}")
    check_parameter_counts()
    check_imagenet_parameter_counts()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    paths = [HERE / f"{name}.golden" for name in arguments.names or names]
    if arguments.check:
        return 0 if all([check(path) for path in paths]) else 1
    for path in paths:
        write(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
