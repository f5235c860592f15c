#!/usr/bin/env python3
"""Prints the tables of docs/imagenet.md: a training step's memory, and the largest batches, as `imagenet --plan` has them.

usage: imagenet_memory.py PROGRAM

PROGRAM is build/examples/imagenet. Nothing is trained. Every row is made by the command that is printed with the tables.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys

NETWORKS = {
    "densenet121": [], "densenet169": [], "densenet201": [], "densenet161": [], "densenet264": [], "densenet264-k48": [],
    "resnet50": [], "resnet101": [], "preresnet101": [], "revnet104": ["--grid", "16"],
}
BATCH = 32
POLICIES = ["store-all", "shared", "checkpoint", "checkpoint+shared", "reversible", "reversible+shared", "offload"]
BUDGETS = ["4GiB", "2GiB"]
LIMITS = ["2GiB", "4GiB", "8GiB", "12GiB"]

Rows = dict[str, dict[str, str]]


def plan(program: str, network: str, memory: str, budget: str) -> Rows:
    """The rows of a plan by policy, each by column."""
    command = [program, "--arch", network, *NETWORKS[network], "--device", "cpu", "--batch-size", str(BATCH), "--plan",
               "--memory", memory, "--budget", budget]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    split = [re.split(r"  +", line.strip()) for line in output[2:]]
    headings = split[0]
    lines = itertools.takewhile(lambda cells: len(cells) == len(headings), split[1:])
    return {cells[0]: dict(zip(headings, cells)) for cells in lines}


def table(headings: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(headings) + " |")
    print("|---|" + "---:|" * (len(headings) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def whole(mebibytes: str) -> str:
    return f"{float(mebibytes):,.0f}"


def peak_of(rows: Rows, policy: str) -> str:
    return whole(rows[policy]["peak"]) if policy in rows else ""


def budget_of(rows: Rows, budget: str) -> str:
    """The peak and what the plan costs; the least possible where that is more than the budget."""
    row = rows.get(f"budget={budget}")
    if row is None:
        return f"({whole(rows[f'least, above {budget}']['peak'])})"
    return f"{whole(row['peak'])}, {row['predicted time']}"


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program = sys.argv[1]
    steps, batches = [], []
    for network in NETWORKS:
        rows = plan(program, network, f"budget={BUDGETS[0]}", BUDGETS[1])
        steps.append([network, *(peak_of(rows, policy) for policy in POLICIES), *(budget_of(rows, b) for b in BUDGETS)])
        cells = []
        for limit in LIMITS:
            rows = plan(program, network, "store-all", limit)
            best = rows.get(f"budget={limit}") or rows[f"least, above {limit}"]
            fits = [rows["store-all"]["largest batch"], best["largest batch"]]
            cells.append(" / ".join(fits))
        batches.append([network, *cells])
        print(f"{network} done", file=sys.stderr)
    table(["network", *POLICIES, *(f"budget {budget}" for budget in BUDGETS)], steps)
    table(["network", *LIMITS], batches)
    return 0


if __name__ == "__main__":
    sys.exit(main())
