import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

import cmkg
from cmkg.hands.metrics import THRESHOLDS_MM, PoseMetrics, area_under, auc_20_50, errors_mm, pck

PUBLISHED = Path(cmkg.__file__).parent / "report/published_pck.csv"


def draw(n=37):
    g = torch.Generator().manual_seed(0)
    target = torch.randn(n, 21, 3, generator=g)
    return (
        target + 0.5 * torch.randn(n, 21, 3, generator=g),
        target,
        20 + 20 * torch.rand(n, generator=g),
    )


def test_against_loops():
    p, t, s = draw()
    errors = errors_mm(p, t, s)
    assert float(errors[3, 7]) == pytest.approx(
        float(s[3]) * sum((float(p[3, 7, k]) - float(t[3, 7, k])) ** 2 for k in range(3)) ** 0.5,
        rel=1e-5,
    )
    naive = np.mean(
        [
            np.mean([[e <= th for e in errors[:, j]] for th in THRESHOLDS_MM[8:]], 1)
            for j in range(21)
        ],
        0,
    )
    width = (naive[1:] + naive[:-1]) / 2 @ np.diff(THRESHOLDS_MM[8:])
    assert auc_20_50(errors.numpy()) == pytest.approx(width / (50 - THRESHOLDS_MM[8]))


def test_thresholds_are_the_literatures():
    assert THRESHOLDS_MM[8] == pytest.approx(21.0526, abs=1e-4)
    assert len(THRESHOLDS_MM[8:]) == 12
    assert THRESHOLDS_MM[-1] == 50


def test_batches_and_processes_add_up_exactly():
    p, t, s = draw()
    whole, parts = PoseMetrics(), PoseMetrics()
    whole.update(p, t, s)
    # unequal parts: a mean of means would differ
    for i in (slice(0, 5), slice(5, 6), slice(6, 37)):
        parts.update(p[i], t[i], s[i])
    assert parts.compute()["epe_mm"] == pytest.approx(whole.compute()["epe_mm"], rel=1e-12)
    assert whole.compute()["epe_mm"] == pytest.approx(
        float(errors_mm(p, t, s).double().mean()), rel=1e-9
    )
    assert whole.compute()["auc_20_50"] == pytest.approx(auc_20_50(errors_mm(p, t, s).numpy()))


def test_a_rotation_of_both_changes_nothing():
    p, t, s = draw()
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(errors_mm(p @ q, t @ q, s), errors_mm(p, t, s), rtol=1e-4, atol=1e-4)


def published():
    curves = defaultdict(list)
    for row in csv.DictReader(PUBLISHED.open()):
        curves[row["dataset"], row["method"], float(row["published_auc_20_50"])].append(
            (float(row["threshold_mm"]), float(row["pck"]))
        )
    return curves.items()


@pytest.mark.parametrize(
    ("name", "curve"),
    published(),
    ids=lambda v: "-".join(map(str, v[:2])) if isinstance(v, tuple) else "",
)
def test_our_area_is_the_published_one(name, curve):
    """Published PCK curves (digitised from the papers' own files) give the papers' own AUC by
    our area."""
    x, y = np.array(sorted(curve)).T
    inside = (x >= 20) & (x <= 50.01)
    assert area_under(x[inside], y[inside]) == pytest.approx(name[2], abs=0.006)


def test_pck_of_perfect_and_of_hopeless():
    assert pck(np.zeros((3, 21)), THRESHOLDS_MM).min() == 1
    assert pck(np.full((3, 21), 99.0), THRESHOLDS_MM).max() == 0
