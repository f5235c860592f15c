#!/usr/bin/env python3
"""Trains one model in PyTorch, step by step on request, so that its steps can be interleaved with other processes'.

It reads commands from standard input. `step N` does N training steps on one fixed batch of random images and answers
with a line of JSON, {"ms": [milliseconds of each step], "loss": the last step's loss}. `quit`, or the end of input,
answers {"vm_hwm_bytes": the process's peak resident memory} and ends the process.

With --device cuda the milliseconds are the device's own, between events, and the last answer also has "peak_bytes" of
PyTorch's allocator ("total" live and "reserved") and "device_bytes", what the driver says is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

try:
    import torch
except ImportError:
    sys.exit(f"pytorch_worker: {sys.executable} has no module torch")

import torch.nn.functional as F

from pytorch_layers import DENSENET_SGD, RESIDUAL_SGD, make_optimizer
from pytorch_models import IMAGENET_REVNETS, RESNETS, REVNETS, DenseNet, ResNet, RevNet

SEED = 1
MEMORY_MODES = {
    "densenet": ("plain", "efficient"),
    "resnet": ("plain",),
    "revnet": ("plain", "checkpoint", "reversible"),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MEMORY_MODES, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--growth", type=int, default=12, help="growth rate of a DenseNet (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--memory", choices=("plain", "efficient", "checkpoint", "reversible"), default="plain")
    parser.add_argument("--format", choices=("nchw", "channels_last"), default="nchw")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile(mode='max-autotune')")
    parser.add_argument("--channels", type=int, default=3, help="channels of an image (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=32, help="above 32: models for ImageNet, torchvision's where it has them")
    arguments = parser.parse_args()
    modes = MEMORY_MODES[arguments.model]
    if arguments.memory not in modes:
        parser.error(f"--model {arguments.model} knows --memory {' and '.join(modes)}, not {arguments.memory}")
    is_imagenet = arguments.image_size > 32
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device")
    depths = {"revnet": IMAGENET_REVNETS if is_imagenet else REVNETS}
    if not is_imagenet:
        depths["resnet"] = RESNETS
    depths = depths.get(arguments.model)
    if depths is not None and arguments.depth not in depths:
        parser.error(f"--model {arguments.model} knows --depth {', '.join(map(str, depths))}, not {arguments.depth}")
    if arguments.model == "densenet" and not is_imagenet and (arguments.depth - 4) % 6 != 0:
        parser.error(f"--depth of a DenseNet-BC is 6n + 4, not {arguments.depth}")
    return arguments


def build_model(arguments: argparse.Namespace) -> torch.nn.Module:
    channels, classes = arguments.channels, arguments.classes
    if arguments.image_size > 32:
        return build_imagenet_model(arguments)
    if arguments.model == "densenet":
        return DenseNet(arguments.depth, arguments.growth, channels, classes, efficient=arguments.memory == "efficient")
    if arguments.model == "resnet":
        return ResNet(RESNETS[arguments.depth], channels, classes)
    return RevNet(REVNETS[arguments.depth], channels, classes, memory=arguments.memory)


def build_imagenet_model(arguments: argparse.Namespace) -> torch.nn.Module:
    if arguments.model == "revnet":
        spec = IMAGENET_REVNETS[arguments.depth]
        return RevNet(spec, arguments.channels, arguments.classes, memory=arguments.memory)
    import torchvision

    options = {"memory_efficient": arguments.memory == "efficient"} if arguments.model == "densenet" else {}
    make = getattr(torchvision.models, f"{arguments.model}{arguments.depth}")
    model = make(num_classes=arguments.classes, **options)
    model.sgd = DENSENET_SGD if arguments.model == "densenet" else RESIDUAL_SGD
    return model


class HostStopwatch:
    """Milliseconds on the host's clock."""

    def start(self) -> None:
        self._start = time.perf_counter()

    def stop(self) -> float:
        return 1e3 * (time.perf_counter() - self._start)


class CudaStopwatch:
    """Milliseconds on the device's clock, between two points of its stream."""

    def __init__(self) -> None:
        self._start, self._stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def start(self) -> None:
        self._start.record()

    def stop(self) -> float:
        self._stop.record()
        self._stop.synchronize()
        return self._start.elapsed_time(self._stop)


def compile_model(model: torch.nn.Module) -> torch.nn.Module:
    """Compiled as far as it goes: a hand-written backward, like the reversible chain's, stays eager in part."""
    import torch._dynamo

    for name in ("recompile_limit", "cache_size_limit"):  # every unit is a recompilation of one function
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, 512)
    return torch.compile(model, mode="max-autotune")


class Trainer:
    """A model, its optimiser and one fixed batch."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(SEED)
        layout = torch.channels_last if arguments.format == "channels_last" else torch.contiguous_format
        model = build_model(arguments).to(arguments.device, memory_format=layout)
        self.optimizer = make_optimizer(model, model.sgd)
        self.compiled = arguments.compile
        self.model = compile_model(model) if self.compiled else model
        shape = (arguments.batch_size, arguments.channels, arguments.image_size, arguments.image_size)
        self.images = torch.randn(shape).to(arguments.device, memory_format=layout)
        self.labels = torch.randint(arguments.classes, (arguments.batch_size,)).to(arguments.device)
        self.stopwatch = CudaStopwatch() if arguments.device == "cuda" else HostStopwatch()

    def step(self) -> torch.Tensor:
        """One training step. Returns the loss before it."""
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        loss = F.cross_entropy(self.model(self.images), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss

    def timed_steps(self, count: int) -> dict[str, object]:
        milliseconds = []
        loss = None
        for _ in range(count):
            self.stopwatch.start()
            loss = self.step()
            milliseconds.append(self.stopwatch.stop())
            loss = loss.item()
        return {"ms": milliseconds, "loss": loss}


def peak_resident_bytes() -> int:
    """VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


def device_memory() -> dict[str, object]:
    """Peaks of PyTorch's allocator, and what the driver says is taken of the card."""
    free, total = torch.cuda.mem_get_info()
    peak = {"total": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {"peak_bytes": peak, "device_bytes": total - free}


def set_precision(precision: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True


def answer(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    set_precision(arguments.precision)
    trainer = Trainer(arguments)
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        if len(words) != 2 or words[0] != "step" or not words[1].isdecimal():
            sys.exit(f"pytorch_worker: expected 'step N' or 'quit', got '{line.strip()}'")
        answer(trainer.timed_steps(int(words[1])))
    memory = device_memory() if arguments.device == "cuda" else {}
    answer({"vm_hwm_bytes": peak_resident_bytes(), **memory})


if __name__ == "__main__":
    main()
