#!/usr/bin/env python3
"""Trains a small DenseNet on some folders of clip art, fine-tunes its head for others, and classifies five files.

Needs the example programs in BUILD/examples, the Debian package openclipart-png (public domain) and nothing but Python's
standard library.
"""

import argparse
import hashlib
import pathlib
import re
import shutil
import sys
import time

from demo import Failure, Programs, run_demo

CLIP_ART = pathlib.Path("/usr/share/openclipart/png")
FIRST = {"cards": "recreation/games/cards", "flags": "signs_and_symbols/flags", "icons": "computer/icons/flat-theme/action",
         "map symbols": "signs_and_symbols/map_symbols", "people": "people", "stars": "shapes/stars"}
SECOND = {"arrows": "shapes/arrows", "buttons": "computer/buttons", "fruit": "food/fruit", "jigsaw": "shapes/jigsaw",
          "leds": "signs_and_symbols/led", "music": "recreation/music"}
MOST_OF_A_CLASS = 160
MOST_BYTES = 60_000
SIZE = ["--image-size", "64"]
NET = ["--arch", "densenet", "--layers", "4,4,4", "--growth", "12", *SIZE]
TRAINING = ["--batch-size", "32", "--schedule", "cosine", "--memory", "shared", "--label-smoothing", "0.1"]


def series(path):
    """Pictures of one series ("ace_of_clubs", "ace_of_spades") are near copies: they stay on one side of the split."""
    return re.split(r"[-_ 0-9(\[]", path.stem.lower())[0][:8]


def held_back_of(files):
    """About a fifth of the files, in whole series: in the order of their hashes, as many as there is room for."""
    groups = {}
    for path in files:
        groups.setdefault(f"{path.parent.name}/{series(path)}", []).append(path)
    chosen = set()
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if len(chosen) + len(groups[name]) <= max(1, len(files) // 5):
            chosen.update(groups[name])
    return chosen


def lay_out(folder, classes):
    """Makes train/CLASS and val/CLASS of links. Returns the pictures of val."""
    shutil.rmtree(folder, ignore_errors=True)
    held_back = []
    for name, source in classes.items():
        files = [path for path in sorted((CLIP_ART / source).rglob("*.png"))
                 if not path.is_symlink() and path.stat().st_size <= MOST_BYTES]
        if not files:
            raise Failure(f"no pictures in {CLIP_ART / source}: the Debian package openclipart-png is missing")
        files = files[::max(1, len(files) // MOST_OF_A_CLASS)]
        chosen = held_back_of(files)
        for number, path in enumerate(files):
            half = "val" if path in chosen else "train"
            link = folder / half / name / f"{number:04}-{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
            if half == "val":
                held_back.append(link)
    return held_back


def share(report):
    return f"{100 * report['test_accuracy']:.1f} %"


def train(programs, folder, flags, text):
    print(f"== {text} ==", flush=True)
    start = time.monotonic()
    report = programs.run("imagenet", ["--data", str(folder), *NET, *TRAINING, *flags])
    return report, time.monotonic() - start


def largest_class(held_back):
    """The share of the class with the most pictures: what guessing it always would reach."""
    counts = {}
    for path in held_back:
        counts[path.parent.name] = counts.get(path.parent.name, 0) + 1
    return max(counts.values()) / len(held_back)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", metavar="DIR", help="build folder (default: %(default)s)")
    parser.add_argument("--folder", metavar="DIR", help="for the pictures' links and the weights (default: BUILD/pictures)")
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs takes at least 1")
    return options


def demo(options):
    programs = Programs(options.build, [] if options.threads is None else ["--threads", str(options.threads)])
    folder = pathlib.Path(options.folder or pathlib.Path(options.build) / "pictures").resolve()
    first, second = folder / "first", folder / "second"
    held_back = lay_out(first, FIRST)
    others = lay_out(second, SECOND)
    weights, tuned = str(folder / "first.safetensors"), str(folder / "second.safetensors")
    epochs = str(options.epochs)

    report, seconds = train(programs, first, ["--epochs", epochs, "--save-weights", weights],
                            f"Training on {', '.join(FIRST)}")
    print(f"{share(report)} of {len(held_back)} held-back pictures right after {seconds:.0f} s (always the largest class: "
          f"{100 * largest_class(held_back):.1f} %).\n", flush=True)
    report, seconds = train(programs, second,
                            ["--epochs", epochs, "--weights", weights, "--except", "classifier.*", "--freeze", "[!c]*",
                             "--freeze", "conv0.*", "--freeze-norm", "--save-weights", tuned],
                            f"Fine-tuning the head for {', '.join(SECOND)}")
    print(f"{share(report)} of {len(others)} held-back pictures right after {seconds:.0f} s (always the largest class: "
          f"{100 * largest_class(others):.1f} %). The rest of the network is as it was.\n", flush=True)
    print("== Five of them ==", flush=True)
    chosen = [str(path) for path in others[:: max(1, len(others) // 5)][:5]]
    programs.run_alone("classify", ["--weights", tuned, "--top", "3", *chosen])


def main():
    options = parse_arguments()
    return run_demo(lambda: demo(options))


if __name__ == "__main__":
    sys.exit(main())
