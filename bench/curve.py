#!/usr/bin/env python3
"""What forecasts are worth: predicted against measured peaks, and the time that a budget of memory costs.

Three parts, each with tables for docs/memory.md; --write-docs puts them there, between the marks.

--plans: what --plan prints, and a row of budgets for both models. Nothing is trained; a new table of rates changes it.

--forecasts: both models over depth and policy, each run by its example for two steps and an evaluation: the peak that was
foretold against the one that was measured, in bytes. Any difference is an error of this program's status.

--times: the budget policy from the least feasible budget to store-all's peak, beside the single policies: time of a step
against store-all's, measured and predicted. All processes are alive together and take turns of a step, so that whatever
else happens on the machine falls on all alike; what counts is the median of the rounds' ratios. Writes
docs/results/memory-curve.json and docs/images/memory-curve.svg. --draw makes the predictions anew (the table of rates may
have changed) and draws, with the times of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import MIB, QUICK_WORKLOADS, WARM_UP_STEPS, WORKLOADS, Result, Worker, WorkerError, base_environment
from compare import machine_facts, positive
from curve_svg import draw

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "memory-curve.json"
IMAGE = ROOT / "docs" / "images" / "memory-curve.svg"
PAGE = ROOT / "docs" / "memory.md"

# Of the forecasts: example, depths and policies. A budget is a share of what store-all needs.
BUDGET = "budget=40 % of store-all"
FORECASTS = {
    "DenseNet-BC, growth 12": ("cifar_densenet", (40, 70, 100),
                               ("store-all", "shared", "checkpoint", "checkpoint+shared", "offload", BUDGET)),
    "RevNet": ("cifar_revnet", (38, 74, 110),
                        ("store-all", "shared", "checkpoint", "reversible", "reversible+shared", "offload", BUDGET)),
}
BATCH = 16

# Of the plans: what is shown whole, and rows of tables.
SHOWN_PLAN = ("cifar_densenet", "--data", "cifar10", "--plan", "--budget", "500MiB")
PLANS = {
    "DenseNet-BC(100,12), batch 64, CIFAR-10": (
        ("cifar_densenet",), ("store-all", "budget=210MiB", "budget=250MiB", "budget=300MiB", "shared", "budget=500MiB")),
    "RevNet-110, batch 100, CIFAR-10": (
        ("cifar_revnet", "--batch-size", "100"),
        ("store-all", "reversible", "budget=80MiB", "budget=120MiB", "budget=200MiB", "checkpoint", "budget=300MiB")),
}

# Of the times: single policies, how many budgets are asked for in predictions, and every which of them is measured.
SINGLES = {"densenet": ("store-all", "shared", "checkpoint", "offload"),
           "revnet": ("store-all", "shared", "checkpoint", "reversible", "offload")}
PREDICTED_BUDGETS, MEASURED_EVERY = 25, 3
QUICK_BUDGETS = 5


def output_of(build: Path, program: str, *flags: str) -> str:
    """What a program prints on the CPU."""
    command = [str(build / "examples" / program), *flags, "--device", "cpu"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=base_environment())
    except OSError as error:
        raise WorkerError(f"cannot start {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise WorkerError((done.stderr.strip().splitlines() or [f"{command[0]} failed"])[-1])
    return done.stdout


def plan_rows(output: str) -> dict[str, list[str]]:
    """The rows of what --plan prints: policy -> cells."""
    rows = [re.split(r"  +", line) for line in output.split("\n\n")[1].splitlines()]
    return {row[0]: row[1:] for row in rows[1:]}


def plan_table(title: str, build: Path, rates: list[str]) -> str:
    (program, *flags), policies = PLANS[title]
    lines = [f"| {title} | peak, MiB | operations | predicted time |", "|---|---:|---:|---:|"]
    for policy in policies:
        cells = plan_rows(output_of(build, program, *flags, *rates, "--data", "cifar10", "--plan", "--memory", policy))[policy]
        costs = ["", ""] if policy == "store-all" else cells[7:9]
        lines.append(f"| {policy} | {float(cells[0]):,.1f} | {costs[0]} | {costs[1]} |")
    return "\n".join(lines) + "\n"


def plans(options: argparse.Namespace) -> None:
    rates = ["--rates", str(options.rates)] if options.rates is not None else []
    shown = output_of(options.build, *SHOWN_PLAN, *rates).split("\n\n")[1]
    tables = "\n".join(plan_table(title, options.build, rates) for title in PLANS)
    print(f"{shown}\n\n{tables}")
    if options.write_docs:
        write_into_page("plan", f"```\n{shown}\n```\n")
        write_into_page("budgets", tables)


def run_example(build: Path, program: str, flags: list[str]) -> dict:
    """The report of a run of two steps and an evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        output_of(build, program, *flags, "--data", "synthetic", "--quiet", "--batch-size", str(BATCH), "--train-limit",
                  str(2 * BATCH), "--test-limit", str(BATCH), "--max-steps", "2", "--report", str(report))
        return json.loads(report.read_text())


def signed(difference: int) -> str:
    return f"{difference:+,}" if difference else "0"


def forecast_table(title: str, build: Path, quick: bool) -> tuple[str, bool]:
    """The table of one model, and whether all that was foretold has come true."""
    program, depths, policies = FORECASTS[title]
    depths = depths[:1] if quick else depths
    rows: dict[str, list[str]] = {policy: [] for policy in policies}
    evaluations: list[str] = []
    exact = True
    for depth in depths:
        store_all = 0
        seen = set()
        for policy in policies:
            print(f"{title}: depth {depth}, {policy}", file=sys.stderr)
            flag = f"budget={store_all * 2 // 5}" if policy == BUDGET else policy
            report = run_example(build, program, ["--depth", str(depth), "--memory", flag])
            predicted, measured = report["predicted_peak_bytes"], report["peak_bytes"]["total"]
            store_all = store_all or measured
            rows[policy] += [f"{predicted:,}", signed(measured - predicted)]
            seen.add((report["predicted_evaluation_peak_bytes"], report["evaluation_peak_bytes"]["total"]))
            exact &= measured == predicted
        exact &= all(predicted == measured for predicted, measured in seen)
        evaluations += [" or ".join(f"{predicted:,}" for predicted, _ in sorted(seen)),
                        " or ".join(signed(measured - predicted) for predicted, measured in sorted(seen))]
    lines = [f"| {title}, batch {BATCH} | " + " | ".join(f"depth {depth}, predicted bytes | measured − predicted" for depth in depths) + " |",
             "|---|" + "---:|" * (2 * len(depths))]
    lines += [f"| {policy} | {' | '.join(cells)} |" for policy, cells in rows.items()]
    lines.append(f"| evaluation, under each of them | {' | '.join(evaluations)} |")
    return "\n".join(lines) + "\n", exact


class Curve:
    """The time of one model's step over the memory that it is given."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self.workload = (QUICK_WORKLOADS if options.quick else WORKLOADS)[name]
        self.options = options
        self._command = [str(options.build / "bench" / "bench_worker"), *self.workload.arguments,
                         "--threads", str(options.threads)]
        if options.rates is not None:
            self._command += ["--rates", str(options.rates)]

    def _worker(self, memory: str) -> Worker:
        flags = ["--memory", memory]
        if memory == "offload" and self.options.offload_dir is not None:
            flags += ["--offload-dir", str(self.options.offload_dir)]
        return Worker(Result("Palimpsest", memory, None), self._command + flags, base_environment())

    def _predict(self, memory: str) -> dict:
        """A point of the curve: a worker that takes no step."""
        with contextlib.closing(self._worker(memory)) as worker:
            worker.quit()
            return {"memory": memory, "predicted_bytes": worker.result.predicted_bytes,
                    "predicted_ms": worker.result.predicted_ms}

    def _least(self) -> int:
        """The least feasible budget, as its refusal states it."""
        try:
            self._predict("budget=1")
        except WorkerError as error:
            found = re.search(r"least feasible is (\d+) bytes", str(error))
            if found:
                return int(found[1])
            raise
        raise WorkerError("a budget of one byte was not refused")

    def predict(self) -> dict:
        """Singles and budgets, the latter from the least on, without those that come to the same plan."""
        singles = [self._predict(memory) for memory in SINGLES[self.name]]
        least, most = self._least(), singles[0]["predicted_bytes"]
        count = QUICK_BUDGETS if self.options.quick else PREDICTED_BUDGETS
        budgets: list[dict] = []
        for i in range(count):
            point = self._predict(f"budget={int(least * (most / least) ** (i / (count - 1)) + 0.5)}")
            if not budgets or point["predicted_bytes"] != budgets[-1]["predicted_bytes"]:
                budgets.append(point)
        return {"title": self.workload.title, "singles": singles, "budgets": budgets}

    def measure(self, curve: dict) -> None:
        """Adds what is measured: of all singles and some budgets."""
        budgets = curve["budgets"]
        last = len(budgets) - 1
        every = 1 if self.options.quick else MEASURED_EVERY
        points = curve["singles"] + [point for i, point in enumerate(budgets) if i % every == 0 or i == last]
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(contextlib.closing(self._worker(point["memory"]))) for point in points]
            for worker in workers:
                worker.warm_up(WARM_UP_STEPS)
            for turn in range(self.options.rounds):
                print(f"{curve['title']}: round {turn + 1} of {self.options.rounds}, {len(workers)} steps", file=sys.stderr)
                for worker in workers:
                    worker.take_turn(1)
            for worker, point in zip(workers, points):
                worker.quit()
                point["ms"] = worker.result.ms
                point["measured_bytes"] = worker.result.tracked_peak


def add_ratios(curve: dict) -> None:
    """Times against store-all's: predicted, and the median over the rounds."""
    base = curve["singles"][0]
    for point in curve["singles"] + curve["budgets"]:
        point["predicted_time"] = point["predicted_ms"] / base["predicted_ms"]
        if "ms" in point:
            point["time"] = statistics.median(mine / its for mine, its in zip(point["ms"], base["ms"]))


def keep_times(curve: dict, before: dict) -> None:
    """Takes over what was measured of the same policies; of budgets, where their plan still has the same peak."""
    measured = [point for point in before["singles"] + before["budgets"] if "ms" in point]
    by_policy = {point["memory"]: point for point in measured if not point["memory"].startswith("budget=")}
    by_bytes = {point["measured_bytes"]: point for point in measured if point["memory"].startswith("budget=")}
    for points, key, known in ((curve["singles"], "memory", by_policy), (curve["budgets"], "predicted_bytes", by_bytes)):
        for point in points:
            if point[key] in known:
                point |= {name: known[point[key]][name] for name in ("ms", "measured_bytes")}
    if any("ms" not in point for point in curve["singles"]):
        raise WorkerError(f"{RESULTS.name} has not been measured for {curve['title']}: leave out --draw")


def percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def time_table(curve: dict) -> str:
    lines = [f"| {curve['title']} | peak, MiB | of store-all | time, measured | predicted |", "|---|---:|---:|---:|---:|"]
    base = curve["singles"][0]
    for point in sorted((p for p in curve["singles"] + curve["budgets"] if "ms" in p), key=lambda p: p["predicted_bytes"]):
        budget = point["memory"].startswith("budget=")
        name = f"budget={-(-point['predicted_bytes'] // MIB)}MiB" if budget else f"**{point['memory']}**"
        lines.append(f"| {name} | {point['measured_bytes'] / MIB:,.1f} | "
                     f"{point['predicted_bytes'] / base['predicted_bytes']:.0%} | {percent(point['time'])} | "
                     f"{percent(point['predicted_time'])} |")
    return "\n".join(lines) + "\n"


def write_into_page(mark: str, text: str) -> None:
    """Replaces what stands between `<!-- curve.py: MARK -->` and the next `<!-- end -->`."""
    page = PAGE.read_text()
    pattern = re.compile(rf"(<!-- curve\.py: {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise WorkerError(f"{PAGE} has no marks for {mark}")
    PAGE.write_text(pattern.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page))


def write_times(tables: str, rounds: int, machine: dict) -> None:
    text = (f"![Time of a step over its peak of memory: budgets and single policies](images/{IMAGE.name})\n\n"
            f"Measured on {machine['cpu']}, {machine['threads']} threads, in {rounds} rounds of a step each "
            f"([every figure](results/{RESULTS.name})).\n\n")
    write_into_page("times", text + tables)


def forecasts(options: argparse.Namespace) -> bool:
    results = [forecast_table(title, options.build, options.quick) for title in FORECASTS]
    tables = "\n".join(table for table, _ in results)
    print(tables)
    exact = all(exact for _, exact in results)
    if not exact:
        print("curve: what was foretold has not come true", file=sys.stderr)
    if options.write_docs:
        write_into_page("forecasts", tables)
    return exact


def times(options: argparse.Namespace) -> bool:
    before = json.loads(RESULTS.read_text()) if options.draw else None
    record = {"machine": before["machine"] if before else machine_facts(options, None), "curves": []}
    exact = True
    for i, name in enumerate(WORKLOADS):
        curve_of_model = Curve(name, options)
        curve = curve_of_model.predict()
        if before:
            keep_times(curve, before["curves"][i])
        else:
            curve_of_model.measure(curve)
        add_ratios(curve)
        for point in curve["singles"] + curve["budgets"]:
            if point.get("measured_bytes", point["predicted_bytes"]) != point["predicted_bytes"]:
                exact = False
                print(f"curve: {point['memory']} took {point['measured_bytes']} bytes, not {point['predicted_bytes']}",
                      file=sys.stderr)
        record["curves"].append(curve)
    tables = "\n".join(map(time_table, record["curves"]))
    print(tables)
    if options.quick:
        (options.build / IMAGE.name).write_text(draw(record["curves"]))
        print(f"curve: with --quick only {options.build / IMAGE.name} is written", file=sys.stderr)
        return exact
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    IMAGE.write_text(draw(record["curves"]))
    if options.write_docs:
        write_times(tables, len(record["curves"][0]["singles"][0]["ms"]), record["machine"])
    return exact


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="build folder (default: build/)")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--forecasts", action="store_true", help="this part alone")
    part.add_argument("--plans", action="store_true", help="this part alone")
    part.add_argument("--times", action="store_true", help="this part alone")
    part.add_argument("--draw", action="store_true", help="the part of times, with those that are there")
    parser.add_argument("--rounds", type=positive, default=4, help="steps of each process (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=2, help="default: %(default)s")
    parser.add_argument("--rates", type=Path, metavar="FILE", help="table for predicted times (default: built in)")
    parser.add_argument("--offload-dir", type=Path, metavar="DIR", help="where offload puts its file")
    parser.add_argument("--quick", action="store_true", help="small models, to see that everything works")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/memory.md")
    options = parser.parse_args()
    options.device = "cpu"
    if options.quick and options.write_docs:
        parser.error("--quick is no figure for the docs")
    return options


def main() -> int:
    options = parse_arguments()
    try:
        every = not (options.plans or options.forecasts or options.times or options.draw)
        good = True
        if every or options.plans:
            plans(options)
        if every or options.forecasts:
            good &= forecasts(options)
        if every or options.times or options.draw:
            good &= times(options)
        return 0 if good else 1
    except (WorkerError, OSError, json.JSONDecodeError) as error:
        print(f"curve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("curve: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
