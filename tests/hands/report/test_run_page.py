import re
import shutil
import subprocess

import numpy as np
import pytest


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
