#!/usr/bin/env python3
"""Times training steps of whole models in Palimpsest and in PyTorch side by side; prints a Markdown table a model.

Every combination of framework, memory mode and (PyTorch) memory format is a process of its own. They stay alive
together and take turns, one computing at a time, so that whatever else happens on the machine falls on all alike.
Times are medians over all steps after the warm-up; PyTorch's are those of the faster memory format.

With --device cuda the card is not shared: the processes run one after the other, each alone, and PyTorch runs eagerly
and compiled (torch.compile, max-autotune), with cudnn.benchmark and channels-last, in fp32 and in TF32.

On the CPU PyTorch gets the allocator setting that suits it best (PYTORCH_ENVIRONMENT): glibc's default maps and returns every
large tensor in every step, and the page faults cost a DenseNet up to 80 % more time.

Debian's PyTorch is 1.13. A newer one, and torchvision for the models of ImageNet, come with
`python3 -m venv DIR && DIR/bin/pip install torch torchvision`, and --python DIR/bin/python.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from workloads import GRID, QUICK_WORKLOADS, WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
PYTORCH_WORKER = HERE / "pytorch_worker.py"
DEFAULT_WORKER = HERE.parent / "build" / "bench" / "bench_worker"

WARM_UP_STEPS = 2
STEPS_PER_TURN = 2
CUDA_WARM_UP_STEPS = 10
CUDA_STEPS_PER_TURN = 10
FORMATS = ("nchw", "channels_last")
PRECISIONS = ("fp32", "tf32")
MIB = 2**20
# Nothing is mapped on its own, nothing is returned, the heap grows in large pieces, on huge pages if the kernel allows.
PYTORCH_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * MIB),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class WorkerError(Exception):
    """A worker could not be started, died or gave an answer that is none."""


@dataclass
class Result:
    """What one worker measured. `peak_bytes` is of the framework's allocator (Palimpsest's by tag, at the peak; PyTorch's
    on CUDA alone), `device_bytes` what the driver says is taken of a card; predictions and `state_digest` are
    Palimpsest's alone."""

    framework: str
    memory: str
    format: str | None
    precision: str | None = None
    compiled: bool = False
    warm_up_ms: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    loss: float | None = None
    vm_hwm_bytes: int | None = None
    device_bytes: int | None = None
    predicted_ms: float | None = None
    predicted_bytes: int | None = None
    peak_bytes: dict[str, int] | None = None
    state_digest: str | None = None

    @property
    def name(self) -> str:
        how = ", ".join(filter(None, ["compiled" if self.compiled else None, self.format, self.precision]))
        return f"{self.framework} {self.memory}" + (f" ({how})" if how else "")

    @property
    def median_ms(self) -> float:
        return statistics.median(self.ms)

    @property
    def tracked_peak(self) -> int | None:
        if self.peak_bytes is None:
            return None
        return self.peak_bytes.get("total", sum(self.peak_bytes.values()))


class Worker:
    """A process that trains on request: it answers each line on its standard input with a line of JSON."""

    def __init__(self, result: Result, command: list[str], environment: dict[str, str]) -> None:
        self.result = result
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"cannot start {command[0]}: {error.strerror}") from error

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def warm_up(self, steps: int) -> None:
        self.result.warm_up_ms = self._ask(f"step {steps}")["ms"]

    def take_turn(self, steps: int) -> None:
        reply = self._ask(f"step {steps}")
        self.result.ms += reply["ms"]
        self.result.loss = reply["loss"]

    def quit(self) -> None:
        reply = self._ask("quit")
        self.result.vm_hwm_bytes = reply["vm_hwm_bytes"]
        self.result.device_bytes = reply.get("device_bytes")
        self.result.peak_bytes = reply.get("peak_bytes")
        self.result.predicted_ms = reply.get("predicted_ms")
        self.result.predicted_bytes = reply.get("predicted_bytes")
        self.result.state_digest = reply.get("state_digest")

    def _ask(self, request: str) -> dict:
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            raise WorkerError(f"{self.result.name} answered '{request}' with '{line.strip()}'") from None

    def _death(self) -> WorkerError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return WorkerError(f"{self.result.name} ended with status {status}: {lines[-1]}")


def base_environment() -> dict[str, str]:
    """The environment without the variable that can slow OpenBLAS down to another processor's kernels."""
    return {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}


Plan = tuple[Result, list[str], dict[str, str]]  # what Worker takes


def pytorch_workers(workload: Workload, options: argparse.Namespace) -> list[Plan]:
    environment = {**base_environment(), **PYTORCH_ENVIRONMENT, "OMP_NUM_THREADS": str(options.threads)}
    script = [options.python, str(PYTORCH_WORKER), *workload.arguments, "--threads", str(options.threads)]
    return [
        (Result("PyTorch", memory, layout), [*script, "--memory", memory, "--format", layout], environment)
        for memory in workload.pytorch
        for layout in FORMATS
    ]


def store_all_bytes(command: list[str]) -> int:
    """The peak of a step in which everything is kept, as bench_worker forecasts it."""
    with contextlib.closing(Worker(Result("Palimpsest", "store-all", None), command, base_environment())) as worker:
        worker.quit()
        return worker.result.predicted_bytes


def our_workers(workload: Workload, options: argparse.Namespace, flags: list[str], precision: str | None) -> list[Plan]:
    command = [str(options.worker), *workload.arguments, *flags]
    plans: list[Plan] = []
    for memory in workload.ours:
        policy, on_grid, bits = memory.partition(GRID)
        flag = ["--memory", policy, *(["--grid", bits] if on_grid else [])]
        if memory.startswith("budget="):
            share = int(memory.partition("=")[2].partition("%")[0])
            flag = ["--memory", f"budget={store_all_bytes(command) * share // 100}"]
        elif memory == "offload" and options.offload_dir is not None:
            flag += ["--offload-dir", str(options.offload_dir)]
        plans.append((Result("Palimpsest", memory, None, precision), command + flag, base_environment()))
    return plans


def cuda_workers(workload: Workload, options: argparse.Namespace) -> list[Plan]:
    """PyTorch's and ours, in every precision."""
    environment = base_environment()
    script = [options.python, str(PYTORCH_WORKER), *workload.arguments, "--device", "cuda", "--format", "channels_last"]
    plans: list[Plan] = []
    modes = () if options.skip_pytorch else (False,) if options.skip_compiled else (False, True)
    for precision in PRECISIONS:
        for compiled in modes:
            for memory in workload.pytorch_cuda:
                result = Result("PyTorch", memory, None, precision, compiled)
                flags = ["--memory", memory, "--precision", precision, *(["--compile"] if compiled else [])]
                plans.append((result, script + flags, environment))
        if not options.skip_ours:
            plans += our_workers(workload, options, ["--device", "cuda", "--precision", precision], precision)
    return plans


def measure_on_cuda(workload: Workload, options: argparse.Namespace) -> list[Result]:
    """Runs the workers of a workload one after the other. One that fails is reported and left out."""
    results = []
    for plan in cuda_workers(workload, options):
        print(f"{workload.title}: {plan[0].name}", file=sys.stderr)
        try:
            with contextlib.closing(Worker(*plan)) as worker:
                worker.warm_up(CUDA_WARM_UP_STEPS)
                for _ in range(options.rounds):
                    worker.take_turn(CUDA_STEPS_PER_TURN)
                worker.quit()
                results.append(worker.result)
        except WorkerError as error:
            print(f"compare: {error}", file=sys.stderr)
    return results


def measure(workload: Workload, options: argparse.Namespace) -> list[Result]:
    """Runs all workers of a workload in turns and returns what they measured."""
    if options.device == "cuda":
        return measure_on_cuda(workload, options)
    plans = [] if options.skip_pytorch else pytorch_workers(workload, options)
    plans += [] if options.skip_ours else our_workers(workload, options, ["--threads", str(options.threads)], None)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(contextlib.closing(Worker(*plan))) for plan in plans]
        for worker in workers:
            worker.warm_up(WARM_UP_STEPS)
        for turn in range(options.rounds):
            print(f"{workload.title}: round {turn + 1} of {options.rounds}", file=sys.stderr)
            for worker in workers:
                worker.take_turn(STEPS_PER_TURN)
        for worker in workers:
            worker.quit()
        return [worker.result for worker in workers]


def best_formats(results: list[Result]) -> list[Result]:
    """The results with one memory format, the fastest, left of every framework and memory mode."""
    best: dict[tuple[object, ...], Result] = {}
    for result in results:
        key = (result.framework, result.memory, result.precision, result.compiled)
        if key not in best or result.median_ms < best[key].median_ms:
            best[key] = result
    return list(best.values())


def is_plain_pytorch(result: Result) -> bool:
    return result.framework == "PyTorch" and result.memory == "plain" and not result.compiled


def table(workload: Workload, results: list[Result], where: str) -> str:
    """A Markdown table. A mode's overhead is over its framework's first one: PyTorch plain, Palimpsest store-all."""
    rows = best_formats(results)
    pytorch = {row.precision: row for row in rows if is_plain_pytorch(row)}
    baselines: dict[tuple[object, ...], Result] = {}
    process = "device" if any(row.device_bytes is not None for row in rows) else "VmHWM"
    lines = [
        f"### {workload.title}, {where}",
        "",
        f"| | ms per step | time / PyTorch plain | overhead of the mode | tracked peak, MiB | {process}, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        baseline = baselines.setdefault((row.framework, row.precision, row.compiled), row)
        reference = pytorch.get(row.precision)
        taken = row.device_bytes if row.device_bytes is not None else row.vm_hwm_bytes
        digits = 0 if row.median_ms >= 100 else 2
        cells = [
            row.name,
            f"{row.median_ms:.{digits}f}",
            f"{row.median_ms / reference.median_ms:.2f}" if reference else "",
            f"{row.median_ms / baseline.median_ms - 1:+.1%}" if row is not baseline else "",
            f"{row.tracked_peak / MIB:.0f}" if row.tracked_peak is not None else "",
            f"{taken / MIB:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def exactness(workload: Workload, results: list[Result]) -> tuple[bool, str]:
    """Whether the exact modes ended in the same state, and a sentence that says so; empty if none can be compared."""
    comparable = [row for row in results if row.memory not in workload.inexact and row.state_digest]
    alike: dict[tuple[str | None, str], dict[str, str]] = {}
    for row in comparable:
        alike.setdefault((row.precision, row.memory.partition(GRID)[2]), {})[row.memory] = row.state_digest
    different = [digests for digests in alike.values() if len(set(digests.values())) > 1]
    if different:
        return False, "DIFFERENT states: " + ", ".join(f"{memory} {digest}" for memory, digest in different[0].items())
    sets = list(dict.fromkeys("; ".join(modes) for modes in alike.values() if len(modes) > 1))
    return True, " ".join(f"{modes}: the same bits after the same steps." for modes in sets)


def torch_version(python: str) -> str:
    """The version of PyTorch in that interpreter. Raises WorkerError where there is none."""
    command = [python, "-c", "import torch; print(torch.__version__)"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=base_environment())
    except OSError as error:
        raise WorkerError(f"cannot start {python}: {error.strerror}") from error
    if run.returncode != 0:
        reason = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise WorkerError(f"{python} cannot import torch ({reason}): name another with --python, or use --skip-pytorch")
    return run.stdout.strip()


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def can_import(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, env=base_environment()).returncode == 0


def without_pytorch(workload: Workload, options: argparse.Namespace) -> argparse.Namespace:
    """The options for a workload: without PyTorch where its model is torchvision's, which is not there."""
    if options.skip_pytorch or not workload.of_torchvision or can_import(options.python, "torchvision"):
        return options
    if options.skip_ours:
        raise WorkerError(f"{options.python} has no torchvision, which {workload.title} takes")
    print(f"compare: {options.python} has no torchvision: {workload.title} without PyTorch", file=sys.stderr)
    return argparse.Namespace(**{**vars(options), "skip_pytorch": True})


def find_torch(options: argparse.Namespace) -> str | None:
    """PyTorch's version, None without it. On CUDA our own figures are worth having without it."""
    if options.skip_pytorch:
        return None
    try:
        return torch_version(options.python)
    except WorkerError as error:
        if options.device != "cuda":
            raise
        print(f"compare: {error}", file=sys.stderr)
        options.skip_pytorch = True
        return None


def gpu_model() -> str:
    """The card's name and driver, as the driver's own tool tells them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        run = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise WorkerError(f"no GPU to measure on: {error}") from error
    return run.stdout.strip()


def machine_facts(options: argparse.Namespace, torch: str | None) -> dict[str, object]:
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": options.threads,
        "gpu": gpu_model() if options.device == "cuda" else None,
        "torch": torch,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load_average": os.getloadavg(),
    }


def result_record(result: Result) -> dict[str, object]:
    return {"name": result.name, **vars(result), "median_ms": result.median_ms, "min_ms": min(result.ms)}


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--worker", type=Path, default=DEFAULT_WORKER, help="Palimpsest's bench_worker (default: the one in build/)"
    )
    parser.add_argument("--python", default="/usr/bin/python3", help="interpreter with PyTorch (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="default: all")
    parser.add_argument(
        "--rounds", type=positive, default=5, help=f"turns of {STEPS_PER_TURN} steps ({CUDA_STEPS_PER_TURN} on CUDA; default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=positive, default=len(os.sched_getaffinity(0)), help="default: all cores, %(default)s"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="small models, to see that everything works")
    parser.add_argument("--offload-dir", type=Path, metavar="DIR", help="where offload puts its file (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single figure there")
    parser.add_argument("--skip-compiled", action="store_true", help="on CUDA: PyTorch eagerly only")
    skip = parser.add_mutually_exclusive_group()
    skip.add_argument("--skip-pytorch", action="store_true")
    skip.add_argument("--skip-ours", action="store_true")
    options = parser.parse_args()
    if not options.skip_ours and not options.worker.is_file():
        parser.error(f"there is no {options.worker}: build it, name it with --worker, or use --skip-ours")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"there is no folder {options.json.absolute().parent} for --json")
    return options


def write_record(record: dict[str, object], options: argparse.Namespace) -> None:
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def compare(options: argparse.Namespace) -> bool:
    """Measures and prints all chosen workloads. Returns whether the exact memory modes agreed everywhere."""
    torch = find_torch(options)
    record = {"machine": machine_facts(options, torch), "pytorch_environment": PYTORCH_ENVIRONMENT, "workloads": []}
    facts = record["machine"]
    print(f"{facts['cpu']}, {facts['cores']} cores; " + (f"PyTorch {torch}; " if torch else "") + f"{facts['date']}")
    if facts["load_average"][0] > 0.5:
        print(f"compare: the load average is {facts['load_average'][0]:.1f}: other programs disturb", file=sys.stderr)
    where = f"{facts['gpu']}" if options.device == "cuda" else f"{options.threads} threads"
    all_exact = True
    for key in options.models:
        workload = (QUICK_WORKLOADS if options.quick else WORKLOADS)[key]
        results = measure(workload, without_pytorch(workload, options))
        exact, sentence = exactness(workload, results)
        all_exact = all_exact and exact
        record["workloads"].append({"title": workload.title, "results": [result_record(result) for result in results]})
        write_record(record, options)
        if not results:
            all_exact = False
            continue
        print(f"\n{table(workload, results, where)}")
        if sentence:
            print(f"\n{sentence}")
    return all_exact


def main() -> int:
    options = parse_arguments()
    try:
        return 0 if compare(options) else 1
    except (WorkerError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
