#!/usr/bin/env python3
"""The log of a run (--log-dir), made by an example on synthetic data and read by others: its rows against the report of
the run, its page and that of several runs in Chromium, its events by TensorBoard.

Arguments: the paths of cifar_densenet and compare_runs. PALIMPSEST_TENSORBOARD_PYTHON names a Python with the package
tensorboard; what needs that, or Chromium, is skipped where it is missing. The last line says how many checks passed.
"""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import time

from browser import WINDOWS, needs_chromium, seen_in
from program_checks import Skip, run, run_checks

DENSENET, COMPARE = sys.argv[1:3]
SMALL = [DENSENET, "--depth", "10", "--growth", "4", "--device", "cpu", "--data", "synthetic", "--batch-size", "8",
         "--train-limit", "20", "--test-limit", "16", "--epochs", "3", "--threads", "1", "--quiet"]
HOOK = pathlib.Path(__file__).with_name("run_log_hook.js")
QUANTITIES = {"loss": "loss", "learning_rate": "learning_rate", "rate": "images_per_second", "peak": "peak_bytes"}

READ_EVENTS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
log = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
log.Reload()
print(json.dumps({tag: [[event.step, event.value] for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}))
"""


def logged_run(folder, name, *flags):
    """A run with a log: the log's folder and the report."""
    report = folder / f"{name}.json"
    code, _, errors = run([*SMALL, *flags, "--log-dir", str(folder / name), "--report", str(report)])
    assert code == 0 and errors == "", f"{name} ended with {code}: {errors}"
    return folder / name, json.loads(report.read_text())


def rows_of(log):
    """steps.csv and evaluations.csv as lists of dictionaries of numbers; None where a field is empty."""
    def read(name):
        with open(log / name, encoding="utf-8", newline="") as file:
            return [{key: float(text) if text else None for key, text in row.items()} for row in csv.DictReader(file)]
    return read("steps.csv"), read("evaluations.csv")


def expected_values(log, step):
    """What the page's charts show at a step: the step and the number of each quantity."""
    steps, evaluations = rows_of(log)
    row = next((row for row in steps if row["step"] == step), None)
    done = [row for row in evaluations if row["step"] <= step]
    values = {key: [step, row[name]] if row and row[name] is not None else None for key, name in QUANTITIES.items()}
    return {**values, "metric": [done[-1]["step"], done[-1]["test_accuracy"]] if done else None}


def test_the_rows_are_those_of_the_report(folder):
    log, report = logged_run(folder, "log")
    steps, evaluations = rows_of(log)
    assert [row["step"] for row in steps] == list(range(1, 10)), steps
    assert [row["loss"] for row in steps] == [step["loss"] for step in report["steps"]]
    assert max(row["peak_bytes"] for row in steps) == report["peak_bytes"]["total"]
    assert [(row["step"], row["test_accuracy"]) for row in evaluations] == \
        [(each["step"], each["accuracy"]) for each in report["evaluations"]]
    assert [row["images_per_second"] is None for row in steps] == [True] + 8 * [False]
    lines = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "loss" in line] == steps and \
        [line for line in lines if "loss" not in line] == evaluations
    facts = json.loads((log / "run.json").read_text())
    assert (facts["model"], facts["steps"], facts["batch_size"]) == ("DenseNet-BC(10,4)", 9, 8), facts
    names = {"run.json", "steps.csv", "evaluations.csv", "metrics.jsonl", "run.html", "events.out.tfevents.palimpsest"}
    assert {entry.name for entry in log.iterdir()} == names


def test_a_log_changes_nothing(folder):
    _, report = logged_run(folder, "log")
    code, _, _ = run([*SMALL, "--report", str(folder / "without.json")])
    without = json.loads((folder / "without.json").read_text())
    assert code == 0
    for key in ("state_digest", "peak_bytes", "test_accuracy"):
        assert without[key] == report[key], key


def test_a_killed_run_leaves_whole_rows(folder):
    log = folder / "log"
    command = [*SMALL, "--epochs", "100000", "--log-dir", str(log)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        rows = log / "steps.csv"
        while (not rows.exists() or rows.read_bytes().count(b"\n") < 30) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert rows.read_text().endswith("\n") and (log / "metrics.jsonl").read_text().endswith("\n")
    steps, _ = rows_of(log)
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1)) and len(steps) >= 29
    assert run([COMPARE, "--output", str(folder / "runs.html"), str(log)])[0] == 0


def test_a_folder_that_has_a_log_or_can_have_none_fails_at_once(folder):
    log, _ = logged_run(folder, "log")
    before = (log / "steps.csv").read_bytes()
    nowhere = ["--data", "cifar10", "--data-dir", str(folder / "nowhere")]  # would fail, too, but later
    code, _, errors = run([*SMALL, *nowhere, "--log-dir", str(log)])
    assert code == 2 and "has the log of a run already" in errors and errors.count("\n") == 1, errors
    assert (log / "steps.csv").read_bytes() == before
    (folder / "file").write_text("text")
    code, _, errors = run([*SMALL, *nowhere, "--log-dir", str(folder / "file" / "log")])
    assert code == 1 and str(folder / "file" / "log") in errors and errors.count("\n") == 1, errors
    code, _, errors = run([*SMALL, "--plan", "--log-dir", str(log)])
    assert code == 2 and "--log-dir" in errors, errors


def check_seen(seen, width, dark, logs):
    assert seen["width"] == width and seen["dark"] == dark
    assert seen["last"] == seen["atEnd"]["step"] == 9 and 3 <= seen["pointed"] <= 6, seen["pointed"]
    for at, step in zip(seen["steps"], (1, 2, 3, 9)):
        for number, log in enumerate(logs):
            for key, value in expected_values(log, step).items():
                assert at["values"][key][number] == value, (key, step, at["values"][key], value)
        assert at["said"] == f"step {step}, epoch {(step + 2) // 3}", at
    assert seen["atEnd"]["values"] == seen["steps"][3]["values"]
    for which in ("lines", "linesOnLogScale"):
        counts = {key: 8 if key == "rate" else 3 if key == "metric" else 9 for key in seen["lines"]}
        for key, points in seen[which].items():
            assert len(points) == len(logs), (key, points)
            # A line has a point for each number; steps between them are a corner more.
            assert all(found >= counts[key] for found in points), (which, key, points)
    assert seen["overflow"] <= 0, f"wider than {width}: {seen['overflow']}"
    assert seen["badLabels"] == [] and seen["badLabelsOnLogScale"] == [], (seen["badLabels"], seen["badLabelsOnLogScale"])
    assert seen["withoutFirst"]["off"]
    assert all(len(values) == len(logs) - 1 for values in seen["withoutFirst"]["values"].values())
    assert seen["headersWithoutScope"] == seen["unnamed"] == 0 and seen["requests"] == []
    assert seen["headings"][0] == "H1" and seen["headings"].count("H1") == 1
    assert seen["themeChanges"]
    for contrast in (seen["contrast"], seen["contrastOther"]):
        assert contrast["count"] > 30 and contrast["lowest"]["ratio"] >= 4.5, contrast


def test_the_page_of_a_run_has_the_numbers_of_the_log(folder):
    needs_chromium()
    log, report = logged_run(folder, "log", "--memory", "shared")
    steps, evaluations = rows_of(log)
    rates = sorted(row["images_per_second"] for row in steps[1:])
    for (width, height), dark in zip(WINDOWS, (False, True)):
        seen = seen_in(folder, log / "run.html", HOOK, width, height, dark)
        check_seen(seen, width, dark, [log])
        assert seen["title"] == "Training run" and "DenseNet-BC(10,4), under shared, batches of 8" in seen["subtitle"], seen
        assert seen["facts"] == {"loss": steps[-1]["loss"], "metric": evaluations[-1]["test_accuracy"], "steps": 9,
                                 "rate": rates[4], "peak": report["peak_bytes"]["total"],
                                 "learning_rate": steps[-1]["learning_rate"]}, seen["facts"]
        assert seen["rows"] == []


def test_a_page_of_several_runs_compares_them(folder):
    needs_chromium()
    logs = [logged_run(folder, name, "--memory", name)[0] for name in ("store-all", "checkpoint")]
    page = folder / "runs.html"
    code, _, errors = run([COMPARE, "--output", str(page), *map(str, logs)])
    assert code == 0 and errors == "", errors
    for (width, height), dark in zip(WINDOWS, (True, False)):
        seen = seen_in(folder, page, HOOK, width, height, dark)
        check_seen(seen, width, dark, logs)
        assert seen["title"] == "2 training runs" and "under" not in seen["subtitle"], seen["subtitle"]
        assert [row["name"] for row in seen["rows"]] == ["store-all", "checkpoint"]
        assert seen["inTurns"] == ["loss", "metric", "learning_rate"], "the same bits are drawn in turns"
        for row, log in zip(seen["rows"], logs):
            steps, evaluations = rows_of(log)
            accuracies = [each["test_accuracy"] for each in evaluations]
            rates = sorted(each["images_per_second"] for each in steps[1:])
            assert row["numbers"] == [9, steps[-1]["loss"], accuracies[-1], max(accuracies), rates[4],
                                      max(each["peak_bytes"] for each in steps)], row


def test_the_page_needs_nothing_else(folder):
    log, _ = logged_run(folder, "log")
    html = (log / "run.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"\w+://[^\s'\"<]+", html)) - {"http://www.w3.org/2000/svg"}
    assert not addresses and not re.search(r"<link|<img|<iframe|@import|url\(|\bsrc=", html), addresses


def test_what_is_no_log_is_one_line(folder):
    code, _, errors = run([COMPARE, "--output", str(folder / "runs.html"), str(folder / "nowhere")])
    assert code == 1 and "nowhere" in errors and errors.count("\n") == 1, errors
    log, _ = logged_run(folder, "log")
    with open(log / "steps.csv", "a", encoding="utf-8") as file:
        file.write("10,high,0.1,5,7\n")
    code, _, errors = run([COMPARE, "--output", str(folder / "runs.html"), str(log)])
    assert code == 1 and "steps.csv, line 11: '10,high,0.1,5,7'" in errors and errors.count("\n") == 1, errors
    assert not (folder / "runs.html").exists()
    assert run([COMPARE])[0] == 2 and run([COMPARE, "--help"])[0] == 0


def test_tensorboard_reads_the_events(folder):
    python = os.environ.get("PALIMPSEST_TENSORBOARD_PYTHON", "")
    if not python:
        raise Skip("PALIMPSEST_TENSORBOARD_PYTHON does not name a Python with tensorboard")
    log, _ = logged_run(folder, "log")
    code, output, errors = run([python, "-c", READ_EVENTS, str(log)])
    assert code == 0, errors
    found = json.loads(output)
    steps, evaluations = rows_of(log)
    rows = {f"train/{name}": [[row["step"], row[name]] for row in steps if row[name] is not None]
            for name in QUANTITIES.values()}
    rows["test/accuracy"] = [[row["step"], row["test_accuracy"]] for row in evaluations]
    assert set(found) == set(rows), set(found)
    for tag, expected in rows.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in expected], tag
        for (_, value), (_, number) in zip(found[tag], expected):
            assert abs(value - number) <= 6e-8 * abs(number), (tag, value, number)  # float32


if __name__ == "__main__":
    sys.exit(run_checks(globals(), ignore_cleanup_errors=True))
