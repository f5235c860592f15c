#!/usr/bin/env python3
"""The program imagenet as its users see it, on small images: networks, recipes, fine-tuning, micro-batches.

Arguments: as for example_programs.py. The last line says how many checks passed.
"""

import csv
import math
import signal
import subprocess
import sys
import time

from example_programs import IMAGENET, SMALL_IMAGENET, fails_with, needs_files_of_weights, plan_of, policies_agree, report_of
from program_checks import TIMEOUT, run, run_checks

NETWORKS = ["densenet121", "densenet169", "densenet201", "densenet161", "densenet232", "densenet264", "densenet264-k48",
            "resnet50", "resnet101", "preresnet50", "preresnet101", "revnet56", "revnet104"]
ANY = [IMAGENET, "--data", "synthetic"]


def rates_of(folder, command):
    """The learning rate of each step."""
    code, _, errors = run([*command, "--log-dir", str(folder / "log")])
    assert code == 0, errors
    with open(folder / "log" / "steps.csv", encoding="utf-8") as rows:
        return [float(row["learning_rate"]) for row in csv.DictReader(rows)]


def test_help_has_networks_and_defaults(_):
    code, output, errors = run([IMAGENET, "--help"])
    assert code == 0 and errors == ""
    words = output.replace("\n", " ")
    for word in (*NETWORKS, "(default: 224)", "(default: 256)", "--freeze PATTERN", "--accumulate N", "--label-smoothing"):
        assert word in words, word


def test_every_network_has_a_plan(_):
    for network in NETWORKS:
        rows = plan_of([*ANY, "--arch", network, "--batch-size", "32", "--device", "cpu"])
        assert ("reversible" in rows) == network.startswith("revnet"), network
        peaks = {policy: float(cells[0]) for policy, cells in rows.items()}
        assert peaks["shared"] < peaks["store-all"] and peaks["checkpoint"] < 0.6 * peaks["store-all"], (network, peaks)


def test_usage_errors(_):
    fails_with([*ANY, "--arch", "densenet122"], 2, "densenet122", "densenet121", "revnet104")
    fails_with([*ANY, "--grid", "16"], 2, "--grid", "densenet121")
    fails_with([*ANY, "--image-size", "4"], 2, "--image-size")
    fails_with([*ANY, "--freeze", "dense9.*"], 2, "'dense9.*' matches no parameter")
    fails_with([*ANY, "--freeze", "*"], 2, "all parameters", "frozen")
    fails_with([*ANY, "--freeze-norm"], 2, "--freeze-norm", "--freeze")
    fails_with([*ANY, "--accumulate", "3"], 2, "--batch-size is 256", "--accumulate 3")
    fails_with([*SMALL_IMAGENET, "--label-smoothing", "1.5"], 2, "--label-smoothing", "from 0 to 1")
    fails_with([*ANY, "--data", "cifar10", "--image-size", "31"], 2, "--image-size")


def test_policies_give_the_same_bits(folder):
    peaks = policies_agree(folder, SMALL_IMAGENET, ["store-all", "shared", "checkpoint", "stem=checkpoint,*=shared"])
    assert peaks["checkpoint"] < peaks["store-all"], peaks
    revnet = [*SMALL_IMAGENET, "--arch", "revnet56", "--grid", "16"]
    peaks = policies_agree(folder, revnet, ["store-all", "stem=checkpoint,*=reversible"])
    assert peaks["stem=checkpoint,*=reversible"] < peaks["store-all"], peaks


def test_rates_fall_as_in_the_papers(folder):
    densenet = rates_of(folder / "densenet", [*SMALL_IMAGENET, "--max-steps", "6", "--no-eval", "--quiet"])
    assert densenet == [0.1] * 2 + [0.01] * 2 + [0.001] * 2, densenet
    command = [*SMALL_IMAGENET, "--arch", "preresnet50", "--max-steps", "15", "--epochs", "4", "--no-eval", "--quiet"]
    resnet = [round(rate, 9) for rate in rates_of(folder / "resnet", command)]
    assert resnet == [0.1] * 4 + [0.01] * 4 + [0.001] * 4 + [0.0001] * 3, resnet
    warm = rates_of(folder / "warm", [*SMALL_IMAGENET, "--max-steps", "4", "--schedule", "constant", "--warmup", "4",
                                      "--no-eval", "--quiet"])
    assert [round(rate, 9) for rate in warm] == [0.025, 0.05, 0.075, 0.1], warm


def test_the_epochs_are_the_papers_unless_given(folder):
    """The second rate of a cosine over an epoch's one step tells how many epochs there are."""
    for name, network, flags, epochs in (("a", "densenet121", [], 90), ("b", "preresnet50", [], 120),
                                         ("c", "preresnet50", ["--epochs", "7"], 7)):
        command = [*SMALL_IMAGENET, "--arch", network, "--train-limit", "4", "--no-eval", "--quiet", "--schedule", "cosine",
                   "--log-dir", str(folder / name), *flags]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            rows = folder / name / "steps.csv"
            end = time.monotonic() + TIMEOUT
            while process.poll() is None and time.monotonic() < end and not (rows.exists() and rows.read_text().count("\n") > 2):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        with open(rows, encoding="utf-8") as lines:
            rate = float(list(csv.DictReader(lines))[1]["learning_rate"])
        assert math.isclose(rate, 0.05 * (1 + math.cos(math.pi / epochs)), rel_tol=1e-6), (network, rate)


def test_micro_batches_take_the_memory_that_was_foreseen(folder):
    command = [*SMALL_IMAGENET, "--batch-size", "8", "--test-limit", "8", "--max-steps", "3", "--train-limit", "12"]
    whole = report_of(folder, command)
    parts = report_of(folder, [*command, "--accumulate", "2"])
    assert parts["accumulate"] == 2 and len(parts["steps"]) == len(whole["steps"]) == 3
    for report in (whole, parts):
        assert report["peak_bytes"]["total"] == report["predicted_peak_bytes"]
        assert report["evaluation_peak_bytes"]["total"] == report["predicted_evaluation_peak_bytes"]
    assert parts["peak_bytes"]["activation"] < whole["peak_bytes"]["activation"]
    plan = plan_of([*command, "--accumulate", "2", "--budget", "200MiB"])
    assert int(plan["store-all"][-1]) % 2 == 0, plan


def test_fine_tuning(folder):
    needs_files_of_weights()
    weights = folder / "weights.safetensors"
    begin = [*SMALL_IMAGENET, "--max-steps", "1", "--no-eval"]
    assert run([*begin, "--save-weights", str(weights)])[0] == 0
    reports = folder / "reports"
    reports.mkdir()
    tune = [*SMALL_IMAGENET, "--weights", str(weights), "--except", "classifier.*", "--classes", "5", "--max-steps", "2"]
    whole = report_of(reports, tune)
    frozen = [flag for part in ("conv0.*", "norm0.*", "dense*", "transition*", "norm.*") for flag in ("--freeze", part)]
    for more in ([], ["--freeze-norm"]):
        head = report_of(reports, [*tune, *frozen, *more])
        assert head["peak_bytes"]["total"] == head["predicted_peak_bytes"]
        assert head["peak_bytes"]["total"] < whole["peak_bytes"]["total"] / 2
        assert head["freeze"].startswith("conv0.*, norm0.*")


def test_a_run_with_other_flags_is_another(folder):
    needs_files_of_weights()
    kept = str(folder / "run")
    command = [*SMALL_IMAGENET, "--batch-size", "8", "--accumulate", "2", "--freeze", "conv0.*", "--label-smoothing", "0.1",
               "--schedule", "constant", "--no-eval", "--quiet"]
    assert run([*command, "--max-steps", "1", "--checkpoint", kept])[0] == 0
    for change, word in ((["--accumulate", "4"], "--accumulate"), (["--freeze", "norm0.*"], "--freeze"),
                         (["--freeze-norm"], "--freeze-norm"), (["--label-smoothing", "0"], "--label-smoothing"),
                         (["--arch", "densenet169"], "--arch"), (["--image-size", "64"], "--image-size")):
        fails_with([*command, *change, "--max-steps", "2", "--resume", kept], 2, word)
    assert run([*command, "--max-steps", "2", "--resume", kept])[0] == 0


def test_an_evaluation_has_both_accuracies(_):
    code, output, errors = run([*SMALL_IMAGENET, "--evaluate"])
    assert code == 0 and "test accuracy" in output and "in the top 5" in output, output + errors


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
