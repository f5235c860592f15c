#!/usr/bin/env python3
"""Plans, budgets, rates and forecasts, as a user of the example programs sees them.

Arguments: as for example_programs.py. The last line says how many checks passed.
"""

import re
import resource
import sys
import tempfile
import time

from example_programs import (CALIBRATE, DENSENET, REVNET, SMALL, SMALL_DENSENET, SMALL_REVNET, fails_with,
                              not_with_the_address_sanitizer, plan_of, report_of)
from program_checks import run, run_checks


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


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
