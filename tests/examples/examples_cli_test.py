#!/usr/bin/env python3
"""Runs the example programs as a user does: flags, output, errors, policies, grids.

Arguments: as for example_programs.py. The last line says how many checks passed.
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from example_programs import (ANY_DENSENET, ANY_REVNET, DENSENET, REVNET, SMALL, SMALL_DENSENET, SMALL_REVNET, TOUR,
                              fails_with, no_file_beyond, not_with_the_address_sanitizer, plan_of, policies_agree,
                              report_of)
from program_checks import TAGS, TIMEOUT, run, run_checks

KEYS = ["model", "parameters", "policy", "device", "data", "batch_size", "seed", "threads", "steps",
        "images_per_second", "peak_bytes", "state_digest", "test_accuracy"]


def test_densenet_policies_give_the_same_bits(folder):
    peaks = policies_agree(folder, SMALL_DENSENET, ["store-all", "shared", "checkpoint", "offload"])
    assert peaks["shared"] < peaks["store-all"] and peaks["offload"] < peaks["store-all"], peaks


def test_revnet_policies_give_the_same_bits(folder):
    peaks = policies_agree(folder, SMALL_REVNET, ["store-all", "shared", "checkpoint", "reversible", "offload"])
    assert peaks["reversible"] < peaks["checkpoint"] < peaks["store-all"], peaks


def test_verification_changes_nothing(folder):
    for command in ([*SMALL_DENSENET, "--memory", "checkpoint"], [*SMALL_REVNET, "--memory", "reversible"]):
        reports = [report_of(folder, [*command, "--max-steps", "3", "--verify", verify]) for verify in ("off", "sampled", "all")]
        assert [report["verify"] for report in reports] == ["off", "sampled", "all"]
        for report in reports:
            assert report["state_digest"] == reports[0]["state_digest"], report["verify"]
            assert report["peak_bytes"]["total"] == report["predicted_peak_bytes"] == reports[0]["peak_bytes"]["total"]


def test_threads_do_not_matter(folder):
    first, second = (report_of(folder, [*SMALL_DENSENET, "--max-steps", "2", "--threads", n]) for n in ("1", "2"))
    assert first["state_digest"] == second["state_digest"]


def test_seed_matters(folder):
    first, second = (report_of(folder, [*SMALL_DENSENET, "--max-steps", "2", "--seed", n]) for n in ("1", "2"))
    assert first["state_digest"] != second["state_digest"]


def test_report_is_complete(folder):
    report = report_of(folder, [*SMALL_REVNET, "--epochs", "2", "--no-eval", "--seed", "3", "--batch-size", "5"])
    assert list(report)[:len(KEYS)] == KEYS, list(report)
    assert set(report["peak_bytes"]) == {"total", "reserved", *TAGS}
    assert report["test_accuracy"] is None
    assert len(report["steps"]) == 8, "two epochs of 16 images in batches of 5"
    assert all(set(step) == {"loss", "ms"} and step["ms"] > 0 for step in report["steps"])
    expected = {"model": "RevNet-14", "policy": "store-all", "device": "cpu", "data": "synthetic", "batch_size": 5,
                "seed": 3, "threads": 2, "depth": 14, "grid": 16, "bottleneck": False, "interrupted": False}
    assert {key: report[key] for key in expected} == expected
    assert report["images_per_second"] > 0 and len(report["state_digest"]) == 32


def test_output_goes_where_it_belongs(_):
    code, output, errors = run([*SMALL_DENSENET, "--epochs", "2"])
    assert code == 0 and "state digest" in output and "test accuracy" in output
    assert output.count("epoch ") == 2 and errors == "", f"one line an epoch, progress on terminals alone: {errors!r}"
    code, output, errors = run([*SMALL_DENSENET, "--epochs", "1", "--quiet"])
    assert code == 0 and "state digest" in output and errors == "", errors


def test_help(_):
    for program in (DENSENET, REVNET):
        code, output, errors = run([program, "--help"])
        assert code == 0 and errors == ""
        for word in ("--precision", "tf32", "--memory", "store-all", "shared", "checkpoint", "reversible", "offload", "--offload-dir", "default",
                     "Exit status"):
            assert word in output, word


def test_usage_errors(_):
    fails_with([DENSENET, "--no-such-flag"], 2, "--no-such-flag")
    fails_with([DENSENET, "--memory", "none"], 2, "none", "store-all", "reversible")
    fails_with([*ANY_DENSENET, "--memory", "unit*=shared"], 2, "unit*", "dense1", "transition2")
    fails_with([*ANY_DENSENET, "--memory", "*=checkpoint,dense1=shared"], 2, "dense1", "earlier")
    fails_with([*ANY_DENSENET, "--memory", "dense1"], 2, "dense1", "store-all")
    fails_with([*ANY_DENSENET, "--memory", "reversible+shared"], 2, "'reversible' of 'reversible+shared'", "nothing to act on", "checkpoint")
    fails_with([*ANY_DENSENET, "--memory", "budget=1MiB"], 2, "too small", "least feasible", "pinned by")
    fails_with([DENSENET, "--memory", "budget=lots"], 2, "lots", "2GiB")
    fails_with([DENSENET, "--plan", "--budget", "0"], 2, "--budget", "2GiB")
    fails_with([DENSENET, "--plan", "--rates", "/does/not/exist"], 1, "/does/not/exist")
    fails_with([*ANY_DENSENET, "--depth", "10", "--growth", "4096", "--batch-size", "60000"], 1, "needs", "no policy fits", "--batch-size")
    fails_with([DENSENET, "--data", "imagenet"], 2, "imagenet", "cifar10")
    fails_with([DENSENET, "--batch-size", "0"], 2, "--batch-size")
    fails_with([DENSENET, "--grid", "16"], 2, "--grid")
    fails_with([*ANY_REVNET, "--grid", "24"], 2, "--grid", "23", "auto")
    fails_with([REVNET, "--lr", "fast"], 2, "--lr")


def test_impossible_depths(_):
    fails_with([*ANY_DENSENET, "--depth", "41"], 2, "41", "40", "46")
    fails_with([*ANY_REVNET, "--depth", "111"], 2, "111", "110")


def test_a_policy_without_work_names_others(_):
    fails_with([*ANY_DENSENET, "--memory", "reversible"], 2, "reversible", "shared", "checkpoint")


def test_offload_leaves_nothing_behind(folder):
    command = [*SMALL_DENSENET, "--memory", "offload", "--max-steps", "2", "--no-eval"]
    with tempfile.TemporaryDirectory() as elsewhere:
        code, output, errors = run([*command, "--offload-dir", elsewhere, "--report", str(folder / "report.json")])
        assert code == 0 and "offloaded" in output and elsewhere in output, output + errors
        assert not list(pathlib.Path(elsewhere).iterdir())
    report = json.loads((folder / "report.json").read_text())
    assert 0 < report["offloaded_peak_bytes"] <= report["offload_reserved_bytes"], report
    assert report_of(folder, [*SMALL_DENSENET, "--max-steps", "2"])["offloaded_peak_bytes"] == 0


def test_offload_fails_with_one_line(folder):
    command = [*SMALL_DENSENET, "--memory", "offload", "--quiet", "--max-steps", "1"]
    nowhere = str(folder / "nowhere")
    # With missing data: the folder is looked at first.
    fails_with([DENSENET, "--memory", "offload", "--offload-dir", nowhere, "--data-dir", nowhere], 1, nowhere, "offload",
               "No such file")
    # A disk that is full after 64 KiB.
    fails_with([*command, "--offload-dir", str(folder)], 1, str(folder), "cannot write", "too large",
               **no_file_beyond(1 << 16))


def test_missing_data(folder):
    nowhere = folder / "nowhere"
    fails_with([DENSENET, "--data-dir", str(nowhere)], 1, str(nowhere), "train-images-idx3-ubyte")
    fails_with([REVNET, "--data", "cifar10", "--data-dir", str(nowhere)], 1, str(nowhere))
    # Before a plan is made, which takes seconds where a net is deep: this budget would be refused.
    fails_with([DENSENET, "--data-dir", str(nowhere), "--memory", "budget=1KiB"], 1, str(nowhere), "train-images-idx3-ubyte")


def test_unwritable_report_fails_at_once(folder):
    # With a missing data set: the report is looked at first.
    missing = str(folder / "nowhere" / "report.json")
    fails_with([DENSENET, "--data-dir", str(folder / "nowhere"), "--report", missing], 1, "cannot write", missing)
    fails_with([DENSENET, "--data-dir", str(folder / "nowhere"), "--report", str(folder)], 1, "cannot write", str(folder))
    # And before a plan is made.
    for flag in ("--report", "--memory-report", "--memory-snapshot", "--trace"):
        fails_with([*SMALL_DENSENET, "--memory", "budget=1KiB", flag, missing], 1, "cannot write", missing)
    fails_with([*SMALL_DENSENET, "--memory", "budget=1KiB", "--offload-dir", str(folder / "nowhere")], 1, "nowhere", "offload")


def test_a_picture_that_cannot_be_written_does_not_end_the_training(folder):
    pictures = ["--memory-report", str(folder / "page.html"), "--trace", str(folder / "trace.json")]
    report = ["--report", str(folder / "report.json")]
    command = [*SMALL_DENSENET, "--epochs", "2", "--quiet", "--no-eval"]
    # A disk that is full after 16 KiB, which the report does not need.
    code, output, errors = run([*command, *pictures, *report], **no_file_beyond(1 << 14))
    assert code == 1 and "state digest" in output, output + errors
    lines = errors.splitlines()
    assert len(lines) == 2 and "trace.json: File too large" in lines[0] and "page.html: File too large" in lines[1], errors
    assert all(line.startswith("cifar_densenet: ") and line.endswith("; the run goes on") for line in lines), errors
    assert [entry.name for entry in folder.iterdir()] == ["report.json"], "a temporary file was left"
    assert len(json.loads((folder / "report.json").read_text())["steps"]) == 8
    (folder / "report.json").unlink()
    # Not even the report: after every epoch it is only warned of.
    code, output, errors = run([*command, *report], **no_file_beyond(64))
    lines = errors.splitlines()
    assert code == 1 and "8 of 8" in output and not list(folder.iterdir()), output + errors
    assert len(lines) == 3 and all("report.json: File too large" in line for line in lines), errors
    assert [line.endswith("; the run goes on") for line in lines] == [True, True, False], errors


def test_divergence_stops(_):
    fails_with([*SMALL_DENSENET, "--lr", "1e30", "--weight-decay", "1", "--schedule", "constant", "--quiet"], 1,
               "step ", "--lr")


def test_leaving_the_grid_costs_memory_and_not_the_run(folder):
    path = folder / "report.json"
    digests = set()
    for memory in ("reversible", "store-all"):
        command = [*SMALL_REVNET[:3], "--grid", "23", *SMALL, "--memory", memory, "--max-steps", "6", "--quiet", "--report", str(path)]
        code, summary, errors = run(command)
        assert code == 0, errors
        report = json.loads(path.read_text())
        digests.add(report["state_digest"])
        kept = report["kept_streams"]
        if memory == "store-all":
            assert kept == {"streams": 0, "steps": 0, "first_step": None} and not errors, (kept, errors)
            continue
        assert kept["steps"] == len(report["steps"]) and kept["first_step"] == 1, kept
        assert kept["streams"] >= kept["steps"], kept
        assert errors.count("leave the range of --grid") == 1, errors
        assert f"kept streams   {kept['streams']} in {kept['steps']} step" in summary, summary
    assert len(digests) == 1, "the bits do not depend on the policy"


def test_a_chosen_grid_is_the_same_under_every_policy(folder):
    command = [*SMALL_REVNET[:3], "--grid", "auto", *SMALL, "--max-steps", "6"]
    reports = [report_of(folder, [*command, "--memory", memory, "--threads", threads]) for memory, threads in
               (("store-all", "1"), ("store-all", "2"), ("checkpoint", "1"), ("reversible", "2"), ("budget=90%", "1"))]
    for report in reports:
        assert report["grid"] == "auto"
        assert report["state_digest"] == reports[0]["state_digest"], report["policy"]
        assert report["peak_bytes"]["total"] == report["predicted_peak_bytes"], report["policy"]
    fixed = report_of(folder, [*SMALL_REVNET, "--max-steps", "6"])
    assert fixed["state_digest"] != reports[0]["state_digest"]
    rows = plan_of(command)
    assert rows["reversible"][9] == "yes", rows


def test_interrupt_writes_the_report(folder):
    path = folder / "report.json"
    command = [*SMALL_DENSENET, "--epochs", "1000000", "--eval-every", "1000000", "--report", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + TIMEOUT
        while not path.exists():
            assert time.monotonic() < give_up and process.poll() is None, "no report after an epoch"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, process.returncode
    assert "(interrupted)" in output, output
    report = json.loads(path.read_text())
    assert report["interrupted"] is True and len(report["steps"]) >= 4
    assert report["test_accuracy"] is None


def test_cuda_is_explained(_):
    code, _, errors = run([*SMALL_DENSENET, "--device", "cuda", "--max-steps", "1", "--quiet"])
    assert code in (0, 1)
    if code == 1:
        assert errors.startswith("cifar_densenet: --device cuda: ") and errors.count("\n") == 1, errors


def test_auto_says_once_why_it_is_the_cpu(_):
    reason = run([*SMALL_DENSENET, "--device", "cuda", "--max-steps", "1", "--quiet"])[2]
    code, _, errors = run([*SMALL_DENSENET, "--device", "auto", "--epochs", "2", "--no-eval"])
    expected = 1 if "--device cuda: " in reason and "this build has no CUDA" not in reason else 0
    assert code == 0 and errors.count("no CUDA device") == expected and errors.count("\n") == expected, errors


def test_tf32_is_for_cuda(_):
    fails_with([*SMALL_DENSENET, "--precision", "tf32"], 2, "tf32", "cuda", "cpu")


def test_tour_shows_the_same_bits_under_every_policy(_):
    not_with_the_address_sanitizer("it makes these runs of minutes, whose code other checks go through")
    code, output, _ = run([TOUR])
    lines = [line.split(" ", 1) for line in output.splitlines()]
    assert code == 0 and [name for name, _ in lines] == ["store-all", "shared", "checkpoint", "reversible", "offload"], output
    assert len({text.split("loss ")[1].split(",")[0] for _, text in lines}) == 1, output
    assert len({text.split("state ")[1] for _, text in lines}) == 1, output


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
