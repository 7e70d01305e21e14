import numpy as np
import pytest

from cmkg.hands.paper import paper_page


def test_a_row_that_was_not_run_says_so():
    row = {"ours": None, "label": "x", "paper_epe_mm": 12.345, "paper_auc": None}
    assert paper_page.format_our_error(row, "epe_mm", 2) == "not run"
    claims = [{"claim": "gain", "paper": -10.0, "ours": None, "unit": "%", "verdict": "not run"}]
    found = {"made": True, "open": True, "presets": dict.fromkeys(paper_page.TABLES, [row])}
    found |= {"claims": claims, "subsets": ["rhd-training is a subset: 5 of 8"]}
    text = paper_page.format_paper_tables(found)
    assert "**rhd-training is a subset: 5 of 8.**" in text
    assert text.startswith(paper_page.MADE)
    assert text.count("| x | not run | not run | 12.35 |  |") == 3
    assert "| gain | −10.0 % | not run | not run |" in text


def test_published_curves_are_shares_that_rise_to_their_printed_areas():
    curves = paper_page.read_published_curves()
    assert set(curves) >= {"RHD", "STB"}
    for curve in curves["STB"] + curves["RHD"]:
        x, y = np.array(curve.thresholds_mm), np.array(curve.pck)
        assert (np.diff(x) > 0).all()
        assert 0 < y.min() <= y.max() <= 1
        whole = np.interp(np.linspace(20, 50, 100), x, y).mean()
        assert whole == pytest.approx(curve.auc, abs=0.03), curve.method


def test_the_two_claims_of_figure_5_are_ratios_to_the_row_without_r():
    def row(near_zero, rms):
        return {"label": "x", "ours": {"weights": {"near_zero": near_zero, "rms": rms}}}

    rows = [row(0.02, 0.05), {"label": "l2", "ours": None}, row(0.5, 0.1)]
    found = paper_page.collect_weights(rows)
    assert [(w["peak"], w["spread"]) for w in found] == [(1, 1), (25, 2)]
    assert paper_page.collect_weights(rows[1:]) == []


def test_figure_4_says_what_the_method_gains():
    def row(stage, auc):
        ours = {"pck": np.linspace(0, auc, 20).tolist(), "auc_20_50": {"mean": auc}}
        return {"stage": stage, "label": stage, "paper_auc": 0.987, "ours": ours}

    rows = [row("r50-a/act-att", 0.9), row("stb/none", 0.5), row("stb/prior-l2", 0.75)]
    figures = paper_page.draw_curves({"presets": {"figure4": rows}})
    assert "ΔAUC +0.250" in figures["STB"]
    assert "(paper 0.987), 0.750" in figures["STB"]
    assert "ΔAUC" not in figures["RHD"]  # its other row is not run
