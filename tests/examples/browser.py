"""Pages of the library in a real browser: Chromium without a window."""

import base64
import json
import os
import pathlib
import re
import shutil

from program_checks import Skip, run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WINDOWS = [(400, 900), (1600, 1000)]
CHECKS = pathlib.Path(__file__).with_name("page_checks.js")


def needs_chromium():
    if CHROMIUM is None:
        raise Skip("there is no chromium")


def chromium(folder, page, width, height, *flags):
    """Opens a page; nothing may be said on the console."""
    code, output, errors = run([
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}", "--virtual-time-budget=5000", *flags,
        page.as_uri()], env={**os.environ, "HOME": str(folder)})
    assert code == 0, f"chromium ended with {code}: {errors}"
    console = [line for line in errors.splitlines() if "CONSOLE" in line]
    assert not console, console
    return output


def seen_in(folder, page, hook, width, height, dark):
    """What the script `hook` has found on the page in a window of this size."""
    html = page.read_text(encoding="utf-8")
    before = ("<script>window.failures = []; addEventListener('error', event => failures.push(event.message));"
              "addEventListener('securitypolicyviolation', event => failures.push(event.blockedURI));</script>")
    html = html.replace("<head>", "<head>" + before, 1)
    html = html.replace("</body>", f"<script>{CHECKS.read_text(encoding='utf-8')}</script><script>{hook.read_text(encoding='utf-8')}</script></body>", 1)
    hooked = folder / "hooked.html"
    hooked.write_text(html, encoding="utf-8")
    # In a frame: Chromium's own windows are at least 500 pixels wide.
    scheme = "dark" if dark else "light"
    frame = folder / "frame.html"
    frame.write_text(f"""<!DOCTYPE html><meta name="color-scheme" content="{scheme}"><body style="margin: 0">
<iframe src="hooked.html" width="{width}" height="{height}" style="border: 0; color-scheme: {scheme}"></iframe>
<pre id="seen"></pre>
<script>addEventListener("message", event => {{ document.getElementById("seen").textContent = event.data; }});</script>""")
    dom = chromium(folder, frame, max(width, 500), height,
                   f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom")
    found = re.search(r'<pre id="seen">([^<]+)</pre>', dom)
    assert found, "the hook has not run"
    seen = json.loads(base64.b64decode(found.group(1)))
    assert seen["failures"] == [], seen["failures"]
    return seen
