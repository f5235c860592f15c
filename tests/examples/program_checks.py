"""What the tests of the example programs share: running a program, and running all checks of a file."""

import pathlib
import subprocess
import tempfile
import time

# Names in --report's "peak_bytes".
TAGS = ["parameter", "gradient", "activation", "arena", "workspace", "optimiser", "data"]
TIMEOUT = 300


class Skip(Exception):
    """Why a check cannot run here."""


def run(command, timeout=TIMEOUT, **how):
    """Status, standard output and standard error of a command."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **how)
    return done.returncode, done.stdout, done.stderr


def run_checks(names, ignore_cleanup_errors=False):
    """Runs every function of `names` (the globals of a file) whose name begins with test_, each with a new folder, and
    says how many passed in the last line. Returns the exit status: 1 if one failed, else 0. Where what a check has
    started may still write into its folder at the end (a browser), removing that may be allowed to fail."""
    passed = failed = skipped = 0
    for name, test in list(names.items()):
        if not name.startswith("test_"):
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=ignore_cleanup_errors) as folder:
            try:
                test(pathlib.Path(folder))
                passed += 1
                print(f"ok      {name} ({time.monotonic() - start:.1f} s)", flush=True)
            except Skip as reason:
                skipped += 1
                print(f"skipped {name}: {reason}", flush=True)
            except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as problem:
                failed += 1
                print(f"FAILED  {name}: {type(problem).__name__} {problem}", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0
