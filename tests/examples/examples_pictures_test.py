#!/usr/bin/env python3
"""Checks of imagenet on a folder of pictures, and of classify, from training to predictions.

Arguments: the paths of imagenet and classify, and the folder of the tests' pictures.
"""

import csv
import json
import pathlib
import shutil
import sys

from program_checks import Skip, run, run_checks

IMAGENET, CLASSIFY, PICTURES = sys.argv[1:4]
SMALL = ["--arch", "densenet", "--layers", "1,1", "--growth", "4", "--image-size", "32", "--batch-size", "4", "--threads", "2",
         "--device", "cpu"]
CLASSES = {"drawn": ["drawn.png", "420.jpg", "progressive.jpg", "444.jpg", "422.jpg"],
           "grey ones": ["grey.png", "grey.jpg", "bit.png", "sixteen.png", "la.png"]}


def make_folder(folder):
    """train/ and val/ with two classes."""
    for half in ("train", "val"):
        for name, files in CLASSES.items():
            (folder / half / name).mkdir(parents=True)
            for file in files if half == "train" else files[:2]:
                shutil.copy(pathlib.Path(PICTURES) / file, folder / half / name / file)
    return folder


def imagenet(*flags, status=0):
    """Its report, or what it says on standard error."""
    report = pathlib.Path(flags[1]).parent / "report.json"
    code, _, errors = run([IMAGENET, *flags, *([] if "--plan" in flags or status != 0 else ["--report", str(report)])])
    if "has been made without" in errors:
        raise Skip("this build decodes no pictures, or has no files of weights")
    assert code == status, f"{flags} ended with {code}: {errors}"
    return errors if status != 0 or "--plan" in flags else json.loads(report.read_text())


def classify(*arguments, status=0):
    code, output, errors = run([CLASSIFY, *map(str, arguments)])
    assert code == status, f"{arguments} ended with {code}: {errors}"
    return output, errors


def train(folder, *flags):
    weights = folder / "weights.safetensors"
    report = imagenet("--data", str(make_folder(folder / "pictures")), *SMALL, "--epochs", "2", "--save-weights", str(weights), *flags)
    return weights, report


def test_from_a_folder_to_predictions(folder):
    weights, report = train(folder)
    assert len(report["steps"]) == 6 and report["peak_bytes"]["total"] == report["predicted_peak_bytes"]
    assert 0 <= report["data_wait_share"] <= 1 and report["left_out"] == []
    picture = pathlib.Path(PICTURES) / "drawn.png"
    output, errors = classify("--weights", weights, picture)
    lines = output.splitlines()
    assert errors == "" and lines[0] == str(picture) and len(lines) == 3, output
    assert {line.split("%")[1].strip() for line in lines[1:]} == set(CLASSES), output
    for crops in ("1", "10"):
        output, _ = classify("--weights", weights, "--json", "--crops", crops, "--top", "1", picture, picture)
        all_of_them = json.loads(output)
        assert [entry["file"] for entry in all_of_them] == [str(picture)] * 2
        assert 0.5 <= all_of_them[0]["classes"][0]["probability"] <= 1, output


def test_an_evaluation_agrees_with_the_run_and_with_classify(folder):
    weights, report = train(folder)
    alone = imagenet("--data", str(folder / "pictures"), *SMALL, "--evaluate", "--weights", str(weights))
    assert alone["test_accuracy"] == report["test_accuracy"]
    files = sorted((folder / "pictures" / "val").rglob("*.*"))
    probabilities = {}
    for crops in ("1", "10"):
        rows = folder / f"{crops}.csv"
        alone = imagenet("--data", str(folder / "pictures"), *SMALL, "--evaluate", "--weights", str(weights), "--crops", crops,
                         "--predictions", str(rows))
        assert alone["peak_bytes"]["total"] == 0 and alone.get("crops", 1) == int(crops), alone
        output, _ = classify("--weights", weights, "--json", "--top", "1", "--crops", crops, *files)
        answers = [(entry["classes"][0], pathlib.Path(entry["file"]).parent.name) for entry in json.loads(output)]
        assert sum(likeliest["class"] == name for likeliest, name in answers) / len(answers) == alone["test_accuracy"]
        evaluated = [float(line.split(",")[3]) for line in rows.read_text().splitlines()[1:]]
        probabilities[crops] = [likeliest["probability"] for likeliest, _ in answers]
        assert all(abs(one - other) < 1e-5 for one, other in zip(evaluated, probabilities[crops], strict=True))
    assert probabilities["1"] != probabilities["10"]


def test_an_evaluation_follows_the_weights(folder):
    """The network, the size of images and, of a folder without halves, the split are those of the training."""
    alone = folder / "alone"
    for name, files in CLASSES.items():
        (alone / name).mkdir(parents=True)
        for copy in range(4):
            for file in files:
                shutil.copy(pathlib.Path(PICTURES) / file, alone / name / f"{copy}-{file}")
    weights = folder / "weights.safetensors"
    report = imagenet("--data", str(alone), *SMALL, "--seed", "3", "--epochs", "2", "--save-weights", str(weights))
    assert report["classes"] == 2
    plain = ["--data", str(alone), "--device", "cpu", "--evaluate", "--weights", str(weights)]
    same = imagenet(*plain)
    assert (same["test_accuracy"], same["seed"], same["image-size"]) == \
        (report["test_accuracy"], 3, 32), same
    errors = imagenet(*plain, "--arch", "densenet121", status=2)
    assert "is of densenet, --arch is densenet121" in errors and errors.count("\n") == 1, errors
    (alone / "drawn").rename(alone / "paint")
    errors = imagenet(*plain, status=1)
    assert "is of the classes drawn, grey ones" in errors and "has grey ones, paint" in errors, errors


def test_a_run_goes_on_with_the_same_pictures_alone(folder):
    pictures = make_folder(folder / "pictures")
    run_folder = folder / "run"
    flags = [*SMALL, "--schedule", "constant"]
    imagenet("--data", str(pictures), *flags, "--max-steps", "2", "--checkpoint", str(run_folder))
    pictures.rename(folder / "moved")
    moved = ["--data", str(folder / "moved"), *flags, "--max-steps", "3", "--resume", str(run_folder)]
    first = folder / "moved" / "train" / "drawn"
    first.rename(first.parent / "painted")
    (folder / "moved" / "val" / "drawn").rename(folder / "moved" / "val" / "painted")
    assert "--data is 10 pictures of 2 classes (digest " in imagenet(*moved, status=2)
    (first.parent / "painted").rename(first)
    (folder / "moved" / "val" / "painted").rename(folder / "moved" / "val" / "drawn")
    assert len(imagenet(*moved)["steps"]) == 3


def test_policies_and_workers_give_the_same_bits(folder):
    _, report = train(folder)
    for flags in (["--memory", "shared"], ["--memory", "checkpoint+shared", "--threads", "1"]):
        other = imagenet("--data", str(folder / "pictures"), *SMALL, "--epochs", "2", *flags)
        assert other["state_digest"] == report["state_digest"], flags


def test_a_head_is_tuned_and_the_rest_stays(folder):
    weights, _ = train(folder)
    pictures = folder / "pictures"
    (pictures / "train" / "third").mkdir()
    shutil.copy(pathlib.Path(PICTURES) / "rgba.png", pictures / "train" / "third")
    tuned = folder / "tuned.safetensors"
    imagenet("--data", str(pictures), *SMALL, "--epochs", "1", "--weights", str(weights), "--except", "classifier.*",
             "--freeze", "[!c]*", "--freeze", "conv0.*", "--freeze-norm", "--save-weights", str(tuned))
    output, _ = classify("--weights", tuned, "--json", pathlib.Path(PICTURES) / "rgba.png")
    assert {entry["class"] for entry in json.loads(output)[0]["classes"]} == {*CLASSES, "third"}
    _, listed, _ = run([CLASSIFY.replace("classify", "palimpsest_inspect"), str(weights), str(tuned)])
    assert "classifier" in listed and "dense1" not in listed, listed


def test_broken_pictures_are_named_or_left_out(folder):
    pictures = make_folder(folder / "pictures")
    (pictures / "train" / "drawn" / "page.png").write_text("<html>not a picture</html>")
    errors = imagenet("--data", str(pictures), *SMALL, "--epochs", "1", status=1)
    for word in ("page.png", "class drawn", "HTML"):
        assert word in errors, errors
    report = imagenet("--data", str(pictures), *SMALL, "--epochs", "1", "--skip-broken")
    assert len(report["left_out"]) == 1 and "page.png" in report["left_out"][0], report["left_out"]


def test_broken_pictures_are_not_evaluated(folder):
    weights, _ = train(folder)
    pictures, rows = folder / "pictures", folder / "rows.csv"
    measure = ["--data", str(pictures), *SMALL, "--evaluate", "--weights", str(weights), "--predictions", str(rows)]
    imagenet(*measure)
    whole = rows.read_text().splitlines()
    broken = sorted((pictures / "val").rglob("*.*"))[1]
    broken.write_text("<html>not a picture</html>")
    report = imagenet(*measure, "--skip-broken")
    assert rows.read_text().splitlines() == [*whole[:2], *whole[3:]]
    kept = [line.split(",") for line in [whole[1], *whole[3:]]]
    assert report["test_accuracy"] == sum(label == taken for _, label, taken, *_ in kept) / 3
    assert sum(map(sum, report["confusion"])) == report["evaluated"] == 3
    assert report["left_out"] == [] and len(report["not_evaluated"]) == 1 and str(broken) in report["not_evaluated"][0]
    trained = imagenet("--data", str(pictures), *SMALL, "--epochs", "1", "--skip-broken")
    assert trained["evaluated"] == 3 and trained["left_out"] == [] and len(trained["not_evaluated"]) == 1
    assert 3 * trained["test_accuracy"] in (0, 1, 2, 3)
    for file in (pictures / "val").rglob("*.*"):
        file.write_text("<html>not a picture</html>")
    errors = imagenet(*measure, "--skip-broken", status=1)
    assert "none of the 4 images" in errors and errors.count("\n") == 2, errors


def test_a_long_list_of_broken_pictures_ends_truthfully(folder):
    pictures = make_folder(folder / "pictures")
    for number in range(11):
        (pictures / "train" / "drawn" / f"page{number}.png").write_text("<html>")
    command = [IMAGENET, "--data", str(pictures), *SMALL, "--epochs", "1", "--skip-broken"]
    report = folder / "report.json"
    for flags, words in (([], "and 1 more\n"), (["--report", str(report)], f"and 1 more, which are in {report}\n")):
        status, output, errors = run([*command, *flags])
        assert status == 0 and words in output, output + errors


def test_predictions_name_the_files(folder):
    weights, _ = train(folder)
    pictures, rows = folder / "pictures", folder / "rows.csv"
    odd = pictures / "val" / "drawn" / 'odd, "name".png'
    (pictures / "val" / "drawn" / "drawn.png").rename(odd)
    for name in (str(pictures), str(pictures) + "/"):
        imagenet("--data", name, *SMALL, "--evaluate", "--weights", str(weights), "--predictions", str(rows))
        with open(rows, newline="", encoding="utf-8") as table:
            files = [row["file"] for row in csv.DictReader(table)]
        assert files == sorted(str(file.relative_to(pictures)) for file in (pictures / "val").rglob("*.*")), files


def test_plans_need_no_pixels(folder):
    pictures = make_folder(folder / "pictures")
    for file in pictures.rglob("*.png"):
        file.write_bytes(b"")
    said = imagenet("--data", str(pictures), *SMALL, "--plan")
    assert said == f"imagenet: {pictures}: 2 classes, 10 pictures to train and 4 to evaluate with\n", said


def test_names_of_classes_come_from_a_file(folder):
    weights, _ = train(folder)
    picture, names = pathlib.Path(PICTURES) / "drawn.png", folder / "names.txt"
    for text in (b"one\ntwo", b"one\ntwo\n", b"one\r\ntwo\r\n", b"\xef\xbb\xbfone\r\ntwo\r\n\r\n"):
        names.write_bytes(text)
        output, _ = classify("--weights", weights, "--classes", names, "--json", picture)
        assert {entry["class"] for entry in json.loads(output)[0]["classes"]} == {"one", "two"}, output
    for text, words in ((b"", "no names"), (b"\r\n\n", "no names"), (b"one\n\ntwo\n", "line 2 is empty"),
                        (b"one\ntwo\none\n", "line 3 is the name of line 1, too: one"),
                        (b"one\nt\xfcw\n", "line 2 is no printable UTF-8: t\\xFCw"),
                        (b"one\ntwo\nthree\n", "3 names of classes, and the network has 2")):
        names.write_bytes(text)
        _, errors = classify("--weights", weights, "--classes", names, picture, status=1)
        assert errors.startswith(f"classify: {names}: ") and words in errors and errors.count("\n") == 1, errors
    for path, words in ((folder, "is a folder"), (folder / "nowhere", "cannot be read")):
        _, errors = classify("--weights", weights, "--classes", path, picture, status=1)
        assert errors.startswith(f"classify: {path}: {words}"), errors


def test_names_of_files_do_nothing_to_a_terminal(folder):
    weights, _ = train(folder)
    odd = folder / "a\n\x1b[31mb.png"
    missing = folder / "no\n\x1b[31mne.png"
    shutil.copy(pathlib.Path(PICTURES) / "drawn.png", odd)
    output, errors = classify("--weights", weights, odd, missing, status=1)
    assert output.splitlines()[0] == f"{folder}/a\\x0A\\x1B[31mb.png" and "\x1b" not in output, output
    assert "no\\x0A\\x1B[31mne.png" in errors and errors.count("\n") == 1 and "\x1b" not in errors, errors
    output, _ = classify("--weights", weights, "--json", odd)
    assert json.loads(output)[0]["file"] == str(odd)


def test_a_folder_is_no_picture(folder):
    weights, _ = train(folder)
    output, errors = classify("--weights", weights, folder / "pictures", status=1)
    assert output == "" and errors == f"classify: {folder / 'pictures'}: is a folder, expected a JPEG or PNG file\n", errors


def test_wrong_use_is_one_line(folder):
    weights, _ = train(folder)
    picture = pathlib.Path(PICTURES) / "drawn.png"
    missing = folder / "missing.png"
    for arguments, status, words in (
            (["--weights", folder / "none.safetensors", picture], 1, ["none.safetensors"]),
            (["--weights", weights, missing], 1, ["missing.png"]),
            (["--weights", weights, "--arch", "vgg", picture], 2, ["--arch", "densenet121"]),
            (["--weights", weights, "--classes", picture, picture], 1, ["drawn.png: line 1 is no printable UTF-8"]),
            (["--weights", weights], 2, ["pictures"])):
        output, errors = classify(*arguments, status=status)
        assert errors.startswith("classify: ") and all(word in errors for word in words), errors
    output, errors = classify("--weights", weights, "--json", missing, picture, status=1)
    entries = json.loads(output)
    assert "error" in entries[0] and entries[1]["classes"], output
    for flags, words in (
            (["--data", str(folder / "nowhere"), *SMALL], ["--data"]),
            (["--data", "synthetic", *SMALL, "--skip-broken"], ["--skip-broken"]),
            (["--data", "synthetic", *SMALL, "--evaluate", "--crops", "10"], ["--crops", "folder of pictures"]),
            (["--data", str(folder / "pictures"), *SMALL, "--crops", "10"], ["--crops", "--evaluate"]),
            (["--data", str(folder / "pictures"), *SMALL, "--classes", "5"], ["--classes", "folder"]),
            (["--data", "synthetic", "--arch", "densenet"], ["--layers"]),
            (["--data", "synthetic", "--arch", "densenet121", "--layers", "2,2"], ["--layers"])):
        errors = imagenet(*flags, status=2)
        assert errors.count("\n") == 1 and all(word in errors for word in words), errors
    (folder / "empty").mkdir()
    assert "has no folders" in imagenet("--data", str(folder / "empty"), *SMALL, status=1)


if __name__ == "__main__":
    sys.exit(run_checks(globals()))
