#!/usr/bin/env python3
"""own_model: a program with a model, data and a loss of its own has everything under every policy.

usage: own_model_test.py OWN_MODEL
"""

import json
import pathlib
import sys

from program_checks import run, run_checks

PROGRAM = sys.argv[1]
SHORT = ["--images", "16", "--epochs", "1"]
POLICIES = ["store-all", "shared", "checkpoint", "reversible", "offload", "checkpoint+shared", "budget=40MiB",
            "down*=checkpoint,*=shared"]


def trained(folder, *flags):
    """The report of a short run, and what it said."""
    report = folder / "report.json"
    status, out, err = run([PROGRAM, *SHORT, *flags, "--report", str(report)])
    assert status == 0, err
    return json.loads(report.read_text()), out


def test_every_policy_gives_the_same_bits_at_the_predicted_peak(folder):
    digests = set()
    for policy in POLICIES:
        report, out = trained(folder, "--memory", policy, "--verify", "sampled")
        assert f"UNet under {policy} will need" in out, out
        assert report["peak_bytes"]["total"] == report["predicted_peak_bytes"], policy
        digests.add(report["state_digest"])
    assert len(digests) == 1, digests


def test_table_and_files(folder):
    files = {name: folder / name for name in ["page", "snapshot", "trace"]}
    _, out = trained(folder, "--plan", "yes", "--memory", "budget=40MiB",
                     *[word for name, path in files.items() for word in ("--" + name, str(path))])
    assert "reversible+shared" in out and "budget=40MiB" in out, out
    assert "</html>" in files["page"].read_text()
    assert json.loads(files["snapshot"].read_text())["segments"]
    assert json.loads(files["trace"].read_text())["traceEvents"]


def test_a_mistake_is_one_line(_):
    for flags, said in [(["--memory", "budget=1MiB"], "the least feasible is"), (["--memory", "none"], "unknown memory policy"),
                        (["--no-such-flag"], "unknown flag"), (["--page"], "needs a value")]:
        status, _, err = run([PROGRAM, *SHORT, *flags])
        assert status == 2 and said in err and err.count("\n") == 1, (status, err)


def test_all_of_it_takes_fifteen_lines(_):
    source = (pathlib.Path(__file__).parents[2] / "examples" / "own_model.cpp").read_text()
    lines = source.split("// [run]\n")[1].strip().split("\n")
    assert 5 < len(lines) - 1 <= 15, lines  # the last is the mark's indentation


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
