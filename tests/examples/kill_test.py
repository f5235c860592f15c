#!/usr/bin/env python3
"""Kills runs that are kept in a folder, at random moments, and goes on with them: the end must be the undisturbed one.

usage: kill_test.py PROGRAM [KILLS [SEED]]

Half of the kills wait until a checkpoint is being written. The others come at any moment, the start included. Every
start after a kill goes on with what is there, without a word of damage; every run that comes to its end must have the
digest of a run that nobody kills. Prints a line about what was done.
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

RUN = ["--data", "synthetic", "--train-limit", "40", "--test-limit", "8", "--batch-size", "4", "--epochs", "2",
       "--depth", "10", "--growth", "4", "--dropout", "0.1", "--threads", "1"]
POLICIES = ["store-all", "shared", "checkpoint", "checkpoint+shared"]


def digest_of(output):
    return re.search(r"state digest\s+(\w+)", output).group(1)


def is_being_written(folder):
    try:
        return any(name.endswith(".tmp") for name in os.listdir(folder))
    except FileNotFoundError:
        return False


def start(program, folder, chance):
    kept = ["--checkpoint", folder, "--resume", folder, "--checkpoint-every", "1steps", "--memory",
            chance.choice(POLICIES)]
    return subprocess.Popen([program, *RUN, *map(str, kept)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_at(process, folder, chance, while_writing, longest):
    """Kills the process. Returns whether a checkpoint was being written then; None if the run had ended by itself."""
    end = time.monotonic() + chance.uniform(0, longest)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)
    writing = is_being_written(folder)
    while while_writing and not writing and process.poll() is None:
        writing = is_being_written(folder)
    process.send_signal(signal.SIGKILL)
    return writing if process.wait() == -signal.SIGKILL else None


def main():
    program = sys.argv[1]
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    chance = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    began = time.monotonic()
    undisturbed = subprocess.run([program, *RUN], capture_output=True, text=True, check=True)
    longest = 1.2 * (time.monotonic() - began)
    wanted = digest_of(undisturbed.stdout)
    done = {"kills": 0, "while_writing": 0, "runs": 0, "starts": 0}
    while done["kills"] < kills:
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary) / "run"
            while True:
                done["starts"] += 1
                process = start(program, folder, chance)
                writing = None
                if done["kills"] < kills:
                    writing = kill_at(process, folder, chance, done["kills"] % 2 == 0, longest)
                output, errors = process.communicate()
                if writing is None:
                    break
                assert "damaged" not in errors and "not whole" not in errors, errors
                done["kills"] += 1
                done["while_writing"] += writing
            assert process.returncode == 0, f"ended with {process.returncode}: {errors}"
            assert digest_of(output) == wanted, f"another end: {output}"
            left = sorted(path.name for path in folder.iterdir())
            assert not any(name.endswith(".tmp") for name in left), left
            done["runs"] += 1
    print(json.dumps(done))


if __name__ == "__main__":
    main()
