#!/usr/bin/env python3
"""The pictures of a step (--memory-report, --memory-snapshot, --trace), made by the examples on synthetic data and read
by others: the page in Chromium, against the report of the run.

Arguments: the paths of cifar_densenet and cifar_revnet. The last line says how many checks passed. Skipped (status 77)
where there is no chromium.
"""

import json
import pathlib
import pickle
import re
import struct
import sys

from browser import CHROMIUM, WINDOWS, chromium, needs_chromium, seen_in
from program_checks import TAGS, Skip, run, run_checks

DENSENET, REVNET = sys.argv[1:3]
SMALL = ["--device", "cpu", "--data", "synthetic", "--batch-size", "8", "--train-limit", "32", "--no-eval",
         "--max-steps", "2", "--threads", "2", "--quiet"]
SMALL_DENSENET = [DENSENET, "--depth", "22", *SMALL]
SMALL_REVNET = [REVNET, "--depth", "38", "--grid", "16", *SMALL]
HOOK = pathlib.Path(__file__).with_name("memory_report_hook.js")


def pictures_of(folder, command):
    """Runs a program with all flags: its report, and the paths of the page, the snapshot and the trace."""
    paths = [folder / name for name in ("report.json", "page.html", "snapshot.json", "trace.json")]
    flags = ["--report", "--memory-report", "--memory-snapshot", "--trace"]
    code, _, errors = run([*command, *(str(word) for pair in zip(flags, paths) for word in pair)])
    assert code == 0 and errors == "", f"{command} ended with {code}: {errors}"
    return (json.loads(paths[0].read_text()), *paths[1:])


def check_page(folder, page, report, peaks, least_savings):
    """The numbers of the page in every window are those of the report, and a reader can use it."""
    total = report["peak_bytes"]["total"]
    by_tag = {tag: report["peak_bytes"][tag] for tag in TAGS}
    for (width, height), dark in zip(WINDOWS, (False, True)):
        seen = seen_in(folder, page, HOOK, width, height, dark)
        assert seen["width"] == width and seen["dark"] == dark, (seen["width"], seen["dark"])
        for word in (report["model"], report["policy"], report["data"], report["device"], "batch of 8", "step 2"):
            assert word in seen["subtitle"], (word, seen["subtitle"])
        assert seen["peak"] == seen["atStart"]["here"] == total, (seen["peak"], total)
        assert {tag: seen["tags"].get(tag, 0) for tag in TAGS} == by_tag, seen["tags"]
        assert sum(seen["owners"]) == total and len(seen["owners"]) == seen["details"] > 3
        assert seen["opened"], "every owner opens"
        assert seen["policies"] == peaks and set(seen["mine"]) == {report["policy"]}, seen["policies"]
        for share, change, peak in seen["savings"]:
            assert peak <= total * (1 - float(share.strip(" %")) / 100) and change.startswith("--memory "), seen["savings"]
        assert len(seen["savings"]) >= least_savings, seen["savings"]
        check_keys(seen, total)
        for how in ("pointed", "pointedInTime"):
            assert seen[how]["cursor"] == seen["atStart"]["cursor"] and seen[how]["here"] == total, seen[how]
            assert "Bytes" in seen[how]["value"], seen[how]
        for how in ("drawn", "drawnInTime"):
            assert abs(seen[how]["highest"] - seen[how]["marked"]) < 0.1, f"the peak is not drawn: {seen[how]}"
        assert seen["overflow"] <= 0 and seen["overflowOpened"] <= 0, f"wider than {width}: {seen['overflowOpened']}"
        assert seen["headersWithoutScope"] == 0 and seen["untitled"] == 0
        assert seen["headings"][0] == "H1" and seen["headings"].count("H1") == 1 and "H2" in seen["headings"]
        assert seen["themeChanges"] and seen["requests"] == [], seen["requests"]
        for contrast in (seen["contrast"], seen["contrastOther"]):
            assert contrast["count"] > 50 and contrast["lowest"]["ratio"] >= 4.5, contrast


def check_keys(seen, total):
    steps = seen["keys"]
    assert [step["handled"] for step in steps] == [True] * (len(steps) - 1) + [False], "x is nobody's"
    last, peak = seen["last"], seen["atStart"]["cursor"]
    turn = steps[9]["cursor"]
    expected = [1, 2, 3, 2, 52, 2, 1, last, last, turn, turn, turn, peak, peak]
    assert [step["cursor"] for step in steps] == expected, [(step["key"], step["cursor"]) for step in steps]
    assert 1 < turn < last and "backward" in steps[9]["said"], steps[9]
    assert steps[10]["value"] != steps[11]["value"], "another value"
    assert steps[12]["here"] == total and "MiB" in steps[12]["said"]
    assert seen["outline"] != "none", "the focus shows"


def peaks_under(folder, command, policies):
    """The measured peaks: what the page has predicted."""
    peaks = {}
    for policy in policies:
        path = folder / "other.json"
        assert run([*command, "--memory", policy, "--report", str(path)])[0] == 0
        peaks[policy] = json.loads(path.read_text())["peak_bytes"]["total"]
    return peaks


def test_the_page_of_a_densenet_has_the_numbers_of_the_run(folder):
    needs_chromium()
    peaks = peaks_under(folder, SMALL_DENSENET, ["store-all", "shared", "checkpoint", "offload"])
    report, page, _, _ = pictures_of(folder, [*SMALL_DENSENET, "--memory", "shared"])
    check_page(folder, page, report, peaks, 0)


def test_the_page_of_a_revnet_has_the_numbers_of_the_run(folder):
    needs_chromium()
    peaks = peaks_under(folder, SMALL_REVNET, ["store-all", "shared", "checkpoint", "reversible", "offload"])
    report, page, _, _ = pictures_of(folder, [*SMALL_REVNET, "--memory", "reversible"])
    check_page(folder, page, report, peaks, 0)


def test_the_page_can_be_drawn_at_both_sizes(folder):
    needs_chromium()
    _, page, _, _ = pictures_of(folder, SMALL_DENSENET)
    for width, height in WINDOWS:
        shot = folder / "shot.png"
        shot.unlink(missing_ok=True)
        chromium(folder, page, width, height, "--force-dark-mode", f"--screenshot={shot}")
        header = shot.read_bytes()[:24]
        assert header[1:4] == b"PNG" and struct.unpack(">II", header[16:24]) == (width, height)
        assert shot.stat().st_size > 20_000, "an empty page"


def test_the_page_needs_nothing_else(folder):
    _, page, _, _ = pictures_of(folder, SMALL_DENSENET)
    html = page.read_text(encoding="utf-8")
    addresses = set(re.findall(r"\w+://[^\s'\"<]+", html)) - {"http://www.w3.org/2000/svg"}
    assert not addresses and not re.search(r"<link|<img|<iframe|@import|url\(|\bsrc=", html), addresses
    assert page.stat().st_size < 400_000, page.stat().st_size


def test_pictures_change_nothing(folder):
    without = folder / "without.json"
    assert run([*SMALL_DENSENET, "--memory", "shared", "--report", str(without)])[0] == 0
    report = pictures_of(folder, [*SMALL_DENSENET, "--memory", "shared"])[0]
    for key in ("state_digest", "peak_bytes"):
        assert json.loads(without.read_text())[key] == report[key], key
    names = {"without.json", "report.json", "page.html", "snapshot.json", "trace.json"}
    assert {entry.name for entry in folder.iterdir()} == names, "no temporary file is left"


def test_the_snapshot_is_what_memory_viz_reads(folder):
    report, _, path, _ = pictures_of(folder, [*SMALL_REVNET, "--memory", "reversible"])
    snapshot = json.loads(path.read_text())
    assert pickle.loads(pickle.dumps(snapshot, protocol=4)) == snapshot
    live = {block["address"]: block["requested_size"] for segment in snapshot["segments"]
            for block in segment["blocks"] if block["state"] == "active_allocated"}
    now = peak = sum(live.values())
    for event in reversed(snapshot["device_traces"][0]):
        if event["action"] == "alloc":
            now -= live.pop(event["addr"])
        elif event["action"] == "free_completed":
            live[event["addr"]] = event["size"]
            now += event["size"]
            peak = max(peak, now)
    assert peak == report["peak_bytes"]["total"], (peak, report["peak_bytes"])


def test_pytorch_reads_the_segments(folder):
    try:
        from torch.cuda import _memory_viz as viz  # pylint: disable=import-outside-toplevel
    except ImportError as missing:
        raise Skip(f"no PyTorch with a reader of snapshots: {missing}") from missing
    _, _, path, _ = pictures_of(folder, [*SMALL_REVNET, "--memory", "reversible"])
    snapshot = json.loads(path.read_text())
    active = sum(segment["active_size"] for segment in snapshot["segments"])
    if hasattr(viz, "segsum"):
        assert "total_allocated" in viz.segsum(snapshot) and "entries" in viz.trace(snapshot)
    else:
        assert viz.stats(snapshot["segments"])["active_allocated"].value == active


def test_the_trace_has_every_run_in_its_place(folder):
    report, _, _, path = pictures_of(folder, [*SMALL_REVNET, "--memory", "reversible"])
    events = json.loads(path.read_text())["traceEvents"]
    assert all({"ph", "name", "pid", "tid"} <= set(event) for event in events)
    runs = [event for event in events if event["ph"] == "X" and event["cat"] != "phase"]
    assert {event["cat"] for event in runs} >= {"forward", "backward"} and len(runs) > 100
    assert all(event["dur"] >= 0 and event["args"]["operations"] >= 0 for event in runs)
    phases = {event["name"]: event for event in events if event.get("cat") == "phase"}
    turn = phases["backward and update"]["ts"]
    assert all((event["ts"] >= turn) == (event["cat"] != "forward") for event in runs), "phases do not fit"
    live = [event["args"]["bytes"] for event in events if event["ph"] == "C" and event["name"] == "live"]
    assert max(live) == report["peak_bytes"]["total"]


def test_names_that_cannot_be_fail_at_once(folder):
    missing = str(folder / "nowhere" / "page")
    for flag in ("--memory-report", "--memory-snapshot", "--trace"):
        code, _, errors = run([DENSENET, "--data-dir", str(folder / "nowhere"), flag, missing])
        assert code == 1 and missing in errors and errors.count("\n") == 1, errors
        code, _, errors = run([*SMALL_DENSENET, flag, str(folder / "one"), "--report", str(folder / "one")])
        assert code == 2 and str(folder / "one") in errors, errors
        code, _, errors = run([pathlib.Path(DENSENET).resolve(), *SMALL_DENSENET[1:], flag, "./one", "--report", str(folder / "one")],
                              cwd=folder)
        assert code == 2 and "./one" in errors and not list(folder.iterdir()), errors
        code, _, errors = run([*SMALL_DENSENET, flag, "--quiet"])
        assert code == 2 and flag in errors, errors


if __name__ == "__main__":
    status = run_checks(globals(), ignore_cleanup_errors=True)
    sys.exit(status or (77 if CHROMIUM is None else 0))
