import numpy as np
import pytest
from studies.tables import difference, format_cells, format_difference, interval


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = interval(rng.normal(3.0, 1.0, 3), level=0.8)
        covered += low <= 3.0 <= high
    assert 0.74 < covered / 400 < 0.86  # of three seeds, where a bootstrap is far too narrow


def test_differences_are_paired_by_seed():
    found = difference(np.array([9.0, 19.0, 29.0]), np.array([10.0, 20.0, 30.0]))
    assert found["mean"] == -1.0
    assert found["share"] == pytest.approx(-0.05)
    assert found["interval"] == (-1.0, -1.0)  # unpaired, ten millimetres' spread would drown it
    assert format_difference(found) == "-1.00 [-1.00, -1.00], -5%"
    assert format_difference(None) == ""


def test_two_seeds_have_no_interval():
    assert interval([2.5, 3.5]) is None
    found = difference(np.array([9.0, 18.0]), np.array([10.0, 20.0]))
    assert format_difference(found) == "-1.50 (2), -10%"


def test_cells_stand_beside_each_other():
    def cell(target, **errors):
        rows = [
            {"name": name, "label": f"the {name}", "epe_mm": {"mean": mean, "sd": 1.0}}
            for name, mean in errors.items()
        ]
        return {"target": target, "rows": rows}

    text = format_cells({"cells": [cell("source", a=10.0), cell("target", a=20.0, b=30.0)]})
    assert text.splitlines()[2:] == [
        "| the a | 10.0 ± 1.0 | 20.0 ± 1.0 |",
        "| the b |  | 30.0 ± 1.0 |",
    ]
