#!/usr/bin/env python3
"""Runs that are kept, weights in files and evaluations alone, as a user of the example programs sees them.

Arguments: as for example_programs.py. The last line says how many checks passed.
"""

import pathlib
import re
import signal
import subprocess
import sys
import time

from example_programs import (ANY_DENSENET, DENSENET, IMAGENET, INSPECT, SMALL, SMALL_DENSENET, SMALL_IMAGENET, SMALL_REVNET,
                              fails_with, needs_files_of_weights, report_of)
from program_checks import Skip, TIMEOUT, run, run_checks


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
    nowhere = [*command, "--resume", str(folder / "none")]
    fails_with(nowhere, 1, "no checkpoint in")
    assert run(nowhere)[1] == "", "nothing is announced before that"
    assert not (folder / "none").exists()
    resumed = report_of(reports, [*command, *log, "--resume", str(kept), "--memory", "checkpoint"])
    assert resumed["state_digest"] == whole["state_digest"]
    assert whole["checkpoint"] is None and whole["resumed_from"] is None
    assert resumed["resumed_from"] == str(kept / "checkpoint-00000003.safetensors"), resumed["resumed_from"]
    assert resumed["checkpoint"] == str(sorted(kept.glob("*.safetensors"))[-1])
    assert 0 < resumed["predicted_checkpoint_bytes"] < pathlib.Path(resumed["checkpoint"]).stat().st_size
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


def test_weights_of_another_network_are_told_in_a_few_names(folder):
    needs_files_of_weights()
    saved = str(folder / "saved")
    small = [*SMALL_IMAGENET, "--arch", "densenet", "--layers", "1,1", "--growth", "4", "--no-eval"]
    status, _, errors = run([*small, "--max-steps", "1", "--save-weights", saved])
    assert status == 0, errors
    fails_with([*small, "--classes", "9", "--weights", saved], 1, "classifier.weight is F32", "; --except 'classifier.*' takes all others")
    fails_with([IMAGENET, *SMALL, "--arch", "resnet50", "--weights", saved, "--plan"], 2, "is of densenet, --arch is resnet50")
    assert run([*SMALL_DENSENET, "--max-steps", "1", "--save-weights", saved])[0] == 0  # these do not say of what they are
    other = [IMAGENET, *SMALL, "--arch", "resnet50", "--weights", saved, "--plan"]
    fails_with(other, 1, "missing: ", "unexpected: ", " more")
    said = run(other)[2]
    assert len(said) < 1200 + len(saved) and "--except" not in said, said


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
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([INSPECT, str(other)], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and "cannot write the output" in done.stderr, done
    assert run([INSPECT, "--help"])[:2] == (0, "usage: palimpsest_inspect FILE [OTHER]\n")


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
