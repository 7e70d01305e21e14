import numpy as np
import pytest

from cmkg.hands.experiments.paper import describe_rows
from cmkg.hands.experiments.paper_settings import Paper
from cmkg.hands.report import paper_page


def test_a_row_that_was_not_run_says_so():
    row = {"ours": None, "label": "x", "paper_epe_mm": 12.345, "paper_auc": None}
    assert paper_page.format_ours(row, "epe_mm", 2) == "not run"
    claims = [{"claim": "gain", "paper": -10.0, "ours": None, "unit": "%"}]
    found = {"made": True, "open": True, "presets": dict.fromkeys(paper_page.TABLES, [row])}
    found["claims"] = claims
    text = paper_page.format_tables(found)
    assert text.startswith(paper_page.MADE)
    assert text.count("| x | not run | not run | 12.35 |  |") == 3
    assert "| gain | not run | −10.0 % |" in text


def test_what_the_text_claims_is_computed_from_the_tables():
    def ours(error, *others):  # of seed 0, and of others that not every row has
        values = [error, *others]
        seeds = [f"seed-{number}" for number in range(len(values))]
        return {"seeds": seeds, "epe_mm": {"values": values}}

    presets = {}
    for preset, rows in describe_rows(Paper()).items():
        presets[preset] = [
            {"stage": stage, "paper_epe_mm": epe, "ours": ours(2 * epe)}
            for stage, (_, epe, _) in rows.items()
        ]
    claims = {c["claim"]: c for c in paper_page.collect_claims(presets)}
    distilled = claims["ResNet-18: L_ACT + λ L_ATT over RGB"]
    assert distilled["paper"] == pytest.approx(100 * (22.19 / 24.68 - 1))
    assert distilled["ours"] == pytest.approx(distilled["paper"])
    (correlation,) = (c for name, c in claims.items() if "correlation" in name)
    gains = [[0.09, 0.10], [0.47, 0.67], [0.88, 1.54], [1.02, 2.00], [3.65, 7.49]]
    assert correlation["paper"] == pytest.approx(np.corrcoef(np.array(gains).T)[0, 1])
    assert correlation["paper"] == pytest.approx(0.999, abs=5e-4)
    presets["table1"][1]["ours"] = ours(2 * 24.68, 99.0)
    (again,) = (c for c in paper_page.collect_claims(presets) if c["claim"] == distilled["claim"])
    assert again == distilled
    presets["table3"][0]["ours"] = None
    assert paper_page.collect_claims(presets)[-1]["ours"] is None


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
