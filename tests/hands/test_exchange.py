"""Prediction files and the evaluator's protocols."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cmkg.errors import InputError
from cmkg.hands import exchange
from cmkg.hands.datasets.packed import pack
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.metrics import THRESHOLDS_MM, procrustes, rooted, scored
from cmkg.recipes import evaluate


@pytest.fixture(scope="module")
def packed(made_sets, tmp_path_factory):
    return pack(Rhd(str(made_sets["rhd"]), px=24), tmp_path_factory.mktemp("p") / "set", workers=1)


def draw(n=9, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 40, (n, 21, 3))
    return target + rng.normal(0, 15, (n, 21, 3)), target, rng.random((n, 21)) > 0.3


@pytest.mark.parametrize("name", ["p.json", "p.npz"])
def test_a_file_is_in_the_datasets_own_frame_and_comes_back(packed, made_sets, tmp_path, name):
    true = np.asarray(packed.joints_mm, float)
    theirs = exchange.to_dataset(true, packed)
    # sample 0 is a right hand, 1 a left one
    for i, dataset in enumerate([Rhd(str(made_sets["rhd"]))] * 2):
        np.testing.assert_allclose(theirs[i], dataset.frame(i).joints_mm, atol=1e-3)
    exchange.write(tmp_path / name, theirs)
    np.testing.assert_allclose(
        exchange.from_dataset(exchange.read(tmp_path / name, len(packed)), packed), true, atol=1e-6
    )
    if name == "p.json":
        xyz, vertices = json.loads((tmp_path / name).read_text())
        assert np.shape(xyz) == (8, 21, 3)
        assert np.shape(vertices) == (8, 778, 3)
        np.testing.assert_allclose(np.array(xyz)[1] * 1000, theirs[1])


def test_anyones_file_is_scored(packed, tmp_path):
    true = np.asarray(packed.joints_mm, float)
    # a shift is no error: the root is given
    exchange.write(tmp_path / "good.json", exchange.to_dataset(true + 7.0, packed))
    result = evaluate.run(
        evaluate.Evaluate(
            data=str(packed.folder),
            predictions=str(tmp_path / "good.json"),
            out=str(tmp_path / "a"),
        )
    )
    assert result["epe_mm"] == pytest.approx(0, abs=1e-6)
    assert result["auc"] == 1
    off = true.copy()
    off[:, 4, 0] += 21.0  # the thumb's tip alone
    exchange.write(tmp_path / "off.npz", exchange.to_dataset(off, packed))
    settings = {"root": "palm", "joints": "visible", "thresholds": "0-50"}
    result = evaluate.run(
        evaluate.Evaluate(
            data=str(packed.folder),
            predictions=str(tmp_path / "off.npz"),
            out=str(tmp_path / "b"),
            **settings,
        )
    )
    seen = np.asarray(packed.visible)
    assert result["epe_mm"] == pytest.approx(21 * seen[:, 4].sum() / seen.sum())
    said = evaluate.sentence(result)
    assert "palm root, visible joints, not aligned, scale as predicted" in said
    assert "AUC 0-50" in said


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", "[[], []]", "field 'xyz' has 0 entries, the packed set 8 samples"),
        ("a.json", "{}", r"expected a list of two lists, \[xyz, vertices\]"),
        ("a.json", "[[1", "expected JSON"),
        (
            "a.json",
            json.dumps([[[[0, 0]] * 21] * 8, []]),
            r"field 'xyz', entry 0 has shape \(21, 2\), expected \(21, 3\)",
        ),
        (
            "a.json",
            json.dumps([[[[0, 0, "x"]] * 21] * 8, []]),
            "entry 0 holds something that is no number",
        ),
        ("a.npz", "junk", "expected a NumPy .npz file"),
        ("a.txt", "", "ends in .json"),
    ],
)
def test_bad_files_are_one_sentence(packed, tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        exchange.read(tmp_path / name, len(packed))


def test_protocols_are_loops():
    p, t, seen = draw()

    def palm(joints, i):
        return (joints[i, 0] + joints[i, 9]) / 2

    errors = {
        (i, j): np.sqrt((((p[i, j] - palm(p, i)) - (t[i, j] - palm(t, i))) ** 2).sum())
        for i in range(9)
        for j in range(21)
        if seen[i, j]
    }
    result = scored(p, t, seen, root="palm", joints="visible", thresholds="0-50")
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
    _, t, seen = draw()
    assert scored(1.7 * t, t, seen, scale="given")["epe_mm"] == pytest.approx(0, abs=1e-9)
    assert scored(1.7 * t, t, seen)["epe_mm"] == pytest.approx(
        np.linalg.norm(0.7 * rooted(t), axis=2).mean()
    )


def test_procrustes_takes_out_turn_scale_and_shift_but_no_reflection():
    p, t, seen = draw()
    R = Rotation.random(9, random_state=0).as_matrix()
    moved = 0.4 * np.einsum("nij,nkj->nki", R, t) + 100.0
    np.testing.assert_allclose(procrustes(moved, t), t, atol=1e-9)
    assert scored(t * [-1, 1, 1], t, seen, align="procrustes")["epe_mm"] > 5
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
    _, t, seen = draw()
    assert scored(np.zeros_like(t), t, seen, align="procrustes")["epe_mm"] > 30
