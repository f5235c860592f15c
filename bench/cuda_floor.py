#!/usr/bin/env python3
"""The floor of a training step on a GPU: what its kernels must move and calculate, from the models' shapes.

Prints a Markdown table a model: for each kind of kernel its launches, the bytes that it reads and writes (every tensor
once a kernel; columns are written once and read once, though a chunk of 32 MiB may never leave a large L2 cache), the
operations, and the time that the card needs for them at best. Rates are of an H200 unless given.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass

FLOAT = 4
COLUMN_LIMIT = 32 * 2**20


@dataclass
class Work:
    launches: int = 0
    bytes: float = 0
    operations: float = 0


class Step:
    """Adds up the kernels of one training step."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.work: dict[str, Work] = defaultdict(Work)

    def kernel(self, kind: str, elements: float, launches: int = 1, operations: float = 0) -> None:
        entry = self.work[kind]
        entry.launches += launches
        entry.bytes += FLOAT * elements
        entry.operations += operations

    def products(self, kind: str, pixels: int, c_in: int, c_out: int, taps: int, column_channels: int) -> None:
        """One pass of a convolution: columns if it has taps, then a product a chunk."""
        operations = 2.0 * pixels * c_in * c_out * taps
        if taps == 1:
            self.kernel(kind, pixels * (c_in + c_out), 1, operations)
            return
        columns = pixels * taps * column_channels
        chunks = max(1, round(FLOAT * columns / COLUMN_LIMIT + 0.5))
        self.kernel("columns", columns + pixels * column_channels, chunks)
        self.kernel(kind, columns + pixels * (c_in + c_out - column_channels), chunks, operations)

    def convolution(self, size: int, c_in: int, c_out: int, taps: int, first: bool = False, runs: int = 1) -> None:
        """Forward `runs` times, and both gradients. The data gradient's columns are of dy where that has fewer channels."""
        pixels = self.batch * size * size
        for _ in range(runs):
            self.products("conv2d forward", pixels, c_in, c_out, taps, c_in)
        self.products("conv2d weight gradient", pixels, c_in, c_out, taps, c_in)
        if not first:
            self.products("conv2d data gradient", pixels, c_in, c_out, taps, min(c_in, c_out))

    def batch_norm(self, size: int, channels: int, runs: int = 1) -> None:
        elements = self.batch * size * size * channels
        self.kernel("batch_norm statistics", elements, 5)
        self.kernel("batch_norm_relu forward", 2 * elements * runs, runs)
        self.kernel("batch_norm_relu backward", 5 * elements, 3)

    def concat(self, size: int, channels: int, runs: int = 1) -> None:
        elements = self.batch * size * size * channels
        self.kernel("concat", 2 * elements * runs, runs)
        self.kernel("concat backward", 3 * elements, 1)


def densenet(depth: int, growth: int, batch: int, replay: bool) -> Step:
    """A DenseNet-BC; `replay`: concat, BN and ReLU run twice, as under shared."""
    step = Step(batch)
    runs = 2 if replay else 1
    layers = (depth - 4) // 6
    channels = 2 * growth
    step.convolution(32, 3, channels, 9, first=True)
    for block, size in enumerate((32, 16, 8)):
        for layer in range(layers):
            step.concat(size, channels, runs if layer > 0 else 0)
            step.batch_norm(size, channels, runs)
            step.convolution(size, channels, 4 * growth, 1)
            step.batch_norm(size, 4 * growth, runs)
            step.convolution(size, 4 * growth, growth, 9)
            channels += growth
        step.concat(size, channels, runs)
        step.batch_norm(size, channels, runs)
        if block < 2:
            step.convolution(size, channels, channels // 2, 1)
            step.kernel("pooling", 2 * 1.25 * batch * size * size * (channels // 2), 2)
            channels //= 2
    return step


def revnet(units: int, batch: int, replay: bool) -> Step:
    """A basic RevNet with `units` in each stage; `replay`: F and G run twice, as under reversible."""
    step = Step(batch)
    runs = 2 if replay else 1
    step.convolution(32, 3, 32, 9, first=True)
    step.batch_norm(32, 32)
    half = 16
    for stage, (size, width) in enumerate(((32, 32), (16, 64), (8, 128))):
        for _ in range(units):
            for function in range(2):
                for layer in range(2):
                    c_in = half if layer == 0 and function == 0 else width // 2
                    step.batch_norm(size, c_in, runs)
                    step.convolution(size, c_in, width // 2, 9, runs=runs)
                elements = batch * size * size * (width // 2)
                step.kernel("couple", 3 * elements * runs, runs)
                step.kernel("gradient sums", 3 * elements, 1)
            half = width // 2
    step.batch_norm(8, 128)
    return step


def table(title: str, step: Step, options: argparse.Namespace) -> str:
    lines = [
        f"### {title}",
        "",
        "| kernels | launches | GB | GFLOP | floor, ms (bytes) | floor, ms (fp32) | floor, ms (tf32) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    total = Work()
    for kind, work in [*sorted(step.work.items(), key=lambda item: -item[1].bytes), ("all", total)]:
        if kind != "all":
            total.launches += work.launches
            total.bytes += work.bytes
            total.operations += work.operations
        cells = [
            kind,
            f"{work.launches:,}",
            f"{work.bytes / 1e9:.2f}",
            f"{work.operations / 1e9:.1f}" if work.operations else "",
            f"{work.bytes / options.bandwidth / 1e9:.2f}",
            f"{work.operations / options.fp32 / 1e9:.2f}" if work.operations else "",
            f"{work.operations / options.tf32 / 1e9:.2f}" if work.operations else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, default=4.8, help="TB/s (default: %(default)s)")
    parser.add_argument("--fp32", type=float, default=67, help="TFLOP/s (default: %(default)s)")
    parser.add_argument("--tf32", type=float, default=494, help="TFLOP/s, dense (default: %(default)s)")
    options = parser.parse_args()
    print(table("DenseNet-BC(100,12), batch 64, store-all", densenet(100, 12, 64, False), options))
    print("\n" + table("DenseNet-BC(100,12), batch 64, shared", densenet(100, 12, 64, True), options))
    print("\n" + table("RevNet-110, batch 100, store-all", revnet(9, 100, False), options))
    print("\n" + table("RevNet-110, batch 100, reversible", revnet(9, 100, True), options))


if __name__ == "__main__":
    main()
