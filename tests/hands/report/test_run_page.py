import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from cmkg.hands.report.run_page import chosen_pictures


def test_the_report_asks_nobody_and_draws_in_a_browser(whole, tmp_path):
    page = (whole / "report.html").read_text()
    loads = re.findall(
        r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(([^)]+)\)|@import|fetch\(""", page
    )
    # nothing is loaded from outside
    assert all((a or b).startswith(("data:", "#")) for a, b in loads), loads
    browser = (
        shutil.which("chromium")
        or shutil.which("google-chrome")
        or shutil.which("chromium-browser")
    )
    if not browser:
        pytest.skip("no browser here")
    shot = tmp_path / "page.png"
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--window-size=420,3000",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={shot}",
            f"file://{whole}/report.html",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    import cv2

    image = cv2.imread(str(shot))
    assert image.shape[1] == 420
    assert image.std() > 10
    assert len(np.unique(image.reshape(-1, 3)[::97], axis=0)) > 50  # drawn, not blank


def test_it_can_be_read_without_eyes_and_taken_along(whole):
    page = (whole / "report.html").read_text()
    texts = re.findall(r'<img [^>]*alt="([^"]+)"', page)
    assert len(texts) > 9
    assert len(set(texts)) == len(texts)
    labels = re.findall(r'aria-label="([^"]+)"', page)
    assert len(set(labels)) == len(labels)
    assert page.count("<canvas tabindex") == page.count("<canvas")
    assert page.count("<table") == page.count('<table class="sortable"') == 3
    (held,) = re.findall(r'download="results.json" href="data:[^,]*,([^"]+)"', page)
    assert json.loads(base64.b64decode(held)) == json.loads((whole / "results.json").read_text())
    (lines,) = re.findall(r'download="results.csv" href="data:[^,]*,([^"]+)"', page)
    assert base64.b64decode(lines).startswith(b"part,row,seed,epe_mm,auc_20_50")


def test_chosen_pictures_are_no_neighbours():
    errors = np.arange(100.0)[:, None].repeat(21, 1)  # the first frames are the best
    chosen = chosen_pictures(errors)
    assert chosen == {"best": [0, 6, 12], "usual": [50, 44, 56], "worst": [99, 93, 87]}
    assert chosen_pictures(errors[:1]) == {"best": [0], "usual": [0], "worst": [0]}
