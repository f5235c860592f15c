#!/usr/bin/env python3
"""Prints the memory of whole models over their depth, as Markdown tables, and checks it against the project's limits.

The figures are those of a training step on the `meta-cpu` device, which computes nothing and so takes no time at any
size. That they are the true ones is checked by a real step of one DenseNet and of one RevNet, whose tracked peak must
be equal to the byte, and whose process may take PROCESS_MIB beyond what the allocator has reserved.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WORKER = Path(__file__).resolve().parent.parent / "build" / "bench" / "bench_worker"
MIB = 2**20

DENSENET_DEPTHS = (40, 70, 100, 130, 160, 190)
DENSENET_MODES = ("store-all", "checkpoint", "shared", "offload")
REVNET_DEPTHS = (38, 110, 218)
REVNET_MODES = ("store-all", "checkpoint", "reversible", "offload")
# bench_worker's RevNet-38 has a narrower last stage, as in the paper; these have the same widths.
EQUALLY_WIDE = (50, 110, 218)

# The limits, in MiB or as fractions.
DENSENET_STORE_ALL, DENSENET_SHARED, DENSENET_CHECKPOINT = 1500, 480, 0.75
REVNET_STORE_ALL, REVNET_CHECKPOINT, REVNET_REVERSIBLE = 900, 0.45, 130
SECOND_DIFFERENCES, DEPTH = 0.02, 0.01
# Code, stacks and the C++ heap: what a process takes (VmHWM) beyond the memory that its allocator has reserved.
PROCESS_MIB = 12


class WorkerError(Exception):
    """A worker could not be started or failed."""


@dataclass
class Checks:
    """Says what has been checked, line by line, and counts what did not hold."""

    broken: int = 0

    def check(self, holds: bool, text: str) -> None:
        self.broken += not holds
        print(f"{'ok    ' if holds else 'BROKEN'} {text}")

    def at_most(self, what: str, value: float, limit: float, unit: str = "MiB") -> None:
        scaled = (100 * value, 100 * limit) if unit == "%" else (value, limit)
        self.check(value <= limit, f"{what}: {scaled[0]:,.1f} {unit}, limit {scaled[1]:,.0f} {unit}")


class Models:
    """Runs bench_worker; remembers what it said, so that no step is done twice."""

    def __init__(self, worker: Path, threads: int) -> None:
        self._worker = worker
        self._threads = threads
        self._seen: dict[tuple, dict] = {}

    def run(self, model: str, depth: int, memory: str, device: str = "meta-cpu", steps: int = 2) -> dict:
        """What bench_worker reports at its end. From the second step on, the optimiser's memory is there, too."""
        key = (model, depth, memory, device, steps)
        if key not in self._seen:
            self._seen[key] = self._run(*key)
        return self._seen[key]

    def _run(self, model: str, depth: int, memory: str, device: str, steps: int) -> dict:
        batch = 64 if model == "densenet" else 100
        command = [self._worker, "--model", model, "--depth", depth, "--batch-size", batch, "--memory", memory]
        command += ["--device", device, "--threads", self._threads]
        try:
            done = subprocess.run(map(str, command), input=f"step {steps}\n", capture_output=True, text=True)
        except OSError as error:
            raise WorkerError(f"cannot start {self._worker}: {error.strerror}") from error
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise WorkerError(f"{model}-{depth} under {memory} ended with status {done.returncode}: {reason}")
        return json.loads(done.stdout.splitlines()[-1])

    def peak(self, model: str, depth: int, memory: str) -> float:
        """All tracked bytes at the peak, in MiB."""
        return self.run(model, depth, memory)["peak_bytes"]["total"] / MIB

    def activations(self, model: str, depth: int, memory: str) -> float:
        """What of the peak is there because of the activations, in MiB, counted as in tests/nn/model_test.cpp. Where it
        lies in backward, the parameters' gradients are there by then: as many bytes as the optimiser's velocities."""
        peak = self.run(model, depth, memory)["peak_bytes"]
        gradients = max(0, peak["gradient"] - peak["optimiser"])
        return (peak["activation"] + peak["arena"] + peak["workspace"] + gradients) / MIB


def table(title: str, depths: tuple[int, ...], rows: dict[str, list[float]]) -> str:
    lines = [f"### {title}, MiB", "", f"| depth | {' | '.join(map(str, depths))} |", "|---|" + "---:|" * len(depths)]
    lines += [f"| {name} | {' | '.join(f'{value:,.0f}' for value in values)} |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def print_tables(models: Models) -> None:
    densenet = {mode: [models.peak("densenet", depth, mode) for depth in DENSENET_DEPTHS] for mode in DENSENET_MODES}
    print(table("DenseNet-BC, growth 12, batch 64: all tracked bytes", DENSENET_DEPTHS, densenet))
    revnet = {mode: [models.peak("revnet", depth, mode) for depth in REVNET_DEPTHS] for mode in REVNET_MODES}
    print(table("RevNet, batch 100: all tracked bytes", REVNET_DEPTHS, revnet))
    alone = {mode: [models.activations("revnet", depth, mode) for depth in REVNET_DEPTHS] for mode in REVNET_MODES}
    print(table("RevNet, batch 100: activations and their gradients alone", REVNET_DEPTHS, alone))


def second_differences(models: Models, mode: str) -> list[float]:
    """Of the peaks over depth, as fractions of the first difference."""
    peaks = [models.peak("densenet", depth, mode) for depth in DENSENET_DEPTHS]
    return [(c - 2 * b + a) / (peaks[1] - peaks[0]) for a, b, c in zip(peaks, peaks[1:], peaks[2:])]


def check_densenet(models: Models, checks: Checks) -> None:
    name = "DenseNet-BC(100,12), batch 64, "
    store_all, checkpoint, shared = (models.peak("densenet", 100, mode) for mode in ("store-all", "checkpoint", "shared"))
    checks.at_most(name + "store-all", store_all, DENSENET_STORE_ALL)
    checks.at_most(name + "shared", shared, DENSENET_SHARED)
    checks.at_most(name + "checkpoint over store-all", checkpoint / store_all, DENSENET_CHECKPOINT, "%")
    linear = max(map(abs, second_differences(models, "shared")))
    checks.at_most("shared over depth, largest second difference over the first", linear, SECOND_DIFFERENCES, "%")
    quadratic = second_differences(models, "store-all")
    spread = max(abs(ratio - quadratic[0]) for ratio in quadratic) / quadratic[0]
    text = f"store-all over depth is quadratic: second differences are {100 * quadratic[0]:.1f} % of the first"
    checks.check(min(quadratic) > 0.1 and spread <= SECOND_DIFFERENCES, f"{text}, equal within {100 * spread:.2f} %")


def check_revnet(models: Models, checks: Checks) -> None:
    name = "RevNet-110, batch 100, activations, "
    modes = ("store-all", "checkpoint", "reversible")
    store_all, checkpoint, reversible = (models.activations("revnet", 110, mode) for mode in modes)
    checks.at_most(name + "store-all", store_all, REVNET_STORE_ALL)
    checks.at_most(name + "checkpoint over store-all", checkpoint / store_all, REVNET_CHECKPOINT, "%")
    checks.at_most(name + "reversible", reversible, REVNET_REVERSIBLE)
    over_depth = [models.activations("revnet", depth, "reversible") for depth in EQUALLY_WIDE]
    spread = max(abs(value - reversible) for value in over_depth) / reversible
    depths = ", ".join(map(str, EQUALLY_WIDE))
    checks.at_most(f"reversible activations over depth ({depths}), largest difference", spread, DEPTH, "%")


def check_real_step(models: Models, checks: Checks, model: str, depth: int, memory: str) -> None:
    """One step with everything computed."""
    name = f"{model}-{depth} under {memory}"
    predicted = models.run(model, depth, memory, "meta-cpu", 1)["peak_bytes"]
    measured = models.run(model, depth, memory, "cpu", 1)
    by_tag = {tag: value for tag, value in measured["peak_bytes"].items() if tag != "reserved"}
    equal = all(predicted[tag] == value for tag, value in by_tag.items())
    text = f"peak {by_tag['total']:,} bytes on the CPU, {predicted['total']:,} on meta-cpu, the same for every tag"
    checks.check(equal, f"{name}: {text}")
    outside = (measured["vm_hwm_bytes"] - measured["peak_bytes"]["reserved"]) / MIB
    checks.at_most(f"{name}: VmHWM beyond the reserved memory", outside, PROCESS_MIB)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", type=Path, default=DEFAULT_WORKER, help="bench_worker (default: the one in build/)")
    parser.add_argument("--threads", type=int, default=2, help="of the real steps (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    models = Models(options.worker, options.threads)
    checks = Checks()
    try:
        print_tables(models)
        check_densenet(models, checks)
        check_revnet(models, checks)
        check_real_step(models, checks, "densenet", 100, "shared")
        check_real_step(models, checks, "revnet", 110, "reversible")
    except WorkerError as error:
        print(f"memory: {error}", file=sys.stderr)
        return 1
    if checks.broken:
        print(f"memory: {checks.broken} of the limits above are broken", file=sys.stderr)
    return 1 if checks.broken else 0


if __name__ == "__main__":
    sys.exit(main())
