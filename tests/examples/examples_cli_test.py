#!/usr/bin/env python3
"""Runs the example programs as a user does, on synthetic data.

Arguments: the paths of cifar_densenet, cifar_revnet, tour, calibrate_rates and palimpsest_inspect. The last line says how many checks passed.
"""

import itertools
import json
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

from program_checks import TAGS, TIMEOUT, Skip, run, run_checks

DENSENET, REVNET, TOUR, CALIBRATE, INSPECT = sys.argv[1:6]
SMALL = ["--device", "cpu", "--data", "synthetic", "--batch-size", "4", "--train-limit", "16", "--test-limit", "8", "--threads", "2"]
SMALL_DENSENET = [DENSENET, "--depth", "10", "--growth", "4", *SMALL]
# Nothing is to be found out from what data there are.
ANY_DENSENET = [DENSENET, "--data", "synthetic"]
ANY_REVNET = [REVNET, "--data", "synthetic"]
SMALL_REVNET = [REVNET, "--depth", "14", "--grid", "16", *SMALL]
KEYS = ["model", "parameters", "policy", "device", "data", "batch_size", "seed", "threads", "steps",
        "images_per_second", "peak_bytes", "state_digest", "test_accuracy"]


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


def test_a_run_is_kept_and_taken_up_again(folder):
    kept = folder / "runs" / "a"
    reports = folder / "reports"
    reports.mkdir()
    command = [*SMALL_DENSENET, "--schedule", "constant", "--epochs", "2", "--dropout", "0.1"]
    whole = report_of(reports, command)
    log = ["--log-dir", str(folder / "log")]
    report_of(reports, [*command, *log, "--max-steps", "3", "--checkpoint", str(kept), "--checkpoint-every", "1steps"])
    fails_with([*command, "--checkpoint", str(kept)], 2, "has the checkpoints of a run", "--resume")
    fails_with([*command, "--resume", str(kept), "--lr", "0.2", "--seed", "9", "--depth", "16"], 2,
               "--lr is 0.2, 0.1 in the checkpoint", "--seed is 9, 0 in the checkpoint", "--depth is 16, 10")
    fails_with([*command, "--resume", str(folder / "none")], 1, "no checkpoint in")
    assert not (folder / "none").exists()
    resumed = report_of(reports, [*command, *log, "--resume", str(kept), "--memory", "checkpoint"])
    assert resumed["state_digest"] == whole["state_digest"]
    assert [step["loss"] for step in resumed["steps"]] == [step["loss"] for step in whole["steps"]]
    assert resumed["peak_bytes"]["total"] == resumed["predicted_peak_bytes"]
    rows = (folder / "log" / "steps.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, len(whole["steps"]) + 1))
    newest = sorted(kept.glob("*.safetensors"))[-1]
    assert report_of(reports, [*command, "--evaluate", "--weights", str(newest)])["test_accuracy"] == whole["test_accuracy"]
    code, listed, _ = run([INSPECT, str(newest)])
    assert code == 0 and "optimiser/conv0.weight.velocity" in listed and "all checksums right" in listed, listed


def test_flags_of_checkpoints_that_would_do_nothing_are_refused(folder):
    fails_with([*SMALL_DENSENET, "--keep", "2"], 2, "--keep", "--checkpoint or --resume")
    fails_with([*SMALL_DENSENET, "--checkpoint-every", "5steps"], 2, "--checkpoint-every")
    fails_with([*SMALL_DENSENET, "--checkpoint", str(folder / "a"), "--checkpoint-every", "soon"], 2, "soon", "10min")
    fails_with([*SMALL_DENSENET, "--checkpoint", str(folder / "a"), "--plan"], 2, "--checkpoint", "--plan")
    fails_with([*SMALL_DENSENET, "--checkpoint", str(folder / "a"), "--evaluate"], 2, "--checkpoint", "--evaluate")
    (folder / "file").write_text("text")
    fails_with([*SMALL_DENSENET, "--checkpoint", str(folder / "file")], 1, "cannot make the folder", "file")


def test_signals_end_a_run_after_the_step_with_a_checkpoint(folder):
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        kept = folder / str(status)
        command = [*SMALL_DENSENET, "--epochs", "1000000", "--no-eval", "--checkpoint", str(kept), "--checkpoint-every", "1h"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            give_up = time.monotonic() + TIMEOUT
            while "epoch 1/" not in process.stdout.readline():
                assert time.monotonic() < give_up and process.poll() is None, "no epoch has ended"
            process.send_signal(number)
            process.communicate(timeout=TIMEOUT)
        assert process.returncode == status, process.returncode
        assert len(list(kept.glob("*.safetensors"))) == 1


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


def plan_of(command):
    """The rows of --plan: policy -> cells."""
    code, output, errors = run([*command, "--plan"])
    assert code == 0 and errors == "", errors
    rows = [re.split(r"  +", line) for line in output.splitlines()[3:]]
    return {row[0]: row[1:] for row in itertools.takewhile(lambda row: len(row) > 1, rows)}


def test_the_plan_is_what_is_then_measured(folder):
    rows = plan_of(SMALL_DENSENET)
    assert list(rows)[:3] == ["store-all", "shared", "checkpoint"] and "reversible" not in rows, rows
    for policy in ("store-all", "shared", "checkpoint"):
        report = report_of(folder, [*SMALL_DENSENET, "--memory", policy, "--max-steps", "3", "--no-eval"])
        assert rows[policy][0] == f"{report['peak_bytes']['total'] / 2**20:.1f}", (rows[policy], report["peak_bytes"])
    assert "reversible" in plan_of(SMALL_REVNET)


def test_the_plan_finds_the_largest_batch_and_depth(folder):
    budget = 6 << 20
    rows = plan_of([*SMALL_DENSENET, "--budget", "6MiB", "--no-eval"])
    for policy in ("store-all", "shared"):
        batch, depth = (int(cell) for cell in rows[policy][-2:])
        for flag, fits, beyond in (("--batch-size", batch, batch + 1), ("--depth", depth, depth + 6)):
            for number, within in ((fits, True), (beyond, False)):
                command = [*SMALL_DENSENET, "--memory", policy, "--max-steps", "2", "--no-eval", flag, str(number)]
                assert (report_of(folder, command)["peak_bytes"]["total"] <= budget) == within, (policy, flag, number)
    assert int(rows["shared"][-1]) > int(rows["store-all"][-1])


RECIPES = r"recipes: (\d+) kept, (\d+) replayed \((\d+) of them nested\), (\d+) into arenas, (\d+) inverted, (\d+) offloaded(.*)"


def test_a_budget_says_what_it_has_chosen(_):
    for grid, exact in ((["--grid", "16"], "yes"), ([], "no")):
        command = [REVNET, "--depth", "38", *grid, *SMALL, "--batch-size", "16", "--no-eval", "--max-steps", "1"]
        least = int(re.search(r"least feasible is (\d+) bytes", run([*command, "--memory", "budget=1KiB"])[2])[1])
        budget = f"budget={least}"
        output = run([*command, "--memory", budget])[1]
        told = re.search(RECIPES, output)
        assert int(told[5]) > 0 and int(told[1]) > 0, output
        note = "" if grid else f"; {told[5]} values solved for, not exact without --grid"
        assert told[7] == note, output
        rows = plan_of([*command, "--memory", budget])
        plan = run([*command, "--plan", "--memory", budget])[1]
        assert f"{budget}: {told[0]}" in plan, plan
        assert rows[budget][9] == rows["reversible"][9] == exact and rows["store-all"][9] == "yes", rows
        assert ("Not exact" in plan) == (not grid), plan
    assert "recipes: " not in run([*SMALL_DENSENET, "--max-steps", "1", "--no-eval"])[1]


def test_budgets_have_rows_of_their_own(folder):
    not_with_the_address_sanitizer("it makes these runs of minutes, whose code other checks go through")
    command = [*SMALL_DENSENET, "--no-eval"]
    alone = plan_of([*command, "--budget", "6MiB"])["budget=6MiB"]
    assert plan_of([*command, "--budget", "6MiB", "--memory", "budget=6MiB"])["budget=6MiB"] == alone
    both = plan_of([*command, "--budget", "6MiB", "--memory", "budget=5MiB"])
    assert both["budget=6MiB"] == alone and int(both["budget=5MiB"][-2]) < int(alone[-2]), both
    for number, status in ((int(alone[-2]), 0), (int(alone[-2]) + 1, 2)):
        flags = ["--memory", "budget=6MiB", "--batch-size", str(number), "--max-steps", "1"]
        assert run([*command, *flags, "--quiet"])[0] == status, f"the largest batch is that of a run: {alone}"
    output = run([*command, "--plan", "--memory", "budget=1KiB"])[1]
    assert "least, above 1KiB" in output and "the least feasible is" in output, output


def test_the_plan_looks_for_depths_that_its_pattern_knows(_):
    command = [REVNET, "--depth", "26", *SMALL, "--no-eval", "--budget"]
    pattern = ["--memory", "stage1.unit2=checkpoint,*=store-all"]
    assert int(plan_of([*command, "30MiB", *pattern])[pattern[1]][-1]) > 26
    cells = plan_of([*command, "6MiB", *pattern])[pattern[1]]
    assert cells[-1] == "-", f"a RevNet-14 has one unit in a stage: {cells}"
    fails_with([*command, "30MiB", "--plan", "--memory", "stage1.unit9=checkpoint"], 2, "stage1.unit9", "stage3.unit2")


def test_the_plan_of_deep_nets_takes_seconds(_):
    begin = time.monotonic()
    rows = plan_of([DENSENET, "--depth", "10", "--growth", "12", *SMALL, "--no-eval", "--budget", "2GiB"])
    assert rows["offload"][-1] == ">= 1000", rows["offload"]
    assert time.monotonic() - begin < 60


def test_a_budget_is_kept_and_changes_no_bit(folder):
    for command in (SMALL_DENSENET, SMALL_REVNET):
        command = [*command, "--batch-size", "8", "--max-steps", "3"]
        free = report_of(folder, command)
        refusal = run([*command, "--memory", "budget=1KiB"])[2]
        least = int(re.search(r"least feasible is (\d+) bytes", refusal)[1])
        assert least < free["peak_bytes"]["total"]
        for share in (0, 0.5, 0.9):
            budget = int(least + (free["peak_bytes"]["total"] - least) * share)
            kept = report_of(folder, [*command, "--memory", f"budget={budget}"])
            assert kept["peak_bytes"]["total"] <= budget and kept["predicted_peak_bytes"] == kept["peak_bytes"]["total"]
            if share == 0.5:
                pages = [*command, "--memory", f"budget={budget}", "--memory-report", str(folder.parent / (folder.name + ".html"))]
                assert report_of(folder, pages)["state_digest"] == free["state_digest"]
                (folder.parent / (folder.name + ".html")).unlink()
            assert kept["state_digest"] == free["state_digest"] and kept["test_accuracy"] == free["test_accuracy"]


def test_a_budget_goes_to_disk_only_where_a_folder_is_named(folder):
    assert "saves nothing here" in run([*SMALL_DENSENET, "--memory", "budget=1KiB"])[2]
    command = [*SMALL_DENSENET, "--depth", "100", "--growth", "12", "--max-steps", "2", "--no-eval"]
    refusal = run([*command, "--memory", "budget=1KiB"])[2]
    here, elsewhere = (int(re.search(pattern, refusal)[1]) for pattern in
                       (r"least feasible is (\d+) bytes", r"with --offload-dir DIR they may, and the least is (\d+) bytes"))
    assert elsewhere < here, refusal
    for flags, offloads in (([], False), (["--offload-dir", tempfile.gettempdir()], True)):
        budget = elsewhere if offloads else here
        report = report_of(folder, [*command, *flags, "--memory", f"budget={budget}"])
        assert report["peak_bytes"]["total"] <= budget and (report["offloaded_peak_bytes"] > 0) == offloads, report
    refusal = run([*command, "--offload-dir", tempfile.gettempdir(), "--memory", f"budget={elsewhere - 1}"])[2]
    assert f"least feasible is {elsewhere} bytes" in refusal and "--offload-dir" not in refusal, refusal


def test_calibrated_rates_are_what_forecasts_use(folder):
    table = folder / "rates.txt"
    code, output, errors = run([CALIBRATE, "--out", str(table), "--batch-size", "1", "--rounds", "1", "--threads", "2"])
    assert (code, output, errors) == (0, "", ""), errors
    rates = dict(line.split() for line in table.read_text().splitlines() if not line.startswith("#"))
    assert list(rates) == ["operations_per_second", "bytes_per_second", "seconds_per_run", "offload_bytes_per_second"], rates
    assert all(float(rate) > 0 for rate in rates.values()), rates
    plans = [plan_of([*SMALL_DENSENET, "--rates", str(table)]) for _ in range(2)]
    assert plans[0] == plans[1], "the same table, the same plan"
    table.write_text("bytes_per_second 1\n")  # which makes memory all that counts
    assert plan_of([*SMALL_DENSENET, "--rates", str(table)]) != plans[0]


def test_calibration_fails_with_one_line(folder):
    fails_with([CALIBRATE, "--rounds", "0"], 2, "--rounds")
    fails_with([CALIBRATE, "--out", str(folder / "nowhere" / "rates.txt")], 1, "nowhere")
    fails_with([CALIBRATE, "--offload-dir", str(folder / "nowhere")], 1, "nowhere", "offload")


def test_a_table_of_rates_must_be_one_even_where_none_is_needed(folder):
    command = [*SMALL_DENSENET, "--memory", "store-all", "--max-steps", "1"]
    fails_with([*command, "--rates", str(folder / "nowhere")], 1, "nowhere", "cannot be read")
    fails_with([*command, "--rates", str(folder)], 1, str(folder), "cannot be read")
    (folder / "empty.txt").write_text("")
    fails_with([*command, "--rates", str(folder / "empty.txt")], 1, "empty.txt, line 1", "without a rate")


def test_the_forecast_of_an_evaluation_is_what_it_takes(folder):
    for command in (SMALL_DENSENET, SMALL_REVNET):
        report = report_of(folder, [*command, "--max-steps", "2"])
        assert report["evaluation_peak_bytes"]["total"] == report["predicted_evaluation_peak_bytes"] > 0
        for limits in (["--train-limit", "4", "--test-limit", "16", "--batch-size", "16"], ["--test-limit", "3"]):
            report = report_of(folder, [*command, "--max-steps", "1", *limits])
            assert report["evaluation_peak_bytes"]["total"] == report["predicted_evaluation_peak_bytes"] > 0, limits
        report = report_of(folder, [*command, "--max-steps", "2", "--no-eval"])
        assert report["evaluation_peak_bytes"]["total"] == report["predicted_evaluation_peak_bytes"] == 0


def test_the_forecast_of_what_is_reserved_is_what_it_takes(folder):
    not_with_the_address_sanitizer("it makes these runs of minutes, whose code other checks go through")
    # Large enough for more than one piece from the system.
    densenet = [DENSENET, "--depth", "16", *SMALL, "--batch-size", "13", "--train-limit", "65"]
    revnet = [REVNET, "--depth", "14", "--grid", "16", *SMALL, "--batch-size", "13", "--train-limit", "65"]
    for command, policies in ((densenet, ["store-all", "shared", "checkpoint+shared", "offload", "budget=24MiB"]),
                              (revnet, ["store-all", "checkpoint", "reversible"])):
        for policy in policies:
            for length in (["--max-steps", "1", "--no-eval"], ["--max-steps", "5"]):
                report = report_of(folder, [*command, "--memory", policy, *length])
                assert report["peak_bytes"]["reserved"] == report["predicted_reserved_bytes"] > 0, (policy, length)


def test_out_of_memory_says_what_would_fit(_):
    not_with_the_address_sanitizer("it needs more addresses than this leaves")

    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))
    command = [DENSENET, "--device", "cpu", "--data", "synthetic", "--threads", "1", "--no-eval", "--quiet", "--max-steps", "2"]
    code, _, errors = run(command, preexec_fn=little_memory)
    assert code == 1 and errors.count("\n") == 1, errors
    for word in ("out of memory", "--memory shared (", "--memory checkpoint (", "--memory budget=", "MiB or more"):
        assert word in errors, errors


def test_an_evaluation_that_does_not_fit_says_so(_):
    not_with_the_address_sanitizer("it needs more addresses than this leaves")

    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
    command = [DENSENET, "--device", "cpu", "--data", "synthetic", "--threads", "1", "--quiet", "--max-steps", "1",
               "--train-limit", "2", "--batch-size", "1024", "--memory", "shared"]
    code, _, errors = run(command, preexec_fn=little_memory)
    assert code == 1 and errors.count("\n") == 1, errors
    for word in ("out of memory", "an evaluation with batches of 1024 needs", "--batch-size 512 (", "--no-eval"):
        assert word in errors, errors
    assert "--memory" not in errors, f"no policy changes that: {errors}"


def test_weights_are_saved_and_loaded(folder):
    """A run that begins with the weights of another and does not learn ends with them, to the bit."""
    needs_files_of_weights()
    for small in (SMALL_DENSENET, SMALL_REVNET):
        first, second = str(folder / "first"), str(folder / "second")
        status, _, errors = run([*small, "--max-steps", "2", "--seed", "1", "--save-weights", first])
        assert status == 0, errors
        frozen = [*small, "--lr", "0", "--max-steps", "1", "--no-eval", "--seed", "2", "--save-weights", second]
        status, output, errors = run([*frozen, "--weights", first])
        assert status == 0 and f"weights of {first}: " in output and " tensors taken\n" in output, output + errors
        status, output, _ = run([INSPECT, first, second])
        assert status == 1 and "running_mean: largest difference" in output, output  # a step's statistics
        assert ".weight: " not in output and ".bias: " not in output, output
        assert sorted(entry.name for entry in folder.iterdir()) == ["first", "second"], "a temporary file was left"

        status, output, _ = run([*frozen, "--weights", first, "--except", "classifier.*", "--except", "norm0.*" if small is SMALL_REVNET else "norm.*"])
        assert status == 0 and "6 left as they are (" in output, output
        status, output, _ = run([INSPECT, first, second])
        assert status == 1 and "classifier.weight: largest difference" in output, output


def test_weights_that_do_not_fit_are_refused_at_once(folder):
    needs_files_of_weights()
    saved = str(folder / "saved")
    assert run([*SMALL_DENSENET, "--max-steps", "1", "--save-weights", saved])[0] == 0
    whole = pathlib.Path(saved).read_bytes()
    deeper = [DENSENET, "--depth", "16", "--growth", "4", *SMALL, "--weights", saved]
    for mode in ([], ["--plan"]):
        fails_with([*deeper, *mode], 1, f"{saved} does not fit the model", "missing: dense1.layer2.norm1.weight", "of another form: ")
        fails_with([*SMALL_DENSENET, "--weights", saved, "--except", "nothing*", *mode], 2, "'nothing*' matches no tensor")
    fails_with([*SMALL_REVNET, "--weights", saved], 1, "unexpected: ")
    fails_with([*SMALL_DENSENET, "--weights", str(folder / "missing")], 1, "missing: No such file")
    fails_with([*SMALL_DENSENET, "--except", "norm*"], 2, "--except leaves tensors out of --weights, which is missing")
    fails_with([*SMALL_DENSENET, "--plan", "--save-weights", saved], 2, "--save-weights writes about a run")
    fails_with([*SMALL_DENSENET, "--save-weights", str(folder / "no" / "where")], 1, "cannot write")
    fails_with([*SMALL_DENSENET, "--save-weights", saved, "--report", saved], 2, "two files cannot both be written to")
    damaged = folder / "damaged"
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    fails_with([*SMALL_DENSENET, "--weights", str(damaged)], 1, "damaged: tensor \"", "is damaged: its checksum is")
    code, output, _ = run([*SMALL_DENSENET, "--plan", "--weights", saved])
    assert code == 0 and "store-all" in output, output
    assert pathlib.Path(saved).read_bytes() == whole


def test_an_evaluation_alone_is_that_of_the_run(folder):
    weights, rows = folder / "weights", folder / "predictions.csv"
    (folder / "reports").mkdir()
    trained = report_of(folder / "reports", [*SMALL_DENSENET, "--epochs", "2", "--save-weights", str(weights)])
    measured = report_of(folder / "reports", [*SMALL_DENSENET, "--evaluate", "--weights", str(weights), "--predictions", str(rows)])
    for key in ("test_accuracy", "state_digest", "parameters"):
        assert measured[key] == trained[key], key
    assert measured["steps"] == [] and measured["evaluation_peak_bytes"]["total"] == measured["predicted_evaluation_peak_bytes"]
    predictions = [line.split(",") for line in rows.read_text().splitlines()]
    assert predictions[0] == ["sample", "label", "predicted", "probability"] and len(predictions) == 9
    right = sum(label == taken for _, label, taken, _ in predictions[1:])
    assert right / 8 == measured["test_accuracy"] == sum(measured["confusion"][i][i] for i in range(10)) / 8
    assert measured["test_top5_accuracy"] >= measured["test_accuracy"]


def test_an_evaluation_alone_reads_the_test_images_alone(folder):
    source = pathlib.Path("/usr/share/datasets/fashion-mnist")
    if not source.exists():
        raise Skip("no Fashion-MNIST")
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (folder / name).symlink_to(source / name)
    command = [DENSENET, "--depth", "10", "--growth", "4", "--device", "cpu", "--data-dir", str(folder), "--test-limit", "8"]
    code, output, errors = run([*command, "--evaluate", "--quiet"])
    assert code == 0 and errors == "" and "8 images evaluated" in output, errors
    fails_with([*command, "--max-steps", "1"], 1, "train-images")


def test_flags_of_training_do_not_go_with_an_evaluation_alone(folder):
    for flag in ("--log-dir", "--memory-report", "--memory-snapshot", "--trace", "--save-weights"):
        fails_with([*ANY_DENSENET, "--evaluate", flag, str(folder / "name")], 2, flag, "--evaluate")
    for flags in (["--plan"], ["--no-eval"]):
        fails_with([*ANY_DENSENET, "--evaluate", *flags], 2, "--evaluate", flags[0])
    fails_with([*ANY_DENSENET, "--predictions", str(folder / "name")], 2, "--predictions", "--evaluate is missing")
    fails_with([*ANY_DENSENET, "--evaluate", "--weights", str(folder / "nowhere")], 1, "nowhere")
    assert not list(folder.iterdir())


def test_inspect_lists_and_compares(folder):
    needs_files_of_weights()
    one, other = folder / "one", folder / "other"
    for path, seed in ((one, "1"), (other, "2")):
        assert run([*SMALL_DENSENET, "--max-steps", "1", "--seed", seed, "--save-weights", str(path)])[0] == 0
    status, output, _ = run([INSPECT, str(one)])
    lines = output.splitlines()
    assert status == 0 and re.fullmatch(r"\d+ tensors, \d+ bytes, all checksums right", lines[-1]), output
    assert any(re.fullmatch(r"F32 \(8, 3, 3, 3\) +864  [0-9a-f]{16}  conv0.weight", line) for line in lines), output
    assert "metadata model: DenseNet-BC(10,4)" in lines, output
    status, output, _ = run([INSPECT, str(one), str(one)])
    assert status == 0 and output.endswith(" tensors have the same bits, 0 differences\n"), output
    status, output, _ = run([INSPECT, str(one), str(other)])
    assert status == 1 and re.search(r"^conv0.weight: largest difference 0\.\d+$", output, re.MULTILINE), output
    one.write_bytes(one.read_bytes()[:-1])
    assert run([INSPECT])[0] == run([INSPECT, str(one)])[0] == run([INSPECT, str(other), str(folder / "missing")])[0] == 2
    status, output, errors = run([INSPECT, str(one), str(other)])
    assert status == 2 and output == "" and errors.startswith(f"palimpsest_inspect: {one}: the "), errors


def test_tour_shows_the_same_bits_under_every_policy(_):
    not_with_the_address_sanitizer("it makes these runs of minutes, whose code other checks go through")
    code, output, _ = run([TOUR])
    lines = [line.split(" ", 1) for line in output.splitlines()]
    assert code == 0 and [name for name, _ in lines] == ["store-all", "shared", "checkpoint", "reversible", "offload"], output
    assert len({text.split("loss ")[1].split(",")[0] for _, text in lines}) == 1, output
    assert len({text.split("state ")[1] for _, text in lines}) == 1, output


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
