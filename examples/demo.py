#!/usr/bin/env python3
"""Trains a DenseNet on Fashion-MNIST, then measures every memory policy on two deep networks.

Needs the example programs in BUILD/examples and nothing but Python's standard library.
"""

import argparse
import contextlib
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TRAINING = ["--depth", "22", "--growth", "12", "--memory", "shared", "--batch-size", "32", "--no-augment",
            "--dropout", "0", "--schedule", "cosine", "--lr", "0.1"]
TABLES = [
    ("cifar_densenet", ["--depth", "100", "--growth", "12", "--batch-size", "64"],
     ["store-all", "shared", "checkpoint"]),
    ("cifar_revnet", ["--depth", "110", "--batch-size", "100", "--grid", "16"],
     ["store-all", "checkpoint", "reversible"]),
]
MEBIBYTE = 1 << 20


class Failure(Exception):
    """Something that ends the demo, in words for the user."""


def wait_for(command, **how):
    """The exit status of a command. On Ctrl-C it is asked to end, on a second one it is killed."""
    # In a session of its own it does not get the terminal's Ctrl-C beside the request made here.
    with subprocess.Popen(command, start_new_session=True, **how) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
            raise


class Programs:
    """Runs the example programs of a build with the flags that all runs share."""

    def __init__(self, build, shared_flags):
        self.folder = pathlib.Path(build) / "examples"
        self.shared_flags = shared_flags
        for name in ("cifar_densenet", "cifar_revnet"):
            if not (self.folder / name).is_file():
                raise Failure(f"{self.folder / name} is missing: build the examples first (./dev build)")

    def run_alone(self, name, arguments):
        """Runs a program that writes no report."""
        command = [str(self.folder / name), *arguments]
        status = wait_for(command)
        if status != 0:
            raise Failure(f"'{' '.join(command)}' ended with status {status}")

    def run(self, name, flags, **how):
        """Runs a program to its end and returns its report."""
        with tempfile.TemporaryDirectory() as folder:
            report = pathlib.Path(folder) / "report.json"
            command = [str(self.folder / name), *flags, *self.shared_flags, "--report", str(report)]
            status = wait_for(command, **how)
            if status == 130:
                raise KeyboardInterrupt
            if status != 0:
                raise Failure(f"'{' '.join(command)}' ended with status {status}")
            return json.loads(report.read_text())


@contextlib.contextmanager
def status_line(text):
    """Shows a line on a terminal while something is under way."""
    terminal = sys.stderr.isatty()
    if terminal:
        print(text, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def train(programs, steps):
    """Trains and says what came of it."""
    print(f"== Training: {steps} steps under the policy 'shared' ==", flush=True)
    start = time.monotonic()
    report = programs.run("cifar_densenet", [*TRAINING, "--max-steps", str(steps)])
    seconds = time.monotonic() - start
    print(f"{report['model']} classifies {100 * report['test_accuracy']:.2f} % of the test images right "
          f"after {seconds:.0f} s.\n", flush=True)


def measure(programs, name, flags, policies, steps):
    """One report for each policy."""
    reports = []
    for policy in policies:
        with status_line(f"measuring {name} under {policy} ..."):
            reports.append(programs.run(name, [*flags, "--memory", policy, "--max-steps", str(steps),
                                               "--schedule", "constant", "--no-eval", "--quiet"],
                                        stdout=subprocess.DEVNULL))
    return reports


def print_table(reports):
    """The policies of one model, compared with the first."""
    first = reports[0]
    print(f"== {first['model']}, batch {first['batch_size']}, {first['parameters']:,} parameters, "
          f"{len(first['steps'])} steps ==")
    print(f"{'policy':<12}{'peak MiB':>10}{'ratio':>8}{'ms/step':>10}  {'loss':<20}{'state digest':<14} same bits")
    for report in reports:
        peak = report["peak_bytes"]["total"]
        times = [step["ms"] for step in report["steps"]]
        same = report["state_digest"] == first["state_digest"] and \
            [step["loss"] for step in report["steps"]] == [step["loss"] for step in first["steps"]]
        print(f"{report['policy']:<12}{peak / MEBIBYTE:>10,.1f}{100 * peak / first['peak_bytes']['total']:>6.0f} %"
              f"{statistics.median(times[1:] or times):>10,.0f}  {report['steps'][-1]['loss']!r:<20}"
              f"{report['state_digest'][:12]:<14} {'-' if report is first else 'yes' if same else 'NO'}")
    print(flush=True)


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", metavar="DIR", help="build folder (default: %(default)s)")
    parser.add_argument("--train-steps", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--table-steps", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--data", metavar="NAME", help="another data set than fashion-mnist")
    parser.add_argument("--data-dir", metavar="DIR", help="where its files are")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores")
    options = parser.parse_args()
    if min(options.train_steps, options.table_steps) < 1:
        parser.error("--train-steps and --table-steps take at least 1")
    return options


def interrupt(*_):
    """Makes a request to terminate look like Ctrl-C."""
    raise KeyboardInterrupt


def run_demo(demo):
    """Runs it. Returns the exit status; a failure and an interruption are told in one line."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        demo()
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def demo(options):
    """A training run, then the tables."""
    shared = [text for flag in ("data", "data_dir", "threads") if getattr(options, flag) is not None
              for text in ("--" + flag.replace("_", "-"), str(getattr(options, flag)))]
    programs = Programs(options.build, shared)
    train(programs, options.train_steps)
    for name, flags, policies in TABLES:
        print_table(measure(programs, name, flags, policies, options.table_steps))


def main():
    options = parse_arguments()
    return run_demo(lambda: demo(options))


if __name__ == "__main__":
    sys.exit(main())
