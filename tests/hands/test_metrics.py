import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation

import cmkg
from cmkg.errors import InputError
from cmkg.hands.metrics import (
    FROM_20_MM,
    THRESHOLDS_MM,
    PoseMetrics,
    Protocol,
    area_under,
    errors_mm,
    pck,
    procrustes,
    relative_to_root,
    score_by_protocol,
)

PUBLISHED = Path(cmkg.__file__).parent / "hands/paper/published_pck.csv"


def draw(n=37):
    g = torch.Generator().manual_seed(0)
    target = torch.randn(n, 21, 3, generator=g)
    return (
        target + 0.5 * torch.randn(n, 21, 3, generator=g),
        target,
        20 + 20 * torch.rand(n, generator=g),
    )


def auc_of(errors):
    """By the definition, joint by joint."""
    thresholds = THRESHOLDS_MM[FROM_20_MM:]
    return np.mean([area_under(thresholds, pck(e, thresholds)) for e in errors.T])


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
    assert auc_of(errors.numpy()) == pytest.approx(width / (50 - THRESHOLDS_MM[8]))


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
    assert whole.compute()["auc_20_50"] == pytest.approx(auc_of(errors_mm(p, t, s).numpy()))


def test_a_rotation_of_both_changes_nothing():
    p, t, s = draw()
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(errors_mm(p @ q, t @ q, s), errors_mm(p, t, s), rtol=1e-4, atol=1e-4)


def published():
    curves = defaultdict(list)
    for row in csv.DictReader(PUBLISHED.read_text().splitlines()):
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


def draw_mm(n=9, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 40, (n, 21, 3))
    return target + rng.normal(0, 15, (n, 21, 3)), target, rng.random((n, 21)) > 0.3


def test_protocols_are_loops():
    p, t, seen = draw_mm()

    def palm(joints, i):
        return (joints[i, 0] + joints[i, 9]) / 2

    errors = {
        (i, j): np.sqrt((((p[i, j] - palm(p, i)) - (t[i, j] - palm(t, i))) ** 2).sum())
        for i in range(9)
        for j in range(21)
        if seen[i, j]
    }
    result = score_by_protocol(
        p, t, seen, Protocol(root="palm", joints="visible", thresholds="0-50")
    )
    assert result["epe_mm"] == pytest.approx(np.mean(list(errors.values())))
    areas = []
    for j in range(21):
        own = [e for (_, k), e in errors.items() if k == j]
        curve = [sum(e <= th for e in own) / len(own) for th in THRESHOLDS_MM]
        areas.append(
            sum((a + b) / 2 for a, b in zip(curve, curve[1:], strict=False)) / (len(curve) - 1)
        )
    assert result["auc"] == pytest.approx(np.mean(areas))


def test_a_given_bone_length_removes_the_scale():
    _, t, seen = draw_mm()
    assert score_by_protocol(1.7 * t, t, seen, Protocol(scale="given"))["epe_mm"] == pytest.approx(
        0, abs=1e-9
    )
    assert score_by_protocol(1.7 * t, t, seen)["epe_mm"] == pytest.approx(
        np.linalg.norm(0.7 * relative_to_root(t), axis=2).mean()
    )


def test_procrustes_takes_out_turn_scale_and_shift_but_no_reflection():
    p, t, seen = draw_mm()
    R = Rotation.random(9, random_state=0).as_matrix()
    moved = 0.4 * np.einsum("nij,nkj->nki", R, t) + 100.0
    np.testing.assert_allclose(procrustes(moved, t), t, atol=1e-9)
    assert score_by_protocol(t * [-1, 1, 1], t, seen, Protocol(align="procrustes"))["epe_mm"] > 5
    np.testing.assert_allclose(
        procrustes(np.einsum("nij,nkj->nki", R, 3 * p) - 7, t), procrustes(p, t), atol=1e-9
    )
    for i in range(9):  # against scipy's rotation alone, and the scale by least squares
        a, b = p[i] - p[i].mean(0), t[i] - t[i].mean(0)
        turned = Rotation.align_vectors(b, a)[0].apply(a)
        np.testing.assert_allclose(
            procrustes(p[i : i + 1], t[i : i + 1])[0],
            (turned * b).sum() / (a * a).sum() * turned + t[i].mean(0),
            atol=1e-6,
        )


def test_a_collapsed_prediction_is_no_success():
    _, t, seen = draw_mm()
    assert score_by_protocol(np.zeros_like(t), t, seen, Protocol(align="procrustes"))["epe_mm"] > 30


def test_a_networks_numbers_stay_about_the_true_wrist_where_the_wrist_is_the_root():
    rng = np.random.default_rng(0)
    target = rng.normal(0, 30, (4, 21, 3))
    prediction = target + rng.normal(0, 5, (4, 21, 3))  # its own wrist is off, too
    seen = np.ones((4, 21), bool)
    off = prediction - target
    placed = score_by_protocol(prediction, target, seen, placed=True)
    assert placed["epe_mm"] == pytest.approx(np.linalg.norm(off, axis=2).mean())
    moved = score_by_protocol(prediction, target, seen)
    own = np.linalg.norm(off - off[:, :1], axis=2).mean()
    assert moved["epe_mm"] == pytest.approx(own)
    palm = Protocol(root="palm")
    assert score_by_protocol(prediction, target, seen, palm, placed=True) == score_by_protocol(
        prediction, target, seen, palm
    )
    middle = (off[:, 0] + off[:, 9]) / 2
    assert score_by_protocol(prediction, target, seen, palm)["epe_mm"] == pytest.approx(
        np.linalg.norm(off - middle[:, None], axis=2).mean()
    )


def test_a_protocol_says_what_it_does():
    assert Protocol().describe() == "wrist root, all joints, not aligned, scale as predicted"
    other = Protocol("palm", "visible", "procrustes", "given")
    aligned = "Procrustes-aligned without reflection"
    assert other.describe() == f"palm root, visible joints, {aligned}, bone length given"


def test_a_tiny_prediction_is_scaled_and_aligned_all_the_same():
    rng = np.random.default_rng(1)
    target = rng.normal(0, 30, (2, 21, 3))
    np.testing.assert_allclose(procrustes(1e-5 * target, target), target, atol=1e-6)
    given = score_by_protocol(
        1e-5 * target, target, np.ones((2, 21), bool), Protocol(scale="given")
    )
    assert given["epe_mm"] == pytest.approx(0, abs=1e-6)


# ---- what the benchmarks' own scripts count ----------------------------------------------------
# --------------------------------------------------------
def align_as_published(target, prediction):
    """Centred, of unit norm, turned by SciPy's solution of the orthogonal Procrustes problem."""
    t, p = target - target.mean(0), prediction - prediction.mean(0)
    size = np.linalg.norm(t)
    R, s = orthogonal_procrustes(t / size, p / np.linalg.norm(p))
    return (p / np.linalg.norm(p)) @ R.T * s * size + target.mean(0)


def counted(target, prediction):
    """Mean error, and AUC over 100 thresholds to 50 mm, one joint after another."""
    errors = np.linalg.norm(prediction - target, axis=2)
    limits = np.linspace(0, 50, 100)
    areas = []
    for joint in range(21):
        curve = np.array([np.mean(errors[:, joint] <= limit) for limit in limits])
        areas.append(np.trapezoid(curve, limits) / 50)
    return np.mean(errors.mean(0)), np.mean(areas)


@pytest.mark.parametrize("benchmark", ["freihand", "ho3d"])
def test_official_scores_are_the_scripts(benchmark):
    rng = np.random.default_rng(4)
    target = rng.normal(0, 40, (30, 21, 3)) + [0, 0, 600]
    prediction = 1.1 * target + rng.normal(0, 9, target.shape)
    prediction[3] *= [-1, 1, 1]  # mirrored: the aligned score forgives it
    found = score_by_protocol(
        prediction, target, np.ones((30, 21), bool), Protocol(protocol=benchmark)
    )
    aligned = np.stack([align_as_published(t, p) for t, p in zip(target, prediction, strict=True)])
    forms = {"": prediction, "aligned_": aligned}
    if benchmark == "ho3d":
        scaled = []
        for t, p in zip(target, prediction, strict=True):
            p = p / np.linalg.norm(p[9] - p[0]) * np.linalg.norm(t[9] - t[0])
            scaled.append(p - p[:1] + t[:1])
        forms["scaled_"] = np.stack(scaled)
    for name, joints in forms.items():
        error, area = counted(target, joints)
        assert found[f"{name}epe_mm"] == pytest.approx(error, abs=1e-6)
        assert found[f"{name}auc"] == pytest.approx(area, abs=1e-9)
    assert "100 thresholds from 0 to 50 mm" in Protocol(protocol=benchmark).describe()


def test_an_official_protocol_has_no_other_settings():
    with pytest.raises(InputError, match="leave --root"):
        Protocol(align="procrustes", protocol="freihand")
