#!/usr/bin/env python3
"""Trains with the example programs on a CUDA device: every policy, the same bits, the memory that was predicted.

Arguments: the paths of cifar_densenet and cifar_revnet, which must have a device: a card or the emulator.
"""

import json
import pathlib
import sys

from program_checks import TAGS, run, run_checks

DENSENET, REVNET = sys.argv[1:3]

SMALL = ["--device", "cuda", "--data", "synthetic", "--batch-size", "3", "--train-limit", "7", "--test-limit", "4",
         "--threads", "2", "--epochs", "2"]
TIMEOUT = 600


def report_of(folder, command):
    """Runs a program, which must succeed in silence but for its report and its summary."""
    path = folder / "report.json"
    code, output, errors = run([*command, "--quiet", "--report", str(path)], timeout=TIMEOUT)
    assert code == 0, f"{command} ended with {code}: {errors}"
    assert errors == "", errors
    report = json.loads(path.read_text())
    assert report["device_name"] in output, output
    return report


def policies_agree(folder, command, policies):
    """Peaks by policy, once all else has been compared."""
    reports = [report_of(folder, [*command, "--memory", policy]) for policy in policies]
    for report in reports:
        assert report["device"] == "cuda" and report["precision"] == "fp32"
        assert len(report["steps"]) == 6, "two epochs of 7 images in batches of 3"
        assert [step["loss"] for step in report["steps"]] == [step["loss"] for step in reports[0]["steps"]]
        assert report["state_digest"] == reports[0]["state_digest"], report["policy"]
        assert report["test_accuracy"] == reports[0]["test_accuracy"] is not None
        peak = report["peak_bytes"]
        assert peak["total"] == sum(peak[tag] for tag in TAGS)
        assert peak["total"] == report["predicted_peak_bytes"], f"{report['policy']}: {peak}"
        assert peak["total"] <= peak["reserved"] <= report["device_used_bytes"]
    return {report["policy"]: report["peak_bytes"]["total"] for report in reports}


def like_the_cpu(folder, command):
    """The same images in the same order, so nearly the same losses."""
    cuda, cpu = (report_of_device(folder, command, device) for device in ("cuda", "cpu"))
    for ours, theirs in zip(cuda["steps"][:3], cpu["steps"][:3]):
        assert abs(ours["loss"] - theirs["loss"]) < 1e-3 * abs(theirs["loss"]), (ours, theirs)
    assert cuda["peak_bytes"]["parameter"] == cpu["peak_bytes"]["parameter"]
    assert cpu["device_name"] is None and cpu["device_used_bytes"] is None


def report_of_device(folder, command, device):
    path = folder / "report.json"
    code, _, errors = run([*command, "--quiet", "--device", device, "--report", str(path)], timeout=TIMEOUT)
    assert code == 0, f"{command} on {device} ended with {code}: {errors}"
    return json.loads(path.read_text())


def test_densenet(folder):
    command = [DENSENET, "--depth", "10", "--growth", "4", *SMALL]
    peaks = policies_agree(folder, command, ["store-all", "shared", "checkpoint"])
    assert peaks["shared"] < peaks["store-all"], peaks
    like_the_cpu(folder, command)


def test_revnet(folder):
    command = [REVNET, "--depth", "14", "--grid", "16", *SMALL]
    peaks = policies_agree(folder, command, ["store-all", "shared", "checkpoint", "reversible", "offload"])
    assert peaks["reversible"] < peaks["store-all"], peaks
    like_the_cpu(folder, command)


def test_leaving_the_grid_costs_memory_and_not_the_run(folder):
    # 2^-23 holds magnitudes below 2. The step that finds out is taken again; a chosen grid becomes coarser.
    for grid in ("23", "auto"):
        command = [REVNET, "--depth", "14", "--grid", grid, *SMALL, "--lr", "1", "--quiet"]
        reports = {}
        for policy in ("store-all", "checkpoint", "reversible"):
            path = folder / "report.json"
            code, summary, errors = run([*command, "--memory", policy, "--report", str(path)], timeout=TIMEOUT)
            assert code == 0, f"{policy}: {errors}"
            reports[policy] = json.loads(path.read_text())
            kept = reports[policy]["kept_streams"]
            if grid == "auto" or policy != "reversible":
                continue
            assert kept["first_step"] == 1 and kept["steps"] == 6 and kept["streams"] >= 6, kept
            assert errors.count("leave the range of --grid") == 1, errors
            assert f"kept streams   {kept['streams']} in 6 steps" in summary, summary
        assert len({report["state_digest"] for report in reports.values()}) == 1, grid
        assert reports["store-all"]["kept_streams"]["streams"] == 0


def test_a_run_goes_on_under_another_policy(folder):
    densenet = [DENSENET, "--depth", "10", "--growth", "4", "--dropout", "0.2"]
    revnet = [REVNET, "--depth", "14", "--grid", "auto"]
    for program, policies in ((densenet, ["store-all", "shared", "checkpoint", "offload"]),
                              (revnet, ["store-all", "reversible", "checkpoint", "reversible+shared"])):
        command = [*program, *SMALL, "--schedule", "constant"]
        whole = report_of(folder, command)
        for steps in range(1, 6):
            kept = str(folder / f"{pathlib.Path(program[0]).name}-{steps}")
            before, after = policies[steps % 4], policies[(2 * steps + 1) % 4]
            report_of(folder, [*command, "--memory", before, "--max-steps", str(steps), "--checkpoint", kept])
            report = report_of(folder, [*command, "--memory", after, "--resume", kept])
            assert report["state_digest"] == whole["state_digest"], (steps, before, after)
            assert [step["loss"] for step in report["steps"]] == [step["loss"] for step in whole["steps"]]
            # The last step of an epoch has one image.
            predicted = report["predicted_peak_bytes"]
            assert report["peak_bytes"]["total"] == predicted or steps == 5, (steps, before, after)


def test_auto_takes_the_device_and_tf32_is_accepted(folder):
    command = [DENSENET, "--depth", "10", "--growth", "4", *SMALL, "--device", "auto", "--precision", "tf32", "--max-steps", "1"]
    report = report_of(folder, command)
    assert report["device"] == "cuda" and report["precision"] == "tf32"


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
