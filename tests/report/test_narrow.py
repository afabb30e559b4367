"""In a browser as wide as a telephone the page does not scroll sideways; tables and plots scroll in their own frames."""

import html
import re
import shutil
import subprocess

import pytest

from lightnas_edge.deploy.judge import Evidence
from lightnas_edge.report import build_report, build_verification_report
from tests import run_folders

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, to lay out a page")


def sideways(page, width, folder):
    """Pixels by which a page is wider than its window. A frame has the width: the window of a browser has a minimum."""
    text = page.read_text().replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    script = "<script>parent.postMessage(document.documentElement.scrollWidth - document.documentElement.clientWidth, '*')</script>"
    (folder / "copy.html").write_text(text.replace("</body>", script + "</body>"))
    (folder / "frame.html").write_text(
        f'<title>none</title><iframe src="copy.html" style="border:0;width:{width}px;height:900px"></iframe>'
        "<script>onmessage = (event) => { document.title = `wider by ${event.data}` }</script>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (folder / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"<title>wider by (-?\d+)</title>", html.unescape(shown))
    assert found, shown[:500]
    return int(found[1])


def test_the_page_of_a_run_fits_a_telephone(tmp_path, write_run):
    page = build_report(write_run(tmp_path / "run", simulated=True)).html

    assert sideways(page, 390, tmp_path) == 0


def test_the_page_of_a_file_with_a_long_name_and_many_budgets_fits_a_telephone(tmp_path):
    asked = {"latency_ms": 0.5, "p95_ms": 0.4, "energy_mj": 3.0, "accuracy": 0.9, "params_m": 4.0}
    record = run_folders.verification(
        asked, Evidence(run_folders.measured(0.4), params_m=4.2), host="a" * 80, warnings=("w" * 300,),
        fingerprint={"board": "b" * 90}, reference="r" * 200,
    )  # fmt: skip

    assert sideways(build_verification_report(record, tmp_path).html, 390, tmp_path) == 0
