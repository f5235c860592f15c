"""The example programs as their tests run them, on synthetic data.

Arguments of the program that imports this: the paths of cifar_densenet, cifar_revnet, tour, calibrate_rates,
palimpsest_inspect and imagenet.
"""

import itertools
import json
import pathlib
import re
import resource
import sys

from program_checks import TAGS, Skip, run

DENSENET, REVNET, TOUR, CALIBRATE, INSPECT, IMAGENET = sys.argv[1:7]
SMALL = ["--device", "cpu", "--data", "synthetic", "--batch-size", "4", "--train-limit", "16", "--test-limit", "8", "--threads", "2"]
SMALL_DENSENET = [DENSENET, "--depth", "10", "--growth", "4", *SMALL]
# Nothing is to be found out from what data there are.
ANY_DENSENET = [DENSENET, "--data", "synthetic"]
ANY_REVNET = [REVNET, "--data", "synthetic"]
SMALL_IMAGENET = [IMAGENET, *SMALL, "--image-size", "32", "--classes", "7"]
SMALL_REVNET = [REVNET, "--depth", "14", "--grid", "16", *SMALL]


def report_of(folder, command, status=0):
    """Runs a program and returns its report."""
    path = folder / "report.json"
    path.unlink(missing_ok=True)
    code, _, errors = run([*command, "--report", str(path)])
    assert code == status, f"{command} ended with {code}: {errors}"
    assert [entry.name for entry in folder.iterdir()] == ["report.json"], "a temporary file was left"
    return json.loads(path.read_text())


def fails_with(command, status, *words, **how):
    """A program must end with this status and one line on standard error that has these words."""
    code, _, errors = run(command, **how)
    program = pathlib.Path(command[0]).name
    assert code == status, f"{command} ended with {code}: {errors}"
    assert errors.startswith(program + ": ") and errors.count("\n") == 1, f"not one line: {errors!r}"
    for word in words:
        assert word in errors, f"no {word!r} in {errors!r}"


def not_with_the_address_sanitizer(reason):
    if b"__asan_init" in pathlib.Path(DENSENET).read_bytes():
        raise Skip(f"the address sanitizer: {reason}")


def needs_files_of_weights():
    if "made without" in run([INSPECT, "any"])[2]:
        raise Skip("this build has no files of weights")


def no_file_beyond(size):
    """For run(): a limit on the size of files, whose signal ends a process unless that does something about it."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


def policies_agree(folder, command, policies):
    reports = [report_of(folder, [*command, "--memory", policy, "--max-steps", "3"]) for policy in policies]
    for report in reports:
        assert len(report["steps"]) == 3
        assert [step["loss"] for step in report["steps"]] == [step["loss"] for step in reports[0]["steps"]]
        assert report["state_digest"] == reports[0]["state_digest"], report["policy"]
        assert report["test_accuracy"] == reports[0]["test_accuracy"] is not None
        peak = report["peak_bytes"]
        assert peak["total"] == sum(peak[tag] for tag in TAGS)
        assert peak["total"] == report["predicted_peak_bytes"], f"{report['policy']}: {peak}"
        assert peak["total"] <= peak["reserved"]
    return {report["policy"]: report["peak_bytes"]["total"] for report in reports}


def plan_of(command):
    """The rows of --plan: policy -> cells."""
    code, output, errors = run([*command, "--plan"])
    assert code == 0 and errors == "", errors
    rows = [re.split(r"  +", line) for line in output.splitlines()[3:]]
    return {row[0]: row[1:] for row in itertools.takewhile(lambda row: len(row) > 1, rows)}
