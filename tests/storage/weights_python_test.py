#!/usr/bin/env python3
"""Weights go from PyTorch to here and back, by torchvision's names and by ours.

usage: weights_python_test.py WORKER CIFAR_DENSENET INSPECT

Needs torch, torchvision and safetensors, in this Python or in the one that PALIMPSEST_PYTHON names; skipped (status 77)
where they are missing. The last line says how many checks passed.
"""

import importlib.util
import os
import pathlib
import re
import sys

MODULES = ["torch", "torchvision", "safetensors"]
if missing := [name for name in MODULES if importlib.util.find_spec(name) is None]:
    other = os.environ.pop("PALIMPSEST_PYTHON", None)  # it is asked once
    if other is None:
        print(f"skipped: {sys.executable} has no {', '.join(missing)}; PALIMPSEST_PYTHON may name another")
        sys.exit(77)
    os.execv(other, [other, *sys.argv])

import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
from program_checks import run, run_checks  # noqa: E402

WORKER, DENSENET, INSPECT = sys.argv[1:4]
TOLERANCE = 1e-5
MODELS = {"densenet121": (torchvision.models.densenet121, 606), "resnet50": (torchvision.models.resnet50, 267)}


def random_model(name):
    """torchvision's architecture with weights and running statistics of which none is what a new model has."""
    torch.manual_seed(1)
    model = MODELS[name][0](weights=None).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(17)
    return model


def work(folder, name, state, images):
    """What the library makes of weights: its scores, and the files that it writes."""
    save_file(state, folder / "in.safetensors")
    save_file({"images": images}, folder / "images.safetensors")
    command = [WORKER, name, folder / "in.safetensors", folder / "images.safetensors", folder]
    status, output, errors = run([str(word) for word in command])
    assert status == 0, errors
    assert output == f"{MODELS[name][1]} tensors taken\n", output
    return [load_file(folder / f"{file}.safetensors") for file in ("scores", "torchvision", "own")]


def check_scores(found, expected):
    difference = (found - expected).abs().max().item() / max(1.0, expected.abs().max().item())
    print(f"  scores differ by {difference:.1e}")
    assert difference < TOLERANCE, difference


def own_names(name, torchvision_names):
    """The names that docs/formats.md promises, made here in another way."""
    rules = {"densenet121": [(r"^features\.", ""), (r"denseblock", "dense"), (r"denselayer", "layer"), (r"^norm5", "norm")],
             "resnet50": [(r"^conv1", "conv0"), (r"^bn1", "norm0"), (r"^fc", "classifier"), (r"\bbn(\d)", r"norm\1"),
                          (r"^layer(\d)\.(\d+)", lambda m: f"stage{m[1]}.unit{int(m[2]) + 1}"),
                          (r"downsample\.0", "shortcut.conv"), (r"downsample\.1", "shortcut.norm")]}
    result = {}
    for full in torchvision_names:
        own = full
        for pattern, replacement in rules[name]:
            own = re.sub(pattern, replacement, own)
        result[full] = own
    return result


def check_there_and_back(folder, name):
    model = random_model(name)
    images = torch.randn(2, 3, 96, 80)
    with torch.no_grad():
        expected = model(images)
    scores, theirs, own = work(folder, name, model.state_dict(), images)
    check_scores(scores["scores"], expected)

    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[key], value) for key, value in state.items())
    again = MODELS[name][0](weights=None).eval()
    again.load_state_dict(theirs, strict=True)
    with torch.no_grad():
        assert torch.equal(again(images), expected)

    names = own_names(name, state)
    assert set(names.values()) == own.keys(), set(names.values()) ^ own.keys()
    assert all(torch.equal(own[names[key]], value) for key, value in state.items())
    work(folder, name, own, images)  # by our own names it goes in as well


def test_densenet_121_there_and_back(folder):
    check_there_and_back(folder, "densenet121")


def test_resnet_50_there_and_back(folder):
    check_there_and_back(folder, "resnet50")


def test_the_spelling_of_2017_is_read(folder):
    model = random_model("densenet121")
    images = torch.randn(1, 3, 64, 64)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
           for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    with torch.no_grad():
        check_scores(work(folder, "densenet121", old, images)[0]["scores"], model(images))


def test_half_precision_is_widened(folder):
    images = torch.randn(1, 3, 64, 64)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = random_model("resnet50").to(dtype).state_dict()
        theirs = work(folder, "resnet50", state, images)[1]
        assert all(torch.equal(value, state[key].float()) for key, value in theirs.items()), dtype


def test_weights_of_a_run_open_here_and_go_back(folder):
    small = [DENSENET, "--device", "cpu", "--depth", "10", "--growth", "4", "--data", "synthetic", "--batch-size", "4",
             "--train-limit", "8", "--test-limit", "8", "--epochs", "1", "--quiet"]
    first, second = str(folder / "first.safetensors"), str(folder / "second.safetensors")
    status, output, errors = run([*small, "--save-weights", first])
    assert status == 0, errors
    weights = load_file(first)
    assert weights["conv0.weight"].shape == (8, 3, 3, 3) and weights["classifier.weight"].shape[0] == 10
    assert {"dense1.layer1.norm1.running_var", "transition1.conv.weight", "norm.bias"} <= weights.keys()
    with safe_open(first, "pt") as file:
        assert file.metadata()["format"] == "pt" and file.metadata()["model"] == "DenseNet-BC(10,4)"
    weights["norm.bias"] += 1
    save_file(weights, second)
    status, output, errors = run([*small, "--weights", second, "--lr", "0", "--save-weights", str(folder / "third")])
    assert status == 0, errors
    assert torch.equal(load_file(folder / "third")["norm.bias"], weights["norm.bias"])
    status, output, errors = run([INSPECT, first, second])
    assert status == 1 and "norm.bias: largest difference 1\n" in output, output + errors
    status, output, errors = run([INSPECT, second])
    assert status == 0 and "no checksums in the file" in output, output + errors


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
