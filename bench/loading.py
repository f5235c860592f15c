#!/usr/bin/env python3
"""Reads and augments the pictures of a folder on one thread, in turns with Pillow and torchvision, and prints images a
second: training (random crop, mirror, colour jitter) and evaluation (shorter side 256, crop 224).

  loading.py FOLDER [--build DIR] [--rounds N]     needs torchvision, in the Python that runs this
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch
from PIL import Image
from torchvision import transforms

SECONDS = 2.0
THEIRS = {
    "train": transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
                                 transforms.ColorJitter(0.4, 0.4, 0.4), transforms.PILToTensor()]),
    "test": transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]),
}


def theirs(files, transform):
    """Images a second."""
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < SECONDS:
        with Image.open(files[count % len(files)]) as picture:
            transform(picture.convert("RGB"))
        count += 1
    return count / (time.perf_counter() - start)


def ours(program, folder, which):
    done = subprocess.run([program, folder, str(SECONDS), which], stdout=subprocess.PIPE, check=True, text=True)
    result = json.loads(done.stdout)
    return result["images"] / result["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="with a folder of pictures for each class")
    parser.add_argument("--build", default="build", metavar="DIR", help="build folder (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    program = pathlib.Path(options.build) / "bench" / "loading_bench"
    files = sorted(path for path in pathlib.Path(options.folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    print("| | Palimpsest | Pillow and torchvision | rate |\n|---|---:|---:|---:|")
    for which, transform in THEIRS.items():
        rates = [(ours(program, options.folder, which), theirs(files, transform)) for _ in range(options.rounds)]
        mine, other = (statistics.median(rate) for rate in zip(*rates))
        ratio = statistics.median(a / b for a, b in rates)
        print(f"| {which}, images/s | {mine:.0f} | {other:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
