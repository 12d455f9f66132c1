"""The HTML report in a real browser: it opens from disk without network or complaint, on a desk and on a phone.

Needs Chromium (any of the names below on the PATH); without one these tests are left out, and pytest says so.
"""

import re
import shutil
import subprocess

import pytest
from PIL import Image
from test_report import HOSTILE, ROWS

from balanced_thinking.compare.comparison import read_comparison
from balanced_thinking.compare.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH; install one for `make test-browser`"),
]
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
# Counts what the reader sees, and measures whether the page is wider than the window.
PROBE = """<script>
const seen = e => { const b = e.getBoundingClientRect(); return b.width > 20 && b.height > 10; };
const count = name => [...document.querySelectorAll(name)].filter(seen).length;
document.body.setAttribute("data-probe", JSON.stringify({tables: count("table"), plots: count("svg"),
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  dark: getComputedStyle(document.body).backgroundColor}));
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    values = {
        "name": HOSTILE, "models": ["m"], "arms": [row["arm"] for row in ROWS], "benchmarks": ["icons"],
        "recipe": {"dataset": "icons"}, "grpo": {"dataset": "icons"},
    }  # fmt: skip
    return write_report(read_comparison(values, source="x"), ROWS, folder)


def browse(page, tmp_path, *options: str) -> tuple[str, str]:
    """(the page's document after it has loaded, what the browser said)"""
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize("size", ["1100,1400", "500,900"])
def test_it_opens_without_complaint_and_shows_everything(page, tmp_path, size):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    document, said = browse(probed, tmp_path, f"--window-size={size}", "--dump-dom")
    assert "CONSOLE" not in said, said
    found = re.search(r'data-probe="([^"]+)"', document)[1].replace("&quot;", '"')
    assert f'"tables":{document.count("<table>")}' in found
    assert document.count("<table>") >= 5
    assert '"plots":2' in found
    assert '"overflow":0' in found, "the page is wider than the window; tables and plots must scroll by themselves"


def test_dark_readers_get_a_dark_page_with_light_text_in_plots(page, tmp_path):
    shots = {}
    for name, option in (("light", "1"), ("dark", "0")):
        target = tmp_path / f"{name}.png"
        scheme = f"--blink-settings=preferredColorScheme={option}"
        browse(page, tmp_path, scheme, "--window-size=1100,1400", f"--screenshot={target}")
        with Image.open(target) as picture:
            grey = picture.convert("L")
            shots[name] = (grey.getpixel((2, 2)), grey.getextrema())
    assert shots["light"][0] > 240
    assert shots["dark"][0] < 40
    assert shots["dark"][1][1] > 200
