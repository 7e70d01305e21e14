import numpy as np
import pytest

from cmkg.hands.report import paper_page


def test_a_row_that_was_not_run_says_so():
    row = {"ours": None, "label": "x", "paper_epe_mm": 12.345, "paper_auc": None}
    assert paper_page.format_ours(row, "epe_mm", 2) == "not run"
    found = {"made": True, "presets": {name: [row] for name in paper_page.TABLES}}
    text = paper_page.format_tables(found)
    assert text.startswith(paper_page.MADE)
    assert text.count("| x | not run | not run | 12.35 |  |") == 3


def test_published_curves_are_shares_that_rise_to_their_printed_areas():
    curves = paper_page.read_published_curves()
    assert set(curves) >= {"RHD", "STB"}
    for curve in curves["STB"] + curves["RHD"]:
        x, y = np.array(curve.thresholds_mm), np.array(curve.pck)
        assert (np.diff(x) > 0).all()
        assert 0 < y.min() <= y.max() <= 1
        whole = np.interp(np.linspace(20, 50, 100), x, y).mean()
        assert whole == pytest.approx(curve.auc, abs=0.03), curve.method
